#include "emulators/cs3/shm_port.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace baton::cs3 {

Result<std::unique_ptr<ShmPort>> ShmPort::create(Fd socket) {
  BATON_ASSIGN(Segment segment, Segment::create());
  Fd to_daemon(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), to_client(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!to_daemon || !to_client) return io_error("eventfd", errno);
  return std::unique_ptr<ShmPort>(new ShmPort(std::move(socket), std::move(segment), std::move(to_daemon), std::move(to_client)));
}

ShmPort::ShmPort(Fd socket, Segment segment, Fd to_daemon, Fd to_client)
    : socket_(std::move(socket)),
      to_daemon_(std::move(to_daemon)),
      to_client_(std::move(to_client)),
      segment_(std::move(segment)),
      sq_(&segment_.layout().sq, segment_.layout().submissions),
      cq_(&segment_.layout().cq, segment_.layout().completions) {}

Status ShmPort::watch(int epoll, uint64_t id) {
  for (const int fd : {socket_.get(), to_daemon_.get()}) {
    epoll_event ev{.events = EPOLLIN | EPOLLRDHUP, .data = {.u64 = id}};
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) != 0) return io_error("epoll_ctl", errno);
  }
  return {};
}

// Which of the two descriptors it was is not asked: both reads are cheap and rare.
void ShmPort::on_event(uint32_t) {
  drain(to_daemon_.get());
  read_socket();
}

void ShmPort::read_socket() {
  for (;;) {
    uint32_t region = 0;
    Fd fds[kMaxFds];
    size_t count = 0;
    const ssize_t n = receive_with_fds(socket_.get(), &region, sizeof region, fds, &count);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
      fail("the client is gone");
      return;
    }
    if (n != ssize_t(sizeof region) || count != 1 || passed_.size() == kMaxRegions) {
      fail("bytes or descriptors on the unix socket that no command announces");
      return;
    }
    passed_.push_back({region, std::move(fds[0])});
  }
}

Fd ShmPort::take_fd(uint32_t region) {
  read_socket();
  const auto p = std::find_if(passed_.begin(), passed_.end(), [&](const Passed& x) { return x.region == region; });
  if (p == passed_.end()) return Fd();
  Fd fd = std::move(p->fd);
  passed_.erase(p);
  return fd;
}

Pop ShmPort::next(Submission& s, Payload& payload) {
  if (broken()) return Pop::broken;
  const Pop p = sq_.pop(s);
  if (p == Pop::none) return p;
  if (p == Pop::broken) return fail("the submission ring's tail is impossible");
  if (const char* wrong = check(s)) return fail(wrong);
  payload.own.clear();
  payload.view = s.where == uint8_t(Where::arena) ? segment_.layout().arena + s.payload_offset : nullptr;
  return Pop::got;
}

void ShmPort::post(const Completion& c, std::string_view text) {
  Completion out = c;
  out.text_bytes = uint16_t(std::min<size_t>(text.size(), kTextBytes));
  std::memcpy(segment_.layout().texts[cq_.slot()], text.data(), out.text_bytes);
  if (!cq_.push(out)) {
    fail("the completion ring overflowed");
    return;
  }
  if (cq_.bell()) ring(to_client_.get());
}

bool ShmPort::arm() { return broken() || sq_.arm(); }

}  // namespace baton::cs3
