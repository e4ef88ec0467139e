// Timelines, with a device behind them: watermark, poison and its cause, deadlines, cancels, points not yet submitted, threads.
#include "tests/cts/fixture.h"

#include <algorithm>
#include <array>
#include <thread>

namespace baton::cts {
namespace {

void the_watermark_only_rises(Fixture& f) {
  Queue q = f.queue();
  Timeline t = f.timeline(), end = f.timeline("end");
  must(q.submit({nop().signal(t, 10), nop().signal(t, 4), nop().signal(end, 1)}));
  must(end.wait_until(1, soon()));
  EXPECT_EQ(must(t.value()), 10u);
  EXPECT_OK(t.wait_until(3, 0));  // passed already: no deadline is too short
  EXPECT_OK(t.wait_until(10, 0));
}

void an_op_joins_two_timelines_and_signals_two(Fixture& f) {
  Queue q = f.queue();
  Timeline a = f.timeline("a"), b = f.timeline("b"), c = f.timeline("c"), d = f.timeline("d");
  must(q.submit(nop().wait(a, 1).wait(b, 1).signal(c, 1).signal(d, 7)));
  a.signal(1);
  EXPECT_CODE(c.wait_until(1, deadline_in_ms(5)), BATON_DEADLINE);
  b.signal(1);
  must(c.wait_until(1, soon()));
  must(d.wait_until(7, soon()));
}

// A point is named before anybody has submitted what will reach it; over three queues, submitted backwards.
void a_point_may_be_waited_for_before_it_is_submitted(Fixture& f) {
  Buffer b = f.alloc(64), c = f.alloc(64), d = f.alloc(64);
  f.fill(b, 1);
  Queue p = f.queue(), q = f.queue(), r = f.queue();
  Timeline t = f.timeline();
  must(r.submit(copy(c, 0, d, 0, 64).wait(t, 2).signal(t, 3)));
  must(q.submit(copy(b, 0, c, 0, 64).wait(t, 1).signal(t, 2)));
  must(p.submit(fill(b, 0, 64, 9).signal(t, 1)));
  must(t.wait_until(3, soon()));
  EXPECT_TRUE(same(f.read(d, 0, 64), Bytes(64, 9)));
}

// The first cause travels, with the way that it took: from this device over another queue to a third timeline.
void poison_travels_with_its_first_cause_and_its_way(Fixture& f) {
  Device other = must(f.in().open("host://cts-hop"));
  Queue q = f.queue(), h = must(other.queue());
  Timeline a = f.timeline("a"), b = f.timeline("b"), c = f.timeline("c");
  must(q.submit(nop().wait(a, 1).signal(b, 1)));
  must(h.submit(nop().wait(b, 1).signal(c, 1)));
  a.poison(Error(BATON_PEER_LOST, "the other side hung up"));
  a.poison(Error(BATON_INTERNAL, "a later cause"));
  Status s = c.wait_until(1, soon());
  ASSERT_FALSE(s.ok());
  EXPECT_CODE(s, BATON_PEER_LOST);
  EXPECT_STREQ(s.error().what, "the other side hung up");
  const std::string hop = s.error().hop, uri = f.info().uri;
  const size_t here = hop.find(uri.substr(0, uri.find('?'))), there = hop.find("host://cts-hop");
  EXPECT_TRUE(here != hop.npos && there != hop.npos && here < there) << "hop is '" << hop << "'";
  // For good: also for what is submitted later, and a signal does not heal it.
  a.signal(5);
  Timeline late = f.timeline("late");
  must(q.submit(nop().wait(a, 1).signal(late, 1)));
  EXPECT_CODE(late.wait_until(1, soon()), BATON_PEER_LOST);
}

// The device's own failures are causes like any other: one op of a batch fails, what depends on it fails, the rest does not.
void only_what_depends_on_a_failure_fails(Fixture& f) {
  Buffer b = f.alloc(64);
  f.fill(b, 1);
  Queue q = f.queue();
  Timeline bad = f.timeline("bad"), dependent = f.timeline("dependent"), good = f.timeline("good");
  bad.poison(Error(BATON_FAILED, "as if"));
  must(q.submit({fill(b, 0, 64, 2).wait(bad, 1).signal(dependent, 1), fill(b, 32, 32, 3).signal(good, 1)}));
  must(good.wait_until(1, soon()));
  EXPECT_CODE(dependent.wait_until(1, soon()), BATON_FAILED);
  Bytes expected(64, 1);
  std::fill(expected.begin() + 32, expected.end(), 3);
  EXPECT_TRUE(same(f.read(b, 0, 64), expected));
}

// A deadline ends the wait, not what is waited for.
void a_deadline_ends_the_wait_alone(Fixture& f) {
  Queue q = f.queue();
  Timeline gate = f.timeline("gate"), t = f.timeline();
  must(q.submit(nop().wait(gate, 1).signal(t, 1)));
  const uint64_t before = now_ns();
  Status s = t.wait_until(1, deadline_in_ms(20));
  EXPECT_GE(now_ns() - before, 20'000'000u);
  EXPECT_CODE(s, BATON_DEADLINE);
  EXPECT_TRUE(s.ok() || s.error().next[0]) << "the error has no next step";
  EXPECT_CODE(t.wait_until(1, 0), BATON_DEADLINE);
  EXPECT_OK(t.value());
  gate.signal(1);
  EXPECT_OK(t.wait_until(1, soon()));
}

void cancelling_ends_those_who_wait(Fixture& f) {
  Queue q = f.queue();
  Timeline gate = f.timeline("gate"), t = f.timeline();
  must(q.submit(nop().wait(gate, 1).signal(t, 1)));
  Status ended;
  std::thread waiter([&] { ended = t.wait_until(1, soon()); });
  t.poison(Error(BATON_CANCELLED, "the request was cancelled"));
  waiter.join();
  EXPECT_CODE(ended, BATON_CANCELLED);
  gate.signal(1);  // the op itself completes, and cannot heal the timeline
  Timeline after = f.timeline("after");
  must(q.submit(nop().wait(gate, 1).signal(after, 1)));
  must(after.wait_until(1, soon()));
  EXPECT_CODE(t.wait_until(1, soon()), BATON_CANCELLED);
}

void a_timeline_destroyed_under_ops_cancels_them(Fixture& f) {
  Queue q = f.queue();
  Timeline t = f.timeline();
  {
    Timeline gone = f.timeline("gone");
    must(q.submit(nop().wait(gone, 1).signal(t, 1)));
  }
  Status s = t.wait_until(1, soon());
  EXPECT_CODE(s, BATON_CANCELLED);
  EXPECT_TRUE(s.ok() || std::string(s.error().what).find("gone") != std::string::npos) << s.error().text();
}

// A ring of threads: each waits for its point and lets the device signal the next one's.
void threads_hand_points_around_through_the_device(Fixture& f) {
  constexpr uint64_t kThreads = 4;
  const uint64_t rounds = 100 / std::min<uint64_t>(kSlower, 5);
  Queue q = f.queue();
  Timeline t = f.timeline();
  std::array<Status, kThreads> ended;
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      for (uint64_t n = i; n < rounds * kThreads && ended[i].ok(); n += kThreads) {
        ended[i] = t.wait_until(n, soon());
        if (ended[i].ok()) ended[i] = q.submit(nop().signal(t, n + 1));
      }
    });
  for (std::thread& x : threads) x.join();
  for (const Status& s : ended) EXPECT_OK(s);
  EXPECT_OK(t.wait_until(rounds * kThreads, soon()));
}

// Many threads wait for the same and for different values, another one signals: each wakes, none too early.
void several_threads_wait_for_one_timeline(Fixture& f) {
  constexpr uint64_t kThreads = 6;
  Queue q = f.queue();
  Timeline gate = f.timeline("gate"), t = f.timeline();
  for (uint64_t i = 1; i <= kThreads / 2; ++i) must(q.submit(nop().wait(gate, i).signal(t, i)));
  std::array<uint64_t, kThreads> seen{};
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      if (t.wait_until(i / 2 + 1, soon()).ok()) seen[i] = *t.value();
    });
  for (uint64_t i = 1; i <= kThreads / 2; ++i) gate.signal(i);
  for (std::thread& x : threads) x.join();
  for (uint64_t i = 0; i < kThreads; ++i) EXPECT_GE(seen[i], i / 2 + 1) << "thread " << i;
}

}  // namespace

const Suite& timeline_suite() {
  static constexpr Case kCases[] = {
      {"TheWatermarkOnlyRises", kNone, the_watermark_only_rises},
      {"AnOpJoinsTwoTimelinesAndSignalsTwo", kNone, an_op_joins_two_timelines_and_signals_two},
      {"APointMayBeWaitedForBeforeItIsSubmitted", kNone, a_point_may_be_waited_for_before_it_is_submitted},
      {"PoisonTravelsWithItsFirstCauseAndItsWay", kNone, poison_travels_with_its_first_cause_and_its_way},
      {"OnlyWhatDependsOnAFailureFails", kNone, only_what_depends_on_a_failure_fails},
      {"ADeadlineEndsTheWaitAlone", kNone, a_deadline_ends_the_wait_alone},
      {"CancellingEndsThoseWhoWait", kNone, cancelling_ends_those_who_wait},
      {"ATimelineDestroyedUnderOpsCancelsThem", kNone, a_timeline_destroyed_under_ops_cancels_them},
      {"ThreadsHandPointsAroundThroughTheDevice", kNone, threads_hand_points_around_through_the_device},
      {"SeveralThreadsWaitForOneTimeline", kNone, several_threads_wait_for_one_timeline},
  };
  static constexpr Suite kSuite{"timeline", kCases};
  return kSuite;
}

}  // namespace baton::cts
