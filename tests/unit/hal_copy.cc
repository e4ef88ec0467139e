#include "tests/unit/hal_test.hpp"

#include <cstring>

namespace baton::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class CopyTest : public HalTest {
 protected:
  // Writes a pattern into `src` (through a host buffer if it must), copies it over the link, reads `dst` back and compares.
  void round_trip(const std::string& from_uri, const std::string& to_uri, uint64_t bytes, uint64_t src_offset, uint64_t dst_offset) {
    SCOPED_TRACE(from_uri + " -> " + to_uri);
    Device from = open(from_uri), to = open(to_uri), h = open("host://reference");
    Buffer src = must(from.alloc(src_offset + bytes + 100)), dst = must(to.alloc(dst_offset + bytes + 100));
    Buffer expect = must(h.alloc(bytes)), got = must(h.alloc(bytes));
    auto* p = static_cast<uint8_t*>(must(expect.map()));
    for (uint64_t i = 0; i < bytes; ++i) p[i] = uint8_t(i * 2654435761u >> 13);
    Timeline t = timeline();
    Queue in_link = must(in.link(h, from)), link = must(in.link(from, to)), out_link = must(in.link(to, h));
    EXPECT_OK(in_link.submit(copy(expect, 0, src, src_offset, bytes).signal(t, 1)));
    EXPECT_OK(link.submit(copy(src, src_offset, dst, dst_offset, bytes).wait(t, 1).signal(t, 2)));
    EXPECT_OK(out_link.submit(copy(dst, dst_offset, got, 0, bytes).wait(t, 2).signal(t, 3)));
    EXPECT_OK(t.wait_until(3, soon()));
    EXPECT_EQ(std::memcmp(p, must(got.map()), bytes), 0);
  }
};

TEST_F(CopyTest, EveryPathMovesTheBytes) {
  for (uint64_t bytes : {uint64_t(1), uint64_t(4096), (uint64_t(3) << 20) + 17}) {
    round_trip("host://a", "host://b", bytes, 3, 77);                  // memcpy
    round_trip("host://a", "fake://b", bytes, 0, 13);                  // the device reads host memory
    round_trip("fake://a", "host://b", bytes, 13, 0);                  // the device writes host memory
    round_trip("fake://a", "fake://b", bytes, 1, 2);                   // staged
    round_trip("fake://a?map=1", "fake://b", bytes, 1, 2);             // mapped
    round_trip("fake://a?map=1&timed=1", "host://b", bytes, 1, 2);     // both mapped, one timed
    round_trip("fake://a?depth=1&fd=0", "fake://b?depth=1", bytes, 1, 2);  // staged, with back-pressure at both ends
  }
}

TEST_F(CopyTest, ALongCopyAfterAShortOneStartsAtItsBeginning) {
  Device a = open("host://a"), b = open("host://b");
  const uint64_t n = 3 << 20;
  Buffer src = must(a.alloc(n)), dst = must(b.alloc(n));
  std::memset(must(src.map()), 0x33, n);
  Queue q = must(b.queue());
  Timeline t = timeline();
  EXPECT_OK(q.submit({copy(src, 0, dst, 5000, 1000).signal(t, 1), copy(src, 0, dst, 0, n).signal(t, 2), fill(dst, 100, n - 100, 0x44).signal(t, 3)}));
  EXPECT_OK(t.wait_until(3, soon()));
  auto* p = static_cast<uint8_t*>(must(dst.map()));
  EXPECT_EQ(p[0], 0x33);
  EXPECT_EQ(p[99], 0x33);
  EXPECT_EQ(p[100], 0x44);
  EXPECT_EQ(p[n - 1], 0x44);
}

TEST_F(CopyTest, ThePlanNamesPathAndReason) {
  Device h = open("host://"), h2 = open("host://two"), f = open("fake://"), f2 = open("fake://two?timed=1"), m = open("fake://m?map=1");
  EXPECT_THAT(must(in.plan_copy(h, h)), StartsWith("direct"));
  EXPECT_THAT(must(in.plan_copy(h, h2)), AllOf(StartsWith("mapped"), HasSubstr("memcpy")));
  EXPECT_THAT(must(in.plan_copy(h, f)), AllOf(StartsWith("imported"), HasSubstr("fake:// reads host://")));
  EXPECT_THAT(must(in.plan_copy(f, h)), HasSubstr("fake:// writes host://"));
  EXPECT_THAT(must(in.plan_copy(m, f)), AllOf(StartsWith("mapped"), HasSubstr("fake:// reads fake://m")));
  std::string staged = must(in.plan_copy(f, f2));
  EXPECT_THAT(staged, AllOf(StartsWith("staged"), HasSubstr("fake:// (sram) -> host"), HasSubstr("host -> fake://two (sram)")));
  EXPECT_EQ(std::count(staged.begin(), staged.end(), '\n'), 2);
}

TEST_F(CopyTest, ALaneQueueTakesCopiesOfItsOwnDeviceAndHostVisibleMemoryOnly) {
  Device h = open("host://"), f = open("fake://"), g = open("fake://g");
  Buffer bh = must(h.alloc(64)), bf = must(f.alloc(64)), bg = must(g.alloc(64));
  Queue qf = must(f.queue()), qh = must(h.queue());
  Timeline t = timeline();
  EXPECT_OK(qf.submit({copy(bh, 0, bf, 0, 64).signal(t, 1), copy(bf, 0, bh, 0, 64).wait(t, 1).signal(t, 2)}));
  EXPECT_OK(t.wait_until(2, soon()));
  Status s = qf.submit(copy(bf, 0, bg, 0, 64));
  EXPECT_CODE(s, BATON_UNSUPPORTED);
  EXPECT_THAT(s.error().what, HasSubstr("no direct edge between fake:// and fake://g"));
  EXPECT_THAT(s.error().next, HasSubstr("link"));
  Status third = qh.submit(copy(bf, 0, bg, 0, 64));
  EXPECT_CODE(third, BATON_UNSUPPORTED);
  EXPECT_THAT(third.error().what, HasSubstr("neither fake:// nor fake://g is memory of host://"));
}

TEST_F(CopyTest, ALinkHasADirection) {
  Device a = open("host://a"), b = open("host://b");
  Buffer x = must(a.alloc(64)), y = must(b.alloc(64));
  Queue link = must(in.link(a, b));
  Status s = link.submit(copy(y, 0, x, 0, 64));
  EXPECT_CODE(s, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(s.error().what, HasSubstr("host://b -> host://a on link host://a -> host://b"));
  EXPECT_CODE(link.submit(fill(x, 0, 64, 0)), BATON_INVALID_ARGUMENT);
}

TEST_F(CopyTest, OverlappingRangesOfOneBufferAreMoved) {
  Device h = open("host://");
  Queue q = must(h.queue());
  const uint64_t n = 3 << 20;
  Buffer b = must(h.alloc(n + 8));
  auto* p = static_cast<uint8_t*>(must(b.map()));
  for (uint64_t i = 0; i < n; ++i) p[i] = uint8_t(i % 251);
  Timeline t = timeline();
  EXPECT_OK(q.submit(copy(b, 0, b, 8, n).signal(t, 1)));
  EXPECT_OK(t.wait_until(1, soon()));
  for (uint64_t i = 0; i < n; ++i) ASSERT_EQ(p[i + 8], uint8_t(i % 251)) << i;
}

TEST_F(CopyTest, CopiesOfNothingComplete) {
  Device h = open("host://"), f = open("fake://");
  Buffer a = must(h.alloc(64)), b = must(f.alloc(64));
  Queue q = must(f.queue()), link = must(in.link(h, f));
  Timeline t = timeline();
  EXPECT_OK(q.submit(copy(a, 64, b, 64, 0).signal(t, 1)));
  EXPECT_OK(link.submit(copy(a, 64, b, 64, 0).wait(t, 1).signal(t, 2)));
  EXPECT_OK(link.submit(nop().wait(t, 2).signal(t, 3)));
  EXPECT_OK(t.wait_until(3, soon()));
}

TEST_F(CopyTest, AStagedCopyIsTimedByBothHopsOverlapped) {
  Device a = open("fake://a?timed=0"), b = open("fake://b?timed=0");  // 1 ns a byte
  const uint64_t chunk = 1 << 20, bytes = 4 * chunk;
  Buffer src = must(a.alloc(bytes)), dst = must(b.alloc(bytes));
  Queue link = must(in.link(a, b));
  Timeline gate = timeline("gate"), t = timeline();
  gate.signal(1, 500);
  EXPECT_OK(link.submit(copy(src, 0, dst, 0, bytes).wait(gate, 1).signal(t, 1)));
  EXPECT_OK(t.wait_until(1, soon()));
  EXPECT_EQ(t.modelled_ns(1), 500 + 5 * chunk);  // four chunks, the last one's second hop after the first's
}

TEST_F(CopyTest, AFailedHopFailsTheCopyWithBothNames) {
  Device a = open("fake://a"), b = open("fake://b");
  Buffer src = must(a.alloc(5 << 20)), dst = must(b.alloc(5 << 20));
  Queue link = must(in.link(a, b));
  Timeline t = timeline();
  EXPECT_OK(link.submit(copy(src, 0, dst, 0, 5 << 20).tagged(kFail).signal(t, 1)));
  Status s = t.wait_until(1, soon());
  EXPECT_CODE(s, BATON_FAILED);
  EXPECT_STREQ(s.error().hop, "fake://a > link fake://a -> fake://b");
  Timeline after = timeline();  // the link goes on
  EXPECT_OK(link.submit(copy(src, 0, dst, 0, 5 << 20).signal(after, 1)));
  EXPECT_OK(after.wait_until(1, soon()));
}

TEST_F(CopyTest, ManyStagedCopiesShareTheStaging) {
  Device a = open("fake://a"), b = open("fake://b");
  Buffer src = must(a.alloc(1 << 20)), dst = must(b.alloc(1 << 20));
  Queue link = must(in.link(a, b));
  Timeline t = timeline();
  std::vector<Op> ops;
  for (uint64_t i = 0; i < 300; ++i) ops.push_back(copy(src, i * 64, dst, i * 64, 3000).signal(t, i + 1));
  EXPECT_OK(link.submit(ops));
  EXPECT_OK(t.wait_until(300, soon()));
}

TEST_F(CopyTest, ClosingALinkCancelsItsCopies) {
  Device a = open("host://a"), b = open("host://b"), f = open("fake://f"), g = open("fake://g");
  Buffer x = must(a.alloc(64 << 20)), y = must(b.alloc(64 << 20)), u = must(f.alloc(64 << 20)), v = must(g.alloc(64 << 20));
  Timeline t1 = timeline(), t2 = timeline();
  {
    Queue memcpy_link = must(in.link(a, b)), staged = must(in.link(f, g));
    EXPECT_OK(memcpy_link.submit({copy(x, 0, y, 0, 64 << 20), nop().wait(t1, 1), copy(x, 0, y, 0, 64 << 20).wait(t2, 1).signal(t1, 9)}));
    EXPECT_OK(staged.submit(copy(u, 0, v, 0, 64 << 20).tagged(kHang).signal(t2, 9)));
    in.poll();
  }
  EXPECT_CODE(t1.wait_until(9, soon()), BATON_CANCELLED);
  EXPECT_CODE(t2.wait_until(9, soon()), BATON_CANCELLED);
}

TEST_F(CopyTest, ClosingALinkDoesNotWaitForChunksThatNobodyWillSend) {
  Device f = open("fake://f"), g = open("fake://g");
  Buffer u = must(f.alloc(64 << 20)), v = must(g.alloc(64 << 20));
  Timeline first = timeline("first"), second = timeline("second");
  Queue staged = must(in.link(f, g));
  EXPECT_OK(staged.submit({copy(u, 0, v, 0, 64 << 20).signal(first, 1), copy(u, 0, v, 0, 64 << 20).signal(second, 1)}));
  in.poll(1);
  const uint64_t began = now_ns();
  staged.reset();
  EXPECT_LT(now_ns() - began, 4'000'000'000u) << "closing gave up after 5 s";
  EXPECT_CODE(first.wait_until(1, soon()), BATON_CANCELLED);   // some chunks are with a driver
  EXPECT_CODE(second.wait_until(1, soon()), BATON_CANCELLED);  // none is
}

}  // namespace
}  // namespace baton::test
