// A program cut into stages, the stages as they run, and the calendar that says when a wafer has time: in one process, without a wafer.
#include "emulators/cs3/stage.h"
#include "tests/unit/cs3_pipeline.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>

namespace baton::cs3::test {
namespace {

using ::testing::HasSubstr;

// ---- the calendar ----

TEST(Calendar, GivesTheFirstGapThatIsLongEnough) {
  Calendar c;
  EXPECT_EQ(c.take(100, 50), 150u);
  EXPECT_EQ(c.take(120, 10), 160u) << "behind what is there";
  EXPECT_EQ(c.take(0, 30), 30u) << "before it, though told later";
  EXPECT_EQ(c.take(0, 100), 260u) << "70 are free before: not enough";
  EXPECT_EQ(c.take(10, 70), 100u) << "just enough";
  EXPECT_EQ(c.take(500, 0), 500u) << "nothing takes no time";
  EXPECT_EQ(c.take(189, 5), 265u);
}

// Against a line of nanoseconds, each free or taken.
TEST(Calendar, IsALineOfTime) {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    std::mt19937 random(seed);
    Calendar c;
    std::vector<uint8_t> taken(40'000);
    for (int i = 0; i < 300; ++i) {
      const uint64_t ready = random() % 3000, cost = random() % (seed % 2 ? 40 : 5);
      uint64_t at = ready;
      for (uint64_t free = 0; free < cost; ++at) free = taken[at] ? 0 : free + 1;
      std::fill(taken.begin() + ptrdiff_t(at - cost), taken.begin() + ptrdiff_t(at), uint8_t(1));
      ASSERT_EQ(c.take(ready, cost), at) << "seed " << seed << ", work " << i;
    }
  }
}

TEST(Calendar, ForgetsTheOldestAndNoMore) {
  Calendar c;
  for (uint64_t i = 0; i < kMostBusy + 10; ++i) ASSERT_EQ(c.take(i * 10, 5), i * 10 + 5);
  EXPECT_EQ(c.take(0, 3), 3u) << "forgotten: counts as free";
  EXPECT_EQ(c.take((kMostBusy + 5) * 10, 3), (kMostBusy + 5) * 10 + 8) << "remembered";
}

// ---- the cut ----

program::Program pipeline_of(const whole::Model& m, const std::vector<uint32_t>& layers) {
  auto p = build_pipeline(m, whole::random_weights(m), layers).finish();
  EXPECT_TRUE(p.ok()) << p.error().what;
  return std::move(*p);
}

size_t count(const program::Program& p, program::OpCode code) {
  return size_t(std::count_if(p.ops.begin(), p.ops.end(), [&](const program::Op& o) { return o.code == code; }));
}

TEST(CutStages, EachHasTheLayersOfItsCacheAndTheirWeights) {
  const whole::Model m = small_model(5);
  const program::Program p = pipeline_of(m, {2, 1, 2});
  auto cut = cut_stages(p);
  ASSERT_TRUE(cut.ok()) << cut.error().what;
  ASSERT_EQ(cut->list.size(), 3u);
  EXPECT_EQ(cut->tokens, "ids");
  size_t ops = 0, constants = 0;
  for (size_t i = 0; i < 3; ++i) {
    const StageProgram& s = cut->list[i];
    EXPECT_TRUE(program::verify(s.program).ok());
    EXPECT_EQ(count(s.program, program::OpCode::attention), (std::vector<size_t>{2, 1, 2})[i]);
    EXPECT_EQ(count(s.program, program::OpCode::embed), i == 0);
    EXPECT_EQ(count(s.program, program::OpCode::sample), i == 2);
    EXPECT_EQ(s.tokens, i != 1);
    EXPECT_EQ(s.in_bytes, i == 0 ? 0 : m.hidden * 4) << "the residual stream alone";
    EXPECT_EQ(s.out_bytes, i == 2 ? 0 : m.hidden * 4);
    EXPECT_EQ(s.marks, i == 2);
    EXPECT_EQ(s.marks_before, 0u);
    ops += s.program.ops.size();
    constants += s.constants.size();
    for (const std::string& name : s.constants)
      if (name[0] == 'l' && name != "lm_head") {
        EXPECT_EQ(name[1] - '0' < 2 ? 0 : name[1] - '0' < 3 ? 1 : 2, int(i)) << name;
      }
  }
  EXPECT_EQ(ops, p.ops.size()) << "each op once";
  const auto all = std::count_if(p.values.begin(), p.values.end(), [](const program::Value& v) { return v.storage == program::Storage::constant; });
  EXPECT_EQ(constants, size_t(all) + 2) << "inv_freq is on every wafer";
}

TEST(CutStages, AProgramOfOneCacheIsLeftWhole) {
  const program::Program p = pipeline_of(small_model(3), {3});
  auto cut = cut_stages(p);
  ASSERT_TRUE(cut.ok());
  ASSERT_EQ(cut->list.size(), 1u);
  EXPECT_EQ(cut->list[0].program.ops.size(), p.ops.size());
  EXPECT_EQ(cut->list[0].program.name, p.name);
}

TEST(CutStages, WhatIsNoPipelineIsRefusedWithItsReason) {
  const whole::Model m = small_model(3);
  const whole::Weights w = whole::random_weights(m);
  // Caches in turns: the first again after the second.
  {
    whole::BuildState s{program::Builder("turns"), w, {}};
    program::Program& p = s.b.program();
    p.max_tokens = m.max_tokens, p.max_context = m.max_context, p.args = {program::Arg::tokens, program::Arg::position};
    const uint32_t ids = s.b.value("ids", program::DType::i32, program::Storage::input, {program::kTokens});
    const uint32_t table = s.b.value("table", program::DType::i32, program::Storage::input, {int64_t(m.blocks())});
    const uint32_t a = s.b.value("a", m.kv_dtype, program::Storage::cache, {int64_t(m.cache_elements())}), b = s.b.value("b", m.kv_dtype, program::Storage::cache, {int64_t(m.cache_elements())});
    uint32_t x = s.b.embed(ids, s.constant("embed"));
    x = whole::build_layer(s, m, 1, 0, x, table, a);
    x = whole::build_layer(s, m, 1, 1, x, table, b);
    whole::build_layer(s, m, 1, 2, x, table, a);
    auto p2 = std::move(s.b).finish();
    ASSERT_TRUE(p2.ok()) << p2.error().what;
    auto cut = cut_stages(*p2);
    ASSERT_FALSE(cut.ok());
    EXPECT_EQ(cut.error().code, BATON_UNSUPPORTED);
    EXPECT_THAT(cut.error().what, HasSubstr("'a' and 'b' are used in turns"));
    EXPECT_STRNE(cut.error().next, "");
  }
  // The embedding is used again behind the border: two values would cross.
  {
    whole::BuildState s{program::Builder("skip"), w, {}};
    program::Program& p = s.b.program();
    p.max_tokens = m.max_tokens, p.max_context = m.max_context, p.args = {program::Arg::tokens, program::Arg::position};
    const uint32_t ids = s.b.value("ids", program::DType::i32, program::Storage::input, {program::kTokens});
    const uint32_t table = s.b.value("table", program::DType::i32, program::Storage::input, {int64_t(m.blocks())});
    const uint32_t a = s.b.value("a", m.kv_dtype, program::Storage::cache, {int64_t(m.cache_elements())}), b = s.b.value("b", m.kv_dtype, program::Storage::cache, {int64_t(m.cache_elements())});
    const uint32_t first = s.b.embed(ids, s.constant("embed"));
    uint32_t x = whole::build_layer(s, m, 1, 0, first, table, a);
    x = whole::build_layer(s, m, 1, 1, x, table, b);
    const uint32_t y = s.b.value("y", program::DType::f32, program::Storage::output, {program::kTokens, m.hidden});
    p.ops.push_back({.code = program::OpCode::add, .in = {x, first}, .out = {y}});
    auto p2 = std::move(s.b).finish();
    ASSERT_TRUE(p2.ok()) << p2.error().what;
    auto cut = cut_stages(*p2);
    ASSERT_FALSE(cut.ok());
    EXPECT_THAT(cut.error().what, HasSubstr("more than one value would cross"));
  }
}

// ---- stages that run ----

class FlatCost final : public engine::CostModel {
 public:
  std::string name() const override { return "flat"; }
  double launch_ns() const override { return 1000; }
  double op_ns(const engine::OpWork&) const override { return 10; }
  double copy_ns(uint64_t, bool) const override { return 0; }
  double hop_ns(uint64_t) const override { return 500; }
};

// All stages of one program, each with an inbox; what they say goes straight to the next.
class Pipeline {
 public:
  Pipeline(const whole::Model& m, const std::vector<uint32_t>& layers, const engine::CostModel* cost) : weights_(whole::random_weights(m)) {
    auto p = build_pipeline(m, weights_, layers).finish();
    EXPECT_TRUE(p.ok()) << p.error().what;
    auto cut = cut_stages(*p);
    EXPECT_TRUE(cut.ok()) << cut.error().what;
    stages_ = std::move(*cut);
    cost_ = cost;
    programs.reserve(stages_.list.size());
    for (const StageProgram& s : stages_.list) {
      auto loaded = LoadedStageProgram::load(s.program, weights_, cost);
      EXPECT_TRUE(loaded.ok()) << loaded.error().what;
      programs.push_back(std::move(*loaded));
    }
    inbox.resize(programs.size());
    calendar.resize(programs.size());
    stage.resize(programs.size());
  }
  size_t size() const { return programs.size(); }
  void start(size_t i, uint64_t number, uint32_t steps, bool stop = false) {
    Stage::Plan plan;
    plan.number = number;
    plan.stage = uint8_t(i);
    plan.stages = uint8_t(size());
    plan.launch_ns = cost_ ? uint64_t(cost_->launch_ns()) : 0;
    plan.progress = true;
    const uint32_t row = 16 * 4;
    if (i > 0) plan.input = std::span<uint8_t>(), plan.own_bytes[1] = row;
    if (i + 1 < size()) plan.output = std::span<uint8_t>(), plan.own_bytes[2] = row;
    std::vector<engine::Binding> bindings;
    for (const engine::Binding& b : programs[i].bindings) {
      if (b.name != "ids") bindings.push_back(b);
      else if (i == 0) plan.tokens = b.data.first((steps + 1) * 4), bindings.push_back({b.name, *plan.tokens});
      else plan.tokens = std::span<uint8_t>(), plan.own_bytes[3] = (steps + 1) * 4;
    }
    const char* names[4] = {nullptr, kStageIn, kStageOut, "ids"};
    Stage::Tell tell;
    tell.send = [this, i](StageMessage&& m) { inbox[(i + 1) % size()].push(std::move(m)); };
    tell.mark = [this](uint64_t k, uint64_t at) { marks.push_back({k, at}); };
    const std::vector<int64_t> args = decode_args(steps, stop);
    stage[i] = std::make_unique<Stage>(plan, *programs[i].exe, std::move(bindings), args, names, calendar[i], cost_, std::move(tell));
  }
  // Until all are over or nothing can be done.
  void run() {
    for (bool any = true; any;) {
      any = false;
      for (size_t i = 0; i < size(); ++i)
        while (stage[i] && stage[i]->ready(inbox[i])) {
          any = true;
          if (stage[i]->step(inbox[i]) == Stage::Went::over) over.push_back({i, stage[i]->error()}), stage[i].reset();
        }
    }
  }
  std::vector<int32_t> tokens(uint32_t steps) {
    std::vector<int32_t> t(steps + 1);
    std::memcpy(t.data(), programs[0].tokens->data(), t.size() * 4);
    return t;
  }
  std::vector<LoadedStageProgram> programs;
  std::vector<Inbox> inbox;
  std::vector<Calendar> calendar;
  std::vector<std::unique_ptr<Stage>> stage;
  struct Mark {
    uint64_t k, at;
  };
  std::vector<Mark> marks;
  struct Over {
    size_t stage;
    Error error;
  };
  std::vector<Over> over;

 private:
  whole::Weights weights_;
  Stages stages_;
  const engine::CostModel* cost_ = nullptr;
};

// The same program as one, on the engine alone: tokens, and its modelled time.
std::pair<std::vector<int32_t>, uint64_t> alone(const whole::Model& m, uint32_t steps, int32_t first, const engine::CostModel* cost, bool stop = false) {
  const whole::Weights w = whole::random_weights(m);
  auto p = build_pipeline(m, w, {m.layers}).finish();
  auto l = LoadedStageProgram::load(*p, w, cost);
  EXPECT_TRUE(l.ok()) << l.error().what;
  std::memcpy(l->tokens->data(), &first, 4);
  std::vector<engine::Binding> bindings;
  for (const engine::Binding& b : l->bindings) bindings.push_back(b.name == "ids" ? engine::Binding{b.name, b.data.first((steps + 1) * 4)} : b);
  const std::vector<int64_t> args = decode_args(steps, stop);
  engine::Run run(*l->exe, bindings, args, {});
  engine::Step s;
  while ((s = run.step()) == engine::Step::more) {}
  EXPECT_EQ(s, engine::Step::done) << run.error().what;
  std::vector<int32_t> t(steps + 1);
  std::memcpy(t.data(), l->tokens->data(), t.size() * 4);
  return {t, run.modelled_ns()};
}

TEST(Stage, APipelineMakesTheTokensOfTheWholeProgramAtTheTimeThatHopsAdd) {
  const FlatCost cost;
  for (const std::vector<uint32_t>& layers : {std::vector<uint32_t>{1, 2}, {1, 1, 1}, {2, 1}}) {
    const whole::Model m = small_model(3);
    Pipeline p(m, layers, &cost);
    const int32_t first = 7;
    std::memcpy(p.programs[0].tokens->data(), &first, 4);
    constexpr uint32_t kSteps = 9;
    for (size_t i = p.size(); i-- > 0;) p.start(i, 1, kSteps);  // in any order
    p.run();
    ASSERT_EQ(p.over.size(), p.size());
    for (const auto& o : p.over) EXPECT_EQ(o.error.code, BATON_OK) << o.error.what;
    EXPECT_EQ(p.tokens(kSteps), alone(m, kSteps, first, &cost).first);
    ASSERT_EQ(p.marks.size(), kSteps);
    const uint64_t n = p.size();
    for (uint64_t k = 1; k <= kSteps; ++k) {
      EXPECT_EQ(p.marks[k - 1].k, k);
      // Each token crosses every border, and the one before it went back to the first stage.
      EXPECT_EQ(p.marks[k - 1].at, alone(m, uint32_t(k), first, &cost).second + (k * (n - 1) + (k - 1)) * 500);
    }
  }
}

TEST(Stage, AStopTokenEndsAllOfThem) {
  whole::Model m = small_model(3);
  const std::vector<int32_t> free = alone(m, 11, 7, nullptr).first;
  m.stops = {free[4]};
  const auto want = alone(m, 11, 7, nullptr, true).first;
  Pipeline p(m, {1, 1, 1}, nullptr);
  std::memcpy(p.programs[0].tokens->data(), free.data(), 4);
  for (size_t i = 0; i < 3; ++i) p.start(i, 1, 11, true);
  p.run();
  ASSERT_EQ(p.over.size(), 3u);
  for (const auto& o : p.over) EXPECT_EQ(o.error.code, BATON_OK) << o.error.what;
  const size_t end = size_t(std::find(want.begin() + 1, want.end(), m.stops[0]) - want.begin());
  ASSERT_LT(end, want.size());
  const auto got = p.tokens(11);
  EXPECT_TRUE(std::equal(got.begin(), got.begin() + long(end) + 1, want.begin()));
  for (size_t i = end + 1; i < got.size(); ++i) EXPECT_EQ(got[i], -1) << "so that what is queued behind makes none";
}

TEST(Stage, FailuresGoRoundAndWhatIsOldIsPassedOver) {
  const whole::Model m = small_model(3);
  {  // one goes away: the next hears of it, and the one after that
    Pipeline p(m, {1, 1, 1}, nullptr);
    for (size_t i = 0; i < 3; ++i) p.start(i, 2, 5);
    p.stage[0].reset();
    p.run();
    ASSERT_EQ(p.over.size(), 2u);
    for (const auto& o : p.over) EXPECT_EQ(o.error.code, BATON_CANCELLED) << o.stage;
    ASSERT_EQ(p.inbox[0].size(), 1u);
    EXPECT_EQ(p.inbox[0].front().frame.kind, uint8_t(StageSays::failed));
  }
  {  // a message for the launch before waits in the inbox: it is taken away
    Pipeline p(m, {1, 2}, nullptr);
    StageMessage old;
    old.frame.number = 1;
    old.frame.kind = uint8_t(StageSays::failed);
    p.inbox[1].push(std::move(old));
    for (size_t i = 0; i < 2; ++i) p.start(i, 2, 3);
    p.run();
    ASSERT_EQ(p.over.size(), 2u);
    for (const auto& o : p.over) EXPECT_EQ(o.error.code, BATON_OK) << o.error.what;
  }
  // What cannot be: another iteration than is due, or more than a row.
  for (const bool late : {false, true}) {
    Pipeline p(m, {1, 2}, nullptr);
    StageMessage wrong;
    wrong.frame.number = 2;
    wrong.frame.kind = uint8_t(StageSays::data);
    wrong.frame.iteration = late;
    wrong.payload.resize(late ? 64 : 65);
    p.inbox[1].push(std::move(wrong));
    p.start(1, 2, 3);
    p.run();
    ASSERT_EQ(p.over.size(), 1u);
    EXPECT_EQ(p.over[0].error.code, BATON_CORRUPT) << p.over[0].error.what;
    ASSERT_FALSE(p.inbox[0].empty());
    EXPECT_EQ(p.inbox[0].front().frame.kind, uint8_t(StageSays::failed)) << "the first one does not wait for it";
  }
}

}  // namespace
}  // namespace baton::cs3::test
