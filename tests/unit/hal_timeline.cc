#include "tests/unit/hal_test.hpp"

#include <atomic>
#include <thread>

namespace baton::test {
namespace {

using TimelineTest = HalTest;

TEST_F(TimelineTest, OnlyRises) {
  Timeline t = timeline();
  t.signal(5);
  t.signal(3);
  EXPECT_EQ(must(t.value()), 5u);
  t.signal(6);
  EXPECT_EQ(must(t.value()), 6u);
}

TEST_F(TimelineTest, FirstPoisonStaysAndStopsTheWatermark) {
  Timeline t = timeline();
  t.signal(2);
  t.poison(Error(BATON_PEER_LOST, "the decode worker is gone", "restart it"));
  t.poison(Error(BATON_CANCELLED, "later"));
  t.signal(9);
  uint64_t value = 0;
  Error e;
  EXPECT_EQ(baton_timeline_query(t.get(), &value, &e), BATON_PEER_LOST);
  EXPECT_EQ(value, 2u);
  EXPECT_STREQ(e.what, "the decode worker is gone");
  EXPECT_STREQ(e.next, "restart it");
  EXPECT_CODE(t.wait_until(2), BATON_PEER_LOST);  // whoever poisons may have freed what 2 stood for
}

TEST_F(TimelineTest, WaitEndsAtTheDeadlineWithNumbers) {
  Timeline t = timeline("landed");
  t.signal(3);
  uint64_t begin = now_ns();
  Status s = t.wait_until(5, deadline_in_ms(30));
  EXPECT_CODE(s, BATON_DEADLINE);
  EXPECT_GE(now_ns() - begin, 29'000'000u);
  EXPECT_THAT(s.error().what, ::testing::AllOf(::testing::HasSubstr("'landed' is at 3"), ::testing::HasSubstr("5")));
}

TEST_F(TimelineTest, AWaitWhoseDeadlineHasPassedPollsOnce) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline t = timeline();
  EXPECT_OK(q.submit(host([](void*) {}, nullptr).signal(t, 1)));
  EXPECT_OK(t.wait_until(1, 0));
  EXPECT_CODE(t.wait_until(2, 0), BATON_DEADLINE);
}

TEST_F(TimelineTest, ModelledTimeOfAValueIsThatOfTheFirstPointThatReachedIt) {
  Timeline t = timeline();
  t.signal(1);  // not modelled
  t.signal(4, 100);
  t.signal(6, 90);  // a value stands for all before it: never earlier than they
  t.signal(8, 300);
  EXPECT_EQ(t.modelled_ns(1), 0u);
  EXPECT_EQ(t.modelled_ns(2), 100u);
  EXPECT_EQ(t.modelled_ns(4), 100u);
  EXPECT_EQ(t.modelled_ns(5), 100u);
  EXPECT_EQ(t.modelled_ns(7), 300u);
  EXPECT_EQ(t.modelled_ns(9), 0u);
}

TEST_F(TimelineTest, KeepsTheLatest512Points) {
  Timeline t = timeline();
  for (uint64_t v = 1; v <= 2000; ++v) t.signal(v, v * 10);
  EXPECT_EQ(t.modelled_ns(2000), 20000u);
  EXPECT_EQ(t.modelled_ns(1500), 15000u);
  EXPECT_EQ(t.modelled_ns(1489), 14890u);
  EXPECT_EQ(t.modelled_ns(7), 14890u);  // older: the oldest kept, an upper bound
}

TEST_F(TimelineTest, ThreadsWaitWhileAnotherSignals) {
  Timeline t = timeline();
  std::atomic<int> woken{0};
  std::vector<std::thread> threads;
  for (uint64_t v = 1; v <= 8; ++v)
    threads.emplace_back([&, v] {
      EXPECT_OK(t.wait_until(v * 10, soon()));
      ++woken;
    });
  std::thread signaller([&] {
    for (uint64_t v = 1; v <= 80; ++v) {
      t.signal(v);
      std::this_thread::yield();
    }
  });
  for (std::thread& th : threads) th.join();
  signaller.join();
  EXPECT_EQ(woken, 8);
}

// The thread that polls for all may leave at any moment; somebody else must then poll.
TEST_F(TimelineTest, FollowersTakeOverWhenTheDriverThreadLeaves) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Timeline first = timeline("first"), second = timeline("second");
  std::thread early([&] { EXPECT_OK(first.wait_until(50, soon())); });
  std::thread late([&] { EXPECT_OK(second.wait_until(50, soon())); });
  std::thread impatient([&] { EXPECT_FALSE(second.wait_until(1000, deadline_in_ms(5))); });
  for (uint64_t v = 1; v <= 50; ++v) {
    EXPECT_OK(q.submit(nop().signal(first, v)));
    EXPECT_OK(q.submit(nop().wait(first, v).signal(second, v)));
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  early.join();
  late.join();
  impatient.join();
}

TEST_F(TimelineTest, PoisonWakesEveryWaiter) {
  Timeline t = timeline();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { EXPECT_CODE(t.wait_until(1, soon()), BATON_CANCELLED); });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  t.poison(Error(BATON_CANCELLED, "enough"));
  for (std::thread& th : threads) th.join();
}

TEST_F(TimelineTest, SignalWakesAnEventLoopThatSleepsOnTheDescriptor) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline go = timeline("go"), done = timeline("done");
  (void)in.fd();
  EXPECT_OK(q.submit(nop().wait(go, 1).signal(done, 1)));
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    go.signal(1);
  });
  const uint64_t begin = now_ns();
  while (must(done.value()) < 1) in.poll_wait(soon());
  EXPECT_LT(now_ns() - begin, 5'000'000'000u);
  other.join();
}

TEST_F(TimelineTest, PollWaitDoesNotSleepThroughWhatCompletedInSubmit) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline t = timeline();
  const uint64_t begin = now_ns();
  for (uint64_t v = 1; v <= 3; ++v) {
    EXPECT_OK(q.submit(nop().signal(t, v)));  // complete on return
    EXPECT_GT(in.poll_wait(soon()), 0u);
  }
  EXPECT_LT(now_ns() - begin, 5'000'000'000u);
  EXPECT_EQ(in.poll_wait(deadline_in_ms(5)), 0u);
}

TEST_F(TimelineTest, DestroyedEarlyFailsTheOpsThatWaitForIt) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline done = timeline("done");
  {
    Timeline never = timeline("never");
    EXPECT_OK(q.submit(nop().wait(never, 1).signal(done, 1)));
  }
  Status s = done.wait_until(1, soon());
  EXPECT_CODE(s, BATON_CANCELLED);
  EXPECT_THAT(s.error().what, ::testing::HasSubstr("'never'"));
}

TEST_F(TimelineTest, ManyThreadsSignalOne) {
  Timeline t = timeline();
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      for (uint64_t v = i; v < 4000; v += 4) t.signal(v, v);
    });
  EXPECT_OK(t.wait_until(3999, soon()));
  for (std::thread& th : threads) th.join();
  EXPECT_EQ(must(t.value()), 3999u);
}

}  // namespace
}  // namespace baton::test
