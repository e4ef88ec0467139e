#include "tools/baton/engine.hpp"

#include "tools/model/fail.hpp"

#include <algorithm>

namespace baton::runtime {

Result<uint32_t> context_of(const model::ModelConfig& c, const EngineOptions& o) {
  if (o.context > c.max_context)
    return fail(BATON_INVALID_ARGUMENT, "lower --context", "--context {} tokens; the model has {}", o.context, c.max_context);
  return o.context ? o.context : std::min(c.max_context, kDefaultContext);
}

uint32_t blocks_of(const EngineOptions& o, uint32_t context, uint64_t block_bytes, uint64_t heap_bytes) {
  if (o.blocks) return o.blocks;
  uint64_t one = (context + o.block_tokens - 1) / o.block_tokens, wanted = 4 * one;
  if (heap_bytes && block_bytes) wanted = std::min(wanted, heap_bytes / 2 / block_bytes);
  return uint32_t(std::max(wanted, one));
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
