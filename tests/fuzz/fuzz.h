// fuzz.h: what the targets share: a check that ends the process, a reader of an input's fields, sockets that hold an input.
//
// A target is one LLVMFuzzerTestOneInput: bytes in, nothing out, no state that outlives it. libFuzzer calls it (clang), or replay_main.cc
// with the corpus (g++).
//
// Owner    plain values.   Threads  one.   Cost  none.   Errors  FUZZ_CHECK prints the condition and aborts: that is a finding.
//
//     Input in(data, size);
//     auto p = program::parse(in.rest());
//     if (!p) return sound(p.error());
//     FUZZ_CHECK(program::verify(*p).ok());
#pragma once

#include "hal/baton.hpp"

#include <sys/socket.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

#define FUZZ_CHECK(condition)                                                           \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      std::fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);      \
      std::abort();                                                                     \
    }                                                                                   \
  } while (0)

namespace baton::fuzz {

// An error says something, and its texts end within their arrays. 0: what a target returns.
inline int sound(const Error& e) {
  FUZZ_CHECK(e.code != BATON_OK && e.what[0]);
  FUZZ_CHECK(std::memchr(e.what, 0, sizeof e.what) && std::memchr(e.next, 0, sizeof e.next));
  return 0;
}
inline int sound(const Status& s) { return s.ok() ? 0 : sound(s.error()); }
template <class T>
int sound(const Result<T>& r) {
  return r.ok() ? 0 : sound(r.error());
}

// Takes an input apart from the front; what is missing reads as zero.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : left_(data, size) {}
  bool empty() const { return left_.empty(); }
  template <class T = uint8_t>
  T number() {
    T v{};
    const std::span<const uint8_t> b = bytes(sizeof v);
    if (!b.empty()) std::memcpy(&v, b.data(), b.size());
    return v;
  }
  std::span<const uint8_t> bytes(size_t n) {
    n = n < left_.size() ? n : left_.size();
    const std::span<const uint8_t> b = left_.first(n);
    left_ = left_.subspan(n);
    return b;
  }
  std::span<const uint8_t> rest() { return bytes(left_.size()); }
  std::string_view text() {  // all that is left
    const std::span<const uint8_t> b = rest();
    return {reinterpret_cast<const char*>(b.data()), b.size()};
  }
  std::string_view line(char end = 0) {  // up to the first `end`, which is taken too
    const void* at = left_.empty() ? nullptr : std::memchr(left_.data(), end, left_.size());
    if (!at) return text();
    const std::span<const uint8_t> b = bytes(size_t(static_cast<const uint8_t*>(at) - left_.data()));
    bytes(1);
    return {reinterpret_cast<const char*>(b.data()), b.size()};
  }

 private:
  std::span<const uint8_t> left_;
};

// Two connected sockets of this process. A target writes its input into `far` and hands `near` to what it tests.
struct SocketPair {
  int near = -1, far = -1;
  explicit SocketPair(int type = SOCK_STREAM) {
    int fds[2];
    FUZZ_CHECK(::socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    near = fds[0];
    far = fds[1];
  }
};

}  // namespace baton::fuzz
