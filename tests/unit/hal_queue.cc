#include "tests/unit/hal_test.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <thread>

namespace baton::test {
namespace {

using ::testing::HasSubstr;
using QueueTest = HalTest;

struct Order {
  std::vector<int> seen;
  struct Step {
    Order* order;
    int id;
  };
  std::deque<Step> steps;
  Op step(int id) {
    steps.push_back({this, id});
    return host([](void* s) { static_cast<Step*>(s)->order->seen.push_back(static_cast<Step*>(s)->id); }, &steps.back());
  }
};

TEST_F(QueueTest, OpsWithoutWaitsRunInSubmitOrder) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline t = timeline();
  Order order;
  std::vector<Op> ops;
  for (int i = 0; i < 10; ++i) ops.push_back(order.step(i));
  ops.back().signal(t, 1);
  EXPECT_OK(q.submit(ops));
  EXPECT_OK(t.wait_until(1, soon()));
  EXPECT_THAT(order.seen, ::testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST_F(QueueTest, AnOpWhoseWaitIsMetOvertakesOneWhoseIsNot) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Timeline gate = timeline("gate"), done = timeline("done");
  EXPECT_OK(q.submit({nop().wait(gate, 1).signal(done, 2), nop().signal(done, 1)}));
  EXPECT_OK(done.wait_until(1, soon()));
  EXPECT_EQ(must(done.value()), 1u);
  gate.signal(1);
  EXPECT_OK(done.wait_until(2, soon()));
}

TEST_F(QueueTest, TwoWaitsJoin) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline a = timeline("a"), b = timeline("b"), done = timeline("done");
  EXPECT_OK(q.submit(nop().wait(a, 3).wait(b, 7).signal(done, 1)));
  a.signal(3);
  in.poll();
  EXPECT_EQ(must(done.value()), 0u);
  b.signal(8);
  in.poll();
  EXPECT_EQ(must(done.value()), 1u);
}

TEST_F(QueueTest, ValuesReachedInAnyOrderReleaseOpsInSubmitOrder) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline gate = timeline("gate"), done = timeline("done");
  Order order;
  std::vector<Op> ops;
  for (int i = 0; i < 64; ++i) ops.push_back(order.step(i).wait(gate, uint64_t(64 - i)));  // the last submitted becomes ready first
  EXPECT_OK(q.submit(ops));
  gate.signal(32);
  in.poll(1000);
  ASSERT_EQ(order.seen.size(), 32u);
  gate.signal(64);
  in.poll(1000);
  EXPECT_EQ(order.seen.size(), 64u);
}

TEST_F(QueueTest, AMillionNops) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline t = timeline();
  std::vector<Op> ops(64);
  uint64_t v = 0;
  while (v < 1'000'000) {
    for (Op& o : ops) o = nop().signal(t, ++v);
    ASSERT_TRUE(q.submit(ops).ok());
  }
  EXPECT_OK(t.wait_until(v, soon()));
}

TEST_F(QueueTest, AChainOf20000OpsWaitingOnOneTimeline) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline t = timeline();
  std::vector<Op> ops;
  for (uint64_t i = 1; i <= 20000; ++i) ops.push_back(nop().wait(t, i).signal(t, i + 1));
  EXPECT_OK(q.submit(ops));
  t.signal(1);
  EXPECT_OK(t.wait_until(20001, soon()));
}

TEST_F(QueueTest, ADriverThatIsFullGetsTheRestLater) {
  for (const char* uri : {"fake://?depth=3", "fake://?depth=3&fd=0"}) {
    Device d = open(uri);
    Queue q = must(d.queue());
    Timeline t = timeline();
    std::vector<Op> ops;
    for (uint64_t i = 1; i <= 200; ++i) ops.push_back(nop().signal(t, i));
    EXPECT_OK(q.submit(ops));
    EXPECT_OK(t.wait_until(200, soon()));
  }
}

TEST_F(QueueTest, AFullDriverWithALongReadyListStaysCheap) {
  Device d = open("fake://?depth=8");
  Queue q = must(d.queue());
  Timeline t = timeline();
  std::vector<Op> ops;
  for (uint64_t i = 1; i <= 50'000; ++i) ops.push_back(nop().signal(t, i));
  EXPECT_OK(q.submit(ops));
  EXPECT_OK(t.wait_until(50'000, soon()));  // quadratic, this would take minutes
}

TEST_F(QueueTest, TooManyIncompleteOpsAreRefusedWhole) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline never = timeline();
  std::vector<Op> ops(1 << 17, nop().wait(never, 1));
  EXPECT_OK(q.submit(ops));
  EXPECT_OK(q.submit(ops));
  Status s = q.submit(nop());
  EXPECT_CODE(s, BATON_CAPACITY);
  EXPECT_THAT(s.error().what, HasSubstr("262144"));
}

TEST_F(QueueTest, AFailurePoisonsSignalsAndTravelsWithItsHops) {
  Device a = open("fake://a"), b = open("fake://b"), c = open("host://c");
  Queue qa = must(a.queue()), qb = must(b.queue()), qc = must(c.queue());
  Timeline t1 = timeline("t1"), t2 = timeline("t2"), t3 = timeline("t3");
  EXPECT_OK(qc.submit(nop().wait(t2, 1).signal(t3, 1)));
  EXPECT_OK(qb.submit({nop().wait(t1, 1).signal(t2, 1), nop().wait(t1, 2).signal(t2, 2)}));
  EXPECT_OK(qa.submit(nop().tagged(kFail).signal(t1, 1)));
  Status s = t3.wait_until(1, soon());
  EXPECT_CODE(s, BATON_FAILED);
  EXPECT_STREQ(s.error().what, "told to fail");
  EXPECT_STREQ(s.error().device, "fake://a");
  EXPECT_STREQ(s.error().hop, "fake://a > fake://b > host://c");
}

TEST_F(QueueTest, AnOpThatWaitsOnAPoisonedTimelineFailsAtOnceThoughItsOtherWaitIsOpen) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline bad = timeline("bad"), open_wait = timeline("open"), done = timeline("done");
  EXPECT_OK(q.submit(nop().wait(open_wait, 1).wait(bad, 1).signal(done, 1)));
  bad.poison(Error(BATON_PEER_LOST, "gone"));
  EXPECT_CODE(done.wait_until(1, soon()), BATON_PEER_LOST);
  EXPECT_OK(q.submit(nop().wait(bad, 1).wait(open_wait, 1).signal(done, 2)));
  open_wait.signal(1);
  in.poll();
}

TEST_F(QueueTest, ALongHopTextEndsInDots) {
  Device d = open("host://a-rather-long-label-0001");
  Device e = open("host://a-rather-long-label-0002");
  Queue q[2] = {must(d.queue()), must(e.queue())};
  std::vector<Timeline> t;
  for (int i = 0; i < 9; ++i) t.push_back(timeline());
  for (size_t i = 0; i + 1 < t.size(); ++i) EXPECT_OK(q[i % 2].submit(nop().wait(t[i], 1).signal(t[i + 1], 1)));
  t[0].poison(Error(BATON_FAILED, "x"));
  Status s = t.back().wait_until(1, soon());
  ASSERT_FALSE(s.ok());
  EXPECT_TRUE(std::string(s.error().hop).ends_with(" ...")) << s.error().hop;
}

TEST_F(QueueTest, ClosingFailsWhatWaitsAndCancelsWhatRuns) {
  Device d = open("fake://");
  Timeline never = timeline("never"), waiting = timeline("waiting"), running = timeline("running");
  {
    Queue q = must(d.queue());
    EXPECT_OK(q.submit(nop().wait(never, 1).signal(waiting, 1)));
    EXPECT_OK(q.submit(nop().tagged(kHang).signal(running, 1)));
    in.poll();
  }
  EXPECT_CODE(waiting.wait_until(1), BATON_CANCELLED);
  EXPECT_CODE(running.wait_until(1), BATON_CANCELLED);
}

TEST_F(QueueTest, PoisoningAProgressTimelineCancelsTheLaunch) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Program p = must(d.load(std::vector<uint8_t>{1}, {}));
  Timeline marks = timeline("marks"), done = timeline("done");
  EXPECT_OK(q.submit(launch(p, {}, {}).tagged(kHang).progress(marks).signal(done, 1)));
  in.poll();
  marks.poison(Error(BATON_CANCELLED, "the user left"));
  EXPECT_CODE(done.wait_until(1, soon()), BATON_CANCELLED);
}

TEST_F(QueueTest, ProgressRaisesItsTimelineWithModelledTimes) {
  Device d = open("fake://?timed=100");
  Queue q = must(d.queue());
  Program p = must(d.load(std::vector<uint8_t>{1}, {}));
  Timeline gate = timeline("gate"), marks = timeline("marks"), done = timeline("done");
  EXPECT_OK(q.submit(launch(p, {}, {}).wait(gate, 1).progress(marks, 40).signal(done, 1)));
  EXPECT_OK(q.submit(nop().wait(done, 1).signal(done, 2)));
  gate.signal(1, 1000);
  EXPECT_OK(done.wait_until(2, soon()));
  EXPECT_EQ(must(marks.value()), 43u);
  EXPECT_EQ(marks.modelled_ns(41), 1010u);
  EXPECT_EQ(marks.modelled_ns(43), 1030u);
  EXPECT_EQ(done.modelled_ns(1), 1100u);  // start = the wait's time; end = start + cost
  EXPECT_EQ(done.modelled_ns(2), 1200u);
}

TEST_F(QueueTest, AQueueRunsItsOpsOneAfterTheOtherInModelledTime) {
  Device d = open("fake://?timed=100");
  Queue lanes[2] = {must(d.queue(0)), must(d.queue(1))};
  Timeline t[2] = {timeline(), timeline()};
  for (uint64_t v = 1; v <= 3; ++v)
    for (int i = 0; i < 2; ++i) EXPECT_OK(lanes[i].submit(nop().signal(t[i], v)));
  EXPECT_OK(t[0].wait_until(3, soon()));
  EXPECT_OK(t[1].wait_until(3, soon()));
  EXPECT_EQ(t[0].modelled_ns(3), 300u);
  EXPECT_EQ(t[1].modelled_ns(3), 300u);  // lanes are independent
}

TEST_F(QueueTest, AHostFunctionMaySubmitAndWait) {
  Device d = open("host://");
  struct Context {
    Queue q;
    Timeline inner, outer;
    bool ok = false;
  } c{must(d.queue()), timeline("inner"), timeline("outer")};
  auto fn = [](void* u) {
    auto* x = static_cast<Context*>(u);
    x->ok = x->q.submit(nop().signal(x->inner, 1)).ok() && x->inner.wait_until(1, soon()).ok();
  };
  EXPECT_OK(c.q.submit(host(fn, &c).signal(c.outer, 1)));
  EXPECT_OK(c.outer.wait_until(1, soon()));
  EXPECT_TRUE(c.ok);
}

TEST_F(QueueTest, AHostFunctionMayCloseItsOwnQueue) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline t = timeline();
  EXPECT_OK(q.submit(host([](void* u) { static_cast<Queue*>(u)->reset(); }, &q).signal(t, 1)));
  uint64_t begin = now_ns();
  EXPECT_CODE(t.wait_until(1, soon()), BATON_CANCELLED);
  EXPECT_LT(now_ns() - begin, 2'000'000'000u);
}

TEST_F(QueueTest, ALateCompletionIsIgnored) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Timeline t = timeline();
  for (uint64_t v = 1; v <= 300; ++v) EXPECT_OK(q.submit(nop().tagged(kLate).signal(t, v)));
  EXPECT_OK(t.wait_until(300, soon()));
}

TEST_F(QueueTest, SubmittersAndWaitersInManyThreads) {
  Device d = open("fake://");
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      Queue q = must(d.queue());
      Timeline t = timeline();
      for (uint64_t v = 1; v <= 200; ++v) {
        EXPECT_OK(q.submit(nop().signal(t, v)));
        if (v % 10 == 0) EXPECT_OK(t.wait_until(v, soon()));
      }
      ++good;
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(good, 4);
}

TEST_F(QueueTest, BadOpsAreRefusedWithTheirNumbersAndNothingIsTaken) {
  Device d = open("host://"), fake = open("fake://");
  Queue q = must(d.queue());
  Buffer b = must(d.alloc(4096));
  Timeline t = timeline();
  auto refuse = [&](Op op, const char* text) {
    Status s = q.submit({nop().signal(t, 1), op});
    ASSERT_FALSE(s.ok()) << text;
    EXPECT_EQ(s.error().code, BATON_INVALID_ARGUMENT);
    EXPECT_THAT(std::string(s.error().what), HasSubstr(text));
    EXPECT_EQ(must(t.value()), 0u);
  };
  refuse(fill(b, 4000, 97, 0), "97 bytes at offset 4000 of a buffer of 4096");
  refuse(fill(b, UINT64_MAX, 2, 0), "of a buffer of 4096");
  refuse(fill(b, 0, UINT64_MAX, 0), "of a buffer of 4096");
  refuse(fill(b, 0, 6, 0, 4), "FILL of 6 bytes at 0 with a pattern of 4 bytes");
  refuse(fill(b, 0, 6, 0, 3), "pattern of 3 bytes");
}

TEST_F(QueueTest, PatternsOfTwoAndFourBytes) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Buffer b = must(d.alloc(1 << 20));
  Timeline t = timeline();
  EXPECT_OK(q.submit({fill(b, 0, 1 << 20, 0x04030201, 4).signal(t, 1), fill(b, 2, 6, 0xbbaa, 2).wait(t, 1).signal(t, 2)}));
  EXPECT_OK(t.wait_until(2, soon()));
  auto* p = static_cast<uint8_t*>(must(b.map()));
  const uint8_t want[12] = {1, 2, 0xaa, 0xbb, 0xaa, 0xbb, 0xaa, 0xbb, 1, 2, 3, 4};
  EXPECT_EQ(std::memcmp(p, want, sizeof want), 0);
  EXPECT_EQ(p[(1 << 20) - 1], 4);
}

TEST_F(QueueTest, SpansTellWallAndModelledTime) {
  struct Seen {
    std::string lane, what;
    uint32_t tag, failed;
    uint64_t begin, end, bytes;
  };
  std::vector<Seen> seen;
  baton_set_span_callback(in.get(), [](void* u, const baton_span* s) {
    static_cast<std::vector<Seen>*>(u)->push_back(
        {s->lane, s->what, s->tag, s->failed, s->modelled_start_ns, s->modelled_end_ns, s->bytes});
    EXPECT_LE(s->wall_start_ns, s->wall_end_ns);
  }, &seen);
  Device d = open("fake://?timed=100");
  Queue q = must(d.queue());
  Buffer b = must(d.alloc(64));
  Program p = must(d.load(std::vector<uint8_t>{1}, {}));
  Timeline t = timeline();
  EXPECT_OK(q.submit({nop().tagged(7).signal(t, 1), fill(b, 0, 64, 0).tagged(8).signal(t, 2), launch(p, {}, {}).signal(t, 3)}));
  EXPECT_OK(t.wait_until(3, soon()));
  baton_set_span_callback(in.get(), nullptr, nullptr);
  ASSERT_EQ(seen.size(), 6u);
  EXPECT_EQ(seen[0].lane, "fake:// lane 0");
  EXPECT_EQ(seen[0].what, "NOP");
  EXPECT_EQ(seen[0].tag, 7u);
  EXPECT_EQ(seen[0].end, 100u);
  EXPECT_EQ(seen[1].what, "FILL");
  EXPECT_EQ(seen[1].begin, 100u);
  EXPECT_EQ(seen[1].end, 264u);
  EXPECT_EQ(seen[1].bytes, 64u);
  EXPECT_EQ(seen[2].what, "mark");
  EXPECT_EQ(seen[5].what, "LAUNCH");
  EXPECT_EQ(seen[5].begin, 264u);
}

}  // namespace
}  // namespace baton::test
