// block_pool.hpp: which blocks of a paged KV-cache are free.
//
// Owner    the engine that owns the cache; a Blocks value returns its blocks when it goes.
// Threads  one at a time.
// Cost     O(blocks of the pool). Runs of neighbours are preferred: neighbours travel as one segment.
// Errors   BUSY with the numbers: too few are free now. INVALID_ARGUMENT: more than the pool has.
//
//     BATON_ASSIGN(Blocks b, pool.take(pool.blocks_for(tokens)));
//     sink.expect(b.ids(), tokens);
#pragma once

#include "transport/kv_tags.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace baton::runtime {

class BlockPool;

class Blocks {
 public:
  Blocks() = default;
  Blocks(Blocks&& o) noexcept : pool_(std::exchange(o.pool_, nullptr)), ids_(std::move(o.ids_)) {}
  Blocks& operator=(Blocks&& o) noexcept;
  ~Blocks() { release(); }
  std::span<const int32_t> ids() const { return ids_; }
  void release();

 private:
  friend class BlockPool;
  Blocks(BlockPool* pool, std::vector<int32_t> ids) : pool_(pool), ids_(std::move(ids)) {}
  BlockPool* pool_ = nullptr;
  std::vector<int32_t> ids_;
};

class BlockPool {
 public:
  BlockPool(uint32_t blocks, uint32_t block_tokens) : used_(blocks), tags_(blocks), free_(blocks), block_tokens_(block_tokens) {}
  BlockPool(const BlockPool&) = delete;
  uint32_t blocks_for(uint64_t tokens) const { return uint32_t((tokens + block_tokens_ - 1) / block_tokens_); }
  Result<Blocks> take(uint32_t count);
  uint32_t total() const { return uint32_t(used_.size()); }
  uint32_t free() const { return free_; }
  const transport::KvTags& tags() const { return tags_; } // renewed by take()

 private:
  friend class Blocks;
  std::vector<bool> used_;
  transport::KvTags tags_;
  uint32_t free_, block_tokens_;
};

}  // namespace baton::runtime
