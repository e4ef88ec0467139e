// Telemetry: each counter rises by what was done, and by nothing else.
#include "tests/cts/workload.h"

#include <algorithm>

namespace baton::cts {
namespace {

Telemetry read(Fixture& f) { return must(f.device.telemetry()); }

void counters_rise_by_what_was_done(Fixture& f) {
  constexpr uint64_t kBytes = 5000;
  Buffer b = f.alloc(kBytes), c = f.alloc(kBytes), h = f.host(2 * kBytes);
  std::fill_n(Fixture::mapped(h), 2 * kBytes, 1);
  Queue q = f.queue();
  Timeline t = f.timeline();
  uint64_t n = 0;
  auto difference = [&](std::vector<Op> ops) {
    const Telemetry before = read(f);
    for (Op& o : ops) o.signal(t, ++n);
    must(q.submit(ops));
    must(t.wait_until(n, soon()));
    Telemetry after = read(f);
    EXPECT_GE(after.busy_ns, before.busy_ns);
    after.ops_done -= before.ops_done;
    after.ops_failed -= before.ops_failed;
    after.launches -= before.launches;
    after.bytes_in -= before.bytes_in;
    after.bytes_out -= before.bytes_out;
    after.busy_ns -= before.busy_ns;
    after.modelled_ns -= before.modelled_ns;
    return after;
  };
  Telemetry d = difference({nop(), nop(), fill(b, 0, kBytes, 1), copy(b, 0, c, 0, kBytes)});
  EXPECT_EQ(d.ops_done, 4u);
  EXPECT_EQ(d.ops_failed, 0u);
  EXPECT_EQ(d.launches, 0u);
  d = difference({copy(h, 0, b, 0, kBytes), copy(h, 0, c, 0, 1000)});
  EXPECT_EQ(d.ops_done, 2u);
  EXPECT_EQ(d.bytes_in, kBytes + 1000);
  EXPECT_EQ(d.bytes_out, 0u);
  d = difference({copy(b, 0, h, kBytes, kBytes), copy(c, 0, h, kBytes, 70)});
  EXPECT_EQ(d.ops_done, 2u);
  EXPECT_EQ(d.bytes_in, 0u);
  EXPECT_EQ(d.bytes_out, kBytes + 70);
  Work w(f, 5);
  d = difference({w.launch(), w.launch()});
  EXPECT_EQ(d.ops_done, 2u);
  EXPECT_EQ(d.launches, 2u);
  EXPECT_GT(d.busy_ns, 0u);
  EXPECT_EQ(d.modelled_ns > 0, f.info().modelled != 0) << "modelled_ns is " << d.modelled_ns;
  EXPECT_TRUE(!f.info().modelled || d.modelled_ns <= t.modelled_ns(n)) << "more than the timeline's own time";
}

void a_failed_op_is_counted_as_failed(Fixture& f) {
  Work w(f, 1);
  Queue q = f.queue();
  Timeline t = f.timeline();
  Op wrong = w.launch();
  wrong.arg_count = 0;
  const Telemetry before = read(f);
  must(q.submit(wrong.signal(t, 1)));
  EXPECT_FALSE(t.wait_until(1, soon()).ok());
  const Telemetry after = read(f);
  EXPECT_EQ(after.ops_failed - before.ops_failed, 1u);
  EXPECT_EQ(after.ops_done, before.ops_done);
}

// What never reached the device is not the device's.
void what_is_refused_or_waits_is_not_counted(Fixture& f) {
  Buffer b = f.alloc(64);
  Queue q = f.queue();
  Timeline never = f.timeline("never"), t = f.timeline();
  const Telemetry before = read(f);
  EXPECT_FALSE(q.submit(fill(b, 0, 65, 0)).ok());
  must(q.submit(nop().wait(never, 1).signal(t, 1)));
  never.poison(Error(BATON_CANCELLED, "as if"));
  EXPECT_CODE(t.wait_until(1, soon()), BATON_CANCELLED);
  const Telemetry after = read(f);
  EXPECT_EQ(after.ops_done, before.ops_done);
  EXPECT_EQ(after.ops_failed, before.ops_failed);
}

}  // namespace

const Suite& telemetry_suite() {
  static constexpr Case kCases[] = {
      {"CountersRiseByWhatWasDone", kNone, counters_rise_by_what_was_done},
      {"AFailedOpIsCountedAsFailed", kNone, a_failed_op_is_counted_as_failed},
      {"WhatIsRefusedOrWaitsIsNotCounted", kNone, what_is_refused_or_waits_is_not_counted},
  };
  static constexpr Suite kSuite{"telemetry", kCases};
  return kSuite;
}

}  // namespace baton::cts
