#include "tests/cts/fixture.h"

#include <algorithm>
#include <cstring>

namespace baton::cts {

Fixture::Fixture(const Instance& in, const Subject& subject, uint32_t needs, uint64_t seed) : rng(seed), in_(in), subject_(subject) {
  device = must(in.open(subject.uri));
  info_ = must(device.info());
  if (!subject.peer.empty()) {
    peer = must(in.open(subject.peer));
    peer_info_ = must(peer.info());
  }
  if (std::string why = missing(needs, info_); !why.empty()) skip(why);
}

testing::AssertionResult same(const Bytes& got, const Bytes& expected) {
  if (got == expected) return testing::AssertionSuccess();
  if (got.size() != expected.size()) return testing::AssertionFailure() << got.size() << " bytes instead of " << expected.size();
  const size_t at = size_t(std::mismatch(got.begin(), got.end(), expected.begin()).first - got.begin());
  return testing::AssertionFailure() << "byte " << at << " of " << got.size() << " is " << int(got[at]) << " instead of " << int(expected[at]);
}

const Device& Fixture::staging() {
  if (!host_) host_ = must(in_.open("host://cts-staging"));
  return host_;
}

Buffer Fixture::host(uint64_t bytes) { return must(staging().alloc(bytes)); }

void Fixture::write(const Buffer& to, uint64_t offset, std::span<const uint8_t> data) {
  Buffer from = host(data.size());
  std::memcpy(mapped(from), data.data(), data.size());
  Timeline moved = timeline("write");
  Queue q = queue();
  must(q.submit(copy(from, 0, to, offset, data.size()).signal(moved, 1)));
  must(moved.wait_until(1, soon()));
}

Bytes Fixture::read(const Buffer& from, uint64_t offset, uint64_t bytes) {
  Buffer to = host(bytes);
  Timeline moved = timeline("read");
  Queue q = queue();
  must(q.submit(copy(from, offset, to, 0, bytes).signal(moved, 1)));
  must(moved.wait_until(1, soon()));
  return Bytes(mapped(to), mapped(to) + bytes);
}

void Fixture::fill(const Buffer& b, uint8_t value) {
  Timeline filled = timeline("fill");
  Queue q = queue();
  must(q.submit(baton::fill(b, 0, b.bytes(), value).signal(filled, 1)));
  must(filled.wait_until(1, soon()));
}

Bytes Fixture::random(uint64_t bytes) {
  Bytes b(bytes);
  for (uint8_t& x : b) x = uint8_t(rng());
  return b;
}

void Fixture::check_memory() {
  auto check = [](const Device& d, const DeviceInfo& before) {
    auto now = d.info();
    if (!now) {
      EXPECT_EQ(now.error().code, BATON_DEVICE_LOST) << now.error().text();
      return;
    }
    for (uint32_t i = 0; i < before.heap_count; ++i)
      EXPECT_EQ(now->heaps[i].bytes_used, before.heaps[i].bytes_used)
          << before.uri << " heap " << before.heaps[i].name << ": the case freed all that it had allocated, the device says otherwise";
  };
  if (device) check(device, info_);
  if (peer) check(peer, peer_info_);
}

}  // namespace baton::cts
