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

void ReadyList::insert(Op* op) {
  Op* after = tail_;
  while (after && after->sequence > op->sequence) after = after->ready_prev;
  op->ready_prev = after;
  op->ready_next = after ? after->ready_next : head_;
  (after ? after->ready_next : head_) = op;
  (op->ready_next ? op->ready_next->ready_prev : tail_) = op;
}

void ReadyList::push_front(Op* op) {
  op->ready_prev = nullptr;
  op->ready_next = head_;
  (head_ ? head_->ready_prev : tail_) = op;
  head_ = op;
}

void ReadyList::remove(Op* op) {
  (op->ready_prev ? op->ready_prev->ready_next : head_) = op->ready_next;
  (op->ready_next ? op->ready_next->ready_prev : tail_) = op->ready_prev;
  op->ready_prev = op->ready_next = nullptr;
}

}  // namespace baton::core
