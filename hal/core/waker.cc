#include "hal/core/waker.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace baton::core {
namespace {

timespec to_timespec(uint64_t ns) { return {time_t(ns / 1000000000), long(ns % 1000000000)}; }

}  // namespace

Status Waker::create() {
  epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
  event_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_ || !event_)
    return Error(BATON_IO, std::string("cannot make an epoll descriptor: ") + strerror(errno), "raise the limit of open files (ulimit -n)");
  return add(event_.get());
}

Status Waker::add(int fd) {
  if (fd < 0) return {};
  std::lock_guard lock(mu_);
  if (++shared_[fd] > 1) return {};
  epoll_event e{};
  e.events = EPOLLIN;
  if (!epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &e)) return {};
  shared_.erase(fd);
  return Error(BATON_IO, "cannot watch descriptor " + std::to_string(fd) + ": " + strerror(errno),
               "a driver's descriptor must be one that epoll takes (eventfd, socket, pipe, timerfd, epoll)");
}

void Waker::remove(int fd) {
  if (fd < 0) return;
  std::lock_guard lock(mu_);
  auto it = shared_.find(fd);
  if (it == shared_.end() || --it->second) return;
  shared_.erase(it);
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void Waker::write_event() {
  if (notified_.exchange(true, std::memory_order_seq_cst)) return;
  uint64_t one = 1;
  while (write(event_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
}

void Waker::drain_event() {
  uint64_t count;
  while (read(event_.get(), &count, sizeof count) < 0 && errno == EINTR) {
  }
  // Read first, then cleared: a kick between the two writes nothing, but its work is ordered before this exchange, and so seen by the
  // poll that follows. The other order could eat the write of a kick and leave the flag up: every later kick would be lost.
  notified_.exchange(false, std::memory_order_seq_cst);
}

void Waker::block(uint64_t deadline_ns, uint64_t nap_ns) {
  uint64_t ns = nap_ns;
  if (deadline_ns != BATON_NO_DEADLINE) {
    uint64_t now = now_ns();
    if (now >= deadline_ns) return;
    ns = std::min(ns, deadline_ns - now);
  }
  // Level-triggered, and a poll visits every queue: which descriptor it was does not matter, and ppoll has ns timeouts.
  pollfd p{epoll_.get(), POLLIN, 0};
  timespec t = to_timespec(ns);
  ppoll(&p, 1, ns == UINT64_MAX ? nullptr : &t, nullptr);
}

void Waker::follow(Follower& f) {
  std::lock_guard lock(mu_);
  f.next = followers_;
  if (followers_) followers_->prev = &f;
  followers_ = &f;
  following_.fetch_add(1, std::memory_order_seq_cst);
}

void Waker::unfollow(Follower& f) {
  std::lock_guard lock(mu_);
  (f.prev ? f.prev->next : followers_) = f.next;
  if (f.next) f.next->prev = f.prev;
  following_.fetch_sub(1, std::memory_order_relaxed);
}

void Waker::sleep_follower(Follower& f, uint64_t deadline_ns) {
  timespec t = to_timespec(deadline_ns);
  while (!f.woken.load(std::memory_order_acquire)) {
    // FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time.
    long rc = syscall(SYS_futex, &f.woken, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, deadline_ns == BATON_NO_DEADLINE ? nullptr : &t,
                      nullptr, FUTEX_BITSET_MATCH_ANY);
    if (rc < 0 && errno == ETIMEDOUT) return;
  }
}

void Waker::wake(Follower& f) {
  if (f.woken.exchange(1, std::memory_order_release)) return;
  syscall(SYS_futex, &f.woken, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, nullptr, nullptr, 0);
}

void Waker::wake_matching(const baton_timeline* timeline, uint64_t value) {
  std::lock_guard lock(mu_);
  for (Follower* f = followers_; f; f = f->next)
    if (f->timeline == timeline && f->value <= value) wake(*f);
}

void Waker::wake_one_follower() {
  if (!following_.load(std::memory_order_seq_cst)) return;
  std::lock_guard lock(mu_);
  for (Follower* f = followers_; f; f = f->next)
    if (!f->woken.load(std::memory_order_relaxed)) return wake(*f);
}

}  // namespace baton::core
