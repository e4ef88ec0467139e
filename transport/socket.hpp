// socket.hpp: the few socket calls that sessions and the mapped fabric need, non-blocking and without SIGPIPE.
//
// Owner    Fd owns a descriptor.   Threads  none of its own.
// Cost     one system call each; tcp_connect resolves names, which may block: give numeric addresses where that matters.
// Errors   INVALID_ARGUMENT (address), BUSY (port in use), IO with errno.
//
//     BATON_ASSIGN(Fd l, tcp_listen("127.0.0.1:0"));
#pragma once

#include "hal/baton.hpp"

#include <array>
#include <span>
#include <string>

namespace baton::transport {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Fd& operator=(Fd&& o) noexcept {
    if (this != &o) {
      reset();
      fd_ = std::exchange(o.fd_, -1);
    }
    return *this;
  }
  ~Fd() { reset(); }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset();

 private:
  int fd_ = -1;
};

Error io_error(std::string_view what, int err); // "what: strerror (errno N)"

struct HostPort {
  std::string host, port;
};
Result<HostPort> parse_host_port(const std::string&); // "127.0.0.1:7000", "[::1]:7000", "name:7000"

Result<Fd> tcp_listen(const std::string& address);
// Starts connecting; writable (or failed: socket_error) when done.
Result<Fd> tcp_connect(const std::string& address);
int socket_error(int fd); // SO_ERROR, cleared
std::string local_address(int fd);
std::string remote_address(int fd);
std::string local_host(int fd); // numeric, without the port
void set_nodelay(int fd);

// Unix sockets in the abstract namespace (nothing in the file system), SOCK_SEQPACKET.
Result<Fd> unix_listen(const std::string& name);
Result<Fd> unix_connect(const std::string& name);
// One message with up to four descriptors. False: would block or gone (errno says which).
bool unix_send(int fd, std::span<const uint8_t> bytes, std::span<const int> fds = {});
// Bytes received, 0 on end of stream, -1 with errno. Descriptors beyond `fds` are closed; unused entries are empty.
ssize_t unix_recv(int fd, std::span<uint8_t> bytes, std::array<Fd, 4>& fds);
bool unix_peer_is_me(int fd); // same effective uid

Result<Fd> epoll_new();
bool epoll_add(int epoll, int fd, uint32_t events, uint64_t tag);
void epoll_change(int epoll, int fd, uint32_t events, uint64_t tag);
void epoll_remove(int epoll, int fd);

}  // namespace baton::transport
