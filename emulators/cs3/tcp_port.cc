#include "emulators/cs3/tcp_port.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace baton::cs3 {

static constexpr size_t kOutBytes = 4u << 20;  // unsent answers; beyond, the session waits

Status TcpPort::watch(int epoll, uint64_t id) {
  epoll_ = epoll;
  id_ = id;
  wanted_ = EPOLLIN | EPOLLRDHUP;
  epoll_event ev{.events = wanted_, .data = {.u64 = id}};
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, socket_.get(), &ev) != 0) return io_error("epoll_ctl", errno);
  return {};
}

void TcpPort::want(uint32_t events) {
  if (events == wanted_ || epoll_ < 0) return;
  wanted_ = events;
  epoll_event ev{.events = events, .data = {.u64 = id_}};
  ::epoll_ctl(epoll_, EPOLL_CTL_MOD, socket_.get(), &ev);
}

// Data waiting while the session takes no more must not keep the loop awake: EPOLLIN is off until it reads again. A client that has
// closed its side expects no answers.
void TcpPort::on_event(uint32_t events) {
  if (events & EPOLLIN) {
    readable_ = true;
    want((wanted_ & EPOLLOUT) | EPOLLRDHUP);
  }
  if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) fail("the client is gone");
  if (events & EPOLLOUT) flush();
}

// Fills `bytes` from got_ on; false: not whole yet.
bool TcpPort::read(void* to, size_t bytes) {
  while (got_ < bytes) {
    const ssize_t n = ::recv(socket_.get(), static_cast<uint8_t*>(to) + got_, bytes - got_, MSG_DONTWAIT);
    if (n > 0) {
      got_ += size_t(n);
    } else if (n == 0) {
      fail("the client is gone");
      return false;
    } else if (errno == EAGAIN) {
      readable_ = false;
      want((wanted_ & EPOLLOUT) | EPOLLIN | EPOLLRDHUP);
      return false;
    } else if (errno != EINTR) {
      fail(io_error("the client is gone", errno).what);
      return false;
    }
  }
  got_ = 0;
  return true;
}

Pop TcpPort::next(Submission& s, Payload& payload) {
  if (broken()) return Pop::broken;
  if (!readable_) return Pop::none;
  if (!in_payload_) {
    if (!read(&s_, sizeof s_)) return broken() ? Pop::broken : Pop::none;
    if (const char* wrong = check(s_)) return fail(wrong);
    if (s_.where == uint8_t(Where::region)) return fail("a region on a TCP connection");
    in_.resize(inline_bytes(s_));
    in_payload_ = true;
  }
  if (!in_.empty() && !read(in_.data(), in_.size())) return broken() ? Pop::broken : Pop::none;
  in_payload_ = false;
  last_ns_ = now_ns();
  s = s_;
  payload.own = std::move(in_);
  payload.view = nullptr;
  in_ = {};
  return Pop::got;
}

uint32_t TcpPort::room() { return out_.size() - sent_ < kOutBytes ? kCqEntries : 0; }

uint8_t* TcpPort::answer(const Submission& s) {
  answer_.resize(std::max<size_t>(answer_.size(), s.payload_bytes));
  return answer_.data();
}

void TcpPort::post(const Completion& c, std::string_view text) {
  Completion out = c;
  out.text_bytes = uint16_t(std::min<size_t>(text.size(), kTextBytes));
  const auto add = [&](const void* p, size_t bytes) {
    const auto* b = static_cast<const uint8_t*>(p);
    out_.insert(out_.end(), b, b + bytes);
  };
  add(&out, sizeof out);
  add(text.data(), out.text_bytes);
  add(answer_.data(), out.payload_bytes);
  flush();
}

void TcpPort::flush() {
  while (sent_ < out_.size() && !broken()) {
    const ssize_t n = ::send(socket_.get(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      sent_ += size_t(n);
    } else if (n < 0 && errno == EAGAIN) {
      want(wanted_ | EPOLLOUT);
      if (sent_ > kOutBytes) {
        out_.erase(out_.begin(), out_.begin() + ptrdiff_t(sent_));
        sent_ = 0;
      }
      return;
    } else if (n < 0 && errno != EINTR) {
      fail(io_error("the client is gone", errno).what);
      return;
    }
  }
  out_.clear();
  sent_ = 0;
  want(wanted_ & ~uint32_t(EPOLLOUT));
}

bool TcpPort::arm() { return broken() || !readable_; }

}  // namespace baton::cs3
