// Signals and waits that cannot be meant: promised twice, too late, in a circle, by nobody.
#include "tests/unit/validate_test.hpp"

namespace baton::test {
namespace {

using PointsTest = ValidateTest;

TEST_F(PointsTest, TwoOpsThatSignalOneValue) {
  Device d = open("fake://");
  Queue q = must(d.queue(0)), r = must(d.queue(1));
  Timeline t = timeline(), gate = timeline("gate");
  EXPECT_OK(q.submit(nop().tagged(1).wait(gate, 1).signal(t, 5)));
  EXPECT_TRUE(found.empty());
  EXPECT_OK(r.submit(nop().tagged(2).wait(gate, 1).signal(t, 5)));
  expect("double-signal", "caller", true,
         "NOP (tag 2) on 'fake:// lane 1' signals 5 on timeline 't', and so does NOP (tag 1) on 'fake:// lane 0'");
  gate.signal(1);
  EXPECT_OK(t.wait_until(5, soon()));
  EXPECT_OK(r.submit(nop().tagged(3).signal(t, 4)));
  expect("double-signal", "caller", true, "NOP (tag 3) on 'fake:// lane 1' signals 4 on timeline 't', which is at 5 already");
  EXPECT_OK(r.submit(nop().tagged(4).signal(t, 6).signal(t, 6)));
  expect("double-signal", "caller", true, "NOP (tag 4) on 'fake:// lane 1' signals 6 on timeline 't' twice");
  EXPECT_OK(t.wait_until(6, soon()));
}

TEST_F(PointsTest, AValueThatIsReachedBeforeItsOpIsComplete) {
  Device d = open("fake://");
  Queue q = must(d.queue(0));
  Timeline t = timeline(), gate = timeline("gate");
  EXPECT_OK(q.submit({nop().tagged(1).wait(gate, 1).signal(t, 1), nop().tagged(2).signal(t, 2)}));
  EXPECT_OK(t.wait_until(2, soon()));
  EXPECT_TRUE(found.empty());
  gate.signal(1);
  EXPECT_OK(q.submit(nop().signal(gate, 2)));
  EXPECT_OK(gate.wait_until(2, soon()));
  expect("late-signal", "caller", false,
         "NOP (tag 1) on 'fake:// lane 0' signals 1 on timeline 't', which another op has raised to 2 before it was complete");
  EXPECT_OK(q.submit(nop().tagged(3).wait(gate, 3).signal(t, 3)));
  t.signal(7);
  gate.signal(3);
  EXPECT_OK(q.submit(nop().signal(gate, 4)));
  EXPECT_OK(gate.wait_until(4, soon()));
  expect("late-signal", "caller", false,
         "NOP (tag 3) on 'fake:// lane 0' signals 3 on timeline 't', which the host has raised to 7 before it was complete");
}

TEST_F(PointsTest, OpsThatWaitForEachOther) {
  Device d = open("host://"), e = open("fake://");
  Queue q = must(d.queue()), r = must(e.queue());
  Timeline t = timeline("t"), u = timeline("u"), v = timeline("v");
  EXPECT_OK(q.submit(nop().tagged(1).wait(t, 1).signal(u, 1)));
  EXPECT_OK(r.submit(nop().tagged(2).wait(u, 1).signal(v, 1)));
  EXPECT_TRUE(found.empty());
  EXPECT_OK(q.submit(nop().tagged(3).wait(v, 1).signal(t, 1)));
  expect("wait-cycle", "caller", true,
         "these ops wait for each other: NOP (tag 3) on 'host:// lane 0' waits for 1 on timeline 'v', which NOP (tag 2) on 'fake:// lane 0' "
         "signals; NOP (tag 2) on 'fake:// lane 0' waits for 1 on timeline 'u', which NOP (tag 1) on 'host:// lane 0' signals; NOP (tag 1) on "
         "'host:// lane 0' waits for 1 on timeline 't', which NOP (tag 3) on 'host:// lane 0' signals");
  EXPECT_OK(q.submit(nop().tagged(4).wait(t, 2).signal(t, 2)));  // for itself
  expect("wait-cycle", "caller", true,
         "these ops wait for each other: NOP (tag 4) on 'host:// lane 0' waits for 2 on timeline 't', which NOP (tag 4) on 'host:// lane 0' signals");
  // A cycle is reported where it closes and nowhere else.
  t.poison(Error(BATON_CANCELLED, "enough"));
  q.reset();
  r.reset();
  EXPECT_TRUE(found.empty()) << found[0].what;
}

TEST_F(PointsTest, ACircleThatTheHostCanBreakIsNone) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline t = timeline("t"), u = timeline("u");
  EXPECT_OK(q.submit({nop().wait(t, 3).signal(u, 1), nop().wait(u, 1).signal(t, 5)}));
  t.signal(3);
  EXPECT_OK(t.wait_until(5, soon()));
  EXPECT_TRUE(found.empty());
}

TEST_F(PointsTest, AChainSubmittedBackwardsIsNoCircle) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline t = timeline("t");
  std::vector<Op> ops;
  for (uint64_t i = 2000; i >= 1; --i) ops.push_back(nop().wait(t, i).signal(t, i + 1));  // each signals what one before it waits for
  EXPECT_OK(q.submit(ops));
  t.signal(1);
  EXPECT_OK(t.wait_until(2001, soon()));
  EXPECT_TRUE(found.empty());
}

TEST_F(PointsTest, AWaitThatNobodyWillEnd) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Timeline t = timeline("t"), gate = timeline("gate");
  EXPECT_CODE(t.wait_until(3, deadline_in_ms(1)), BATON_DEADLINE);
  expect("orphan-wait", "caller", false, "the deadline passed in a wait for 3 on timeline 't': no submitted op signals 3 on timeline 't', which is at 0");
  EXPECT_CODE(t.wait_until(3, deadline_in_ms(1)), BATON_DEADLINE);
  EXPECT_TRUE(found.empty());  // a wait in slices says it once
  EXPECT_OK(q.submit(nop().tagged(7).wait(gate, 2).signal(t, 3)));
  EXPECT_CODE(t.wait_until(3, deadline_in_ms(1)), BATON_DEADLINE);
  expect("orphan-wait", "caller", false,
         "the deadline passed in a wait for 3 on timeline 't': NOP (tag 7) on 'fake:// lane 0' waits for 2 on timeline 'gate': no submitted op signals 2 "
         "on timeline 'gate', which is at 0");
  q.reset();
  expect("orphan-wait", "caller", false,
         "NOP (tag 7) on 'fake:// lane 0' waits for 2 on timeline 'gate', and is cancelled by closing its queue: no submitted op signals 2 on timeline "
         "'gate', which is at 0");
}

TEST_F(PointsTest, AWaitInACircle) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Timeline t = timeline("t"), u = timeline("u"), done = timeline("done");
  EXPECT_OK(q.submit({nop().tagged(1).wait(t, 1).signal(u, 1), nop().tagged(2).wait(u, 1).signal(t, 2), nop().tagged(3).wait(u, 1).signal(done, 1)}));
  EXPECT_TRUE(found.empty());  // the host could signal 1 on t
  EXPECT_CODE(done.wait_until(1, deadline_in_ms(1)), BATON_DEADLINE);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].code, "wait-cycle");
  EXPECT_THAT(found[0].what, ::testing::HasSubstr("NOP (tag 3) on 'fake:// lane 0' waits for 1 on timeline 'u', which NOP (tag 1)"));
  EXPECT_THAT(found[0].what, ::testing::HasSubstr("NOP (tag 1) on 'fake:// lane 0' waits for 1 on timeline 't', which NOP (tag 2)"));
  t.poison(Error(BATON_CANCELLED, "enough"));
}

TEST_F(PointsTest, ALongWaitIsLookedIntoThoughItsDeadlineIsFar) {
  Timeline t = timeline("t");
  EXPECT_CODE(t.wait_until(1, deadline_in_ms(200)), BATON_DEADLINE);  // patience is 50 ms
  expect("orphan-wait", "caller", false, "nothing has come of a wait for 1 on timeline 't': no submitted op signals 1 on timeline 't', which is at 0");
}

TEST_F(PointsTest, SlowIsNotOrphaned) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Program p = must(d.load(std::vector<uint8_t>{1}, {}));
  Timeline t = timeline("t"), marks = timeline("marks"), host = timeline("host");
  EXPECT_OK(q.submit(nop().tagged(kHang).signal(t, 1)));
  EXPECT_CODE(t.wait_until(1, deadline_in_ms(1)), BATON_DEADLINE);  // the op runs
  EXPECT_OK(q.submit({launch(p, {}, {}).progress(marks).signal(t, 2), nop().wait(marks, 3).signal(t, 3)}));
  EXPECT_CODE(marks.wait_until(2, deadline_in_ms(1)), BATON_DEADLINE);  // the launch will raise it
  host.signal(1);
  EXPECT_CODE(host.wait_until(2, deadline_in_ms(1)), BATON_DEADLINE);  // the host has raised it before
  EXPECT_CODE(timeline("polled").wait_until(1, 0), BATON_DEADLINE);    // a poll is no wait
  EXPECT_TRUE(found.empty()) << found[0].what;
  t.poison(Error(BATON_CANCELLED, "enough"));
}

}  // namespace
}  // namespace baton::test
