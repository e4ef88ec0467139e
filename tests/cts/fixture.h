// fixture.h: what a case works with: the device under test, freshly opened, and short names for what tests do all the time.
//
// Owner    the runner makes one for each case and closes it after; the Instance lives through the whole run (one emulator for all).
// Threads  one; a case may use in(), timelines and queues from others.
// Cost     an open. read() and write() go through a staging buffer on host:// and wait.
// Errors   must() fails the case and ends it; skip() ends it as skipped. Both may be called at any depth.
//
//     Buffer b = f.alloc(4096);
//     f.write(b, 0, bytes);
//     EXPECT_EQ(f.read(b, 0, 4096), bytes);
//     EXPECT_CODE(f.device.alloc(0), BATON_INVALID_ARGUMENT);
#pragma once

#include "hal/baton.hpp"
#include "tests/cts/subject.h"
#include "tests/cts/suite.h"

#include <gtest/gtest.h>

#include <random>
#include <source_location>
#include <string>
#include <vector>

namespace baton::cts {

struct Stop {};                        // the case has failed and cannot go on
struct Skip { std::string reason; };   // the case does not apply
[[noreturn]] inline void skip(std::string reason) { throw Skip{std::move(reason)}; }

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr uint64_t kSlower = 20;  // a sanitizer costs about that much
#else
inline constexpr uint64_t kSlower = 1;
#endif
inline uint64_t scaled(uint64_t count) { return count / kSlower; }

inline uint64_t patience_ms = 20'000;  // set by run(), once
inline uint64_t soon() { return deadline_in_ms(patience_ms); }  // an end that only a broken driver reaches

[[noreturn]] inline void stop(const Error& e, const std::source_location& at) {
  ADD_FAILURE_AT(at.file_name(), int(at.line())) << e.text() << (e.next[0] ? " / " : "") << e.next;
  throw Stop{};
}
// The value, or the case has failed.
template <class T>
T must(Result<T> r, const std::source_location& at = std::source_location::current()) {
  if (!r) stop(r.error(), at);
  return std::move(*r);
}
inline void must(const Status& s, const std::source_location& at = std::source_location::current()) {
  if (!s.ok()) stop(s.error(), at);
}

#define EXPECT_OK(status)                                       \
  do {                                                          \
    auto&& s_ = (status);                                       \
    EXPECT_TRUE(s_.ok()) << (s_.ok() ? "" : s_.error().text()); \
  } while (0)
#define EXPECT_CODE(status, expected) \
  do {                                                                                                    \
    auto&& s_ = (status);                                                                                 \
    EXPECT_STREQ(baton_code_name(s_.ok() ? BATON_OK : s_.error().code), baton_code_name(expected))        \
        << (s_.ok() ? "" : s_.error().text());                                                            \
  } while (0)

using Bytes = std::vector<uint8_t>;
testing::AssertionResult same(const Bytes& got, const Bytes& expected);  // names the first difference

class Fixture {
 public:
  // Opens the device; `skip`s if it lacks what the case needs.
  Fixture(const Instance& in, const Subject& subject, uint32_t needs, uint64_t seed);

  const Instance& in() const { return in_; }
  const Subject& subject() const { return subject_; }
  const DeviceInfo& info() const { return info_; }  // as of the opening
  const DeviceInfo& peer_info() const { return peer_info_; }
  uint32_t heap_of(uint32_t lane) const { return lane < info_.heap_count ? lane : 0; }

  Timeline timeline(const std::string& name = "t") const { return must(in_.timeline(name)); }
  Queue queue(uint32_t lane = 0) const { return must(device.queue(lane)); }
  Buffer alloc(uint64_t bytes, uint32_t heap = 0) const { return must(device.alloc(bytes, heap)); }
  Buffer host(uint64_t bytes);             // on host://, mapped
  static uint8_t* mapped(const Buffer& b) { return static_cast<uint8_t*>(must(b.map())); }
  void write(const Buffer&, uint64_t offset, std::span<const uint8_t>);
  Bytes read(const Buffer&, uint64_t offset, uint64_t bytes);
  void fill(const Buffer&, uint8_t value);  // all of it
  Bytes random(uint64_t bytes);
  // No case may leave memory behind.
  void check_memory();

  Device device, peer;  // peer: of a pair
  std::mt19937_64 rng;

 private:
  const Device& staging();
  const Instance& in_;
  const Subject& subject_;
  DeviceInfo info_{}, peer_info_{};
  Device host_;
};

}  // namespace baton::cts
