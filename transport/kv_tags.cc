#include "transport/kv_tags.hpp"

#include <fmt/format.h>

namespace baton::transport {

// The writer of a sequence lock: the tags, then the count, then whatever its owner writes into the blocks.
void KvTags::renew(std::span<const int32_t> blocks) {
  for (int32_t b : blocks)
    if (b >= 0 && uint32_t(b) < blocks_) tags_[size_t(b)].fetch_add(1, std::memory_order_relaxed);
  changes_.fetch_add(1, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_release);
}

KvTagged::KvTagged(const KvTags* tags, std::span<const int32_t> blocks) : tags_(tags) {
  if (!tags) return;
  seen_ = tags->changes(); // before the tags: one that changes meanwhile is compared once more
  for (int32_t b : blocks) {
    if (b < 0 || uint32_t(b) >= tags->blocks()) continue; // its layout refuses it
    blocks_.push_back(b);
    had_.push_back(tags->of(b));
  }
}

int32_t KvTagged::stale() {
  if (!tags_) return -1;
  std::atomic_thread_fence(std::memory_order_acquire); // the reader: after what was read of the blocks
  const uint64_t now = tags_->changes();
  if (now == seen_) return -1;
  for (size_t i = 0; i < blocks_.size(); ++i)
    if (tags_->of(blocks_[i]) != had_[i]) return blocks_[i];
  seen_ = now;
  return -1;
}

Status KvTagged::intact(std::string_view whose) {
  const int32_t b = stale();
  if (b < 0) return {};
  return Error(BATON_CORRUPT, fmt::format("block {} of {} was given to another request meanwhile", b, whose), "give blocks back when their request has ended, and not before; prefill it again");
}

}  // namespace baton::transport
