#include "tools/baton/engine.hpp"

#include "tools/model/fail.hpp"

#include <algorithm>

namespace baton::runtime {

Result<uint32_t> context_of(const model::ModelConfig& c, const EngineOptions& o) {
  if (o.context > c.max_context)
    return fail(BATON_INVALID_ARGUMENT, "lower --context", "--context {} tokens; the model has {}", o.context, c.max_context);
  return o.context ? o.context : std::min(c.max_context, kDefaultContext);
}

uint32_t blocks_of(const EngineOptions& o, uint32_t context, uint64_t room) {
  if (o.blocks) return o.blocks;
  const uint64_t one = (context + o.block_tokens - 1) / o.block_tokens;
  return uint32_t(std::max(std::min(4 * one, room), one));
}

uint64_t room_in(const DeviceInfo& info, uint64_t block_bytes) {
  return info.heap_count && info.heaps[0].bytes_total && block_bytes ? info.heaps[0].bytes_total / 2 / block_bytes : UINT64_MAX;
}

void Fence::start(const Instance& in, const Queue& q) {
  auto t = in.timeline("fence");
  if (!t) return;
  passed_ = std::move(*t);
  // A queue that takes no more ops belongs to a device that is gone.
  if (Status s = q.submit(nop().signal(passed_, 1)); !s.ok()) passed_.poison(s.error());
}

bool Fence::passed() const {
  auto v = passed_.value();
  return !v.ok() || *v >= 1;
}

}  // namespace baton::runtime
