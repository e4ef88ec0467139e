// timeline.h: a watermark that only rises, plus a failure that stays: the only ordering there is.
//
// Owner    the caller, of the handle; ops in flight hold a reference, so that destroying early is safe (their waits fail).
// Threads  signal, poison, query: any, without a lock. Listed ops, references and state: under the instance's lock. A signal that an op
//          waits for puts the timeline on the instance's stack of changed ones; schedule.cc goes through it.
// Cost     a cache line, from the instance's pool, and the name if there is one. signal: one compare-and-swap; with modelled time, the
//          lock of the timeline's points. The 512 latest modelled points are kept (16 bytes each): asked for an older value, the time
//          of the oldest kept point is the answer (an upper bound).
// Errors   the poison: the first cause, to which each queue that passes it on adds itself as a hop.
//
// A value that is reached and a poison that came later: the poison wins for whoever looks after it, because whoever
// poisons may free what the value stood for. A signal under way in another thread when the poison comes may still raise the value.
//
//     t->signal(3, end_ns);   t->poison(cause);
#pragma once

#include "hal/core/op.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace baton::core {

// What few timelines have: modelled points, or a cause of failure.
struct TimelineRest {
  struct Point {
    uint64_t value, ns;
  };
  static constexpr uint32_t kPoints = 512;
  std::atomic<const baton_error*> cause{nullptr};
  std::atomic<bool> modelled{false};  // has points
  std::mutex mu;                      // the points
  std::unique_ptr<Point[]> ring;
  uint64_t points = 0;      // ever recorded
  uint64_t unmodelled = 0;  // watermark before the first modelled point
  ~TimelineRest() { delete cause.load(); }
};

enum class TimelineState : uint8_t { free, live, destroyed };

}  // namespace baton::core

struct alignas(64) baton_timeline {
  ~baton_timeline() { clear(); }

  // True if it rose.
  bool signal(uint64_t value, uint64_t modelled_ns) {
    const baton::core::TimelineRest* r = rest_.load(std::memory_order_acquire);
    return modelled_ns || r ? signal_slowly(value, modelled_ns) : raise(value);
  }
  bool poison(const baton_error& cause);
  // seq_cst: a thread about to sleep declares so first and looks second; a signal stores first and looks for sleepers second.
  uint64_t value() const { return value_.load(std::memory_order_seq_cst); }
  bool poisoned() const {
    const baton::core::TimelineRest* r = rest_.load(std::memory_order_seq_cst);
    return r && r->cause.load(std::memory_order_seq_cst);
  }
  bool settled(uint64_t at) const { return value() >= at || poisoned(); }
  // Only if poisoned.
  const baton_error& cause() const { return *rest_.load(std::memory_order_acquire)->cause.load(std::memory_order_acquire); }
  uint64_t modelled(uint64_t value);

  // ---- under the instance's lock ----

  // Lists the node until `value` is reached; false if it is already, or the timeline is poisoned.
  bool listen(baton::core::WaitNode&);
  void unlisten(baton::core::WaitNode&);
  // Off the stack of changed ones: what changes from here on puts it there again.
  void off_stack() { queued_.exchange(false, std::memory_order_acq_rel); }
  bool on_stack() const { return queued_.load(std::memory_order_relaxed); }
  // Unlists and returns the next node whose value is reached (any, if poisoned); NULL if there is none.
  baton::core::WaitNode* take_due();
  void set_name(const char*);
  void clear();  // as new, but for `instance`

  baton_instance* instance = nullptr;
  const char* name = "";
  baton_timeline* next = nullptr;  // in the stack of changed ones, or of free ones
  uint32_t references = 0;         // ops
  baton::core::TimelineState state = baton::core::TimelineState::free;

 private:
  bool raise(uint64_t value) {
    uint64_t now = value_.load(std::memory_order_relaxed);
    do {
      if (value <= now) return false;
    } while (!value_.compare_exchange_weak(now, value, std::memory_order_seq_cst, std::memory_order_relaxed));
    if (value >= awaited_.load(std::memory_order_seq_cst)) put_on_stack();
    return true;
  }
  bool signal_slowly(uint64_t value, uint64_t modelled_ns);
  void put_on_stack();
  baton::core::TimelineRest& rest();
  void unlink(baton::core::WaitNode&);

  std::atomic<bool> queued_{false};             // on the stack of changed ones
  std::atomic<uint64_t> value_{0};
  std::atomic<uint64_t> awaited_{UINT64_MAX};   // a value from which on somebody may be listed; written under the instance's lock
  baton::core::WaitNode* head_ = nullptr;       // by rising value; its `prev` is the last
  std::atomic<baton::core::TimelineRest*> rest_{nullptr};  // made when needed
};
static_assert(sizeof(baton_timeline) == 64, "a cache line each: runtimes keep several a request");

namespace baton::core {

// An instance's timelines, 256 at a time; memory is kept for the next ones. Under the instance's lock.
class TimelinePool {
 public:
  explicit TimelinePool(baton_instance* instance) : instance_(instance) {}
  baton_timeline* take();
  void give(baton_timeline*);
  template <class F>
  void each(F f) const {
    for (const auto& chunk : chunks_)
      for (uint32_t i = 0; i < kChunk; ++i) f(&chunk[i]);
  }

 private:
  static constexpr uint32_t kChunk = 256;
  baton_instance* instance_;
  baton_timeline* free_ = nullptr;
  std::vector<std::unique_ptr<baton_timeline[]>> chunks_;
};

inline void retain(baton_timeline* t) { ++t->references; }
void give_back(baton_timeline*);
// Frees it if it was destroyed and this was the last.
inline void release(baton_timeline* t) {
  if (--t->references == 0 && t->state == TimelineState::destroyed && !t->on_stack()) give_back(t);
}

}  // namespace baton::core
