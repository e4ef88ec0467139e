#include "tests/unit/hal_test.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace baton::test {
namespace {

using ::testing::HasSubstr;
using BufferTest = HalTest;

struct Descriptor {
  int fd;
  ~Descriptor() { close(fd); }
};

TEST_F(BufferTest, StartsZeroedAndMaps) {
  Device d = open("host://");
  Buffer b = must(d.alloc(10'000));
  EXPECT_EQ(b.bytes(), 10'000u);
  EXPECT_EQ(baton_buffer_device(b.get()), d.get());
  auto* p = static_cast<uint8_t*>(must(b.map()));
  for (int i = 0; i < 10'000; ++i) ASSERT_EQ(p[i], 0);
  EXPECT_EQ(must(b.map()), p);
}

TEST_F(BufferTest, AnImportIsTheSameMemoryAtItsOffset) {
  Device a = open("host://a"), b = open("host://b");
  Buffer whole = must(a.alloc(64 << 10));
  auto x = must(whole.export_fd());
  Descriptor closes{x.fd};
  // An offset in the middle of a page, as of a sub-allocated KV-cache.
  Buffer part = must(b.import_fd(x.fd, x.offset + 5000, 3000));
  std::memcpy(static_cast<uint8_t*>(must(whole.map())) + 5000, "baton", 6);
  EXPECT_STREQ(static_cast<char*>(must(part.map())), "baton");
  auto again = must(part.export_fd());
  Descriptor closes_too{again.fd};
  EXPECT_EQ(again.offset, x.offset + 5000);
  // A copy reaches no further than the part.
  Queue q = must(b.queue());
  Status s = q.submit(fill(part, 0, 3001, 1));
  EXPECT_CODE(s, BATON_INVALID_ARGUMENT);
}

TEST_F(BufferTest, AnImportOutsideItsObjectIsRefused) {
  Device d = open("host://");
  Buffer b = must(d.alloc(8192));
  auto x = must(b.export_fd());
  Descriptor closes{x.fd};
  auto r = d.import_fd(x.fd, 4096, 4097);
  EXPECT_CODE(r, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(r.error().what, HasSubstr("4097 bytes at offset 4096 of a memory object of 8192"));
  EXPECT_CODE(d.import_fd(x.fd, UINT64_MAX, 2), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(d.import_fd(-1, 0, 1), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(d.import_fd(x.fd, 0, 0), BATON_INVALID_ARGUMENT);
}

TEST_F(BufferTest, HeapsAndSizesAreChecked) {
  Device host = open("host://"), fake = open("fake://");
  EXPECT_CODE(host.alloc(1, 1), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(host.alloc(0), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(host.alloc(UINT64_MAX), BATON_CAPACITY);
  auto r = fake.alloc(uint64_t(2) << 30);
  EXPECT_CODE(r, BATON_CAPACITY);
  EXPECT_STREQ(r.error().device, "fake://");
}

TEST_F(BufferTest, WhatAHeapCannotDoIsUnsupportedWithANextStep) {
  Device d = open("fake://");
  Buffer b = must(d.alloc(64));
  auto m = b.map();
  EXPECT_CODE(m, BATON_UNSUPPORTED);
  EXPECT_THAT(m.error().next, HasSubstr("host://"));
  EXPECT_CODE(b.export_fd(), BATON_UNSUPPORTED);
  EXPECT_CODE(d.import_fd(0, 0, 1), BATON_UNSUPPORTED);
}

TEST_F(BufferTest, FreedInFlightItLivesUntilTheOpIsOver) {
  Device d = open("fake://"), h = open("host://");
  Queue q = must(d.queue());
  Timeline gate = timeline("gate"), done = timeline("done");
  Buffer to = must(h.alloc(64));
  {
    Buffer from = must(d.alloc(64));
    EXPECT_OK(q.submit({fill(from, 0, 64, 0x77).signal(gate, 1), copy(from, 0, to, 0, 64).wait(gate, 2).signal(done, 1)}));
  }
  gate.signal(2);
  EXPECT_OK(done.wait_until(1, soon()));
  EXPECT_EQ(static_cast<uint8_t*>(must(to.map()))[63], 0x77);
}

TEST_F(BufferTest, HandlesMayBeClosedInAnyOrder) {
  auto d = std::make_unique<Device>(open("host://"));
  Buffer b = must(d->alloc(4096));
  Queue q = must(d->queue());
  d.reset();  // the device lives until its last child is gone
  Timeline t = timeline();
  EXPECT_OK(q.submit(fill(b, 0, 4096, 9).signal(t, 1)));
  EXPECT_OK(t.wait_until(1, soon()));
}

TEST_F(BufferTest, TheInstanceClosesWhatIsLeft) {
  int before = open_descriptors();
  {
    Instance other = make_instance();
    baton_device* d = nullptr;
    baton_buffer* b = nullptr;
    baton_queue* q = nullptr;
    baton_timeline* t = nullptr;
    ASSERT_EQ(baton_open(other.get(), "host://", &d, nullptr), BATON_OK);
    ASSERT_EQ(baton_alloc(d, 0, 4096, &b, nullptr), BATON_OK);
    ASSERT_EQ(baton_queue_open(d, 0, &q, nullptr), BATON_OK);
    ASSERT_EQ(baton_timeline_create(other.get(), "t", &t, nullptr), BATON_OK);
    Op op = nop();
    op.baton_op::wait[0] = {t, 1};
    ASSERT_EQ(baton_submit(q, &op, 1, nullptr), BATON_OK);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(BufferTest, TelemetryCountsBytes) {
  Device d = open("host://"), other = open("host://other");
  Queue q = must(d.queue());
  Buffer a = must(d.alloc(1 << 20)), b = must(other.alloc(1 << 20));
  Timeline t = timeline();
  EXPECT_OK(q.submit({copy(b, 0, a, 0, 1000).signal(t, 1), copy(a, 0, b, 0, 1 << 20).wait(t, 1).signal(t, 2)}));
  EXPECT_OK(t.wait_until(2, soon()));
  auto s = must(d.telemetry());
  EXPECT_EQ(s.ops_done, 2u);
  EXPECT_EQ(s.bytes_in, 1000u);
  EXPECT_EQ(s.bytes_out, 1u << 20);
  Device fake = open("fake://");
  EXPECT_CODE(fake.telemetry(), BATON_UNSUPPORTED);
}

TEST_F(BufferTest, AnOlderCallersSmallerStructsAreFilledAsFarAsTheyGo) {
  Device d = open("host://");
  struct {
    baton_device_info info;
  } x;
  std::memset(&x, 0x5a, sizeof x);
  const uint32_t old_size = offsetof(baton_device_info, firmware);
  x.info.struct_size = old_size;
  ASSERT_EQ(baton_info(d.get(), &x.info, nullptr), BATON_OK);
  EXPECT_STREQ(x.info.driver, "host");
  EXPECT_EQ(uint8_t(x.info.firmware[0]), 0x5a);
  baton_error e;
  std::memset(&e, 0x5a, sizeof e);
  e.struct_size = offsetof(baton_error, what);
  EXPECT_EQ(baton_alloc(d.get(), 7, 1, nullptr, &e), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(e.code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(uint8_t(e.what[0]), 0x5a);
}

}  // namespace
}  // namespace baton::test
