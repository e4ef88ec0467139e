#include "drivers/cs3/link/tcp_carrier.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace baton::cs3 {

TcpCarrier::TcpCarrier(Fd socket, std::unique_ptr<uint8_t[]> arena)
    : Carrier(arena.get()), socket_(std::move(socket)), arena_(std::move(arena)), into_(reinterpret_cast<uint8_t*>(&c_)) {}

Status TcpCarrier::watch(int epoll) {
  epoll_ = epoll;
  epoll_event ev{.events = EPOLLIN | EPOLLRDHUP, .data = {.fd = socket_.get()}};
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, socket_.get(), &ev) != 0) return io_error("epoll_ctl", errno);
  return {};
}

void TcpCarrier::want_writable(bool on) {
  if (on == writable_wanted_ || epoll_ < 0) return;
  writable_wanted_ = on;
  epoll_event ev{.events = EPOLLIN | EPOLLRDHUP | (on ? uint32_t(EPOLLOUT) : 0u), .data = {.fd = socket_.get()}};
  ::epoll_ctl(epoll_, EPOLL_CTL_MOD, socket_.get(), &ev);
}

void TcpCarrier::send(Ticket& t) {
  out_[(out_head_ + out_count_++) % kSqEntries] = t.index;
}

void TcpCarrier::flush() {
  while (out_count_ && !is_broken()) {
    iovec v[64];
    int n = 0;
    size_t skip = sent_;
    for (uint32_t i = 0; i < out_count_ && n + 2 <= 64; ++i) {
      Ticket& t = ticket(out_[(out_head_ + i) % kSqEntries]);
      const auto add = [&](void* p, size_t bytes) {
        const size_t cut = std::min(skip, bytes);
        skip -= cut;
        if (bytes > cut) v[n++] = {static_cast<uint8_t*>(p) + cut, bytes - cut};
      };
      add(&t.s, sizeof t.s);
      add(t.payload, inline_bytes(t.s));
    }
    msghdr m{};
    m.msg_iov = v;
    m.msg_iovlen = size_t(n);
    const ssize_t sent = ::sendmsg(socket_.get(), &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EAGAIN || errno == EINTR) return want_writable(true);
      lost(io_error("the wafer daemon is gone", errno).what);
      return;
    }
    sent_ += size_t(sent);
    while (out_count_) {
      const Ticket& t = ticket(out_[out_head_]);
      const size_t whole = sizeof(Submission) + inline_bytes(t.s);
      if (sent_ < whole) break;
      sent_ -= whole;
      out_head_ = (out_head_ + 1) % kSqEntries;
      --out_count_;
    }
  }
  want_writable(false);
}

Pop TcpCarrier::lost(const char* why) {
  fail(Error(BATON_DEVICE_LOST, why));
  return Pop::broken;
}

// Reads until the current part is whole: got; none: not yet.
Pop TcpCarrier::pull() {
  while (got_ < want_) {
    const ssize_t n = ::recv(socket_.get(), into_ + got_, want_ - got_, MSG_DONTWAIT);
    if (n > 0) got_ += size_t(n);
    else if (n == 0) return lost("the wafer daemon is gone (its connection closed)");
    else if (errno == EAGAIN) return Pop::none;
    else if (errno != EINTR) return lost(io_error("the wafer daemon is gone", errno).what);
  }
  return Pop::got;
}

// Begins the first of text and payload, from `next` on, that has bytes; false: the event is whole.
bool TcpCarrier::start(Part next) {
  got_ = 0;
  if (next == Part::text && c_.text_bytes == 0) next = Part::payload;
  if (next == Part::payload && c_.payload_bytes == 0) next = Part::entry;
  part_ = next;
  if (next == Part::entry) {
    into_ = reinterpret_cast<uint8_t*>(&c_);
    want_ = sizeof c_;
  } else if (next == Part::text) {
    into_ = reinterpret_cast<uint8_t*>(text_);
    want_ = c_.text_bytes;
  } else {
    into_ = find(c_.id)->payload;
    want_ = c_.payload_bytes;
  }
  return next != Part::entry;
}

Pop TcpCarrier::receive(Completion& c, std::string_view& text) {
  flush();
  for (;;) {
    const Pop p = pull();
    if (p != Pop::got) return is_broken() ? Pop::broken : p;
    bool more = false;
    if (part_ == Part::entry) {
      const char* wrong = check(c_);
      const Ticket* t = find(c_.id);
      if (!wrong && c_.payload_bytes && (!t || c_.payload_bytes > t->payload_bytes)) wrong = "an answer longer than the room for it";
      if (wrong) {
        fail(Error(BATON_CORRUPT, std::string("the daemon broke the protocol: ") + wrong, "restart the daemon; if it recurs, its build is faulty"));
        return Pop::broken;
      }
      more = start(Part::text);
    } else if (part_ == Part::text) {
      more = start(Part::payload);
    } else {
      start(Part::entry);
    }
    if (more) continue;
    c = c_;
    if (c.text_bytes) text = std::string_view(text_, c.text_bytes);
    return Pop::got;
  }
}

bool TcpCarrier::arm() {
  flush();
  return !is_broken(); // what is in the socket shows on the epoll set
}

void TcpCarrier::check_alive() {} // receive() sees the end of the connection

}  // namespace baton::cs3
