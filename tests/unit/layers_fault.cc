// The fault layer: each action at ops and calls, on the host and on both emulators; nothing hangs, and the cause is named.
#include "tests/unit/layers_test.hpp"

#include <sys/wait.h>

namespace baton::test {
namespace {

std::string with(const ScratchFile& plan) { return "fault=" + plan.path(); }

class FaultOn : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Devices, FaultOn, ::testing::Values("host://", "emu+neuron://0", "emu+cs3://0"),
                         [](auto& i) { return std::string(i.param).find("neuron") != std::string::npos ? "neuron" : std::string(i.param).find("cs3") != std::string::npos ? "cs3" : "host"; });

TEST_P(FaultOn, EachActionNamesItsRuleAndNothingHangs) {
  ScratchFile plan(R"({"seed": 3, "rules": [
    {"name": "second fill", "op": "FILL", "nth": 2, "action": "fail", "code": "IO", "text": "on purpose"},
    {"op": "NOP", "tag": 5, "action": "drop"},
    {"op": "NOP", "tag": 6, "action": "duplicate"},
    {"op": "NOP", "tag": 7, "action": "delay", "delay": "3ms"},
    {"op": "COPY", "tag": 8, "action": "corrupt", "bits": 3},
    {"op": "alloc", "nth": 2, "action": "fail", "code": "CAPACITY"},
    {"op": "NOP", "tag": 9, "action": "lose"}]})");
  Rig r(with(plan), GetParam());
  EXPECT_OK(r.run(fill(r.memory, 0, Rig::kBytes, 0x11).signal(r.t, 1), 1));

  Timeline failed = must(r.in.timeline("failed"));
  EXPECT_OK(r.queue.submit(fill(r.memory, 0, Rig::kBytes, 0x22).signal(failed, 1)));
  Status s = failed.wait_until(1, soon());
  EXPECT_CODE(s, BATON_IO);
  EXPECT_STREQ(s.error().what, "fault plan rule 1 \"second fill\": FILL, match 2: on purpose");

  EXPECT_OK(r.run(nop().tagged(6).signal(r.t, 2), 2));  // the second completion finds no op
  const uint64_t began = now_ns();
  EXPECT_OK(r.run(nop().tagged(7).signal(r.t, 3), 3));
  EXPECT_GE(now_ns() - began, 3'000'000u);

  auto again = r.device.alloc(64);
  EXPECT_CODE(again, BATON_CAPACITY);
  EXPECT_NE(std::string(again.error().what).find("rule 6: alloc, match 2"), std::string::npos);

  // Dropped: it stays out until somebody cancels it.
  Timeline dropped = must(r.in.timeline("dropped"));
  EXPECT_OK(r.queue.submit(nop().tagged(5).signal(dropped, 1)));
  EXPECT_CODE(dropped.wait_until(1, deadline_in_ms(5)), BATON_DEADLINE);
  dropped.poison(Error(BATON_CANCELLED, "enough"));
  const uint64_t closing = now_ns();

  // Corrupted on its way out of the device, and told to nobody.
  EXPECT_OK(r.run(copy(r.memory, 0, r.plain, 0, Rig::kBytes).tagged(8).signal(r.t, 4), 4));
  int flipped = 0;
  for (uint64_t i = 0; i < Rig::kBytes; ++i) flipped += __builtin_popcount(r.bytes[i] ^ 0x11);
  EXPECT_EQ(flipped, 3);

  Timeline lost = must(r.in.timeline("lost"));
  EXPECT_OK(r.queue.submit(nop().tagged(9).signal(lost, 1)));
  EXPECT_CODE(lost.wait_until(1, soon()), BATON_DEVICE_LOST);
  EXPECT_CODE(r.device.alloc(64), BATON_DEVICE_LOST);
  EXPECT_OK(r.device.reset_device());
  Queue fresh = must(r.device.queue());
  EXPECT_OK(fresh.submit(nop().signal(r.t, 5)));
  EXPECT_OK(r.t.wait_until(5, soon()));
  EXPECT_LT(now_ns() - closing, 4'000'000'000u) << "a dropped op was waited for";
}

TEST_P(FaultOn, ACorruptedCopyInIsSeenWhenItIsReadBack) {
  ScratchFile plan(R"({"seed": 4, "rules": [{"op": "COPY", "tag": 1, "action": "corrupt"}]})");
  Rig r(with(plan), GetParam());
  std::memset(r.bytes, 0x5a, Rig::kBytes);
  EXPECT_OK(r.run(copy(r.plain, 0, r.memory, 0, Rig::kBytes).tagged(1).signal(r.t, 1), 1));
  for (uint64_t i = 0; i < Rig::kBytes; ++i) ASSERT_EQ(r.bytes[i], 0x5a) << "the caller's own memory was changed";
  EXPECT_OK(r.run(copy(r.memory, 0, r.plain, 0, Rig::kBytes).signal(r.t, 2), 2));
  int flipped = 0;
  for (uint64_t i = 0; i < Rig::kBytes; ++i) flipped += __builtin_popcount(r.bytes[i] ^ 0x5a);
  EXPECT_EQ(flipped, 1);
}

TEST(Fault, TheSamePlanDoesTheSame) {
  ScratchFile plan(R"({"seed": 11, "rules": [{"op": "NOP", "probability": 0.3, "action": "fail"}]})");
  auto outcomes = [&](const std::string& layers) {
    Rig r(layers, "host://");
    std::string s;
    for (uint64_t i = 0; i < 200; ++i) {
      Timeline t = must(r.in.timeline("one"));
      EXPECT_OK(r.queue.submit(nop().signal(t, 1)));
      s += t.wait_until(1, soon()).ok() ? '.' : 'x';
    }
    return s;
  };
  const std::string once = outcomes(with(plan));
  EXPECT_EQ(once, outcomes(with(plan)));
  EXPECT_NE(once, outcomes(with(plan) + "?seed=12"));
  const auto failures = std::count(once.begin(), once.end(), 'x');
  EXPECT_GT(failures, 30);
  EXPECT_LT(failures, 90);
}

TEST(Fault, EveryTimesAndStickyCount) {
  ScratchFile plan(R"({"rules": [
    {"op": "FILL", "every": 3, "times": 2, "action": "fail"},
    {"op": "NOP", "nth": 2, "sticky": true, "action": "fail", "device": "host*"}, {"op": "NOP", "device": "cs3://*", "action": "fail"}]})");
  Rig r(with(plan), "host://");
  auto outcome = [&](Op op) {
    Timeline t = must(r.in.timeline("one"));
    EXPECT_OK(r.queue.submit(op.signal(t, 1)));
    return t.wait_until(1, soon()).ok() ? '.' : 'x';
  };
  std::string fills, nops;
  for (int i = 0; i < 12; ++i) fills += outcome(fill(r.memory, 0, 16, 0));
  for (int i = 0; i < 4; ++i) nops += outcome(nop());
  EXPECT_EQ(fills, "..x..x......");
  EXPECT_EQ(nops, ".xxx");
}

TEST(Fault, AFullDriverDoesNotCountAnOpTwice) {
  ScratchFile plan(R"({"rules": [{"op": "NOP", "nth": 40, "action": "fail"}, {"op": "NOP", "nth": 7, "action": "delay", "delay": "1us"}]})");
  Instance in = layered(with(plan));
  Device d = must(in.open("fake://full?depth=4"));
  Queue q = must(d.queue());
  std::vector<Timeline> each;
  std::vector<Op> ops(64);
  for (Op& op : ops) {
    each.push_back(must(in.timeline("each")));
    op.signal(each.back(), 1);
  }
  EXPECT_OK(q.submit(ops));
  for (size_t i = 0; i < each.size(); ++i) EXPECT_EQ(each[i].wait_until(1, soon()).ok(), i != 39) << i;
}

TEST(Fault, CallsFailWaitAndLose) {
  ScratchFile plan(R"({"rules": [
    {"op": "open", "device": "host://never", "action": "fail", "code": "BUSY"},
    {"op": "telemetry", "nth": 1, "action": "delay", "delay": "2ms"},
    {"op": "telemetry", "nth": 2, "action": "lose"},
    {"op": ["queue_open", "load"], "action": "fail", "code": "PERMISSION"}]})");
  Instance in = layered(with(plan));
  EXPECT_CODE(in.open("host://never"), BATON_BUSY);
  Device d = must(in.open("host://"));
  EXPECT_CODE(d.queue(), BATON_PERMISSION);
  const uint64_t began = now_ns();
  EXPECT_OK(d.telemetry());
  EXPECT_GE(now_ns() - began, 2'000'000u);
  EXPECT_CODE(d.telemetry(), BATON_DEVICE_LOST);
  in.poll();
  EXPECT_CODE(d.alloc(16), BATON_DEVICE_LOST);
  EXPECT_OK(d.reset_device());
  EXPECT_OK(d.alloc(16));
}

TEST(Fault, ADroppedOpIsEndedByClosing) {
  ScratchFile plan(R"({"rules": [{"op": "*", "action": "drop"}]})");
  for (const char* uri : {"host://", "fake://no-descriptor?fd=0"}) {
    Instance in = layered(with(plan));
    Device d = must(in.open(uri));
    Queue q = must(d.queue());
    Timeline t = must(in.timeline("t"));
    EXPECT_OK(q.submit(nop().signal(t, 1)));
    const uint64_t began = now_ns();
    q.reset();
    EXPECT_LT(now_ns() - began, 3'000'000'000u);
    EXPECT_CODE(t.wait_until(1, soon()), BATON_CANCELLED);
  }
}

TEST(Fault, ALossStopsWhatRunsAndWhatRunsIsNotHeardOf) {
  ScratchFile plan(R"({"rules": [{"op": "NOP", "tag": 77, "action": "lose"}]})");
  Instance in = layered(with(plan));
  Device d = must(in.open("fake://busy"));
  Queue q = must(d.queue());
  Timeline hung = must(in.timeline("hung")), lost = must(in.timeline("lost"));
  EXPECT_OK(q.submit(nop().tagged(kHang).signal(hung, 1)));  // runs until it is asked to stop
  EXPECT_OK(q.submit(nop().tagged(77).signal(lost, 1)));
  EXPECT_CODE(hung.wait_until(1, soon()), BATON_DEVICE_LOST);
  EXPECT_CODE(lost.wait_until(1, soon()), BATON_DEVICE_LOST);
}

TEST(Fault, KillEndsTheProcess) {
  ScratchFile plan(R"({"rules": [{"op": "FILL", "action": "kill"}]})");
  Rig r(with(plan), "host://");
  EXPECT_EXIT(
      {
        (void)r.run(fill(r.memory, 0, 16, 0).signal(r.t, 1), 1);
        _exit(0);
      },
      ::testing::KilledBySignal(SIGKILL), "");
}

}  // namespace
}  // namespace baton::test
