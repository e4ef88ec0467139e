#include "transport/spill_index.hpp"

#include "transport/uring.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <unordered_set>

namespace baton::transport {
namespace {

static_assert(std::endian::native == std::endian::little, "the index is little-endian");

constexpr char kMagic[8] = "BATONKV";
constexpr const char* kAnew = "remove the folder (it holds copies of KV blocks) and spill anew";

uint64_t sum_of(const SpillHeader& h) { return XXH3_64bits(&h, offsetof(SpillHeader, sum)); }
uint64_t sum_of(const SpillRecord& r, uint64_t id, uint64_t place) {
  return XXH3_64bits_withSeed(&r, offsetof(SpillRecord, sum), id + place * 0x9e3779b97f4a7c15ull);
}

SpillRecord record_at(std::span<const uint8_t> bytes, uint64_t place) {
  SpillRecord r;
  std::memcpy(&r, bytes.data() + (place + 1) * kSpillUnit, sizeof r);
  return r;
}

// What the records say, one after the other.
struct Replay {
  const std::string& path;
  SpillIndex& x;
  std::unordered_set<uint32_t> used;

  Error bad(uint64_t place, const std::string& what) const {
    return Error(BATON_CORRUPT, fmt::format("{}: record {} at byte {}: {}", path, place, (place + 1) * kSpillUnit, what), kAnew);
  }
  Status take(uint64_t place, const SpillRecord& r) {
    if (r.kind == SpillKind::mark) return {};
    auto it = x.live.find(r.key);
    if (r.kind == SpillKind::drop) {
      if (it == x.live.end() || it->second.slot != r.slot || it->second.generation != r.generation) return bad(place, "drops a block that is not there");
      used.erase(r.slot);
      x.live.erase(it);
      return {};
    }
    if (r.kind != SpillKind::put) return bad(place, fmt::format("unknown kind {:#x}", uint32_t(r.kind)));
    if (r.slot >= x.header.slots || r.bytes == 0 || r.bytes > x.header.block_bytes)
      return bad(place, fmt::format("{} bytes in slot {}; the index has {} slots of {} bytes", r.bytes, r.slot, x.header.slots, x.header.block_bytes));
    if (r.generation < x.next_generation || r.generation == UINT64_MAX)
      return bad(place, fmt::format("generation {} after {}", r.generation, x.next_generation - 1));
    if (!used.insert(r.slot).second) return bad(place, fmt::format("slot {} holds another block", r.slot));
    x.next_generation = r.generation + 1;
    const SpillEntry e{r.slot, r.bytes, r.generation, r.checksum};
    if (it == x.live.end()) {
      x.live.emplace(r.key, e);
    } else {
      used.erase(it->second.slot);
      it->second = e;
    }
    return {};
  }
};

}  // namespace

void seal_header(SpillHeader& h) {
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.version = kSpillVersion;
  h.sum = sum_of(h);
}

void seal_record(SpillRecord& r, const SpillHeader& h, uint64_t place) { r.sum = sum_of(r, h.id, place); }

uint64_t spill_checksum(const void* data, uint64_t bytes, const KvBlockKey& key, const SpillHeader& h, uint32_t slot, uint64_t generation) {
  const uint64_t bound[5] = {key.high, key.low, h.layout, slot, generation};
  return XXH3_64bits_withSeed(data, bytes, XXH3_64bits(bound, sizeof bound));
}

Result<SpillIndex> parse_spill_index(const std::string& path, std::span<const uint8_t> bytes) {
  auto corrupt = [&](const std::string& what) { return Error(BATON_CORRUPT, fmt::format("{}: {}", path, what), kAnew); };
  SpillIndex x;
  if (bytes.size() < kSpillUnit) return corrupt(fmt::format("{} bytes; an index has at least {}", bytes.size(), kSpillUnit));
  SpillHeader& h = x.header;
  std::memcpy(&h, bytes.data(), sizeof h);
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0) return corrupt("is not an index of KV blocks");
  if (h.version != kSpillVersion)
    return Error(BATON_VERSION, fmt::format("{}: version {}, this build reads {}", path, h.version, kSpillVersion), kAnew);
  if (h.sum != sum_of(h)) return corrupt("the header's sum is wrong");
  if (h.slots == 0 || h.block_bytes == 0 || h.block_bytes > kSpillBlockBytes || h.next_generation == 0)
    return corrupt(fmt::format("{} slots of {} bytes, generation {}", h.slots, h.block_bytes, h.next_generation));
  const uint64_t places = bytes.size() / kSpillUnit - 1;
  if (h.base > places) return corrupt(fmt::format("{} records where {} were durable: it was cut", places, h.base));

  Replay replay{path, x, {}};
  for (; x.records < places; ++x.records) {
    const SpillRecord r = record_at(bytes, x.records);
    if (r.sum != sum_of(r, h.id, x.records)) break;
    if (x.records == h.base) x.next_generation = std::max(x.next_generation, h.next_generation);
    if (r.durable > std::max(x.records, h.base)) return replay.bad(x.records, fmt::format("says that {} records came before it", r.durable));
    BATON_TRY(replay.take(x.records, r));
    x.marked = x.records < h.base || r.kind == SpillKind::mark;
  }
  if (x.records < h.base) return replay.bad(x.records, "its sum is wrong, and it was durable");
  for (uint64_t i = x.records + 1; i < places; ++i)
    if (const SpillRecord r = record_at(bytes, i); r.sum == sum_of(r, h.id, i) && r.durable > x.records)
      return replay.bad(x.records, fmt::format("its sum is wrong, and record {} says that it was durable", i));
  x.next_generation = std::max(x.next_generation, h.next_generation);
  return x;
}

}  // namespace baton::transport
