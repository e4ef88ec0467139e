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
#include <vector>

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

// A connect that is on its way, to the first address of a name that answers. Asking for a name's addresses may block; those that are written in
// numbers do not.
class Connecting {
 public:
  static Result<Connecting> begin(const std::string& host, const std::string& port);
  int fd() const { return fd_.get(); }    // poll it for POLLOUT; another one after each address that does not answer
  // True once it is connected; false: wait for fd(). NOT_FOUND or IO when no address is left.
  Result<bool> step();
  Fd take() && { return std::move(fd_); }

 private:
  struct Address {
    int family;
    uint32_t bytes;
    uint8_t data[128];
  };
  void next();                            // tries addresses from the next on until one is on its way
  std::string where_;
  std::vector<Address> addresses_;        // to be tried, the last one first
  Fd fd_;
  bool connected_ = false;
  Error last_;
};
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
