// op.h: a submitted op as the core keeps it, from submit to completion, and the pool that recycles them.
//
// Owner    the instance's OpPool; an op belongs to one queue while in flight.
// Threads  all fields under the instance's lock.
// Cost     new_op() and recycle() are a push and a pop; memory grows by 128 ops at a time and stays.
// Errors   none.
//
// A driver's cookie is the op's address with a generation in the upper 16 bits: a completion that comes after the op was
// failed (reset, loss, close) is recognized and dropped. User-space addresses have 47 bits here.
#pragma once

#include "hal/baton.h"

#include <cstdint>
#include <memory>
#include <vector>

struct baton_instance;

namespace baton::core {

struct Op;

struct WaitNode {
  WaitNode *prev = nullptr, *next = nullptr;  // in the timeline's list
  Op* op = nullptr;
  baton_timeline* timeline = nullptr;  // NULL: no wait, or met
  uint64_t value = 0;
};

enum class OpState : uint8_t { free, waiting, ready, issued };

// How a link runs a COPY; see planner.h.
enum class Path : uint8_t { none, on_from, on_to, memcpy, staged };

// The first two cache lines are all that an empty op touches.
struct alignas(64) Op {
  OpState state = OpState::free;
  uint8_t opcode = 0;       // baton_opcode as submitted
  uint8_t runs_as = 0;      // for the driver: what moves no bytes is a NOP
  bool planned = false;     // COPY of a plan
  bool waits = false;       // has wait nodes
  bool uses = false;        // has buffers
  uint8_t waits_left = 0;   // listed nodes
  Path path = Path::none;   // on links
  uint8_t hop = 0, slot = 0;  // child
  uint16_t generation = 1;
  uint32_t tag = 0;
  baton_instance* instance = nullptr;
  baton_queue* queue = nullptr;
  Op *prev = nullptr, *next = nullptr;              // all incomplete ops of the queue
  Op *ready_prev = nullptr, *ready_next = nullptr;  // ready list; `ready_next` alone in host and memcpy lists

  uint64_t sequence = 0;    // in its queue
  baton_timeline* signal[2] = {};
  uint64_t signal_value[2] = {};
  uint64_t wait_ns = 0;     // modelled: the latest of the waits' times
  uint64_t start_ns = 0;    // modelled start, once known
  uint64_t wall_start = 0;  // when it was issued; 0 if no span callback

  baton_buffer* buffer[2] = {};  // COPY src and dst; FILL dst in [1]
  baton_timeline* progress = nullptr;
  uint64_t progress_base = 0;
  uint64_t bytes = 0;  // COPY, FILL
  decltype(baton_driver_op::u) u{};
  WaitNode wait[2];
  baton_program* program = nullptr;
  baton_host_fn host_fn = nullptr;
  void* host_user = nullptr;

  // LAUNCH: copies of what the caller pointed to. Capacity stays with the op.
  std::vector<baton_driver_binding> bindings;
  std::vector<baton_buffer*> bound;
  std::vector<int64_t> args;
  std::vector<char> names;

  // Links: a parent's progress through its bytes, or a child's part of it.
  Op* parent = nullptr;
  uint64_t moved = 0;        // parent: bytes handed to hop 1 so far (memcpy: copied). child: offset of its part
  uint64_t end_ns = 0;       // parent: latest modelled end of its parts
  uint32_t outstanding = 0;  // parent: children in flight
  std::unique_ptr<baton_error> failure;  // parent: first failed part

  void* cookie() { return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(this) | uintptr_t(generation) << 48); }
};

// Of an op's address and generation; `op` is NULL if the cookie is stale.
inline Op* op_of_cookie(void* cookie) {
  auto bits = reinterpret_cast<uintptr_t>(cookie);
  Op* op = reinterpret_cast<Op*>(bits & ((uintptr_t(1) << 48) - 1));
  return op && op->generation == uint16_t(bits >> 48) && op->state == OpState::issued ? op : nullptr;
}

class OpPool {
 public:
  explicit OpPool(baton_instance* instance) : instance_(instance) {}
  Op* take() {
    if (!free_) grow();
    Op* op = free_;
    free_ = op->next;
    op->next = nullptr;
    return op;
  }
  void give(Op* op) {
    op->next = free_;
    free_ = op;
  }

 private:
  void grow();
  baton_instance* instance_;
  Op* free_ = nullptr;
  std::vector<std::unique_ptr<Op[]>> chunks_;
};

// A list of a queue's ready ops in submit order.
class ReadyList {
 public:
  Op* front() const { return head_; }
  bool empty() const { return !head_; }
  void insert(Op* op) {  // O(1) when ops become ready in order
    Op* after = tail_;
    while (after && after->sequence > op->sequence) after = after->ready_prev;
    op->ready_prev = after;
    op->ready_next = after ? after->ready_next : head_;
    (after ? after->ready_next : head_) = op;
    (op->ready_next ? op->ready_next->ready_prev : tail_) = op;
  }
  void push_front(Op* op) {  // one that was in front before
    op->ready_prev = nullptr;
    op->ready_next = head_;
    (head_ ? head_->ready_prev : tail_) = op;
    head_ = op;
  }
  void remove(Op* op) {
    (op->ready_prev ? op->ready_prev->ready_next : head_) = op->ready_next;
    (op->ready_next ? op->ready_next->ready_prev : tail_) = op->ready_prev;
    op->ready_prev = op->ready_next = nullptr;
  }

 private:
  Op *head_ = nullptr, *tail_ = nullptr;
};

}  // namespace baton::core
