#include "drivers/cs3/link/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>

namespace baton::cs3 {
namespace {

struct AddrInfoFree {
  void operator()(addrinfo* a) const { freeaddrinfo(a); }
};
using AddrInfo = std::unique_ptr<addrinfo, AddrInfoFree>;

Result<AddrInfo> resolve(const std::string& host, const std::string& port, int flags) {
  addrinfo want{};
  want.ai_family = AF_UNSPEC;
  want.ai_socktype = SOCK_STREAM;
  want.ai_flags = flags;
  addrinfo* found = nullptr;
  if (const int rc = getaddrinfo(host.c_str(), port.c_str(), &want, &found); rc != 0)
    return Error(BATON_NOT_FOUND, host + ":" + port + " does not resolve: " + gai_strerror(rc), "check the host name and port");
  return AddrInfo(found);
}

Result<sockaddr_un> abstract_address(std::string_view name, socklen_t* bytes) {
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  if (name.empty() || name.size() > sizeof a.sun_path - 1) return Error(BATON_INVALID_ARGUMENT, "unix socket name has the wrong length");
  std::memcpy(a.sun_path + 1, name.data(), name.size());
  *bytes = socklen_t(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return a;
}

}  // namespace

void Fd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Error io_error(std::string_view what, int err) {
  return Error(BATON_IO, std::string(what) + ": " + std::strerror(err) + " (errno " + std::to_string(err) + ")");
}

Result<HostPort> parse_host_port(std::string_view text) {
  const size_t colon = text.rfind(':');
  const auto bad = [&](const char* why) {
    return Error(BATON_INVALID_ARGUMENT, "'" + std::string(text) + "' is not HOST:PORT: " + why, "for example 127.0.0.1:9000 or [::1]:9000");
  };
  if (colon == std::string_view::npos) return bad("no port");
  HostPort hp{std::string(text.substr(0, colon)), std::string(text.substr(colon + 1))};
  if (hp.host.size() >= 2 && hp.host.front() == '[' && hp.host.back() == ']') hp.host = hp.host.substr(1, hp.host.size() - 2);
  if (hp.host.empty()) return bad("no host");
  if (hp.port.empty() || hp.port.size() > 5) return bad("the port is not a number of 0 to 65535");
  for (const char c : hp.port)
    if (!std::isdigit(uint8_t(c))) return bad("the port is not a number of 0 to 65535");
  if (std::stoul(hp.port) > 65535) return bad("the port is not a number of 0 to 65535");
  return hp;
}

Result<Connecting> Connecting::begin(const std::string& host, const std::string& port) {
  BATON_ASSIGN(auto list, resolve(host, port, AI_NUMERICSERV));
  Connecting c;
  c.where_ = host + ":" + port;
  c.last_ = Error(BATON_NOT_FOUND, c.where_ + " has no address");
  for (const addrinfo* a = list.get(); a; a = a->ai_next) {
    Address to{a->ai_family, uint32_t(a->ai_addrlen), {}};
    if (to.bytes > sizeof to.data) continue;
    std::memcpy(to.data, a->ai_addr, to.bytes);
    c.addresses_.insert(c.addresses_.begin(), to);
  }
  c.next();
  if (!c.fd_) return c.last_;
  return c;
}

static Error connect_error(const std::string& where, int err) {
  if (err != ECONNREFUSED) return io_error("connect to " + where, err);
  return Error(BATON_NOT_FOUND, "nothing listens on " + where + " (connection refused)", "start one: baton-emu-cs3 --listen " + where + ", or open emu+cs3://0");
}

void Connecting::next() {
  for (fd_.reset(); !fd_ && !addresses_.empty(); addresses_.pop_back()) {
    const Address& a = addresses_.back();
    Fd fd(::socket(a.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) {
      last_ = io_error("socket", errno);
      continue;
    }
    connected_ = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(a.data), a.bytes) == 0;
    if (connected_ || errno == EINPROGRESS) fd_ = std::move(fd);
    else last_ = connect_error(where_, errno);
  }
}

Result<bool> Connecting::step() {
  while (fd_ && !connected_) {
    pollfd p{fd_.get(), POLLOUT, 0};
    if (::poll(&p, 1, 0) == 0) return false;
    int err = 0;
    socklen_t len = sizeof err;
    ::getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &err, &len);
    if (err == 0) {
      connected_ = true;
      break;
    }
    last_ = connect_error(where_, err);
    next();
  }
  if (!fd_) return last_;
  set_nodelay(fd_.get());
  return true;
}

Result<Fd> connect_tcp(const std::string& host, const std::string& port, uint64_t deadline_ns) {
  BATON_ASSIGN(Connecting c, Connecting::begin(host, port));
  for (;;) {
    BATON_ASSIGN(const bool connected, c.step());
    if (connected) return std::move(c).take();
    if (!await(c.fd(), POLLOUT, deadline_ns).ok())
      return Error(BATON_DEADLINE, "no answer from " + host + ":" + port + " within the connect deadline", "check that the host is up and that no firewall drops the port");
  }
}

Result<Fd> listen_tcp(const std::string& host, const std::string& port, uint16_t* bound) {
  auto list = resolve(host, port, AI_NUMERICSERV | AI_PASSIVE);
  if (!list) return list.error();
  const addrinfo* a = list->get();
  Fd fd(::socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return io_error("socket", errno);
  const int one = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (::bind(fd.get(), a->ai_addr, a->ai_addrlen) != 0 || ::listen(fd.get(), 64) != 0) {
    if (errno == EADDRINUSE)
      return Error(BATON_BUSY, "port " + port + " of " + host + " is in use", "end its holder (ss -ltnp 'sport = :" + port + "') or listen on port 0");
    return io_error("listen on " + host + ":" + port, errno);
  }
  sockaddr_storage name{};
  socklen_t len = sizeof name;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&name), &len) != 0) return io_error("getsockname", errno);
  *bound = ntohs(name.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&name)->sin6_port
                                            : reinterpret_cast<sockaddr_in*>(&name)->sin_port);
  return fd;
}

Result<Fd> connect_abstract(std::string_view name) {
  socklen_t len = 0;
  auto a = abstract_address(name, &len);
  if (!a) return a.error();
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return io_error("socket", errno);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*a), len) != 0) return io_error("connect to unix socket @" + std::string(name), errno);
  return fd;
}

Result<Fd> listen_abstract(std::string_view name) {
  socklen_t len = 0;
  auto a = abstract_address(name, &len);
  if (!a) return a.error();
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return io_error("socket", errno);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&*a), len) != 0 || ::listen(fd.get(), 64) != 0)
    return io_error("listen on unix socket @" + std::string(name), errno);
  return fd;
}

void set_nodelay(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

Status await(int fd, short events, uint64_t deadline_ns) {
  for (;;) {
    const uint64_t now = now_ns();
    if (now >= deadline_ns) return Error(BATON_DEADLINE, "the deadline passed");
    const uint64_t left = deadline_ns - now;
    const timespec t{time_t(left / 1000000000ull), long(left % 1000000000ull)};
    pollfd p{fd, events, 0};
    const int n = ::ppoll(&p, 1, &t, nullptr);
    if (n > 0) return {};
    if (n < 0 && errno != EINTR) return io_error("poll", errno);
  }
}

Status write_exact(int fd, const void* data, size_t bytes, uint64_t deadline_ns) {
  const auto* p = static_cast<const uint8_t*>(data);
  while (bytes) {
    const ssize_t n = ::send(fd, p, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      p += n;
      bytes -= size_t(n);
    } else if (n < 0 && errno == EAGAIN) {
      BATON_TRY(await(fd, POLLOUT, deadline_ns));
    } else if (n < 0 && errno != EINTR) {
      return io_error("send", errno);
    }
  }
  return {};
}

Status read_exact(int fd, void* data, size_t bytes, uint64_t deadline_ns) {
  auto* p = static_cast<uint8_t*>(data);
  while (bytes) {
    const ssize_t n = ::recv(fd, p, bytes, MSG_DONTWAIT);
    if (n > 0) {
      p += n;
      bytes -= size_t(n);
    } else if (n == 0) {
      return Error(BATON_PEER_LOST, "the other side closed the connection");
    } else if (errno == EAGAIN) {
      BATON_TRY(await(fd, POLLIN, deadline_ns));
    } else if (errno != EINTR) {
      return io_error("receive", errno);
    }
  }
  return {};
}

bool send_with_fds(int fd, const void* data, size_t bytes, std::span<const int> fds) {
  iovec v{const_cast<void*>(data), bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFds * sizeof(int))] = {};
  msghdr m{};
  m.msg_iov = &v;
  m.msg_iovlen = 1;
  if (!fds.empty()) {
    m.msg_control = control;
    m.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  ssize_t n;
  do n = ::sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  return n == ssize_t(bytes);
}

ssize_t receive_with_fds(int fd, void* data, size_t bytes, Fd (&fds)[kMaxFds], size_t* count) {
  iovec v{data, bytes};
  // Room for what the kernel allows in one message (SCM_MAX_FD), so that nothing is cut off and leaks.
  alignas(cmsghdr) char control[CMSG_SPACE(253 * sizeof(int))];
  msghdr m{};
  m.msg_iov = &v;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  ssize_t n;
  do n = ::recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  *count = 0;
  if (n < 0) return n;
  for (cmsghdr* c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < got; ++i) {
      int one;
      std::memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof one);
      Fd owned(one);
      if (*count < kMaxFds) fds[(*count)++] = std::move(owned);
    }
  }
  return n;
}

void read_boot_id(uint8_t (&id)[16]) {
  std::memset(id, 0, sizeof id);
  const Fd fd(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  char text[64] = {};
  if (!fd || ::read(fd.get(), text, sizeof text - 1) <= 0) return;
  int nibble = 0;
  for (const char* p = text; *p && nibble < 32; ++p) {
    if (!std::isxdigit(uint8_t(*p))) continue;
    const int v = *p <= '9' ? *p - '0' : (*p | 32) - 'a' + 10;
    id[nibble / 2] = uint8_t(id[nibble / 2] << 4 | v);
    ++nibble;
  }
}

void drain(int eventfd) {
  uint64_t n;
  [[maybe_unused]] const ssize_t rc = ::read(eventfd, &n, sizeof n); // non-blocking; EAGAIN: nothing was rung
}

void ring(int eventfd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t rc = ::write(eventfd, &one, sizeof one); // EAGAIN: full, so it is readable anyway
}

}  // namespace baton::cs3
