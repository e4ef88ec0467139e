// held.h: completions that a layer holds back: until they are due, or until the caller has cancelled the op. No thread: they are released
// from poll, and the queue's descriptor becomes readable when one is due.
//
// Owner    a layer's queue.   Threads  as the device's slots.
// Cost     a push into a heap, and a timerfd_settime when it is the next one due. A release() with nothing due is a clock read.
// Errors   open: IO.
//
//     BATON_TRY(held.open(next_fd));   *fd = held.fd();
//     held.hold(now_ns() + 2000, cookie, cost_ns, error);
//     n += held.release(host);         // in poll
#pragma once

#include "hal/baton.hpp"

#include <memory>
#include <vector>

namespace baton::layers {

class Held {
 public:
  static constexpr uint64_t kNever = UINT64_MAX;  // due: only a cancel ends it
  ~Held();
  // `next_fd`: the descriptor of the queue below, -1 if it has none; then this has none either, and the core polls by the clock.
  Status open(int next_fd);
  int fd() const { return epoll_; }
  void hold(uint64_t due_ns, void* cookie, uint64_t cost_ns, const baton_error* error);
  uint32_t release(const baton_driver_host* to);  // how many
  void clear();

 private:
  struct Item {
    uint64_t due_ns, order;
    void* cookie;
    uint64_t cost_ns;
    std::unique_ptr<baton_error> error;
    bool operator<(const Item& o) const { return due_ns != o.due_ns ? due_ns > o.due_ns : order > o.order; }  // the heap's front is next
  };
  void arm(uint64_t now);
  void take_cancelled(const baton_driver_host* to, std::vector<Item>& out);
  std::vector<Item> heap_;
  uint64_t order_ = 0;
  uint64_t armed_ns_ = 0;     // when the timer expires; 0: never
  uint64_t asked_ns_ = 0;     // when cancelled ops were last looked for
  int epoll_ = -1, timer_ = -1;
};

}  // namespace baton::layers
