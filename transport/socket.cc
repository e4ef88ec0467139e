#include "transport/socket.hpp"

#include <fmt/format.h>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

namespace baton::transport {
namespace {

using AddrList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Result<AddrList> resolve(const std::string& address, bool passive) {
  BATON_ASSIGN(HostPort hp, parse_host_port(address));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = passive ? AI_PASSIVE : 0;
  addrinfo* list = nullptr;
  if (int rc = getaddrinfo(hp.host.c_str(), hp.port.c_str(), &hints, &list))
    return Error(BATON_INVALID_ARGUMENT, fmt::format("cannot resolve '{}': {}", address, gai_strerror(rc)), "give HOST:PORT, for example 127.0.0.1:7000");
  return AddrList(list, &freeaddrinfo);
}

std::string address_text(const sockaddr_storage& a, socklen_t n, bool with_port) {
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&a), n, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV)) return "?";
  if (!with_port) return host;
  return a.ss_family == AF_INET6 ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
}

std::string name_of(int fd, bool local, bool with_port) {
  sockaddr_storage a{};
  socklen_t n = sizeof a;
  const int rc = local ? getsockname(fd, reinterpret_cast<sockaddr*>(&a), &n) : getpeername(fd, reinterpret_cast<sockaddr*>(&a), &n);
  return rc ? "?" : address_text(a, n, with_port);
}

socklen_t abstract(const std::string& name, sockaddr_un& a) {
  a = {};
  a.sun_family = AF_UNIX;
  const size_t n = std::min(name.size(), sizeof a.sun_path - 1);
  std::memcpy(a.sun_path + 1, name.data(), n);
  return socklen_t(offsetof(sockaddr_un, sun_path) + 1 + n);
}

}  // namespace

void Fd::reset() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

Error io_error(std::string_view what, int err) {
  return Error(BATON_IO, fmt::format("{}: {} (errno {})", what, strerror(err), err), "see errno; 'ulimit -n' and the network settings are the usual causes");
}

Result<HostPort> parse_host_port(const std::string& s) {
  const size_t colon = s.rfind(':');
  std::string host = colon == std::string::npos ? "" : s.substr(0, colon), port = colon == std::string::npos ? "" : s.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  const bool digits = !port.empty() && port.size() <= 5 && port.find_first_not_of("0123456789") == std::string::npos;
  if (host.empty() || !digits || std::stoul(port) > 65535)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("'{}' is not HOST:PORT", s), "for example 127.0.0.1:7000 or [::1]:7000");
  return HostPort{host, port};
}

Result<Fd> tcp_listen(const std::string& address) {
  BATON_ASSIGN(AddrList list, resolve(address, true));
  int err = EINVAL;
  for (addrinfo* a = list.get(); a; a = a->ai_next) {
    Fd fd(socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    int one = 1;
    if (fd && !setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) && !bind(fd.get(), a->ai_addr, a->ai_addrlen) && !listen(fd.get(), 64))
      return fd;
    err = errno;
  }
  if (err == EADDRINUSE)
    return Error(BATON_BUSY, fmt::format("{} is in use by another process", address), "choose another port, or port 0 for any; 'ss -ltnp' names the holder");
  return io_error(fmt::format("cannot listen at {}", address), err);
}

Result<Fd> tcp_connect(const std::string& address) {
  BATON_ASSIGN(AddrList list, resolve(address, false));
  int err = EINVAL;
  for (addrinfo* a = list.get(); a; a = a->ai_next) {
    Fd fd(socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (fd && (!connect(fd.get(), a->ai_addr, a->ai_addrlen) || errno == EINPROGRESS)) return fd;
    err = errno;
  }
  return io_error(fmt::format("cannot connect to {}", address), err);
}

int socket_error(int fd) {
  int err = 0;
  socklen_t n = sizeof err;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) ? errno : err;
}

std::string local_address(int fd) { return name_of(fd, true, true); }
std::string remote_address(int fd) { return name_of(fd, false, true); }
std::string local_host(int fd) { return name_of(fd, true, false); }

void set_nodelay(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

Result<Fd> unix_listen(const std::string& name) {
  Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_un a;
  const socklen_t n = abstract(name, a);
  if (!fd || bind(fd.get(), reinterpret_cast<sockaddr*>(&a), n) || listen(fd.get(), 64)) return io_error("cannot listen on a unix socket", errno);
  return fd;
}

Result<Fd> unix_connect(const std::string& name) {
  Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_un a;
  const socklen_t n = abstract(name, a);
  if (!fd || connect(fd.get(), reinterpret_cast<sockaddr*>(&a), n)) return io_error("cannot reach the peer's unix socket", errno);
  return fd;
}

bool unix_send(int fd, std::span<const uint8_t> bytes, std::span<const int> fds) {
  iovec iov{const_cast<uint8_t*>(bytes.data()), bytes.size()};
  msghdr m{};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))] = {};
  if (!fds.empty()) {
    m.msg_control = control;
    m.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == ssize_t(bytes.size());
}

ssize_t unix_recv(int fd, std::span<uint8_t> bytes, std::array<Fd, 4>& fds) {
  iovec iov{bytes.data(), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))] = {};
  msghdr m{};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  const ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0) return n;
  size_t k = 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int got;
      std::memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof got);
      Fd own(got);
      if (k < fds.size()) fds[k++] = std::move(own);
    }
  }
  return n;
}

bool unix_peer_is_me(int fd) {
  ucred c{};
  socklen_t n = sizeof c;
  return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) && c.uid == geteuid();
}

Result<Fd> epoll_new() {
  Fd fd(epoll_create1(EPOLL_CLOEXEC));
  if (!fd) return io_error("epoll_create1", errno);
  return fd;
}

bool epoll_add(int epoll, int fd, uint32_t events, uint64_t tag) {
  epoll_event e{};
  e.events = events;
  e.data.u64 = tag;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) == 0;
}

void epoll_change(int epoll, int fd, uint32_t events, uint64_t tag) {
  epoll_event e{};
  e.events = events;
  e.data.u64 = tag;
  epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &e);
}

void epoll_remove(int epoll, int fd) { epoll_ctl(epoll, EPOLL_CTL_DEL, fd, nullptr); }

}  // namespace baton::transport
