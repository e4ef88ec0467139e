#include "hal/core/timeline.h"

#include "hal/core/error.h"
#include "hal/core/instance.h"
#include "hal/core/poller.h"

#include <algorithm>

using namespace baton::core;

void baton_timeline::record(uint64_t value, uint64_t ns) {
  if (!points_ && !ns) {
    unmodelled_ = value;
    return;
  }
  if (!ring_) ring_ = std::make_unique<Point[]>(kPoints);
  // A value stands for all before it, so its time is never earlier than theirs.
  if (points_) ns = std::max(ns, ring_[(points_ - 1) % kPoints].ns);
  ring_[points_ % kPoints] = {value, ns};
  ++points_;
}

uint64_t baton_timeline::modelled(uint64_t value) {
  std::lock_guard lock(mu_);
  if (!points_ || value <= unmodelled_ || value > value_.load(std::memory_order_relaxed)) return 0;
  uint64_t low = points_ > kPoints ? points_ - kPoints : 0, high = points_;
  while (low < high) {  // the first point whose value is at least `value`
    uint64_t mid = low + (high - low) / 2;
    if (ring_[mid % kPoints].value < value) low = mid + 1;
    else high = mid;
  }
  return low < points_ ? ring_[low % kPoints].ns : 0;
}

void baton_timeline::wake_until(uint64_t value) {
  while (head_ && head_->value <= value) {
    WaitNode* node = head_;
    head_ = node->next;
    (head_ ? head_->prev : tail_) = nullptr;
    node->listed = false;
    // Pushed under this lock: a node is always either listed or on the stack.
    instance->push_woken(node);
  }
}

bool baton_timeline::signal(uint64_t value, uint64_t modelled_ns) {
  std::lock_guard lock(mu_);
  if (value <= value_.load(std::memory_order_relaxed) || poisoned_.load(std::memory_order_relaxed)) return false;
  record(value, modelled_ns);
  value_.store(value, std::memory_order_seq_cst);  // ordered against a waiter that declares itself asleep and looks again
  wake_until(value);
  return true;
}

bool baton_timeline::poison(const baton_error& cause) {
  std::lock_guard lock(mu_);
  if (poisoned_.load(std::memory_order_relaxed)) return false;
  cause_ = std::make_unique<baton_error>(blank_error());
  copy_out(cause_.get(), sizeof *cause_, &cause, cause.struct_size ? std::min<uint32_t>(cause.struct_size, sizeof cause) : sizeof cause);
  complete_error(*cause_, BATON_OK, "", 0, name.c_str());
  poisoned_.store(true, std::memory_order_seq_cst);
  wake_until(UINT64_MAX);
  return true;
}

bool baton_timeline::listen(WaitNode& node) {
  std::lock_guard lock(mu_);
  if (poisoned_.load(std::memory_order_relaxed) || node.value <= value_.load(std::memory_order_relaxed)) return false;
  WaitNode* after = tail_;  // ops are mostly submitted in the order of their values
  while (after && after->value > node.value) after = after->prev;
  node.prev = after;
  node.next = after ? after->next : head_;
  (after ? after->next : head_) = &node;
  (node.next ? node.next->prev : tail_) = &node;
  node.listed = true;
  return true;
}

bool baton_timeline::unlisten(WaitNode& node) {
  std::lock_guard lock(mu_);
  if (!node.listed) return false;
  (node.prev ? node.prev->next : head_) = node.next;
  (node.next ? node.next->prev : tail_) = node.prev;
  node.listed = false;
  return true;
}

namespace baton::core {

void release(baton_timeline* t) {
  if (--t->references == 0 && t->destroyed) delete t;
}

}  // namespace baton::core

int32_t baton_timeline_create(baton_instance* instance, const char* name, baton_timeline** out, baton_error* error) {
  if (!instance || !out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_timeline_create: instance or out is NULL"));
  auto* t = new baton_timeline(instance, name);
  std::lock_guard lock(instance->mu);
  instance->timelines.insert(t);
  *out = t;
  return ok(error);
}

void baton_timeline_destroy(baton_timeline* t) {
  if (!t) return;
  baton_instance* in = t->instance;
  std::unique_lock lock(in->mu);
  in->timelines.erase(t);
  t->destroyed = true;
  if (!t->references) {
    lock.unlock();
    delete t;
    return;
  }
  // Ops that wait for it would wait forever.
  retain(t);
  if (t->poison(make_error(BATON_CANCELLED, "", "destroy a timeline after the ops that name it are complete",
                           "timeline '%s' was destroyed with %u ops in flight", t->name.c_str(), t->references - 1)))
    in->waker.kick();
  release(t);
}

void baton_timeline_signal(baton_timeline* t, uint64_t value, uint64_t modelled_ns) {
  if (t && t->signal(value, modelled_ns)) after_change(*t, value);
}

void baton_timeline_poison(baton_timeline* t, const baton_error* cause) {
  if (!t) return;
  const baton_error cancelled = make_error(BATON_CANCELLED, "", "", "timeline '%s' was cancelled", t->name.c_str());
  if (t->poison(cause ? *cause : cancelled)) after_change(*t, UINT64_MAX);
}

int32_t baton_timeline_query(baton_timeline* t, uint64_t* value, baton_error* error) {
  if (!t) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_timeline_query: timeline is NULL"));
  if (value) *value = t->value();
  return t->poisoned() ? fail(error, t->cause()) : ok(error);
}

uint64_t baton_timeline_modelled(baton_timeline* t, uint64_t value) { return t ? t->modelled(value) : 0; }

int32_t baton_timeline_wait(baton_timeline* t, uint64_t value, uint64_t deadline_ns, baton_error* error) {
  if (!t) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_timeline_wait: timeline is NULL"));
  return wait(*t, value, deadline_ns, error);
}
