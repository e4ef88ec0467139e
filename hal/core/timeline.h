// timeline.h: a watermark that only rises, plus a failure that stays: the only ordering there is.
//
// Owner    the caller, of the handle; ops in flight hold a reference, so that destroying early is safe (their waits fail).
// Threads  signal, poison, query, modelled: any, never blocked by a poll. References: under the instance's lock.
// Cost     signal: one uncontended lock, O(ops woken). A kept point is 16 bytes; the 512 latest modelled points are kept: asked for
//          an older value, the time of the oldest kept point is the answer (an upper bound).
// Errors   the poison: the first cause, to which each queue that passes it on adds itself as a hop.
//
// A value that is reached and a poison that came later: the poison wins for whoever looks after it, because whoever
// poisons may free what the value stood for.
//
//     t->signal(3, end_ns);   t->poison(cause);
#pragma once

#include "hal/core/op.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

struct baton_timeline {
  baton_timeline(baton_instance* in, const char* label) : instance(in), name(label ? label : "") {}

  // True if it rose.
  bool signal(uint64_t value, uint64_t modelled_ns);
  bool poison(const baton_error& cause);
  // seq_cst: a thread about to sleep declares so first and looks second; a signal stores first and looks for sleepers second.
  uint64_t value() const { return value_.load(std::memory_order_seq_cst); }
  bool poisoned() const { return poisoned_.load(std::memory_order_seq_cst); }
  // Only if poisoned.
  const baton_error& cause() const { return *cause_; }
  uint64_t modelled(uint64_t value);

  // Lists the node until `value` is reached; false if it is already, or the timeline is poisoned.
  bool listen(baton::core::WaitNode&);
  // Unlists the node; false if it has been woken already.
  bool unlisten(baton::core::WaitNode&);

  baton_instance* const instance;
  const std::string name;
  uint32_t references = 0;  // ops; under the instance's lock
  bool destroyed = false;
  baton_timeline *prev = nullptr, *next = nullptr;  // of the instance

 private:
  struct Point {
    uint64_t value, ns;
  };
  static constexpr uint32_t kPoints = 512;
  void record(uint64_t value, uint64_t ns);
  void wake_until(uint64_t value);  // pushes to the instance's stack

  std::atomic<uint64_t> value_{0};
  std::atomic<bool> poisoned_{false};
  std::mutex mu_;
  baton::core::WaitNode *head_ = nullptr, *tail_ = nullptr;  // by rising value
  std::unique_ptr<baton_error> cause_;
  std::unique_ptr<Point[]> ring_;  // made at the first modelled point
  uint64_t points_ = 0;            // ever recorded
  uint64_t unmodelled_ = 0;        // watermark before the first modelled point
};

namespace baton::core {

inline void retain(baton_timeline* t) { ++t->references; }
void release(baton_timeline* t);  // frees it if it was destroyed and this was the last

}  // namespace baton::core
