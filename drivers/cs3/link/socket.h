// socket.h: the few socket and descriptor calls that both ends of the link need.
//
// Owner    Fd owns a descriptor; everything is CLOEXEC.   Threads  any.
// Cost     system calls; connect_tcp and the exact forms block until their deadline, everything else is non-blocking.
// Errors   IO with errno in words; connect_tcp says refused, timed out, unresolved apart; DEADLINE where a deadline passed.
//
//     BATON_ASSIGN(Fd s, connect_tcp("10.0.0.5", "9000", deadline_in_ms(2000)));
//     BATON_TRY(write_exact(s.get(), &hello, sizeof hello, deadline));
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace baton::cs3 {

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
  void reset();

 private:
  int fd_ = -1;
};

Error io_error(std::string_view what, int err); // "what: Connection refused (errno 111)"

// "HOST:PORT", "[V6]:PORT".
struct HostPort {
  std::string host, port;
};
Result<HostPort> parse_host_port(std::string_view text);

Result<Fd> connect_tcp(const std::string& host, const std::string& port, uint64_t deadline_ns);
// Binds and listens; port "0": any. BUSY if the port is in use.
Result<Fd> listen_tcp(const std::string& host, const std::string& port, uint16_t* bound);
Result<Fd> connect_abstract(std::string_view name);
Result<Fd> listen_abstract(std::string_view name);
void set_nodelay(int fd);

// Waits until fd is readable (or writable); DEADLINE.
Status await(int fd, short events, uint64_t deadline_ns);
Status write_exact(int fd, const void* data, size_t bytes, uint64_t deadline_ns);
Status read_exact(int fd, void* data, size_t bytes, uint64_t deadline_ns);

inline constexpr size_t kMaxFds = 3;
// One sendmsg of `bytes` (never 0) with descriptors beside them. Non-blocking: false with errno EAGAIN if the socket is full.
bool send_with_fds(int fd, const void* data, size_t bytes, std::span<const int> fds);
// One recvmsg; descriptors received are appended to `fds` (at most kMaxFds, the rest closed). Returns recvmsg's value.
ssize_t receive_with_fds(int fd, void* data, size_t bytes, Fd (&fds)[kMaxFds], size_t* count);

void read_boot_id(uint8_t (&id)[16]); // zero if the kernel does not say
void drain(int eventfd);
void ring(int eventfd);

}  // namespace baton::cs3
