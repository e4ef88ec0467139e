#include "tools/baton/block_pool.hpp"

#include "tools/model/fail.hpp"

namespace baton::runtime {

Blocks& Blocks::operator=(Blocks&& o) noexcept {
  if (this != &o) {
    release();
    pool_ = std::exchange(o.pool_, nullptr);
    ids_ = std::move(o.ids_);
  }
  return *this;
}

void Blocks::release() {
  if (!pool_) return;
  for (int32_t b : ids_) pool_->used_[size_t(b)] = false;
  pool_->free_ += uint32_t(ids_.size());
  pool_ = nullptr;
  ids_.clear();
}

Result<Blocks> BlockPool::take(uint32_t count) {
  if (count > total())
    return fail(BATON_INVALID_ARGUMENT, "raise --blocks or shorten the request", "the request needs {} KV blocks of {} tokens, the cache has {}", count, block_tokens_, total());
  if (count > free_)
    return fail(BATON_BUSY, "wait for a request to end, or raise --blocks or --spill-bytes", "the request needs {} KV blocks of {} tokens, {} of {} are free", count, block_tokens_, free_, total());
  std::vector<int32_t> ids;
  uint32_t run = 0, begin = 0;
  for (uint32_t i = 0; i < total() && run < count; ++i) {
    if (used_[i]) run = 0;
    else if (run++ == 0) begin = i;
  }
  bool whole = run == count;
  for (uint32_t i = whole ? begin : 0; ids.size() < count; ++i)
    if (!used_[i]) ids.push_back(int32_t(i));
  for (int32_t b : ids) used_[size_t(b)] = true;
  free_ -= count;
  tags_.renew(ids);
  return Blocks(this, std::move(ids));
}

}  // namespace baton::runtime
