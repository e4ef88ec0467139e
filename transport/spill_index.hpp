// spill_index.hpp (internal): the index of a KvSpill: an append-only file of 64-byte records behind a 64-byte header, and what it means.
//
// A record's sum is seeded by the index's random id and the record's place, so that bytes of another index, or of another place, are no record.
// Each record says how many records were durable when it was written. The first broken record ends the index as a torn tail, unless a later
// sound one says that it was durable: then the file was damaged, and is refused.
//
// Owner    plain data.   Threads  any.   Cost  parse: about 100 ns a record.
// Errors   CORRUPT with file, record and byte; VERSION.
//
//     BATON_ASSIGN(SpillIndex x, parse_spill_index(path, bytes));     // x.live: key -> slot;  x.records: where the next one goes
#pragma once

#include "hal/baton.hpp"
#include "transport/kv_spill.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>

namespace baton::transport {

inline constexpr uint32_t kSpillVersion = 1;
inline constexpr uint64_t kSpillBlockBytes = 1ull << 30; // the longest block: 2^32 slots of it are within a file's offsets

struct SpillHeader {           // 64 bytes, little-endian
  char magic[8];               // "BATONKV" and 0
  uint32_t version, slots;
  uint64_t block_bytes, layout;
  uint64_t id;                 // random, of this file
  uint64_t base;               // records that were durable before the file had its name
  uint64_t next_generation;    // above each of theirs
  uint64_t sum;
};

enum class SpillKind : uint32_t { put = 0x7ab10001, drop = 0x7ab10002, mark = 0x7ab10003 };

struct SpillRecord {           // 64 bytes, little-endian
  SpillKind kind;
  uint32_t slot;
  KvBlockKey key;
  uint64_t bytes, generation;  // generation: rises with every put, names the contents of the slot
  uint64_t checksum;           // of the block's bytes, see spill_checksum
  uint64_t durable;            // records before this batch: all of them were on the disk when it was written
  uint64_t sum;
};
inline constexpr uint64_t kSpillUnit = 64;
static_assert(sizeof(SpillHeader) == kSpillUnit && sizeof(SpillRecord) == kSpillUnit);

struct SpillEntry {
  uint32_t slot;
  uint64_t bytes, generation, checksum;
};

struct KvBlockKeyHash {
  size_t operator()(const KvBlockKey& k) const { return size_t(k.low ^ (k.high * 0x9e3779b97f4a7c15ull)); }
};
using SpillEntries = std::unordered_map<KvBlockKey, SpillEntry, KvBlockKeyHash>;

struct SpillIndex {
  SpillHeader header{};
  SpillEntries live;
  uint64_t records = 0;        // sound ones; bytes behind them are a torn tail
  bool marked = true;          // nothing was put or dropped since a record said that all is durable
  uint64_t next_generation = 1;
};
Result<SpillIndex> parse_spill_index(const std::string& path, std::span<const uint8_t> bytes);

void seal_header(SpillHeader&);                                             // fills magic, version, sum
void seal_record(SpillRecord&, const SpillHeader&, uint64_t place);         // fills sum
// Of a block's bytes, bound to the key, the slot, the generation and the layout: a block that lies in another's place does not have it.
uint64_t spill_checksum(const void* data, uint64_t bytes, const KvBlockKey&, const SpillHeader&, uint32_t slot, uint64_t generation);

}  // namespace baton::transport
