// Sequences that take turns on a device which cannot keep all of them: who waits for room, who gives it back, and when.
#include "tools/baton/decode_engine.hpp"

#include "tools/model/fail.hpp"

#include <algorithm>

namespace baton::runtime {

// One block of the landing buffer for each of the device's, and what the spill adds; all of it is touched at once, so that it is refused at once.
Result<uint32_t> DecodeEngine::blocks_with_spill(const transport::KvLayout& device, uint64_t spill_bytes) const {
  const uint64_t block = device.bytes() / device.blocks, more = spill_bytes / block;
  if (!more)
    return fail(BATON_INVALID_ARGUMENT, "raise --spill-bytes", "--spill-bytes {}: a block of {} tokens takes {} bytes", spill_bytes, device.block_tokens, block);
  BATON_ASSIGN(OpenDevice * host, shelf_.get("host://"));
  BATON_ASSIGN(const DeviceInfo info, host->device.info());
  const baton_heap_info& heap = info.heaps[0];
  const uint64_t free = heap.bytes_total - std::min(heap.bytes_total, heap.bytes_used);
  if (heap.bytes_total && (spill_bytes > free || device.bytes() > free - spill_bytes))
    return fail(BATON_CAPACITY, "lower --spill-bytes or --blocks", "--spill-bytes {} and {} to land in: this host has {} of {} bytes of memory left", spill_bytes, device.bytes(), free, heap.bytes_total);
  if (more > UINT32_MAX - device.blocks) return fail(BATON_INVALID_ARGUMENT, "lower --spill-bytes", "--spill-bytes {} are {} blocks", spill_bytes, more);
  return uint32_t(device.blocks + more);
}

SpillStats DecodeEngine::spilled() const {
  if (!spill_) return {};
  SpillStats s = spill_->stats;
  s.waiting = uint32_t(spill_->waiting.size());
  return s;
}

// To those who have waited longest. The first one gets nothing away from it by smaller ones behind.
void DecodeEngine::give_room() {
  while (!spill_->waiting.empty()) {
    DecodeRun& first = *spill_->waiting.front();
    if (first.job_.blocks.size() > spill_->room.free()) return;
    spill_->waiting.pop_front();
    if (Status s = first.come(nullptr); !s.ok()) first.cancel(s.error());
  }
}

// Takes blocks of the device, and what this host has of its KV goes there.
Status DecodeRun::come(const Timeline* landed) {
  DecodeEngine::Spill& spill = *engine_.spill_;
  BATON_ASSIGN(room_, spill.room.take(uint32_t(job_.blocks.size())));
  where_ = Where::coming;
  ingress_.clear(); // over: nothing is in flight
  BATON_TRY(put_tables(room_.ids()));
  if (!kept_) return {};
  if (!landed) ++spill.stats.in;
  return move(Way::in, job_.blocks, room_.ids(), 0, kept_, landed);
}

void DecodeRun::leave_room() {
  if (!engine_.spills()) return;
  DecodeEngine::Spill& spill = *engine_.spill_;
  if (where_ == Where::leaving) spill.leaving -= uint32_t(room_.ids().size());
  where_ = Where::host;
  room_.release();
  std::erase(spill.waiting, this);
  engine_.give_room();
}

// Others wait for more than will be free, and it has had its turn.
bool DecodeRun::yields() const {
  if (!engine_.spills() || engine_.spill_->waiting.empty() || submitted_ - came_at_ < std::max(1u, engine_.launch_tokens_)) return false;
  const DecodeEngine::Spill& spill = *engine_.spill_;
  return spill.waiting.front()->job_.blocks.size() > spill.room.free() + spill.leaving;
}

// Its new tokens to this host, from the block on that they begin in; those before are there already.
Status DecodeRun::leave() {
  DecodeEngine::Spill& spill = *engine_.spill_;
  const uint64_t tokens = uint64_t(job_.position) + submitted_, block = engine_.layout_.block_tokens;
  where_ = Where::leaving;
  spill.leaving += uint32_t(room_.ids().size());
  ++spill.stats.out;
  ingress_.clear(); // over: nothing is in flight
  const uint64_t from = kept_ / block * block;
  kept_ = tokens;
  return move(Way::out, job_.blocks, room_.ids(), from, tokens, nullptr);
}

Result<bool> DecodeRun::seated(uint64_t chain) {
  if (where_ == Where::device && batches_.empty() && yields()) BATON_TRY(leave());
  if (where_ == Where::leaving) {
    if (chain < chain_) return false;
    leave_room();
  }
  if (where_ == Where::host) {
    auto& waiting = engine_.spill_->waiting;
    if (std::find(waiting.begin(), waiting.end(), this) == waiting.end()) waiting.push_back(this);
    engine_.give_room();
  }
  if (where_ == Where::coming && chain >= chain_) {
    where_ = Where::device;
    came_at_ = submitted_;
  }
  return where_ == Where::device;
}

}  // namespace baton::runtime
