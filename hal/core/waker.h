// waker.h: how threads sleep until a poll may make progress, and who wakes them.
//
// Two kinds sleep. A thread that polls sleeps on the epoll descriptor (drivers' descriptors and one eventfd are in it). Threads that
// wait on a timeline while another thread polls sleep on a futex of their own, as followers.
//
// Owner    the instance.   Threads  any.
// Cost     kick(): one load when nobody sleeps on the descriptor. A sleep: one system call.   Errors  create() only: IO.
//
//     waker.kick();                   // there is work for a poll: wake whoever sleeps on the descriptor
//     waker.sleep(deadline, nap_ns);  // until readable
#pragma once

#include "hal/core/emulator_process.h"  // Fd

#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>

namespace baton::core {

// A thread waiting on a timeline without polling. On its own stack.
struct Follower {
  const baton_timeline* timeline = nullptr;
  uint64_t value = 0;
  std::atomic<uint32_t> woken{0};
  Follower *prev = nullptr, *next = nullptr;
};

class Waker {
 public:
  Status create();
  int fd() {
    watched_.store(true, std::memory_order_relaxed);  // from now on somebody may sleep on it without telling
    return epoll_.get();
  }

  // A driver's descriptor; several queues may share one.
  Status add(int fd);
  void remove(int fd);

  void kick() {
    if (sleepers_.load(std::memory_order_seq_cst) || watched_.load(std::memory_order_relaxed)) write_event();
  }
  void kick_sleepers() {  // a value changed: of interest to threads that wait, not to an event loop
    if (sleepers_.load(std::memory_order_seq_cst)) write_event();
  }
  // A poll is about to look at everything: what was kicked before is about to be seen. But by this thread alone: who still sleeps must
  // find the descriptor readable, or would sleep on through what happened.
  void clear() {
    if (!notified_.load(std::memory_order_relaxed) || sleepers_.load(std::memory_order_seq_cst)) return;
    drain_event();
    if (sleepers_.load(std::memory_order_seq_cst)) write_event();  // went to sleep meanwhile: the kick may have been for it
  }
  // `idle` is asked after this thread has declared itself asleep: false cancels the sleep. nap_ns caps it.
  template <class Idle>
  void sleep(uint64_t deadline_ns, uint64_t nap_ns, Idle idle) {
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    if (idle()) block(deadline_ns, nap_ns);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

  void follow(Follower&);
  void unfollow(Follower&);
  static void sleep_follower(Follower&, uint64_t deadline_ns);
  // Wakes the followers of `timeline` that wait for at most `value`.
  void wake_followers(const baton_timeline* timeline, uint64_t value) {
    if (following_.load(std::memory_order_seq_cst)) wake_matching(timeline, value);
  }
  void wake_one_follower();  // the polling thread leaves: somebody else must poll

 private:
  void write_event();
  void drain_event();
  void block(uint64_t deadline_ns, uint64_t nap_ns);
  void wake_matching(const baton_timeline*, uint64_t value);
  static void wake(Follower&);

  Fd epoll_, event_;
  std::atomic<uint32_t> sleepers_{0}, following_{0};
  std::atomic<bool> watched_{false}, notified_{false};
  std::mutex mu_;  // the follower list and the descriptor counts
  Follower* followers_ = nullptr;
  std::unordered_map<int, uint32_t> shared_;
};

}  // namespace baton::core
