#include "hal/core/op.h"

namespace baton::core {

void OpPool::grow() {
  constexpr uint32_t kChunk = 128;
  auto chunk = std::make_unique<Op[]>(kChunk);
  for (uint32_t i = kChunk; i--;) {
    chunk[i].instance = instance_;
    for (WaitNode& node : chunk[i].wait) node.op = &chunk[i];
    give(&chunk[i]);
  }
  chunks_.push_back(std::move(chunk));
}

}  // namespace baton::core
