// lock.h: a lock that knows its owner, so that a driver or a callback may call back into the core.
//
// Owner    one per instance (everything the scheduler touches) and one per device (calls into its driver).
// Threads  Order: the instance's, then a device's. Long driver calls (load, alloc, reset) hold the device's alone, so that polling the
//          other devices goes on; the poller only ever tries a device's lock, and submit only ever tries the instance's (hold.h).
// Cost     uncontended: two locked instructions; again by its owner: a count.   Errors  none.
//
//     std::lock_guard lock(device->call);
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <mutex>

namespace baton::core {

class OwnedLock {
 public:
  void lock() {
    if (!try_lock()) wait();
  }
  bool try_lock() {
    const uintptr_t me = self();
    if (owner_.load(std::memory_order_relaxed) == me) {
      ++depth_;
      return true;
    }
    uintptr_t nobody = 0;
    if (!owner_.compare_exchange_strong(nobody, me, std::memory_order_seq_cst)) return false;
    depth_ = 1;
    return true;
  }
  void unlock() {
    if (--depth_) return;
    owner_.store(0, std::memory_order_seq_cst);  // ordered before the look at who waits, and at what hold.h asks for next
    if (waiting_.load(std::memory_order_seq_cst)) wake();
  }
  bool owned() const { return owner_.load(std::memory_order_relaxed) == self(); }
  bool nested() const { return depth_ > 1; }  // by its owner
  // Somebody is blocked in lock(): a thread that locks in a loop should let them in.
  bool contended() const { return waiting_.load(std::memory_order_relaxed) != 0; }
  static uintptr_t self() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    return reinterpret_cast<uintptr_t>(__builtin_thread_pointer());  // one instruction; asked for twice an op
#else
    return uintptr_t(pthread_self());
#endif
  }

 private:
  void wait() {
    waiting_.fetch_add(1, std::memory_order_seq_cst);
    for (uint32_t turn = turn_.load(std::memory_order_seq_cst); !try_lock(); turn = turn_.load(std::memory_order_seq_cst))
      turn_.wait(turn, std::memory_order_seq_cst);
    waiting_.fetch_sub(1, std::memory_order_relaxed);
  }
  void wake() {
    turn_.fetch_add(1, std::memory_order_seq_cst);
    turn_.notify_one();
  }

  std::atomic<uintptr_t> owner_{0};
  std::atomic<uint32_t> waiting_{0}, turn_{0};
  uint32_t depth_ = 0;
};

}  // namespace baton::core
