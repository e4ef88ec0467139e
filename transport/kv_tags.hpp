// kv_tags.hpp: a generation for each block of a pool, so that a block which was given to another request is never taken for what it was.
//
// Whoever owns a pool renews the tags of blocks that change hands, before anything is written into them. Who reads or sends blocks later (a decode
// side, a transfer, a request that is held for a pull) remembers their tags in the beginning and compares them in the end: what was read between
// is the request's own if none has changed. A sink renews what expect() grants by itself.
//
// Owner    The owner of the pool; it outlives what remembers its tags.
// Threads  KvTags any, at once; a KvTagged one. Ordered as a sequence lock: who has read a byte that was written after renew() finds the tag changed.
//          What a device writes or reads on its own is ordered by whatever completes it.
// Cost     4 bytes a block; stale(): one load while no tag of the pool has changed since the last look, else one a block (10 us for 16384).
// Errors   CORRUPT names the first block that changed hands.
//
//     KvTags tags(pool_blocks);   tags.renew(blocks_of_a_new_request);
//     KvTagged mine(&tags, blocks);   ... read them ...   BATON_TRY(mine.intact("source 0"));
#pragma once

#include "hal/baton.hpp"

#include <atomic>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace baton::transport {

class KvTags {
 public:
  explicit KvTags(uint32_t blocks) : blocks_(blocks), tags_(new std::atomic<uint32_t>[blocks]()) {}
  uint32_t blocks() const { return blocks_; }
  void renew(std::span<const int32_t> blocks); // indices of this pool: 0 .. blocks() - 1; others are left out
  uint32_t of(int32_t block) const { return tags_[size_t(block)].load(std::memory_order_relaxed); }
  uint64_t changes() const { return changes_.load(std::memory_order_acquire); } // rises with each renew()

 private:
  uint32_t blocks_;
  std::unique_ptr<std::atomic<uint32_t>[]> tags_;
  std::atomic<uint64_t> changes_{0};
};

// Some blocks and the tags that they had when this was made. Without a pool's tags: always intact.
class KvTagged {
 public:
  KvTagged() = default;
  KvTagged(const KvTags*, std::span<const int32_t> blocks);
  int32_t stale(); // the first of the blocks that has changed hands since; -1: none
  Status intact(std::string_view whose); // for the error: "source 0"

 private:
  const KvTags* tags_ = nullptr;
  std::vector<int32_t> blocks_;
  std::vector<uint32_t> had_;
  uint64_t seen_ = 0; // changes() when they were last compared
};

}  // namespace baton::transport
