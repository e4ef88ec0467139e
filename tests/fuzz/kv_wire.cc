// KV layouts, block tables and errors from a peer, as kv.open and kv.accept bring them, and what is compiled of them: the segments of a plan
// lie in both buffers, write no byte twice, and are as many bytes as the heads and tokens have; what a plan converts stays in both, too, and
// comes out of its packed stream the same.
//
// An input is a JSON object {"sources": [layout...], "sink": layout, "blocks": [...], "tokens": n, "error": {...}}.
#include "tests/fuzz/fuzz.h"
#include "transport/kv_pack.hpp"
#include "transport/kv_wire.hpp"

#include <algorithm>

using namespace baton;
using namespace baton::transport;
using nlohmann::json;

namespace {

constexpr uint64_t kMostConverted = 64u << 10; // bytes of a buffer
constexpr uint64_t kMostTokens = 256, kMostLayers = 64, kMostHeads = 256, kMostBlocks = 4096;

bool small(const KvLayout& l) { return l.layers <= kMostLayers && l.kv_heads <= kMostHeads && l.blocks <= kMostBlocks; }

void judge(const KvPlan& plan, const KvMove& move, uint64_t tokens, uint64_t heads) {
  for (uint32_t l = plan.part().layer_begin; plan.has_layer(l); ++l) {
    uint64_t bytes = 0, end = 0;
    for (const KvSegment& s : move.layer(l)) {
      FUZZ_CHECK(s.bytes && s.src + s.bytes <= plan.src().bytes() && s.dst + s.bytes <= plan.dst().bytes());
      FUZZ_CHECK(s.dst >= end);
      end = s.dst + s.bytes;
      bytes += s.bytes;
    }
    for (size_t u = 0; u < move.units(l); ++u)
      for (const KvRun& r : move.unit(u)) FUZZ_CHECK(r.tokens && r.src_token + r.tokens <= plan.src().block_tokens && r.dst_token + r.tokens <= plan.dst().block_tokens);
    FUZZ_CHECK(plan.converts() ? bytes == 0 : bytes == move.bytes(l));
    const uint64_t each = uint64_t(plan.dst().halves()) * heads, numbers = tokens * each * plan.dst().head_dim * program::dtype_bytes(plan.dst().dtype);
    if (plan.dst().scales == KvScales::none) FUZZ_CHECK(move.bytes(l) == numbers);
    else FUZZ_CHECK(move.bytes(l) >= numbers && (move.bytes(l) - numbers) % (4 * each) == 0);
  }
}

// In buffers of just the size that the layouts say: what leaves them is found by ASan.
void convert(const KvPlan& plan, const KvMove& move) {
  if (!plan.converts() || plan.src().bytes() > kMostConverted || plan.dst().bytes() > kMostConverted) return;
  std::vector<uint8_t> src(plan.src().bytes()), moved(plan.dst().bytes(), 0xa5), packed = moved, chunk(97);
  for (size_t i = 0; i < src.size(); ++i) src[i] = uint8_t(i * 37 + i / 251);
  const Recoder how(plan);
  const uint32_t l = plan.part().layer_begin + plan.part().layer_count - 1;
  const LayerUnits units{&how, &move, l};
  uint64_t bytes = 0;
  for (size_t next = 0; next < units.size();) bytes += units.step(moved.data(), src.data(), next, 1000);
  FUZZ_CHECK(bytes == move.bytes(l));
  Packer from(src.data(), units);
  Unpacker to(packed.data(), units);
  while (!from.done()) {
    const uint64_t n = from.pack(chunk);
    FUZZ_CHECK(to.unpack({chunk.data(), n}) == n);
  }
  FUZZ_CHECK(to.done() && packed == moved);
}

void compile(const KvLayout& src, const KvLayout& dst, const std::vector<int32_t>& blocks, uint64_t tokens) {
  auto plan = KvPlan::compile(src, dst);
  if (!plan) return (void)fuzz::sound(plan);
  auto move = plan->instantiate(blocks, blocks, 0, tokens);
  if (!move) return (void)fuzz::sound(move);
  judge(*plan, *move, tokens, common_part(src, dst).head_count);
  convert(*plan, *move);
}

// A table that was put is taken as it was, unless a block of it is negative.
std::vector<int32_t> table_of(const json& j) {
  std::vector<int32_t> blocks;
  if (j.is_object() && j.contains("blocks") && j["blocks"].is_array())
    for (const json& b : j["blocks"])
      if (b.is_number_integer()) blocks.push_back(int32_t(b.get<int64_t>()));
  std::vector<uint8_t> wire;
  put_blocks(wire, blocks);
  std::span<const uint8_t> rest(wire);
  const auto taken = take_blocks(rest);
  FUZZ_CHECK(taken ? *taken == blocks && rest.empty() : std::any_of(blocks.begin(), blocks.end(), [](int32_t b) { return b < 0; }));
  return taken.value_or(std::vector<int32_t>());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::span<const uint8_t> raw(data, size);
  (void)take_blocks(raw);
  const json j = json::parse(data, data + size, nullptr, false);
  if (j.is_discarded()) return 0;
  fuzz::sound(error_from(j));
  FUZZ_CHECK(error_from(to_json(error_from(j))).code != BATON_OK);
  const auto blocks = table_of(j);
  const uint64_t tokens = std::min(u64_of(j, "tokens").value_or(0), kMostTokens);
  (void)texts_of(j, "fabrics");
  if (!j.is_object() || !j.contains("sink") || !j.contains("sources") || !j["sources"].is_array()) return 0;
  auto sink = layout_from(j["sink"]);
  if (!sink) return fuzz::sound(sink);
  FUZZ_CHECK(*layout_from(to_json(*sink)) == *sink);
  std::vector<KvLayout> sources;
  for (const json& s : j["sources"]) {
    auto l = layout_from(s);
    if (!l) return fuzz::sound(l);
    sources.push_back(*l);
  }
  if (sources.empty() || sources.size() > kMaxSources || !small(*sink) || !std::all_of(sources.begin(), sources.end(), small)) return 0;
  for (const KvLayout& s : sources) compile(s, *sink, blocks, tokens);
  auto shares = share_heads(sources, *sink);
  if (!shares) return fuzz::sound(shares);
  FUZZ_CHECK(shares->plans.size() == sources.size() && shares->active >= 1);
  return 0;
}
