// The wafer daemon's fault plan: as data, changed while it runs, named in what fails; and what a client does about it.
#include "tests/unit/cs3_test.hpp"

#include "drivers/cs3/link/operate.hpp"

#include <fstream>

namespace baton::cs3::test {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

class Faults : public ::testing::Test {
 protected:
  Completion plan(const std::string& json, std::string* text = nullptr) {
    Submission s = operate.make(Op::fault);
    s.arg0 = 1;
    return operate.call(s, {reinterpret_cast<const uint8_t*>(json.data()), json.size()}, 0, text);
  }
  std::string report() {
    operate.answer.clear();
    EXPECT_EQ(operate.call(operate.make(Op::fault), {}, 8192).code, BATON_OK);
    return {operate.answer.begin(), operate.answer.end()};
  }
  Submission alloc(uint64_t bytes) {
    Submission s = operate.make(Op::alloc);
    s.bytes = bytes;
    return s;
  }
  // A linear copy of a MiB in the cheap order.
  Submission copy(const Completion& mem, Op op = Op::memcpy_h2d, uint64_t bytes = kMiB) {
    Submission s = operate.make(op);
    s.mem = mem.handle, s.address = mem.address, s.bytes = s.total = bytes, s.order = uint8_t(Order::column_major);
    return s;
  }
  Status run(baton::Device& d, std::vector<baton::Op> ops, uint64_t deadline = soon()) {
    auto q = must(d.queue());
    auto t = must(in.timeline("run"));
    uint64_t n = 0;
    for (auto& op : ops) {
      if (n) op.wait(t, n);
      op.signal(t, ++n);
    }
    BATON_TRY(q.submit(ops));
    return t.wait_until(n, deadline);
  }
  DaemonProcess daemon;
  RawClient operate{daemon};  // whoever holds the plan; has its own session
  Instance in = make_instance();
  const std::vector<uint8_t> mib = noise(kMiB, 2);
};

TEST_F(Faults, PlansAreCheckedAndTheOneBeforeStays) {
  EXPECT_EQ(plan(R"({"seed": 3, "rules": [{"call": "nop", "nth": 2, "action": "fail", "code": "IO"}]})").code, BATON_OK);
  const std::pair<const char*, const char*> wrong[] = {
      {"", nullptr},
      {"no", "is no JSON object"},
      {R"({"rules": [{"call": "nop"}]})", "rule 0 of the fault plan: it has no action"},
      {R"({"rules": [{"call": "nip", "action": "fail"}]})", "there is no call \"nip\""},
      {R"({"rules": [{"call": "info", "action": "fail"}]})", "there is no call \"info\""},
      {R"({"rules": [{"call": "nop", "action": "burn"}]})", "unknown \"burn\"\nactions: fail delay kill hang drop_link lose_wafer"},
      {R"({"rules": [{"call": "nop", "action": "fail", "code": "OK"}]})", "unknown code \"OK\"\ncodes: BUSY"},
      {R"({"rules": [{"call": "nop", "action": "fail", "nth": 0}]})", "nth is not a whole number from 1"},
      {R"({"rules": [{"call": "nop", "action": "fail", "probability": 2}]})", "probability is not a number from 0 to 1"},
      {R"({"rules": [{"call": "nop", "action": "hang"}]})", "hang is for the call launch alone"},
      {R"({"rules": [{"call": "alloc", "action": "delay", "delay_ms": 1}]})", "delay is for stream commands"},
      {R"({"rules": [{"call": "nop", "action": "fail", "core": 1}]})", "unknown key 'core'\nkeys of a rule:"},
      {R"({"dead_channels": [16]})", "16 in the fault plan is not a whole number up to 15"},
      {R"({"dead_channels": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]})", "leaves no channel alive"},
      {R"({"slow_channels": {"16": 2}})", "slow_channels of the fault plan: \"16\": 2 is no channel"},
      {R"({"slow_channels": {"5": 0.5}})", "slow_channels of the fault plan: \"5\": 0.5 is no channel"},
      {R"({"slow_channels": {"5x": 2}})", "slow_channels of the fault plan: \"5x\": 2 is no channel"},
      {R"({"slow_ingress": 0.5})", "the fault plan has 'slow_ingress', or what it is is wrong"},
      {R"({"bad_rows": 3})", "the fault plan has 'bad_rows'"},
  };
  std::string text;
  for (const auto& [json, what] : wrong) {
    if (!what) continue;
    EXPECT_NE(plan(json, &text).code, BATON_OK) << json;
    EXPECT_THAT(text, HasSubstr(what));
  }
  EXPECT_THAT(report(), HasSubstr(R"("action":"fail","call":"nop","code":"IO","fired":0,"nth":2,"seen":0)"));
  operate.open_stream();
  EXPECT_EQ(operate.call(operate.make(Op::nop)).code, BATON_OK);
  EXPECT_EQ(operate.call(operate.make(Op::nop), {}, 0, &text).code, BATON_IO);
  EXPECT_THAT(text, HasSubstr("nop: failed, by rule 0 of the fault plan\n"));
  EXPECT_EQ(operate.call(operate.make(Op::nop)).code, BATON_OK);
  EXPECT_THAT(report(), HasSubstr(R"("fired":1,"nth":2,"seen":3)"));
  EXPECT_EQ(plan(report()).code, BATON_OK) << "what was read can be written";
  EXPECT_THAT(report(), HasSubstr(R"("fired":0,"nth":2,"seen":0)"));
  EXPECT_EQ(plan("").code, BATON_OK);
  EXPECT_THAT(report(), HasSubstr(R"("rules":[])"));
  EXPECT_EQ(operate.call(operate.make(Op::fault), {}, 4).code, BATON_CAPACITY);
}

TEST_F(Faults, SeedsRepeat) {
  operate.open_stream();
  std::string runs[3];
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(plan(std::string(R"({"seed": )") + (i == 2 ? "8" : "7") + R"(, "rules": [{"call": "*", "probability": 0.5, "action": "fail"}]})").code, BATON_OK);
    for (int n = 0; n < 64; ++n) runs[i] += operate.call(operate.make(Op::nop)).code == BATON_OK ? '.' : 'x';
  }
  EXPECT_EQ(runs[0], runs[1]);
  EXPECT_NE(runs[0], runs[2]);
  EXPECT_THAT(runs[0], HasSubstr("x"));
  EXPECT_THAT(runs[0], HasSubstr("."));
}

TEST_F(Faults, FromAFileAtTheStart) {
  const std::string path = ::testing::TempDir() + "cs3_faults_" + std::to_string(::getpid()) + ".json";
  std::ofstream(path) << R"({"rules": [{"call": "alloc", "times": 1, "action": "fail", "code": "CAPACITY"}]})";
  DaemonProcess planned({"0?sram_gb=0.1&faults=" + path});
  RawClient c(planned);
  EXPECT_EQ(c.call(alloc(4096)).code, BATON_CAPACITY);
  EXPECT_EQ(c.call(alloc(4096)).code, BATON_OK);
  ::unlink(path.c_str());
  DaemonProcess none({"--listen", "127.0.0.1:0", "--faults", path});
  int code = 0;
  EXPECT_TRUE(none.ended_within(10'000, &code));
  EXPECT_EQ(code, 1);
  EXPECT_EQ(none.uri(), "");
}

// Two of sixteen channels dead: 16/14 of the time on the wire, the bytes on the others, and nothing else.
TEST_F(Faults, ADeadChannelTakesItsShareOfTheBandwidth) {
  operate.open_stream();
  const Completion mem = operate.call(alloc(kMiB));
  const auto cost = [&](Op op) { return op == Op::memcpy_h2d ? operate.call(copy(mem), mib).cost_ns : operate.call(copy(mem, op), {}, kMiB).cost_ns; };
  const uint64_t in_before = cost(Op::memcpy_h2d), out_before = cost(Op::memcpy_d2h);
  Submission half = copy(mem, Op::memcpy_h2d, kMiB / 2);
  const uint64_t fixed = 2 * operate.call(half, std::span(mib).first(kMiB / 2)).cost_ns - in_before;
  EXPECT_EQ(plan(R"({"dead_channels": [0, 9]})").code, BATON_OK);
  EXPECT_EQ(operate.info().channels, 14u);
  TelemetryReply t[2];
  const auto telemetry = [&](TelemetryReply& r) {
    operate.call(operate.make(Op::telemetry), {}, sizeof r);
    std::memcpy(&r, operate.answer.data(), sizeof r);
  };
  telemetry(t[0]);
  EXPECT_NEAR(double(cost(Op::memcpy_h2d) - fixed) / double(in_before - fixed), 16.0 / 14, 0.01);
  EXPECT_GT(cost(Op::memcpy_d2h), out_before);
  EXPECT_EQ(operate.answer, mib) << "and nothing else";
  telemetry(t[1]);
  EXPECT_EQ(t[1].channel_bytes[0], t[0].channel_bytes[0]);
  EXPECT_EQ(t[1].channel_bytes[9], t[0].channel_bytes[9]);
  EXPECT_EQ(t[1].channel_bytes[15] - t[0].channel_bytes[15], 2 * (kMiB / 14)) << "both ways, each a fourteenth";
  Submission one = copy(mem);
  one.channels = 1;
  EXPECT_EQ(operate.call(one, mib).code, BATON_OK) << "the only channel is dead: another carries it";
  EXPECT_EQ(plan("").code, BATON_OK);
  EXPECT_EQ(cost(Op::memcpy_h2d), in_before);
}

// A transfer ends with its slowest channel: modelled, and by the difference in wall time. Whoever asks by the operator's connection sees which it is.
TEST_F(Faults, ASlowChannelHoldsTransfersUp) {
  operate.open_stream();
  const Completion mem = operate.call(alloc(kMiB));
  const uint64_t whole = operate.call(copy(mem), mib).cost_ns, half = operate.call(copy(mem, Op::memcpy_h2d, kMiB / 2), std::span(mib).first(kMiB / 2)).cost_ns;
  const uint64_t wire = 2 * (whole - half);  // without what a transaction costs
  WaferOperator op = must(WaferOperator::connect(daemon.uri(), 0, soon()));
  const WaferState before = must(op.state());
  ASSERT_EQ(before.channels.size(), kMaxChannels);
  EXPECT_EQ(before.channels[5].rate, before.channels[6].rate);
  EXPECT_GT(before.channels[5].rate, 0u);
  EXPECT_EQ(before.waited_ns, 0u);
  const uint64_t times = 50'000'000 / wire + 2;  // so that it shows on the clock: 50 ms
  must(op.set_faults(R"({"slow_channels": {"5": )" + std::to_string(times) + "}}"));
  EXPECT_EQ(must(op.state()).channels[6].rate, 0u) << "of the plan before";
  const uint64_t began = now_ns();
  const Completion slow = operate.call(copy(mem), mib);
  EXPECT_GE(now_ns() - began, wire * (times - 1) * 9 / 10);
  EXPECT_NEAR(double(slow.cost_ns - whole), double(wire * (times - 1)), double(wire * times) / 100);
  const WaferState after = must(op.state());
  EXPECT_NEAR(double(after.waited_ns), double(wire * (times - 1)), double(wire * times) / 100);
  EXPECT_NEAR(double(after.channels[6].rate) / double(after.channels[5].rate), double(times), double(times) / 100);
  EXPECT_EQ(after.channels[5].bytes - before.channels[5].bytes, kMiB / 16) << "its share, late";
  operate.call(copy(mem, Op::memcpy_d2h), {}, kMiB);
  EXPECT_EQ(operate.answer, mib);
  Submission few = copy(mem);
  few.channels = 5;
  EXPECT_LT(operate.call(few, mib).cost_ns, slow.cost_ns) << "0 to 4";
  EXPECT_THAT(must(op.faults()), HasSubstr(R"("slow_channels":{"5":)"));
  must(op.set_faults(R"({"dead_channels": [5]})"));
  EXPECT_TRUE(must(op.state()).channels[5].dead);
  EXPECT_LT(operate.call(copy(mem), mib).cost_ns, 2 * whole) << "left out, it holds nobody up";
  must(op.set_faults(""));
  EXPECT_EQ(operate.call(copy(mem), mib).cost_ns, whole);
}

// A plan that ends lets go of what it held up.
TEST_F(Faults, WhatASlowChannelHoldsUpIsLetGoWithItsPlan) {
  operate.open_stream();
  const Completion mem = operate.call(alloc(kMiB));
  EXPECT_EQ(plan(R"({"slow_channels": {"0": 1000000}})").code, BATON_OK);
  const uint64_t held = operate.send(copy(mem), mib);
  WaferOperator op = must(WaferOperator::connect(daemon.uri(), 0, soon()));
  while (must(op.state()).transactions == 0) ::usleep(1000);
  must(op.set_faults(""));
  Completion c{};
  ASSERT_TRUE(operate.next(c));
  EXPECT_EQ(c.id, held);
  EXPECT_EQ(c.code, BATON_OK);
}

// What is held up can be cancelled, and goes with the stream.
TEST_F(Faults, WhatASlowChannelHoldsUpCanBeCancelled) {
  operate.open_stream();
  const Completion mem = operate.call(alloc(kMiB));
  EXPECT_EQ(plan(R"({"slow_channels": {"0": 1000000}})").code, BATON_OK);
  const uint64_t held = operate.send(copy(mem), mib);
  Submission cancel = operate.make(Op::cancel);
  cancel.arg0 = held;
  Completion c{};
  do EXPECT_EQ(operate.call(operate.make(Op::info), {}, sizeof(InfoReply)).code, BATON_OK);
  while (must(must(WaferOperator::connect(daemon.uri(), 0, soon())).state()).transactions == 0);
  const uint64_t asked = operate.send(cancel);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(operate.next(c));
    EXPECT_EQ(c.code, c.id == held ? BATON_CANCELLED : BATON_OK);
    EXPECT_TRUE(c.id == held || c.id == asked);
  }
}

TEST_F(Faults, TheClockIsChangedWhileItRuns) {
  WaferOperator op = must(WaferOperator::connect(daemon.uri(), 0, soon()));
  const uint64_t hz = must(op.clock_hz());
  EXPECT_EQ(hz, 750'000'000u);
  // What a program takes between its first token and its last: ops alone.
  constexpr uint32_t kSteps = 8;
  auto d = must(in.open(daemon.uri()));
  const TinyDecode m = make_decode(kSteps);
  auto program = must(d.load(m.bytes, m.constants));
  auto tokens = must(d.alloc((kSteps + 1) * 4));
  const auto took = [&] {
    auto q = must(d.queue());
    auto done = must(in.timeline("done")), token = must(in.timeline("token"));
    const baton_binding bindings[] = {bind("tokens", tokens)};
    const int64_t args[] = {kSteps, 0};
    must(q.submit({fill(tokens, 0, (kSteps + 1) * 4, 0).signal(done, 1), launch(program, bindings, args).progress(token).wait(done, 1).signal(done, 2)}));
    must(done.wait_until(2, soon()));
    return double(token.modelled_ns(kSteps) - token.modelled_ns(1));
  };
  const double before = took();
  must(op.set_clock_hz(2 * hz));
  EXPECT_EQ(must(op.clock_hz()), 2 * hz);
  EXPECT_NEAR(took() / before, 0.5, 0.01) << "of a program that was loaded before, too";
  EXPECT_EQ(op.set_clock_hz(5).error().code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(must(op.clock_hz()), 2 * hz) << "as it was";
  DaemonProcess none({"0?sram_gb=0.1&timing=none"});
  EXPECT_EQ(must(WaferOperator::connect(none.uri(), 0, soon())).clock_hz().error().code, BATON_UNSUPPORTED);
  EXPECT_EQ(WaferOperator::connect("127.0.0.1:1", 0, soon()).error().code, BATON_NOT_FOUND);
  EXPECT_FALSE(WaferOperator::connect("nonsense", 0, soon()).ok());
  EXPECT_FALSE(WaferOperator::connect(daemon.uri(), 1, soon()).ok()) << "it has one wafer";
}

TEST_F(Faults, SlowIngressIsSlowInwardAlone) {
  operate.open_stream();
  const Completion mem = operate.call(alloc(kMiB));
  const uint64_t in_before = operate.call(copy(mem), mib).cost_ns, out_before = operate.call(copy(mem, Op::memcpy_d2h), {}, kMiB).cost_ns;
  EXPECT_EQ(plan(R"({"slow_ingress": 10})").code, BATON_OK);
  EXPECT_GT(operate.call(copy(mem), mib).cost_ns, in_before + 5 * (in_before / 4));
  EXPECT_EQ(operate.call(copy(mem, Op::memcpy_d2h), {}, kMiB).cost_ns, out_before);
}

TEST_F(Faults, BadRowsAreListedAndRefused) {
  EXPECT_EQ(plan(R"({"bad_rows": [40, 7, 7]})").code, BATON_OK);
  const InfoReply i = operate.info();
  ASSERT_EQ(i.bad_row_count, 2u);
  EXPECT_EQ(i.bad_rows[0], 7u);
  EXPECT_EQ(i.bad_rows[1], 40u);
  operate.open_stream();
  const auto symbol = [&](const char* name, uint16_t y, uint16_t h, std::string* text) {
    Submission s = operate.make(Op::symbol);
    s.y = y, s.w = 2, s.h = h, s.elements_per_pe = 1;
    return operate.call(s, {reinterpret_cast<const uint8_t*>(name), 1}, 0, text);
  };
  std::string text;
  EXPECT_EQ(symbol("A", 5, 3, &text).code, BATON_UNSUPPORTED);
  EXPECT_THAT(text, HasSubstr("row 7 of PEs is bad (fault plan), and 2x3 at (0, 5) lies on it\nplacement's bug: route around"));
  const Completion around = symbol("A", 8, 30, &text);
  EXPECT_EQ(around.code, BATON_OK) << text;
  EXPECT_EQ(plan(R"({"bad_rows": [9]})").code, BATON_OK);  // it goes bad later
  Submission s = operate.make(Op::memcpy_h2d);
  s.symbol = uint16_t(around.handle);
  s.y = 8, s.w = 2, s.h = 30, s.elements_per_pe = 1;
  s.bytes = s.total = 240;
  EXPECT_EQ(operate.call(s, std::vector<uint8_t>(240), 0, &text).code, BATON_UNSUPPORTED);
  EXPECT_THAT(text, HasSubstr("row 9 of PEs is bad"));
}

TEST_F(Faults, DelaysAreWaitedForAndModelled) {
  operate.open_stream();
  const Completion mem = operate.call(alloc(kMiB));
  const uint64_t before = operate.call(copy(mem), mib).cost_ns;
  EXPECT_EQ(plan(R"({"rules": [{"call": "memcpy_h2d", "action": "delay", "delay_ms": 30}]})").code, BATON_OK);
  RawClient other(daemon);
  const uint64_t begin = now_ns();
  operate.send(copy(mem), mib);
  EXPECT_GE(other.info().sessions, 2u) << "others are served meanwhile";
  Completion done{};
  ASSERT_TRUE(operate.next(done));
  EXPECT_GE(now_ns() - begin, 30'000'000u);
  EXPECT_EQ(done.cost_ns, before + 30'000'000);
}

// The kernel that never unblocks the stream: what is behind it hangs, as on the real one; all else is served. Whoever cancels hears why.
TEST_F(Faults, AKernelThatNeverUnblocksHangsTheStream) {
  EXPECT_EQ(plan(R"({"rules": [{"call": "launch", "nth": 1, "action": "hang"}]})").code, BATON_OK);
  const TinyDecode m = make_decode(4);
  auto d = must(in.open(daemon.uri()));
  auto program = must(d.load(m.bytes, m.constants));
  auto tokens = must(d.alloc(20));
  auto done = must(in.timeline("done"));
  {
    auto q = must(d.queue());
    const baton_binding bindings[] = {bind("tokens", tokens)};
    const int64_t args[] = {4, 0};
    must(q.submit({fill(tokens, 0, 20, 0).signal(done, 1), launch(program, bindings, args).wait(done, 1).signal(done, 2), nop().wait(done, 2).signal(done, 3)}));
    must(done.wait_until(1, soon()));
    const Status late = done.wait_until(2, deadline_in_ms(150));
    ASSERT_FALSE(late.ok());
    EXPECT_EQ(late.error().code, BATON_DEADLINE);
    EXPECT_GT(must(d.info()).heaps[0].bytes_used, 0u) << "the rest is served";
    done.poison(late.error());
    EXPECT_EQ(done.wait_until(3, soon()).error().code, BATON_DEADLINE);
    must(d.reset_device());  // there is no cancel on a CS-3: the run is given up
  }
  auto again = must(d.alloc(20));
  must(run(d, {fill(again, 0, 20, 1)}));
  EXPECT_EQ(must(d.telemetry()).launches, 0u);
}

class HungLaunch : public Faults, public ::testing::WithParamInterface<bool> {};  // in a slot, or in the stream

TEST_P(HungLaunch, WhoeverCancelsItHearsWhoseBugItIs) {
  EXPECT_EQ(plan(R"({"rules": [{"call": "launch", "action": "hang"}]})").code, BATON_OK);
  operate.open_stream();
  program::Builder b("unit");
  const uint32_t x = b.value("x", program::DType::f32, program::Storage::input, {1, 4}), y = b.value("y", program::DType::f32, program::Storage::output, {1, 4});
  b.program().ops.push_back({.code = program::OpCode::add, .in = {x, x}, .out = {y}});
  const auto bytes = program::serialize(must(std::move(b).finish()));
  Submission s = operate.make(Op::load_begin);
  s.bytes = bytes.size();
  const uint32_t program = operate.call(s).handle;
  s = operate.make(Op::load_program);
  s.program = program;
  EXPECT_EQ(operate.call(s, bytes).code, BATON_OK);
  s = operate.make(Op::load_finish);
  s.program = program;
  EXPECT_EQ(operate.call(s).code, BATON_OK);
  const Completion mem = operate.call(alloc(4096));
  std::vector<uint8_t> table(sizeof(LaunchHead) + 2 * sizeof(LaunchBinding));
  const LaunchHead head{2, 0, 0};
  std::memcpy(table.data(), &head, sizeof head);
  for (int i = 0; i < 2; ++i) {
    LaunchBinding w{{}, mem.handle, 0, mem.address + uint64_t(i) * 64, 16};
    w.name[0] = i ? 'y' : 'x';
    std::memcpy(table.data() + sizeof head + size_t(i) * sizeof w, &w, sizeof w);
  }
  Submission launch = operate.make(Op::launch);
  launch.program = program;
  if (GetParam()) launch.flags = kInSlot;
  std::string text;
  for (const bool stop : {false, true}) {
    ++launch.arg1;
    const uint64_t hung = operate.send(launch, table), behind = operate.send(operate.make(Op::nop));
    EXPECT_EQ(operate.info().programs, 1u) << "control commands are answered";
    Submission end = operate.make(stop ? Op::stop : Op::cancel);
    end.arg0 = hung;
    operate.send(end);
    Completion done{};
    ASSERT_TRUE(operate.next(done, &text));
    EXPECT_EQ(done.id, hung);
    EXPECT_EQ(done.code, BATON_CANCELLED);
    EXPECT_THAT(text, HasSubstr("the kernel's bug: launch " + std::to_string(hung) + " never unblocked the command stream"));
    EXPECT_THAT(text, HasSubstr("(rule 0 of the fault plan)\nthe kernel must call sys_mod.unblock_cmd_stream()"));
    for (int left = 2; left > 0; --left) {
      ASSERT_TRUE(operate.next(done, &text));
      if (done.id != behind) continue;
      EXPECT_EQ(done.code, stop ? BATON_CANCELLED : BATON_OK);
      if (stop) {
        EXPECT_THAT(text, HasSubstr("what is behind it did not run"));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Faults, HungLaunch, ::testing::Bool());

// A rule meets a launch where it leaves the stream: it fails, or starts so much later; a wafer that is lost ends what is in its slots.
TEST_F(Faults, LaunchesInSlotsMeetThePlan) {
  const TinyDecode m = make_decode(4);
  auto d = must(in.open(daemon.uri()));
  auto program = must(d.load(m.bytes, m.constants));
  auto tokens = must(d.alloc(20));
  const baton_binding bindings[] = {bind("tokens", tokens)};
  const int64_t args[] = {4, 0};
  const auto took = [&] {
    auto q = must(d.queue());
    auto done = must(in.timeline("done"));
    must(q.submit({fill(tokens, 0, 20, 0).signal(done, 1), launch(program, bindings, args).wait(done, 1).signal(done, 2)}));
    must(done.wait_until(2, soon()));
    return done.modelled_ns(2) - done.modelled_ns(1);
  };
  const uint64_t before = took();
  EXPECT_EQ(plan(R"({"rules": [{"call": "launch", "action": "delay", "delay_ms": 20}]})").code, BATON_OK);
  EXPECT_NEAR(double(took()), double(before + 20'000'000), 1e6) << "behind what its slot did before";
  EXPECT_EQ(plan(R"({"rules": [{"call": "launch", "action": "fail", "code": "IO"}]})").code, BATON_OK);
  const Status failed = run(d, {launch(program, bindings, args)});
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, BATON_IO);
  EXPECT_THAT(failed.error().what, HasSubstr("rule 0 of the fault plan"));
  EXPECT_EQ(plan(R"({"rules": [{"call": "launch", "action": "lose_wafer"}]})").code, BATON_OK);
  const Status lost = run(d, {launch(program, bindings, args)});
  ASSERT_FALSE(lost.ok());
  EXPECT_STREQ(baton_code_name(lost.error().code), "DEVICE_LOST");
  EXPECT_EQ(plan("{}").code, BATON_OK);
  must(d.reset_device());
  auto again = must(d.alloc(20));
  must(run(d, {fill(again, 0, 20, 1)}));
}

TEST_F(Faults, ADroppedLinkIsALossAndResetReconnects) {
  for (const char* carrier : {"?carrier=shm", "?carrier=tcp"}) {
    auto d = must(in.open(daemon.uri() + carrier));
    auto b = must(d.alloc(kMiB));
    EXPECT_EQ(plan(R"({"rules": [{"call": "fill", "nth": 2, "action": "drop_link"}]})").code, BATON_OK);
    must(run(d, {fill(b, 0, kMiB, 1)}));
    const Status lost = run(d, {fill(b, 0, kMiB, 1)});
    ASSERT_FALSE(lost.ok());
    EXPECT_STREQ(baton_code_name(lost.error().code), "DEVICE_LOST");
    must(d.reset_device());
    auto again = must(d.alloc(kMiB));
    must(run(d, {fill(again, 0, kMiB, 1)}));
  }
  RawClient other(daemon);
  EXPECT_EQ(other.info().epoch, 1u) << "the wafer itself was never reset";
}

// Sticky until a reset; the epoch rises, others are told, and then it goes on.
TEST_F(Faults, ALostWaferStaysLostUntilAReset) {
  auto d = must(in.open(daemon.uri()));
  auto b = must(d.alloc(kMiB));
  must(run(d, {fill(b, 0, kMiB, 1)}));
  operate.open_stream();
  EXPECT_EQ(plan(R"({"rules": [{"call": "fill", "nth": 1, "action": "lose_wafer"}]})").code, BATON_OK);
  const Status lost = run(d, {fill(b, 0, kMiB, 1), nop()});
  ASSERT_FALSE(lost.ok());
  EXPECT_STREQ(baton_code_name(lost.error().code), "DEVICE_LOST");
  EXPECT_THAT(lost.error().what, HasSubstr("the wafer is lost, by rule 0 of the fault plan"));
  std::string text;
  EXPECT_EQ(operate.call(operate.make(Op::nop), {}, 0, &text).code, BATON_DEVICE_LOST) << "for every client";
  EXPECT_EQ(operate.call(alloc(4096)).code, BATON_DEVICE_LOST);
  EXPECT_EQ(operate.info().lost, 1u);
  const uint64_t epoch = operate.info().epoch;
  must(d.reset_device());
  EXPECT_EQ(operate.info().lost, 0u);
  EXPECT_EQ(operate.info().epoch, epoch + 1);
  EXPECT_TRUE(operate.lost) << "the other client is told";
  auto again = must(d.alloc(kMiB));
  must(run(d, {fill(again, 0, kMiB, 1)}));
}

TEST_F(Faults, KilledByThePlan) {
  auto d = must(in.open(daemon.uri()));
  auto b = must(d.alloc(kMiB));
  EXPECT_EQ(plan(R"({"rules": [{"call": "fill", "nth": 3, "action": "kill"}]})").code, BATON_OK);
  must(run(d, {fill(b, 0, kMiB, 1), fill(b, 0, kMiB, 2)}));
  EXPECT_FALSE(run(d, {fill(b, 0, kMiB, 3)}).ok());
  EXPECT_EQ(daemon.end(), 128 + SIGKILL);
}

// What the driver's copies cost on the wire: the bytes, over all channels, in the cheap order.
TEST_F(Faults, TheDriversCopiesWasteNoWire) {
  const auto telemetry = [&] {
    TelemetryReply t{};
    operate.call(operate.make(Op::telemetry), {}, sizeof t);
    std::memcpy(&t, operate.answer.data(), sizeof t);
    return t;
  };
  operate.open_stream();
  const Completion mem = operate.call(alloc(4 * kMiB));
  Submission ideal = copy(mem);
  ideal.total = 4 * kMiB;  // as if it were the last chunk
  const uint64_t best = operate.call(ideal, mib).cost_ns;
  auto host = must(in.open("host://"));
  for (const char* carrier : {"?carrier=shm", "?carrier=tcp"}) {
    auto d = must(in.open(daemon.uri() + carrier));
    auto wafer = must(d.alloc(4 * kMiB)), kv = must(host.alloc(4 * kMiB));
    const TelemetryReply before = telemetry();
    auto link = must(in.link(host, d)), back = must(in.link(d, host));
    auto t = must(in.timeline("t"));
    must(link.submit(baton::copy(kv, 0, wafer, 0, 4 * kMiB).signal(t, 1)));
    must(t.wait_until(1, soon()));
    EXPECT_EQ(t.modelled_ns(1), best);
    must(back.submit(baton::copy(wafer, 0, kv, 0, 4 * kMiB).signal(t, 2)));
    must(t.wait_until(2, soon()));
    const TelemetryReply after = telemetry();
    EXPECT_EQ(after.transactions - before.transactions, 2u);
    EXPECT_EQ(after.bytes_in - before.bytes_in, 4 * kMiB);
    EXPECT_EQ(after.wire_bytes_in - before.wire_bytes_in, 4 * kMiB) << "packed two a wavelet";
    EXPECT_EQ(after.wire_bytes_out - before.wire_bytes_out, 4 * kMiB);
    for (uint32_t i = 0; i < kMaxChannels; ++i) EXPECT_EQ(after.channel_bytes[i] - before.channel_bytes[i], 8 * kMiB / kMaxChannels);
  }
}

}  // namespace
}  // namespace baton::cs3::test
