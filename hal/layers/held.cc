#include "hal/layers/held.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>

namespace baton::layers {
namespace {

constexpr uint64_t kAskNs = 2'000'000;  // between two looks for cancelled ops

}  // namespace

Held::~Held() {
  if (epoll_ >= 0) close(epoll_);
  if (timer_ >= 0) close(timer_);
}

Status Held::open(int next_fd) {
  if (next_fd < 0) return {};
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  timer_ = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  epoll_event e{};
  e.events = EPOLLIN;
  if (epoll_ < 0 || timer_ < 0 || epoll_ctl(epoll_, EPOLL_CTL_ADD, timer_, &e) || epoll_ctl(epoll_, EPOLL_CTL_ADD, next_fd, &e))
    return Error(BATON_IO, std::string("a layer's descriptors: ") + strerror(errno), "raise the limit of open files (ulimit -n)");
  return {};
}

void Held::arm(uint64_t now) {
  const uint64_t at = heap_.empty() ? 0 : std::min(heap_.front().due_ns, std::max(now, asked_ns_) + kAskNs);
  if (timer_ < 0 || at == armed_ns_) return;
  armed_ns_ = at;
  itimerspec t{};
  t.it_value.tv_sec = time_t(at / 1'000'000'000);
  t.it_value.tv_nsec = long(at % 1'000'000'000);
  timerfd_settime(timer_, TFD_TIMER_ABSTIME, &t, nullptr);  // also makes it unreadable again
}

void Held::hold(uint64_t due_ns, void* cookie, uint64_t cost_ns, const baton_error* error) {
  heap_.push_back({due_ns, order_++, cookie, cost_ns, error ? std::make_unique<baton_error>(*error) : nullptr});
  std::push_heap(heap_.begin(), heap_.end());
  if (!armed_ns_ || due_ns < armed_ns_) arm(now_ns());
}

void Held::take_cancelled(const baton_driver_host* to, std::vector<Item>& out) {
  auto asked = [&](const Item& i) { return to->progress(i.cookie, 0, 0) != 0; };
  auto first = std::partition(heap_.begin(), heap_.end(), [&](const Item& i) { return !asked(i); });
  if (first == heap_.end()) return;
  std::move(first, heap_.end(), std::back_inserter(out));
  heap_.erase(first, heap_.end());
  std::make_heap(heap_.begin(), heap_.end());
}

uint32_t Held::release(const baton_driver_host* to) {
  if (heap_.empty()) return 0;
  const uint64_t now = now_ns();
  std::vector<Item> cancelled;
  if (now >= asked_ns_ + kAskNs) {
    asked_ns_ = now;
    take_cancelled(to, cancelled);
  }
  uint32_t n = uint32_t(cancelled.size());
  const Error stopped(BATON_CANCELLED, "cancelled while a layer held its completion");
  for (const Item& i : cancelled) to->complete(i.cookie, i.cost_ns, &stopped);
  while (!heap_.empty() && heap_.front().due_ns <= now) {
    std::pop_heap(heap_.begin(), heap_.end());
    const Item i = std::move(heap_.back());
    heap_.pop_back();
    ++n;
    to->complete(i.cookie, i.cost_ns, i.error.get());
  }
  if (n || now >= armed_ns_) arm(now);
  return n;
}

void Held::clear() {
  heap_.clear();
  arm(0);
}

}  // namespace baton::layers
