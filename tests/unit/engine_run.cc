// A launch: what is refused before it runs, marks, cancel, stop tokens, unbound outputs, modelled time, scratch, loading.
#include "emulators/engine/scratch.h"
#include "engine_device.h"

#include <gtest/gtest.h>

namespace baton::test {
namespace {

using program::OpCode;

// A loaded prefill and decode with everything bound; tests spoil one thing.
struct Launch {
  Model m;
  Weights w;
  Executable exe;
  std::vector<int32_t> ids, table, token{-7};
  std::vector<uint8_t> kv;
  std::vector<float> logits;
  std::vector<Binding> bindings;
  std::vector<int64_t> args;
  RunHooks hooks;

  explicit Launch(bool loop, Model model = {}, const engine::CostModel* cost = nullptr)
      : m(model), w(random_weights(m)), exe(load(build_model(m, w, loop).program(), w, {.isa = Isa::scalar, .cost = cost})) {
    ids.assign(loop ? 11 : 10, 5);
    for (uint32_t i = 0; i < m.blocks(); ++i) table.push_back(int32_t(i));
    kv.resize(m.cache_elements() * program::dtype_bytes(m.kv_dtype));
    logits.resize(10 * m.vocabulary);
    args = {10, 0, 0, std::bit_cast<int64_t>(1.0), 0};
    if (loop) args.push_back(1);
    bindings = {{"ids", bytes_of(ids)}, {"block_table", bytes_of(table)}, {"kv", kv}, {"logits", bytes_of(logits)}};
    if (!loop) bindings.push_back({"token", bytes_of(token)});
  }
  Binding& bound(std::string_view name) {
    for (Binding& b : bindings)
      if (b.name == name) return b;
    return bindings[0];
  }
  Status go(uint32_t* steps = nullptr) { return finish(engine::Run(exe, bindings, args, hooks), steps); }
};

void refused(Launch& l, const char* says) {
  const auto kv = l.kv;
  uint64_t marks = 0;
  l.hooks.on_mark = [&](uint64_t, uint64_t) { return ++marks, true; };
  engine::Run run(l.exe, l.bindings, l.args, l.hooks);
  ASSERT_EQ(run.step(), Step::failed) << says;
  EXPECT_EQ(run.error().code, BATON_INVALID_ARGUMENT);
  EXPECT_NE(std::string(run.error().what).find(says), std::string::npos) << run.error().what;
  EXPECT_STRNE(run.error().next, "");
  EXPECT_EQ(run.step(), Step::failed); // stays failed
  EXPECT_EQ(marks, 0u);
  EXPECT_EQ(kv, l.kv) << "something ran";
}

TEST(Refused, Arguments) {
  auto with = [](size_t i, int64_t v, const char* says, bool loop = false) {
    Launch l(loop);
    l.args[i] = v;
    refused(l, says);
  };
  with(0, 0, "'tokens' is 0");
  with(0, 65, "'tokens' is 65");
  with(0, INT64_MIN, "'tokens'");
  with(1, -1, "'position' is -1");
  with(1, 119, "beyond the context of 128");
  with(1, INT64_MAX, "'position'");
  with(2, std::bit_cast<int64_t>(-0.5), "'temperature'");
  with(2, std::bit_cast<int64_t>(double(NAN)), "'temperature'");
  with(3, std::bit_cast<int64_t>(0.0), "'top_p'");
  with(3, std::bit_cast<int64_t>(1.5), "'top_p'");
  with(0, 0, "'steps' is 0", true);
  with(0, 65, "'steps' is 65", true);
  with(5, 2, "'stop' is 2", true);
  with(1, 119, "beyond the context", true);
  Launch l(false);
  l.args.pop_back();
  refused(l, "passes 4 arguments, the program declares 5 (tokens, position, temperature, top_p, seed)");
}

TEST(Refused, Bindings) {
  auto with = [](auto spoil, const char* says, bool loop = false) {
    Launch l(loop);
    spoil(l);
    refused(l, says);
  };
  with([](Launch& l) { l.bindings.erase(l.bindings.begin()); }, "'ids' is not bound");
  with([](Launch& l) { l.bindings.push_back(l.bindings[0]); }, "'ids' is bound twice");
  with([](Launch& l) { l.bindings.push_back({"nothing", l.kv}); }, "nothing named 'nothing'");
  with([](Launch& l) { l.bindings.push_back({"norm", l.kv}); }, "nothing named 'norm'");
  with([](Launch& l) { l.bound("ids").data = {}; }, "no memory");
  with([](Launch& l) { l.bound("ids").data = l.bound("ids").data.first(39); }, "'ids' is bound to 39 bytes, this launch needs 40");
  with([](Launch& l) { l.bound("ids").data = l.bound("ids").data.first(43); }, "needs 44", true);
  with([](Launch& l) { l.bound("logits").data = l.bound("logits").data.subspan(0, 10 * 97 * 4 - 1); }, "'logits'");
  with([](Launch& l) { l.bound("logits").data = l.bound("logits").data.subspan(2); }, "not a multiple of 4");
  with([](Launch& l) { l.bound("kv").data = l.bound("kv").data.subspan(1); }, "not a multiple of 2");
  with([](Launch& l) { l.bound("block_table").data = l.bound("block_table").data.first(4); }, "'block_table'");
}

TEST(Refused, TokensOutsideOfTheVocabulary) {
  for (int32_t bad : {-1, 97, INT32_MAX, INT32_MIN}) {
    Launch l(false);
    l.ids[9] = bad;
    refused(l, "'ids' [9]");
    Launch d(true);
    d.ids[0] = bad;
    refused(d, "'ids' [0]");
  }
}

TEST(Refused, BlocksOutsideOfTheCache) {
  for (KvOrder order : {KvOrder::token_major, KvOrder::head_major, KvOrder::block_major}) {
    Model m;
    m.order = order;
    for (int32_t bad : {-1, int32_t(m.pool_blocks()), INT32_MAX}) {
      Launch l(false, m);
      l.table[0] = bad;
      refused(l, "'block_table' [0]");
    }
    Launch l(false, m);
    l.table[1] = -1; // not used by 10 tokens
    EXPECT_TRUE(l.go().ok());
    l.args[1] = 7; // now it is
    refused(l, "'block_table' [1]");
    // Fewer bytes bound: the last block is not whole any more.
    Launch cut(false, m);
    cut.table[0] = int32_t(m.pool_blocks()) - 1;
    EXPECT_TRUE(cut.go().ok());
    cut.bound("kv").data = cut.bound("kv").data.first(cut.kv.size() - 2);
    refused(cut, "'block_table' [0] is block 10");
  }
}

TEST(Refused, RanksAndCollectives) {
  Model m;
  const Weights w = shard(random_weights(m), 0, 2);
  Executable exe = load(build_model(m, w, false, 2).program(), w, {.isa = Isa::scalar});
  std::vector<int32_t> ids(10), table(m.blocks());
  std::vector<uint8_t> kv(m.cache_elements(2) * 2);
  std::vector<Binding> b = {{"ids", bytes_of(ids)}, {"block_table", bytes_of(table)}, {"kv", kv}};
  const std::vector<int64_t> args = {10, 0, 0, std::bit_cast<int64_t>(1.0), 0};
  Status s = finish(engine::Run(exe, b, args, {}));
  ASSERT_FALSE(s.ok());
  EXPECT_NE(std::string(s.error().what).find("without a collective"), std::string::npos);
  engine::TreeCollective group(2, 1000000);
  s = finish(engine::Run(exe, b, args, {.collective = &group, .rank = 2}));
  ASSERT_FALSE(s.ok());
  EXPECT_NE(std::string(s.error().what).find("rank 2 of 2"), std::string::npos);
  s = finish(engine::Run(exe, b, args, {.collective = &group, .rank = 0})); // rank 1 never comes
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_DEADLINE);
}

TEST(Marks, ComeInOrderWithModelledTimeAndCanCancel) {
  for (bool loop : {false, true}) {
    Launch l(loop);
    std::vector<uint64_t> seen;
    l.hooks.on_mark = [&](uint64_t k, uint64_t) { return seen.push_back(k), true; };
    ASSERT_TRUE(l.go().ok());
    EXPECT_EQ(seen.size(), loop ? 10u : l.m.layers);
    for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], i + 1);
    l.hooks.on_mark = [&](uint64_t k, uint64_t) { return k < 2; };
    Status s = l.go();
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().code, BATON_CANCELLED);
  }
}

TEST(Loop, AStopTokenEndsItAndTheRestIsMinusOne) {
  Launch l(true);
  ASSERT_TRUE(l.go().ok());
  const auto free_run = l.ids;
  // Stop at the first token drawn that was not drawn before.
  for (uint32_t at = 1; at <= 10; ++at) {
    if (std::find(free_run.begin() + 1, free_run.begin() + at, free_run[at]) != free_run.begin() + at) continue;
    Model m;
    m.stops = {free_run[at]};
    Launch stops(true, m);
    uint32_t steps = 0, marks = 0;
    stops.hooks.on_mark = [&](uint64_t, uint64_t) { return ++marks, true; };
    ASSERT_TRUE(stops.go(&steps).ok());
    EXPECT_EQ(steps, at);
    EXPECT_EQ(marks, at);
    for (uint32_t i = 0; i <= 10; ++i) EXPECT_EQ(stops.ids[i], i <= at ? free_run[i] : -1) << i;
    stops.args[5] = 0; // stop off
    ASSERT_TRUE(stops.go(&steps).ok());
    EXPECT_EQ(steps, 10u);
    EXPECT_EQ(stops.ids, free_run);
  }
}

TEST(Outputs, OptionalOnesMayBeUnbound) {
  Launch all(true), few(true);
  ASSERT_TRUE(all.go().ok());
  std::erase_if(few.bindings, [](const Binding& b) { return b.name == "logits"; });
  ASSERT_TRUE(few.go().ok()); // sample still reads logits
  EXPECT_EQ(all.ids, few.ids);
  EXPECT_EQ(all.kv, few.kv);
}

// Counts what the engine says it did.
struct Counting : engine::CostModel {
  mutable std::vector<engine::OpWork> ops;
  std::string name() const override { return "counting"; }
  double launch_ns() const override { return 1000; }
  double op_ns(const engine::OpWork& w) const override { return ops.push_back(w), 10.25; }
  double copy_ns(uint64_t, bool) const override { return 0; }
  const engine::OpWork* find(OpCode c, size_t skip = 0) const {
    for (const auto& w : ops)
      if (w.code == c && skip-- == 0) return &w;
    return nullptr;
  }
};

TEST(Outputs, WhatNothingBoundDependsOnIsNotComputed) {
  Counting cost;
  Launch l(false, {}, &cost);
  ASSERT_TRUE(l.go().ok());
  const size_t everything = cost.ops.size();
  cost.ops.clear();
  std::erase_if(l.bindings, [](const Binding& b) { return b.name == "logits" || b.name == "token"; });
  const auto kv = l.kv;
  std::fill(l.kv.begin(), l.kv.end(), 0);
  ASSERT_TRUE(l.go().ok());
  EXPECT_EQ(kv, l.kv); // the cache is written all the same
  // Neither head, the last norm, take_last and sample; nor the last layer after its kv_store.
  EXPECT_FALSE(cost.find(OpCode::sample));
  EXPECT_FALSE(cost.find(OpCode::take_last));
  EXPECT_LT(cost.ops.size() + 12, everything);
  EXPECT_EQ(cost.ops.back().code, OpCode::kv_store);
}

TEST(Modelled, SumsLaunchAndOpsAndOffsetsOfMarks) {
  Counting cost;
  Launch l(false, {}, &cost);
  std::vector<uint64_t> offsets, counts;
  l.hooks.on_mark = [&](uint64_t, uint64_t ns) { return offsets.push_back(ns), counts.push_back(cost.ops.size()), true; };
  engine::Run run(l.exe, l.bindings, l.args, l.hooks);
  while (run.step() == Step::more) {}
  ASSERT_EQ(offsets.size(), l.m.layers);
  for (size_t i = 0; i < offsets.size(); ++i) EXPECT_EQ(offsets[i], uint64_t(std::llround(1000 + 10.25 * double(counts[i]))));
  EXPECT_EQ(run.modelled_ns(), uint64_t(std::llround(1000 + 10.25 * double(cost.ops.size()))));
  Launch none(false);
  engine::Run untimed(none.exe, none.bindings, none.args, {});
  while (untimed.step() == Step::more) {}
  EXPECT_EQ(untimed.modelled_ns(), 0u);
}

TEST(Modelled, WorkIsDescribed) {
  Counting cost;
  Model m; // vocabulary 97, hidden 64, heads 8, kv_heads 4, head_dim 16, ffn 96
  Launch l(false, m, &cost);
  l.args[1] = 20; // position
  ASSERT_TRUE(l.go().ok());
  const auto* embed = cost.find(OpCode::embed);
  EXPECT_EQ(embed->tokens, 10u);
  EXPECT_EQ(embed->weight_bytes, 10u * 64 * 2);
  EXPECT_EQ(embed->act_bytes, 10u * 64 * 4);
  const auto* norm = cost.find(OpCode::rms_norm);
  EXPECT_EQ(norm->act_bytes, 2u * 10 * 64 * 4);
  EXPECT_EQ(norm->weight_bytes, 64u * 2);
  const auto* q = cost.find(OpCode::matmul);
  EXPECT_EQ(q->n, 128u);
  EXPECT_EQ(q->k, 64u);
  EXPECT_EQ(q->tokens, 10u);
  EXPECT_EQ(q->macs, 10u * 128 * 64);
  EXPECT_EQ(q->weight_bytes, 128u * 64 * 2);
  EXPECT_EQ(q->act_bytes, 10u * (128 + 64) * 4);
  EXPECT_TRUE(q->bf16);
  const auto* store = cost.find(OpCode::kv_store, 1);
  EXPECT_EQ(store->layer, 1u);
  EXPECT_EQ(store->kv_bytes, 10u * 4 * 16 * 2 * 2);
  const auto* attention = cost.find(OpCode::attention);
  EXPECT_EQ(attention->context, 30u);
  EXPECT_EQ(attention->macs, 2u * (21 + 30) * 10 / 2 * 8 * 16); // rows see 21..30 keys
  EXPECT_EQ(attention->kv_bytes, 30u * 4 * 16 * 2 * 2);
  EXPECT_TRUE(attention->bf16);

  Counting windowed;
  m.window = 8;
  Launch lw(false, m, &windowed);
  lw.args[1] = 20;
  ASSERT_TRUE(lw.go().ok());
  EXPECT_EQ(windowed.find(OpCode::attention)->context, 8u);
  EXPECT_EQ(windowed.find(OpCode::attention)->macs, 2u * 8 * 10 * 8 * 16);
  EXPECT_EQ(windowed.find(OpCode::attention)->kv_bytes, 17u * 4 * 16 * 2 * 2); // keys 13..29
}

TEST(Scratch, ValuesShareBytesOnlyWhenTheirLivesDoNotOverlap) {
  for (bool loop : {false, true}) {
    Model m;
    m.layers = 6;
    Program p = build_model(m, random_weights(m), loop).program();
    auto plan = engine::plan_scratch(p);
    ASSERT_TRUE(plan.ok());
    struct Life {
      size_t first = SIZE_MAX, last = 0;
    };
    std::vector<Life> life(p.values.size());
    uint64_t sum = 0;
    for (size_t i = 0; i < p.ops.size(); ++i)
      for (const auto* list : {&p.ops[i].in, &p.ops[i].out})
        for (uint32_t v : *list) life[v].first = std::min(life[v].first, i), life[v].last = i;
    for (uint32_t a = 0; a < p.values.size(); ++a) {
      if (plan->offset[a] == engine::kNoScratch) {
        EXPECT_NE(p.values[a].storage, Storage::scratch);
        continue;
      }
      EXPECT_EQ(plan->offset[a] % 64, 0u);
      const uint64_t a_end = plan->offset[a] + engine::scratch_bytes_of(p, p.values[a]);
      EXPECT_LE(a_end, plan->bytes);
      sum += a_end - plan->offset[a];
      for (uint32_t b = 0; b < a; ++b) {
        if (plan->offset[b] == engine::kNoScratch || life[a].first > life[b].last || life[b].first > life[a].last) continue;
        const uint64_t b_end = plan->offset[b] + engine::scratch_bytes_of(p, p.values[b]);
        EXPECT_TRUE(a_end <= plan->offset[b] || b_end <= plan->offset[a]) << p.values[a].name << " and " << p.values[b].name;
      }
    }
    EXPECT_LT(plan->bytes * 8, sum); // six layers reuse the bytes of one
  }
}

TEST(Load, ConstantsAreChecked) {
  Model m;
  const Weights w = random_weights(m);
  const auto bytes = program::serialize(build_model(m, w, false).program());
  auto failing = [&](auto spoil) -> std::string {
    Constants c(w);
    spoil(c);
    auto exe = Executable::load(bytes, c.list, {.isa = Isa::scalar});
    EXPECT_FALSE(exe.ok());
    if (exe.ok()) return "";
    EXPECT_EQ(exe.error().code, BATON_INVALID_ARGUMENT);
    return exe.error().what;
  };
  EXPECT_NE(failing([](Constants& c) { c.list.pop_back(); }).find("'norm' was not passed"), std::string::npos);
  EXPECT_NE(failing([](Constants& c) { c.list.push_back({"l9.q", {}}); }).find("no constant named 'l9.q'"), std::string::npos);
  EXPECT_NE(failing([](Constants& c) { c.list.push_back(c.list[0]); }).find("twice"), std::string::npos);
  EXPECT_NE(failing([](Constants& c) { c.list[0].data = c.list[0].data.first(100); }).find("has 100 bytes"), std::string::npos);
}

TEST(Load, BytesThatAreNotAProgramAndMisalignedConstants) {
  EXPECT_EQ(Executable::load(std::vector<uint8_t>(64), {}, {.isa = Isa::scalar}).error().code, BATON_CORRUPT);
  Model m;
  m.dtype = DType::f32;
  const Weights w = random_weights(m);
  Constants c(w);
  std::map<std::string, std::vector<uint8_t>> shifted;
  for (auto& constant : c.list) {
    auto& s = shifted[std::string(constant.name)];
    s.assign(constant.data.size() + 1, 0);
    std::copy(constant.data.begin(), constant.data.end(), s.begin() + 1);
    constant.data = std::span<const uint8_t>(s).subspan(1);
  }
  EXPECT_TRUE(Executable::load(program::serialize(build_model(m, w, false).program()), c.list, {.isa = Isa::scalar}).ok());
}

TEST(Load, ATiedEmbeddingIsKeptOnce) {
  Model m;
  m.vocabulary = 2048;
  Model tied = m;
  tied.tied = true;
  const Weights w = random_weights(m), tw = random_weights(tied);
  const uint64_t apart = load(build_model(m, w, false).program(), w, {.isa = Isa::scalar}).constant_bytes();
  const uint64_t once = load(build_model(tied, tw, false).program(), tw, {.isa = Isa::scalar}).constant_bytes();
  EXPECT_EQ(apart - once, uint64_t(m.vocabulary) * m.hidden * 2);
}

TEST(Load, ConstantsMayStream) {
  Model m;
  const Weights w = random_weights(m);
  auto loader = engine::Loader::begin(program::serialize(build_model(m, w, false).program()), {.isa = Isa::scalar});
  ASSERT_TRUE(loader.ok());
  for (const auto& [name, t] : w) {
    const auto bytes = to_bytes(t.data, t.dtype); // gone after add
    ASSERT_TRUE(loader->add({name, bytes}).ok());
  }
  EXPECT_TRUE(std::move(*loader).finish().ok());
}

}  // namespace
}  // namespace baton::test
