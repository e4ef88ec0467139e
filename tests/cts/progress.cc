// Progress: the marks of a launch on a timeline, in order and, where the device can, as they happen.
#include "tests/cts/workload.h"

namespace baton::cts {
namespace {

// At the latest at the end of the launch all marks are there, above the base.
void all_marks_are_there_at_the_end(Fixture& f) {
  Work w(f, 7);
  Queue q = f.queue();
  Timeline marks = f.timeline("marks"), done = f.timeline("done");
  for (uint64_t i = 1; i <= 3; ++i) {
    must(q.submit(w.launch().progress(marks, (i - 1) * 7).signal(done, i)));
    must(done.wait_until(i, soon()));
    EXPECT_EQ(must(marks.value()), 7 * i);
  }
  EXPECT_EQ(w.result()[0], 128.0f);
  must(q.submit(w.launch().signal(done, 4)));  // nobody wants the marks
  must(done.wait_until(4, soon()));
}

// Other work may begin at a mark: long before the launch is over.
void a_mark_is_seen_while_the_launch_runs(Fixture& f) {
  const uint32_t layers = 300;
  Work w(f, layers);
  Device other = must(f.in().open("host://cts-observer"));
  Queue q = f.queue(), h = must(other.queue());
  Timeline marks = f.timeline("marks"), done = f.timeline("done"), seen = f.timeline("seen");
  must(h.submit(nop().wait(marks, 1).signal(seen, 1)));
  must(q.submit(w.launch().progress(marks).signal(done, 1)));
  must(seen.wait_until(1, soon()));
  EXPECT_EQ(must(done.value()), 0u) << "the first of " << layers << " marks came with the end";
  must(done.wait_until(1, soon()));
  EXPECT_EQ(must(marks.value()), layers);
}

void modelled_time_rises_from_mark_to_mark(Fixture& f) {
  const uint32_t layers = 12;
  Work w(f, layers);
  Queue q = f.queue();
  Timeline marks = f.timeline("marks"), done = f.timeline("done");
  must(q.submit({w.launch().progress(marks).signal(done, 1), w.launch().progress(marks, layers).signal(done, 2)}));
  must(done.wait_until(2, soon()));
  uint64_t before = 0;
  for (uint64_t k = 1; k <= 2 * layers; ++k) {
    const uint64_t at = marks.modelled_ns(k);
    EXPECT_GT(at, before) << "mark " << k;
    before = at;
  }
  EXPECT_GE(done.modelled_ns(1), marks.modelled_ns(layers));
  EXPECT_LE(done.modelled_ns(1), marks.modelled_ns(layers + 1)) << "the second launch began before the first was over";
  EXPECT_GE(done.modelled_ns(2), marks.modelled_ns(2 * layers));
}

// A launch starts, in modelled time, when the latest of its waits is reached.
void modelled_time_begins_at_the_latest_wait(Fixture& f) {
  Work w(f, 3);
  Queue q = f.queue();
  Timeline early = f.timeline("early"), late = f.timeline("late"), alone = f.timeline("alone"), done = f.timeline("done");
  must(q.submit(w.launch().signal(alone, 1)));
  must(alone.wait_until(1, soon()));
  const uint64_t cost = alone.modelled_ns(1);
  EXPECT_GT(cost, 0u);
  early.signal(1, 1000);
  late.signal(1, 1'000'000'000);
  must(q.submit(w.launch().wait(early, 1).wait(late, 1).signal(done, 1)));
  must(done.wait_until(1, soon()));
  EXPECT_EQ(done.modelled_ns(1), 1'000'000'000 + cost) << "a launch that takes " << cost << " ns";
}

void poison_stops_a_launch(Fixture& f) {
  Work w(f, 2000);
  Queue q = f.queue();
  Timeline marks = f.timeline("marks"), done = f.timeline("done"), next = f.timeline("next");
  must(q.submit({w.launch().progress(marks).signal(done, 1), nop().signal(next, 1)}));
  must(marks.wait_until(1, soon()));
  done.poison(Error(BATON_DEADLINE, "the request took too long"));
  must(next.wait_until(1, soon()));  // the lane is free again
  EXPECT_CODE(marks.wait_until(2000, soon()), BATON_CANCELLED);
  EXPECT_CODE(done.wait_until(1, soon()), BATON_DEADLINE);
  Timeline again = f.timeline("again");
  Work other(f, 2);
  must(q.submit(other.launch().signal(again, 1)));
  must(again.wait_until(1, soon()));
  EXPECT_EQ(other.result()[0], 4.0f);
}

void a_program_unloaded_in_flight_runs_to_its_end(Fixture& f) {
  Queue q = f.queue();
  Timeline done = f.timeline();
  {
    Work w(f, 100);
    must(q.submit(w.launch().signal(done, 1)));
  }
  must(done.wait_until(1, soon()));
}

}  // namespace

const Suite& progress_suite() {
  static constexpr Case kCases[] = {
      {"AllMarksAreThereAtTheEnd", kNone, all_marks_are_there_at_the_end},
      {"AMarkIsSeenWhileTheLaunchRuns", kProgress, a_mark_is_seen_while_the_launch_runs},
      {"ModelledTimeRisesFromMarkToMark", kModelled, modelled_time_rises_from_mark_to_mark},
      {"ModelledTimeBeginsAtTheLatestWait", kModelled, modelled_time_begins_at_the_latest_wait},
      {"PoisonStopsALaunch", kProgress, poison_stops_a_launch},
      {"AProgramUnloadedInFlightRunsToItsEnd", kNone, a_program_unloaded_in_flight_runs_to_its_end},
  };
  static constexpr Suite kSuite{"progress", kCases};
  return kSuite;
}

}  // namespace baton::cts
