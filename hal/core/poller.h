// poller.h: polling, and waiting by polling.
//
// Of the threads that wait on timelines one at a time polls for all (the driver thread); the others sleep on a futex until their value
// is reached or the driver thread leaves. So a wait works without any event loop, and also beside one.
//
// Owner    -   Threads  any; inside a driver's call, a poll does nothing and a wait is refused.
// Cost     a waiting thread spins for about 30 us after the last event, then sleeps on the descriptor.
// Errors   DEADLINE with the value reached; the timeline's poison.
#pragma once

#include "hal/core/hold.h"

#include <poll.h>

namespace baton::core {

uint32_t poll(baton_instance*, uint32_t budget);
uint32_t poll_wait(baton_instance*, uint64_t deadline_ns);  // meant for one thread; several use wait()
int32_t wait(baton_timeline&, uint64_t value, uint64_t deadline_ns, baton_error*);
// After a timeline rose to `value` or was poisoned (UINT64_MAX): wakes who sleeps for it.
inline void after_change(baton_timeline& t, uint64_t value) {
  baton_instance* in = t.instance;
  const bool nested = in->inside.owned();
  if (!nested) in->outside.fetch_add(1, std::memory_order_seq_cst);
  in->waker.wake_followers(&t, value);
  if (nested) in->waker.kick_sleepers();
  else in->waker.kick();  // an event loop elsewhere may look at this timeline when it wakes
}

// Polls, for a thread that closes or resets, until over() (called inside the instance) says so, at most 5 s: what a driver does not end in
// that time is not waited for. `fd`: what becomes readable when it may be over, or -1. Inside a driver's call it only looks. False: it is not over.
template <class F>
bool poll_until(baton_instance* in, int fd, F over) {
  const bool may_poll = !in->inside.owned();
  const uint64_t deadline = now_ns() + 5'000'000'000;
  for (;;) {
    {
      Hold hold(in);
      if (over()) return true;
    }
    if (!may_poll) return false;
    if (poll(in, 256)) continue;
    if (now_ns() >= deadline) return false;
    pollfd p{fd, POLLIN, 0};
    timespec nap{0, 200'000};
    ppoll(&p, fd >= 0 ? 1 : 0, &nap, nullptr);
  }
}

}  // namespace baton::core
