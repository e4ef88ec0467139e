#include "hal/core/poller.h"

#include "hal/core/link.h"
#include "hal/core/queue.h"
#include "hal/core/schedule.h"
#include "hal/core/validate.h"

#include <sched.h>

#include <algorithm>

namespace baton::core {
namespace {

constexpr uint64_t kSpinNs = 30'000;         // after the last event; a daemon answers an empty op within about that
constexpr uint64_t kNapNs = 50'000;          // while a queue without a descriptor has work
constexpr uint64_t kBlockedNapNs = 1'000'000;  // while a driver takes no ops though it runs none
constexpr uint32_t kBudget = 256;

uint32_t poll_queue(baton_queue* q, uint32_t budget) {
  if (q->kind == QueueKind::link) return poll_link(q);
  baton_device* d = q->device;
  if (d && (d->gone || d->epoch != q->epoch || !try_call(d))) return 0;
  uint32_t n = 0;
  if (q->driver->poll) {
    ++q->instance->in_driver;
    n = q->driver->poll(q->device_handle, q->handle, budget);
    --q->instance->in_driver;
  }
  if (d) d->call.unlock();
  if (q->blocked && !q->ready.empty()) {
    q->blocked = false;
    mark_dirty(q);
  }
  return n;
}

// What the poll left behind: closed queues to free, work for at once, and how long a poller may sleep.
void finish(baton_instance* in) {
  std::erase(in->queues, nullptr);
  if (!in->graveyard.empty()) free_dead_queues(in);
  uint64_t nap = UINT64_MAX;
  for (const baton_queue* q : in->queues) {
    if (q->fd < 0 && (q->inflight || q->kind == QueueKind::table) && q->kind != QueueKind::link) nap = kNapNs;
    if (q->blocked && !q->inflight) nap = std::min(nap, kBlockedNapNs);
  }
  in->nap_ns.store(nap, std::memory_order_relaxed);
  const bool more = in->host_head || in->copying || !in->dirty.empty();
  in->more.store(more, std::memory_order_seq_cst);
  in->took_posted = false;  // they have been seen to above
  if (more) in->waker.kick();
}

bool idle(const baton_instance* in) {
  return !in->more.load(std::memory_order_seq_cst) && !in->changed.load(std::memory_order_seq_cst) && !in->lost_pending.load();
}

// A loop of polls must not starve whoever waits for the lock to submit.
void let_others_in(const baton_instance* in) {
  for (int i = 0; i < 100 && in->inside.contended(); ++i) sched_yield();
}

// Polls until done() or the deadline; sleeps when nothing happens.
template <class Done>
void drive(baton_instance* in, uint64_t deadline_ns, Done done) {
  uint64_t spin_until = 0;
  while (!done()) {
    uint32_t n = poll(in, kBudget);
    if (done()) return;
    let_others_in(in);
    uint64_t now = now_ns();
    if (now >= deadline_ns) return;
    if (n || !spin_until) spin_until = now + kSpinNs;
    else if (now >= spin_until)
      in->waker.sleep(deadline_ns, in->nap_ns.load(std::memory_order_relaxed), [&] { return idle(in) && !done(); });
    else
      __builtin_ia32_pause();
  }
}

void follow(baton_timeline& t, uint64_t value, uint64_t deadline_ns) {
  baton_instance* in = t.instance;
  Follower f;
  f.timeline = &t;
  f.value = value;
  in->waker.follow(f);
  if (!t.settled(value) && in->driver_thread.load()) Waker::sleep_follower(f, deadline_ns);
  in->waker.unfollow(f);
}

int32_t deadline_error(const baton_timeline& t, uint64_t value, baton_error* error) {
  return fail(error, make_error(BATON_DEADLINE, "", "wait longer, or poison the timeline to cancel what it waits for",
                                "timeline '%s' is at %llu, not yet at %llu", t.name, static_cast<unsigned long long>(t.value()),
                                static_cast<unsigned long long>(value)));
}

// Polls, or sleeps while another thread polls, until the value is reached or the deadline has passed.
void block(baton_timeline& t, uint64_t value, uint64_t deadline_ns) {
  baton_instance* in = t.instance;
  auto done = [&] { return t.settled(value); };
  while (!done()) {  // at least one poll, also after the deadline
    uintptr_t nobody = 0;
    const uintptr_t self = OwnedLock::self();
    if (in->driver_thread.load() == self) {  // a HOST op's function waits: its own thread polls on
      drive(in, deadline_ns, done);
    } else if (in->driver_thread.compare_exchange_strong(nobody, self)) {
      drive(in, deadline_ns, done);
      in->driver_thread.store(0);
    } else {
      follow(t, value, deadline_ns);
    }
    if (now_ns() >= deadline_ns) break;
  }
}

// The same, and looks once into a wait that comes to nothing: at its deadline, or when it has taken long.
void block_watched(baton_timeline& t, uint64_t value, uint64_t deadline_ns) {
  Validator& v = *t.instance->validator;
  const uint64_t begin = now_ns(), look = std::min(deadline_ns, begin + v.options.patience_ns);
  block(t, value, look);
  if (!t.settled(value) && deadline_ns > begin) {  // else it was a poll
    Hold hold(t.instance);
    v.points.explain(&t, value, deadline_ns == look ? "the deadline passed in a wait" : "nothing has come of a wait");
  }
  if (look < deadline_ns) block(t, value, deadline_ns);
}

}  // namespace

uint32_t poll(baton_instance* in, uint32_t budget) {
  if (in->inside.owned()) return 0;  // from inside a driver's call: the poll that called it goes on
  Hold hold(in);
  in->waker.clear();
  take_pending_losses(in);
  drain(in);
  uint32_t handled = 0;
  const uint64_t events = in->events;
  const size_t count = in->queues.size();  // queues opened meanwhile are for the next poll
  const uint32_t first = in->next_queue++;
  for (size_t i = 0; i < count && handled < budget; ++i) {
    baton_queue* q = in->queues[(first + i) % count];
    if (!q) continue;
    uint32_t n = poll_queue(q, budget - handled);
    handled += n;
    drain(in);
  }
  if (handled < budget) handled += run_host_ops(in, budget - handled);
  drain(in);
  finish(in);
  handled = std::max(handled, uint32_t(in->events - events));  // a driver may count otherwise than we
  return handled;
}

uint32_t poll_wait(baton_instance* in, uint64_t deadline_ns) {
  if (in->inside.owned()) return 0;
  // What other threads handle, and what completed inside a submit since the last call, counts too: a caller that looks at its
  // timelines between calls must not sleep through a change.
  const uint64_t before = in->seen.load(std::memory_order_relaxed);
  auto news = [&] { return in->happened() != before; };
  uint64_t spin_until = now_ns() + kSpinNs;
  uint32_t handled;
  while (!(handled = poll(in, kBudget)) && !news()) {
    let_others_in(in);
    uint64_t now = now_ns();
    if (now >= deadline_ns) return 0;
    if (now < spin_until) __builtin_ia32_pause();
    else in->waker.sleep(deadline_ns, in->nap_ns.load(std::memory_order_relaxed), [&] { return idle(in) && !news(); });
  }
  const uint64_t now = in->happened();
  in->seen.store(now, std::memory_order_relaxed);
  return std::max<uint32_t>(handled, uint32_t(std::min<uint64_t>(now - before, UINT32_MAX)));
}

int32_t wait(baton_timeline& t, uint64_t value, uint64_t deadline_ns, baton_error* error) {
  baton_instance* in = t.instance;
  if (!t.settled(value)) {
    if (in->inside.owned())
      return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "submit an op that waits on the timeline instead",
                                    "a wait on timeline '%s' inside a driver's call or a span callback would never end", t.name));
    if (in->validator) block_watched(t, value, deadline_ns);
    else block(t, value, deadline_ns);
  }
  if (!in->driver_thread.load()) in->waker.wake_one_follower();
  if (t.poisoned()) {
    if (int32_t code = check_alive(&t, "baton_timeline_wait", error)) return code;
    return fail(error, t.cause());
  }
  if (t.value() >= value) return ok(error);
  return deadline_error(t, value, error);
}

}  // namespace baton::core
