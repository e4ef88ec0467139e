// lock.h: a mutex that knows its owner, so that a driver or a callback may call back into the core.
//
// Owner    one per instance (everything the scheduler touches) and one per device (calls into its driver).
// Threads  Order: the instance's, then a device's. Long driver calls (load, alloc, reset) hold the device's alone, so that polling the
//          other devices goes on; the poller only ever tries a device's lock.
// Cost     uncontended: two atomic operations.   Errors  none.
//
//     std::lock_guard lock(instance->mu);
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <mutex>

namespace baton::core {

class OwnedMutex {
 public:
  void lock() {
    if (owned()) {
      ++depth_;
      return;
    }
    if (!m_.try_lock()) {
      waiting_.fetch_add(1, std::memory_order_relaxed);
      m_.lock();
      waiting_.fetch_sub(1, std::memory_order_relaxed);
    }
    take();
  }
  bool try_lock() {
    if (owned()) {
      ++depth_;
      return true;
    }
    if (!m_.try_lock()) return false;
    take();
    return true;
  }
  void unlock() {
    if (--depth_) return;
    owner_.store(0, std::memory_order_relaxed);
    m_.unlock();
  }
  bool owned() const { return owner_.load(std::memory_order_relaxed) == self(); }
  // Somebody is blocked in lock(): a thread that locks in a loop should let them in.
  bool contended() const { return waiting_.load(std::memory_order_relaxed) != 0; }
  static uintptr_t self() { return uintptr_t(pthread_self()); }

 private:
  void take() {
    owner_.store(self(), std::memory_order_relaxed);
    depth_ = 1;
  }
  std::mutex m_;
  std::atomic<uintptr_t> owner_{0};
  std::atomic<uint32_t> waiting_{0};
  uint32_t depth_ = 0;
};

}  // namespace baton::core
