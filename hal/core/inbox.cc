#include "hal/core/inbox.h"

#include <cstring>

namespace baton::core {
namespace {

// Copies `bytes` to `at`, makes `from` point there, and moves `at` on.
template <class T>
void copy_array(char*& at, const T*& from, size_t count) {
  if (!count) return;
  std::memcpy(at, from, count * sizeof(T));
  from = reinterpret_cast<const T*>(at);
  at += count * sizeof(T);
}

size_t bytes_pointed_to(const std::vector<baton_op>& ops) {
  size_t bytes = 0;
  for (const baton_op& op : ops) {
    if (op.opcode != BATON_OP_LAUNCH) continue;
    bytes += op.binding_count * sizeof(baton_binding) + op.arg_count * sizeof(int64_t);
    for (uint16_t i = 0; i < op.binding_count; ++i) bytes += std::strlen(op.u.launch.bindings[i].name) + 1;
  }
  return bytes;
}

}  // namespace

Inbox::~Inbox() {
  for (Batch *b = posted_.load(), *next; b; b = next) {
    next = b->next;
    delete b;
  }
  for (auto& s : spare_) delete s.load();
}

Batch* Inbox::fresh() {
  for (auto& s : spare_)
    if (s.load(std::memory_order_relaxed))
      if (Batch* b = s.exchange(nullptr, std::memory_order_acquire)) return b;
  return new Batch;
}

bool Inbox::post(baton_queue* q, const baton_op* ops, uint32_t count) {
  if (count_.fetch_add(1, std::memory_order_relaxed) >= kMost) {
    count_.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  Batch* b = fresh();
  b->queue = q;
  b->ops.assign(ops, ops + count);
  if (const size_t bytes = bytes_pointed_to(b->ops)) {
    b->pointed_to.resize(bytes);
    char* at = b->pointed_to.data();
    for (baton_op& op : b->ops) {  // what needs alignment first, names after
      if (op.opcode != BATON_OP_LAUNCH) continue;
      copy_array(at, op.u.launch.bindings, op.binding_count);
      copy_array(at, op.u.launch.args, op.arg_count);
    }
    for (baton_op& op : b->ops) {
      if (op.opcode != BATON_OP_LAUNCH) continue;
      auto* bindings = const_cast<baton_binding*>(op.u.launch.bindings);
      for (uint16_t i = 0; i < op.binding_count; ++i) copy_array(at, bindings[i].name, std::strlen(bindings[i].name) + 1);
    }
  }
  b->next = posted_.load(std::memory_order_relaxed);
  while (!posted_.compare_exchange_weak(b->next, b, std::memory_order_seq_cst, std::memory_order_relaxed)) {
  }
  return true;
}

Batch* Inbox::take() {
  Batch* stack = posted_.exchange(nullptr, std::memory_order_acquire);
  Batch* list = nullptr;
  for (Batch* next; stack; stack = next) {
    next = stack->next;
    stack->next = list;
    list = stack;
  }
  return list;
}

void Inbox::recycle(Batch* b) {
  count_.fetch_sub(1, std::memory_order_relaxed);
  if (b->ops.capacity() <= kKeptOps)
    for (auto& s : spare_) {
      Batch* none = nullptr;
      if (s.compare_exchange_strong(none, b, std::memory_order_release, std::memory_order_relaxed)) return;
    }
  delete b;
}

}  // namespace baton::core
