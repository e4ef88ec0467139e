// LAUNCH on the host device: the engine, seen through the public API.
#include "hal/program/program.hpp"
#include "tests/unit/hal_test.hpp"

namespace baton::test {
namespace {

using namespace baton::program;
using ::testing::HasSubstr;

constexpr int64_t kWidth = 256, kRows = 16;

// y = 2^layers * x, a mark after each layer.
std::vector<uint8_t> doubling(int layers) {
  Builder b("doubling");
  b.program().max_tokens = kRows;
  b.program().max_context = kRows;
  b.program().args = {Arg::tokens, Arg::position};
  uint32_t x = b.value("x", DType::f32, Storage::input, {kTokens, kWidth});
  uint32_t y = b.value("y", DType::f32, Storage::output, {kTokens, kWidth});
  uint32_t w = b.constant("w", DType::f32, {kWidth, kWidth});
  uint32_t h = x;
  for (int i = 0; i < layers; ++i) {
    h = b.matmul(h, w, Act::f32, 1, -1, i + 1 == layers ? int64_t(y) : -1);
    b.mark();
  }
  return serialize(must(std::move(b).finish()));
}

class LaunchTest : public HalTest {
 protected:
  void SetUp() override {
    weights.assign(kWidth * kWidth, 0.0f);
    for (int64_t i = 0; i < kWidth; ++i) weights[size_t(i * kWidth + i)] = 2.0f;
  }
  baton::Program load(const Device& d, const std::vector<uint8_t>& bytes) {
    baton_constant c{"w", weights.data(), weights.size() * sizeof(float)};
    return must(d.load(bytes, {&c, 1}));
  }
  std::vector<float> weights;
  const int64_t args[2] = {kRows, 0};
};

TEST_F(LaunchTest, ComputesWithEveryIsaAndThreadCount) {
  for (const char* uri : {"host://", "host://?isa=scalar", "host://?threads=2", "host://two?isa=auto&threads=2"}) {
    Device d = open(uri);
    baton::Program p = load(d, doubling(3));
    Queue q = must(d.queue());
    Buffer io = must(d.alloc(2 * kRows * kWidth * 4));
    auto* x = static_cast<float*>(must(io.map()));
    for (int i = 0; i < kRows * kWidth; ++i) x[i] = float(i % 100);
    Timeline marks = timeline("marks"), done = timeline("done");
    const uint64_t half = kRows * kWidth * 4;
    baton_binding bindings[] = {bind("x", io, 0, half), bind("y", io, half)};  // 0 bytes: to the end
    EXPECT_OK(q.submit(launch(p, bindings, args).progress(marks, 10).signal(done, 1)));
    EXPECT_OK(done.wait_until(1, soon()));
    EXPECT_EQ(must(marks.value()), 13u);
    EXPECT_EQ(done.modelled_ns(1), 0u);  // no timing model
    for (int i = 0; i < kRows * kWidth; ++i) ASSERT_EQ(x[kRows * kWidth + i], 8.0f * float(i % 100)) << i;
    EXPECT_EQ(must(d.telemetry()).launches, 1u);
  }
}

TEST_F(LaunchTest, ProgressIsSeenAsItHappensAndOtherQueuesGetTheirTurn) {
  Device d = open("host://?isa=scalar"), other = open("host://other");
  const uint64_t layers = 200;
  baton::Program p = load(d, doubling(int(layers)));
  Queue q = must(d.queue()), q2 = must(other.queue());
  Buffer x = must(d.alloc(kRows * kWidth * 4)), y = must(d.alloc(kRows * kWidth * 4));
  Timeline marks = timeline("marks"), done = timeline("done"), seen = timeline("seen");
  baton_binding bindings[] = {bind("x", x), bind("y", y)};
  EXPECT_OK(q.submit(launch(p, bindings, args).progress(marks).signal(done, 1)));
  EXPECT_OK(q2.submit(nop().wait(marks, 1).signal(seen, 1)));
  EXPECT_OK(seen.wait_until(1, soon()));
  EXPECT_EQ(must(done.value()), 0u);  // 200 layers take much longer than one
  EXPECT_OK(done.wait_until(1, deadline_in_ms(60'000)));
  EXPECT_EQ(must(marks.value()), layers);
}

TEST_F(LaunchTest, PoisoningItsTimelineStopsItAtTheNextMark) {
  Device d = open("host://?isa=scalar");
  baton::Program p = load(d, doubling(2000));
  Queue q = must(d.queue());
  Buffer x = must(d.alloc(kRows * kWidth * 4)), y = must(d.alloc(kRows * kWidth * 4));
  Timeline marks = timeline("marks"), done = timeline("done"), next = timeline("next");
  baton_binding bindings[] = {bind("x", x), bind("y", y)};
  EXPECT_OK(q.submit({launch(p, bindings, args).progress(marks).signal(done, 1), nop().signal(next, 1)}));
  EXPECT_OK(marks.wait_until(1, soon()));
  done.poison(Error(BATON_DEADLINE, "the request took too long"));
  EXPECT_OK(next.wait_until(1, soon()));  // the lane is free again
  EXPECT_CODE(marks.wait_until(2000, soon()), BATON_CANCELLED);
  EXPECT_CODE(done.wait_until(1), BATON_DEADLINE);  // the first cause
}

TEST_F(LaunchTest, WhatDoesNotFitFailsWithTheEnginesWords) {
  Device d = open("host://");
  auto bytes = doubling(1);
  baton::Program p = load(d, bytes);
  Queue q = must(d.queue());
  Buffer x = must(d.alloc(kRows * kWidth * 4)), y = must(d.alloc(64));
  Timeline done = timeline("done"), later = timeline("later");
  baton_binding small[] = {bind("x", x), bind("y", y)};
  EXPECT_OK(q.submit(launch(p, small, args).signal(done, 1)));
  Status s = done.wait_until(1, soon());
  EXPECT_CODE(s, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(s.error().what, HasSubstr("y"));
  EXPECT_STREQ(s.error().device, "host://");
  EXPECT_EQ(must(d.telemetry()).ops_failed, 1u);

  baton_constant c{"w", weights.data(), 12};
  EXPECT_FALSE(d.load(bytes, {&c, 1}).ok());
  EXPECT_FALSE(d.load(bytes, {}).ok());
  bytes.resize(bytes.size() / 2);
  EXPECT_CODE(d.load(bytes, {}), BATON_CORRUPT);
}

TEST_F(LaunchTest, TheCoreChecksProgramsAndBindings) {
  Device d = open("host://"), e = open("host://e"), fake = open("fake://");
  baton::Program p = load(d, doubling(1));
  Queue q = must(d.queue()), qe = must(e.queue());
  Buffer x = must(d.alloc(64)), elsewhere = must(e.alloc(64));
  baton_binding foreign[] = {bind("x", x), bind("y", elsewhere)};
  Status s = q.submit(launch(p, foreign, args));
  EXPECT_CODE(s, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(s.error().what, HasSubstr("binding 'y' is memory of host://e, not of host://"));
  baton_binding past[] = {bind("x", x, 60, 5)};
  EXPECT_CODE(q.submit(launch(p, past, args)), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(qe.submit(launch(p, {}, args)), BATON_INVALID_ARGUMENT);
  baton::Program on_lane_1 = must(fake.load(std::vector<uint8_t>{1}, {}, 1));
  Queue lane_0 = must(fake.queue(0));
  EXPECT_CODE(lane_0.submit(launch(on_lane_1, {}, {})), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(d.load(doubling(1), {}, 3), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(d.load(doubling(1), {}, 0, 0, 2), BATON_UNSUPPORTED);
}

TEST_F(LaunchTest, UnloadedInFlightItStaysUntilTheLaunchIsOver) {
  Device d = open("host://?isa=scalar");
  Queue q = must(d.queue());
  Buffer x = must(d.alloc(kRows * kWidth * 4)), y = must(d.alloc(kRows * kWidth * 4));
  Timeline done = timeline("done");
  baton_binding bindings[] = {bind("x", x), bind("y", y)};
  {
    baton::Program p = load(d, doubling(100));
    EXPECT_OK(q.submit(launch(p, bindings, args).signal(done, 1)));
  }
  EXPECT_OK(done.wait_until(1, soon()));
}

}  // namespace
}  // namespace baton::test
