#include "drivers/cs3/link/shm_carrier.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace baton::cs3 {

ShmCarrier::ShmCarrier(Fd socket, Segment segment, Fd to_daemon, Fd to_client)
    : Carrier(segment.layout().arena),
      socket_(std::move(socket)),
      to_daemon_(std::move(to_daemon)),
      to_client_(std::move(to_client)),
      segment_(std::move(segment)),
      sq_(&segment_.layout().sq, segment_.layout().submissions),
      cq_(&segment_.layout().cq, segment_.layout().completions) {
  segment_.close_fd();
}

Status ShmCarrier::watch(int epoll) {
  for (const int fd : {socket_.get(), to_client_.get()}) {
    epoll_event ev{.events = EPOLLIN | EPOLLRDHUP, .data = {.fd = fd}};
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) != 0) return io_error("epoll_ctl", errno);
  }
  return {};
}

void ShmCarrier::send(Ticket& t) {
  // There are as many tickets as ring entries, so the ring has room unless the daemon took its head back.
  if (!sq_.push(t.s)) return fail(Error(BATON_CORRUPT, "the daemon moved the submission ring's head backwards", "restart the daemon"));
  if (sq_.bell()) ring(to_daemon_.get());
}

Pop ShmCarrier::receive(Completion& c, std::string_view& text) {
  const uint32_t slot = cq_.slot();
  const Pop p = cq_.peek(c);
  if (p == Pop::none) return p;
  const char* wrong = p == Pop::broken ? "the completion ring's tail is impossible" : check(c);
  if (wrong) {
    fail(Error(BATON_CORRUPT, std::string("the daemon broke the protocol: ") + wrong, "restart the daemon; if it recurs, its build is faulty"));
    return Pop::broken;
  }
  if (c.text_bytes) {
    std::memcpy(text_, segment_.layout().texts[slot], c.text_bytes);
    text = std::string_view(text_, c.text_bytes);
  }
  cq_.take();
  return Pop::got;
}

bool ShmCarrier::arm() {
  drain(to_client_.get());
  check_alive();
  return !is_broken() && cq_.arm();
}

void ShmCarrier::check_alive() {
  char byte;
  const ssize_t n = ::recv(socket_.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK);
  if (n == 0) fail(Error(BATON_DEVICE_LOST, "the wafer daemon is gone (its socket closed)"));
  else if (n < 0 && errno != EAGAIN && errno != EINTR) fail(Error(BATON_DEVICE_LOST, io_error("the wafer daemon is gone", errno).what));
  else if (n > 0) fail(Error(BATON_CORRUPT, "the daemon sent bytes where none belong", "restart the daemon"));
}

bool ShmCarrier::pass_fd(int fd, uint32_t region) {
  return send_with_fds(socket_.get(), &region, sizeof region, std::span<const int>(&fd, 1));
}

}  // namespace baton::cs3
