#include "tests/unit/hal_test.hpp"

namespace baton::test {
namespace {

using ::testing::HasSubstr;
using ResetTest = HalTest;

TEST_F(ResetTest, FailsWhatIsInFlightAndMakesOldHandlesStale) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Buffer b = must(d.alloc(64));
  Program p = must(d.load(std::vector<uint8_t>{1}, {}));
  Timeline never = timeline("never"), running = timeline("running"), waiting = timeline("waiting"), done = timeline("done");
  EXPECT_OK(q.submit({nop().tagged(kHang).signal(running, 1), nop().wait(never, 1).signal(waiting, 1)}));
  in.poll();
  EXPECT_EQ(must(d.info()).epoch, 1u);
  EXPECT_OK(d.reset_device());
  EXPECT_EQ(must(d.info()).epoch, 2u);
  EXPECT_CODE(running.wait_until(1, soon()), BATON_DEVICE_LOST);
  EXPECT_CODE(waiting.wait_until(1, soon()), BATON_DEVICE_LOST);
  Status s = q.submit(nop());
  EXPECT_CODE(s, BATON_DEVICE_LOST);
  EXPECT_THAT(s.error().what, HasSubstr("a queue of epoch 1; fake:// is at epoch 2"));
  EXPECT_CODE(b.map(), BATON_DEVICE_LOST);

  Queue fresh = must(d.queue());
  Buffer fresh_buffer = must(d.alloc(64));
  EXPECT_CODE(fresh.submit(fill(b, 0, 64, 0)), BATON_DEVICE_LOST);
  EXPECT_CODE(fresh.submit(launch(p, {}, {})), BATON_DEVICE_LOST);
  EXPECT_OK(fresh.submit(fill(fresh_buffer, 0, 64, 0).signal(done, 1)));
  EXPECT_OK(done.wait_until(1, soon()));
}

TEST_F(ResetTest, ADeviceThatItsDriverLosesStaysGoneUntilReset) {
  Device d = open("fake://");
  Queue q = must(d.queue()), other = must(d.queue(1));
  Timeline t = timeline("t"), u = timeline("u");
  EXPECT_OK(other.submit(nop().tagged(kHang).signal(u, 1)));
  EXPECT_OK(q.submit({nop().tagged(kLose).signal(t, 1), nop().signal(t, 2)}));
  Status s = t.wait_until(2, soon());
  EXPECT_CODE(s, BATON_DEVICE_LOST);
  EXPECT_STREQ(s.error().what, "the fake fell off the bus");
  EXPECT_CODE(u.wait_until(1, soon()), BATON_DEVICE_LOST);
  EXPECT_CODE(d.queue(), BATON_DEVICE_LOST);
  EXPECT_CODE(d.alloc(64), BATON_DEVICE_LOST);
  EXPECT_CODE(d.info(), BATON_DEVICE_LOST);
  EXPECT_OK(d.reset_device());
  EXPECT_OK(d.alloc(64));
  EXPECT_EQ(must(d.info()).epoch, 3u);
}

TEST_F(ResetTest, AResetThatFailsLeavesTheDeviceGone) {
  Device d = open("fake://?noreset=1");
  EXPECT_CODE(d.reset_device(), BATON_FAILED);
  EXPECT_CODE(d.alloc(64), BATON_DEVICE_LOST);
}

TEST_F(ResetTest, AnOpThatWaitedOverTheResetOfTheOtherSideFails) {
  Device f = open("fake://"), h = open("host://");
  Buffer on_host = must(h.alloc(64)), on_fake = must(f.alloc(64));
  Queue q = must(f.queue());
  Timeline gate = timeline("gate"), t = timeline("t");
  EXPECT_OK(q.submit(copy(on_host, 0, on_fake, 0, 64).wait(gate, 1).signal(t, 1)));
  EXPECT_OK(h.reset_device());  // the queue is of fake://, the source of host://
  gate.signal(1);
  EXPECT_CODE(t.wait_until(1, soon()), BATON_DEVICE_LOST);
}

// The driver of the other side has moved the bytes and says so: before the reset or after it, nobody can tell.
TEST_F(ResetTest, AnOpUnderWayOnTheOtherSideFailsWhateverItsDriverSays) {
  Device f = open("fake://"), h = open("host://");
  Buffer on_host = must(h.alloc(64)), on_fake = must(f.alloc(64));
  Queue q = must(f.queue());
  Timeline t = timeline("t"), u = timeline("u");
  EXPECT_OK(q.submit(copy(on_host, 0, on_fake, 0, 64).signal(t, 1)));
  EXPECT_OK(h.reset_device());
  EXPECT_CODE(t.wait_until(1, soon()), BATON_DEVICE_LOST);
  EXPECT_OK(q.submit(nop().signal(u, 1)));  // fake:// itself has lost nothing
  EXPECT_OK(u.wait_until(1, soon()));
}

// Memory that a reset gives back must not be written by a driver that is late.
TEST_F(ResetTest, AResetWaitsForTheOtherSidesDriverAndGivesUpBeforeItGivesMemoryBack) {
  Device f = open("fake://"), h = open("host://");
  Buffer on_host = must(h.alloc(64)), on_fake = must(f.alloc(64));
  Queue q = must(f.queue());
  Timeline t = timeline("t");
  EXPECT_OK(q.submit(copy(on_fake, 0, on_host, 0, 64).tagged(kHang).signal(t, 1)));
  in.poll();
  const Status s = h.reset_device();
  EXPECT_CODE(s, BATON_BUSY);
  EXPECT_NE(s.ok() ? std::string::npos : std::string(s.error().what).find("COPY (tag " + std::to_string(kHang) + ") on fake:// lane 0"), std::string::npos)
      << (s.ok() ? "" : s.error().text());
  EXPECT_CODE(h.alloc(64), BATON_DEVICE_LOST);
  t.poison(Error(BATON_CANCELLED, "enough"));
  EXPECT_OK(h.reset_device());
  EXPECT_OK(h.alloc(64));
}

TEST_F(ResetTest, LinksFailWhatTheyCarryAndServeTheNextEpoch) {
  Device a = open("fake://a"), b = open("fake://b");
  Buffer src = must(a.alloc(4 << 20)), dst = must(b.alloc(4 << 20));
  Queue link = must(in.link(a, b));
  Timeline t = timeline("t"), u = timeline("u");
  EXPECT_OK(link.submit(copy(src, 0, dst, 0, 4 << 20).tagged(kHang).signal(t, 1)));
  in.poll();
  EXPECT_OK(b.reset_device());
  EXPECT_CODE(t.wait_until(1, soon()), BATON_DEVICE_LOST);
  EXPECT_CODE(link.submit(copy(src, 0, dst, 0, 64)), BATON_DEVICE_LOST);
  EXPECT_OK(a.reset_device());
  Buffer src2 = must(a.alloc(4 << 20)), dst2 = must(b.alloc(4 << 20));
  EXPECT_OK(link.submit(copy(src2, 0, dst2, 0, 4 << 20).signal(u, 1)));
  EXPECT_OK(u.wait_until(1, soon()));
}

TEST_F(ResetTest, HostDeviceForgetsWhatItRan) {
  Device h = open("host://"), g = open("host://g");
  Buffer a = must(h.alloc(64 << 20)), b = must(g.alloc(64 << 20));
  Queue q = must(h.queue());
  Timeline t = timeline(), done = timeline();
  EXPECT_OK(q.submit(copy(a, 0, b, 0, 64 << 20).signal(t, 1)));
  EXPECT_OK(h.reset_device());
  EXPECT_CODE(t.wait_until(1), BATON_DEVICE_LOST);
  Queue fresh = must(h.queue());
  EXPECT_OK(fresh.submit(nop().signal(done, 1)));
  EXPECT_OK(done.wait_until(1, soon()));
}

}  // namespace
}  // namespace baton::test
