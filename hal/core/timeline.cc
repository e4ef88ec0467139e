#include "hal/core/timeline.h"

#include "hal/core/error.h"
#include "hal/core/hold.h"
#include "hal/core/poller.h"
#include "hal/core/validate.h"

#include <algorithm>
#include <cstring>

using namespace baton::core;

void baton_timeline::set_name(const char* label) {
  if (!label || !*label) return;
  const size_t bytes = std::strlen(label) + 1;
  auto* copy = new char[bytes];
  std::memcpy(copy, label, bytes);
  name = copy;
}

void baton_timeline::clear() {
  if (*name) delete[] name;
  name = "";
  next = nullptr;
  state = TimelineState::free;
  value_.store(0, std::memory_order_relaxed);
  awaited_.store(UINT64_MAX, std::memory_order_relaxed);
  delete rest_.exchange(nullptr, std::memory_order_relaxed);
}

TimelineRest& baton_timeline::rest() {
  TimelineRest* r = rest_.load(std::memory_order_acquire);
  if (r) return *r;
  auto made = std::make_unique<TimelineRest>();
  if (rest_.compare_exchange_strong(r, made.get(), std::memory_order_seq_cst)) return *made.release();
  return *r;
}

void baton_timeline::put_on_stack() {
  if (queued_.exchange(true, std::memory_order_acq_rel)) return;  // whoever takes it off looks at the value after that
  next = instance->changed.load(std::memory_order_relaxed);
  while (!instance->changed.compare_exchange_weak(next, this, std::memory_order_seq_cst, std::memory_order_relaxed)) {
  }
}

bool baton_timeline::signal_slowly(uint64_t value, uint64_t ns) {
  if (poisoned()) return false;
  TimelineRest& r = rest();
  if (!ns && !r.modelled.load(std::memory_order_acquire)) return raise(value);
  std::lock_guard lock(r.mu);
  const uint64_t now = value_.load(std::memory_order_relaxed);
  if (value <= now) return false;
  if (!r.ring) {
    r.ring = std::make_unique<TimelineRest::Point[]>(TimelineRest::kPoints);
    r.unmodelled = now;
    r.modelled.store(true, std::memory_order_release);
  }
  // A value stands for all before it, so its time is never earlier than theirs.
  if (r.points) ns = std::max(ns, r.ring[(r.points - 1) % TimelineRest::kPoints].ns);
  r.ring[r.points++ % TimelineRest::kPoints] = {value, ns};
  return raise(value);
}

uint64_t baton_timeline::modelled(uint64_t value) {
  TimelineRest* r = rest_.load(std::memory_order_acquire);
  if (!r || !r->modelled.load(std::memory_order_acquire)) return 0;
  std::lock_guard lock(r->mu);
  if (value <= r->unmodelled || value > value_.load(std::memory_order_relaxed)) return 0;
  uint64_t low = r->points > TimelineRest::kPoints ? r->points - TimelineRest::kPoints : 0, high = r->points;
  while (low < high) {  // the first point whose value is at least `value`
    uint64_t mid = low + (high - low) / 2;
    if (r->ring[mid % TimelineRest::kPoints].value < value) low = mid + 1;
    else high = mid;
  }
  return low < r->points ? r->ring[low % TimelineRest::kPoints].ns : 0;
}

bool baton_timeline::poison(const baton_error& cause) {
  TimelineRest& r = rest();
  if (r.cause.load(std::memory_order_acquire)) return false;
  auto mine = std::make_unique<baton_error>(blank_error());
  copy_out(mine.get(), sizeof *mine, &cause, cause.struct_size ? std::min<uint32_t>(cause.struct_size, sizeof cause) : sizeof cause);
  complete_error(*mine, BATON_OK, "", 0, name);
  const baton_error* none = nullptr;
  if (!r.cause.compare_exchange_strong(none, mine.get(), std::memory_order_seq_cst)) return false;
  mine.release();
  if (awaited_.load(std::memory_order_seq_cst) != UINT64_MAX) put_on_stack();
  return true;
}

bool baton_timeline::listen(WaitNode& node) {
  if (settled(node.value)) return false;
  WaitNode* last = head_ ? head_->prev : nullptr;
  WaitNode* after = last;  // ops are mostly submitted in the order of their values
  while (after && after->value > node.value) after = after == head_ ? nullptr : after->prev;
  node.next = after ? after->next : head_;
  if (node.next) node.next->prev = &node;
  node.prev = after ? after : last ? last : &node;
  (after ? after->next : head_) = &node;
  if (!node.next) head_->prev = &node;
  // Below what is awaited already, a signal in between would have put the timeline on the stack. Else it may have looked too early.
  if (node.value >= awaited_.load(std::memory_order_relaxed)) return true;
  awaited_.store(node.value, std::memory_order_seq_cst);
  if (!settled(node.value)) return true;
  unlink(node);
  return false;
}

void baton_timeline::unlink(WaitNode& node) {
  WaitNode* last = head_->prev;
  if (&node == head_) head_ = node.next;
  else node.prev->next = node.next;
  if (node.next) node.next->prev = node.prev;
  if (head_) {
    if (&node == last) head_->prev = node.prev;
    else head_->prev = last;
  }
}

void baton_timeline::unlisten(WaitNode& node) { unlink(node); }

WaitNode* baton_timeline::take_due() {
  WaitNode* node = head_;
  if (node && (node->value <= value() || poisoned())) {
    unlink(*node);
    return node;
  }
  awaited_.store(node ? node->value : UINT64_MAX, std::memory_order_seq_cst);
  return nullptr;
}

namespace baton::core {

baton_timeline* TimelinePool::take() {
  if (!free_) {
    chunks_.push_back(std::make_unique<baton_timeline[]>(kChunk));
    for (uint32_t i = kChunk; i--;) {
      baton_timeline* t = &chunks_.back()[i];
      t->instance = instance_;
      t->next = free_;
      free_ = t;
    }
  }
  baton_timeline* t = free_;
  free_ = t->next;
  t->next = nullptr;
  t->state = TimelineState::live;
  return t;
}

void TimelinePool::give(baton_timeline* t) {
  t->clear();
  t->next = free_;
  free_ = t;
}

void give_back(baton_timeline* t) {
  if (t->instance->validator) t->instance->validator->keep(t);
  else t->instance->timelines.give(t);
}

}  // namespace baton::core

int32_t baton_timeline_create(baton_instance* instance, const char* name, baton_timeline** out, baton_error* error) {
  if (!instance || !out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_timeline_create: instance or out is NULL"));
  Hold hold(instance);
  baton_timeline* t = instance->timelines.take();
  t->set_name(name);
  *out = t;
  return ok(error);
}

void baton_timeline_destroy(baton_timeline* t) {
  if (!t) return;
  if (check_alive(t, "baton_timeline_destroy", nullptr)) return;
  baton_instance* in = t->instance;
  Hold hold(in);
  if (in->validator) in->validator->about_to_destroy(t);
  t->state = TimelineState::destroyed;
  retain(t);
  // Ops that wait for it would wait forever. With validation a later call goes the way of a poisoned one, which looks.
  if ((t->references > 1 || in->validator) &&
      t->poison(make_error(BATON_CANCELLED, "", "destroy a timeline after the ops that name it are complete",
                           "timeline '%s' was destroyed with %u ops in flight", t->name, t->references - 1)))
    in->waker.kick();
  release(t);
}

void baton_timeline_signal(baton_timeline* t, uint64_t value, uint64_t modelled_ns) {
  if (!t) return;
  if (t->signal(value, modelled_ns)) after_change(*t, value);
  else if (t->poisoned()) (void)check_alive(t, "baton_timeline_signal", nullptr);
}

void baton_timeline_poison(baton_timeline* t, const baton_error* cause) {
  if (!t || check_alive(t, "baton_timeline_poison", nullptr)) return;
  const baton_error cancelled = make_error(BATON_CANCELLED, "", "", "timeline '%s' was cancelled", t->name);
  if (t->poison(cause ? *cause : cancelled)) after_change(*t, UINT64_MAX);
}

int32_t baton_timeline_query(baton_timeline* t, uint64_t* value, baton_error* error) {
  if (!t) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_timeline_query: timeline is NULL"));
  if (value) *value = t->value();
  if (!t->poisoned()) return ok(error);
  if (int32_t code = check_alive(t, "baton_timeline_query", error)) return code;
  return fail(error, t->cause());
}

uint64_t baton_timeline_modelled(baton_timeline* t, uint64_t value) {
  return t && !check_alive(t, "baton_timeline_modelled", nullptr) ? t->modelled(value) : 0;
}

int32_t baton_timeline_wait(baton_timeline* t, uint64_t value, uint64_t deadline_ns, baton_error* error) {
  if (!t) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_timeline_wait: timeline is NULL"));
  if (t->value() >= value && !t->poisoned()) return ok(error);
  return wait(*t, value, deadline_ns, error);
}
