// Every plan against the definition: element by element, over random pairs of layouts and random block tables.
#include "transport/kv_layout.hpp"
#include "transport/kv_wire.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace baton::transport {
namespace {

using program::DType;
using testing::HasSubstr;

KvLayout layout(KvOrder order, uint32_t block_tokens, uint32_t blocks, uint32_t head_begin = 0, uint32_t head_count = 2) {
  KvLayout l;
  l.layers = 3;
  l.kv_heads = 4;
  l.head_dim = 4;
  l.order = order;
  l.block_tokens = block_tokens;
  l.blocks = blocks;
  l.head_begin = head_begin;
  l.head_count = head_count;
  return l;
}

uint64_t element(const KvLayout& l, uint32_t layer, bool v, int32_t block, uint32_t token, uint32_t local_head, uint32_t d) {
  const auto w = l.strides();
  return layer * w.layer_stride + (v ? w.v_offset : 0) + uint64_t(block) * w.block_stride + token * w.token_stride + local_head * w.head_stride + d;
}

std::vector<int32_t> random_table(std::mt19937& rng, uint32_t blocks, uint32_t need) {
  std::vector<int32_t> all(blocks);
  std::iota(all.begin(), all.end(), 0);
  if (rng() % 4) std::shuffle(all.begin(), all.end(), rng);
  all.resize(need);
  return all;
}

KvLayout random_layout(std::mt19937& rng) {
  KvLayout l;
  l.layers = 1 + rng() % 3;
  l.kv_heads = 1u << (rng() % 4);
  l.head_dim = 1 + rng() % 8;
  l.dtype = rng() % 2 ? DType::bf16 : DType::f32;
  return l;
}

KvLayout place(std::mt19937& rng, KvLayout l, uint64_t tokens) {
  l.order = KvOrder(1 + rng() % 3);
  l.pairing = KvPairing(1 + rng() % 3);
  if (l.order == KvOrder::block_major && l.pairing == KvPairing::block) l.pairing = KvPairing::apart;
  l.block_tokens = (const uint32_t[]){1, 3, 16, 64}[rng() % 4];
  l.blocks = uint32_t((tokens + l.block_tokens - 1) / l.block_tokens) + rng() % 4;
  if (l.blocks == 0) l.blocks = 1;
  l.head_begin = rng() % l.kv_heads;
  l.head_count = 1 + rng() % (l.kv_heads - l.head_begin);
  return l;
}

TEST(KvLayout, EveryElementHasItsOwnPlaceAndTheBufferIsFull) {
  std::mt19937 rng(7);
  for (int i = 0; i < 50; ++i) {
    KvLayout l = place(rng, random_layout(rng), 40);
    ASSERT_TRUE(l.check().ok());
    std::vector<bool> seen(l.bytes() / program::dtype_bytes(l.dtype));
    for (uint32_t y = 0; y < l.layers; ++y)
      for (int v = 0; v < 2; ++v)
        for (uint32_t b = 0; b < l.blocks; ++b)
          for (uint32_t t = 0; t < l.block_tokens; ++t)
            for (uint32_t h = 0; h < l.head_count; ++h)
              for (uint32_t d = 0; d < l.head_dim; ++d) {
                uint64_t e = element(l, y, v, int32_t(b), t, h, d);
                ASSERT_LT(e, seen.size()) << l.describe();
                ASSERT_FALSE(seen[e]) << l.describe();
                seen[e] = true;
              }
  }
}

TEST(KvLayout, OrdersAreWhatTheirNamesSay) {
  EXPECT_EQ(element(layout(KvOrder::token_major, 16, 5), 0, false, 0, 1, 0, 0), 8u);
  EXPECT_EQ(element(layout(KvOrder::head_major, 16, 5), 0, false, 0, 1, 0, 0), 4u);
  EXPECT_EQ(element(layout(KvOrder::head_major, 16, 5), 0, false, 0, 0, 1, 0), 64u);
  EXPECT_EQ(element(layout(KvOrder::token_major, 16, 5), 0, true, 0, 0, 0, 0), 5u * 16 * 8);
  EXPECT_EQ(element(layout(KvOrder::block_major, 16, 5), 0, true, 0, 0, 0, 0), 16u * 8);
  EXPECT_EQ(element(layout(KvOrder::block_major, 16, 5), 0, false, 1, 0, 0, 0), 3u * 2 * 16 * 8);
}

TEST(KvLayout, SizesOfPublishedModels) { // kv.md 1.1: Llama-3.1-8B 128 KiB a token, 1 GiB at 8k
  KvLayout l;
  l.layers = 32, l.kv_heads = l.head_count = 8, l.head_dim = 128, l.blocks = 512;
  EXPECT_EQ(l.bytes(), 1ull << 30);
  EXPECT_EQ(l.bytes() / 8192, 131072u);
}

TEST(KvLayout, DescribeIsStableAndHashFollowsIt) {
  KvLayout l = layout(KvOrder::head_major, 16, 5, 2);
  EXPECT_EQ(l.describe(), "kv/1 layers=3 kv_heads=4 head_dim=4 dtype=bf16 order=head_major block_tokens=16 blocks=5 heads=[2,4)");
  KvLayout m = l;
  EXPECT_EQ(l.hash(), m.hash());
  m.block_tokens = 64;
  EXPECT_NE(l.hash(), m.hash());
}

TEST(KvLayout, PairingsAreWhatTheirNamesSay) {
  auto paired = [](KvOrder o, KvPairing p) {
    KvLayout l = layout(o, 16, 5);
    l.pairing = p;
    return l;
  };
  EXPECT_EQ(element(paired(KvOrder::token_major, KvPairing::block), 0, true, 0, 0, 0, 0), 16u * 8);
  EXPECT_EQ(element(paired(KvOrder::token_major, KvPairing::block), 0, false, 1, 0, 0, 0), 2u * 16 * 8);
  EXPECT_EQ(element(paired(KvOrder::token_major, KvPairing::token), 0, true, 0, 0, 0, 0), 8u);
  EXPECT_EQ(element(paired(KvOrder::token_major, KvPairing::token), 0, false, 0, 1, 0, 0), 16u);
  EXPECT_EQ(element(paired(KvOrder::head_major, KvPairing::token), 0, true, 0, 0, 0, 0), 4u);
  EXPECT_EQ(element(paired(KvOrder::head_major, KvPairing::token), 0, false, 0, 0, 1, 0), 2u * 16 * 4);
  EXPECT_EQ(element(paired(KvOrder::block_major, KvPairing::token), 1, false, 0, 0, 0, 0), 2u * 16 * 8);
}

TEST(KvLayout, ShardsOfLayersAndLatentRowsAreTold) {
  KvLayout l = layout(KvOrder::token_major, 16, 5);
  const uint64_t whole = l.hash();
  l.layer_count = 3;
  EXPECT_EQ(l.hash(), whole) << "all layers, said or not";
  l.layer_begin = 1, l.layer_count = 2, l.pairing = KvPairing::block;
  EXPECT_EQ(l.describe(), "kv/1 layers=3 kv_heads=4 head_dim=4 dtype=bf16 order=token_major block_tokens=16 blocks=5 heads=[0,2) held_layers=[1,3) pairing=block");
  EXPECT_EQ(l.bytes(), 2u * 2 * 5 * 16 * 8 * 2);
  KvLayout mla; // DeepSeek V3: kv.md 1.1 has 70,272 bytes a token
  mla.layers = 61, mla.kv_heads = mla.head_count = 1, mla.head_dim = 576, mla.rope_dim = 64, mla.blocks = 1, mla.pairing = KvPairing::latent;
  ASSERT_TRUE(mla.check().ok());
  EXPECT_EQ(mla.bytes(), 16u * 70272);
  EXPECT_THAT(mla.describe(), HasSubstr(" pairing=latent rope_dim=64"));
  EXPECT_EQ(mla.view().error().code, BATON_UNSUPPORTED);
  EXPECT_TRUE(l.view().ok());
}

TEST(KvLayout, ScalesLieBehindTheNumbers) {
  KvLayout l = layout(KvOrder::head_major, 16, 5);
  l.dtype = DType::f8e4m3;
  ASSERT_TRUE(l.check().ok());
  EXPECT_EQ(l.bytes(), 3u * 2 * 5 * 16 * 8) << "a byte each";
  EXPECT_EQ(l.view().error().code, BATON_UNSUPPORTED);
  EXPECT_TRUE(KvPlan::compile(l, l).ok()) << "without scales they are bytes to move";
  l.scales = KvScales::block_head;
  EXPECT_THAT(l.describe(), HasSubstr("dtype=f8e4m3 order=head_major block_tokens=16 blocks=5 heads=[0,2) scales=block_head"));
  EXPECT_EQ(l.bytes(), 3840u + 4 * 3 * 2 * 5 * 2);
  EXPECT_EQ(l.scale_at(0, 0, 0, 0), 3840u);
  EXPECT_EQ(l.scale_at(0, 0, 0, 1), 3844u);
  EXPECT_EQ(l.scale_at(2, 1, 4, 1), l.bytes() - 4);
  EXPECT_EQ(*layout_from(to_json(l)), l);
  KvLayout without = l;
  without.scales = KvScales::none;
  EXPECT_TRUE(KvPlan::compile(l, without)->converts() && KvPlan::compile(without, l)->converts());
  EXPECT_FALSE(KvPlan::compile(l, l)->converts()) << "numbers and scales are bytes to move";
  KvLayout longer = l;
  longer.block_tokens = 32;
  EXPECT_TRUE(KvPlan::compile(l, longer)->converts()) << "one scale for what had two";
  l.dtype = DType::bf16;
  EXPECT_EQ(l.check().error().code, BATON_INVALID_ARGUMENT);
}

TEST(KvLayout, GoesOverTheWireAndWhatIsUnknownIsRefused) {
  KvLayout l = layout(KvOrder::token_major, 16, 5);
  EXPECT_EQ(to_json(l).size(), 9u) << "what an older peer knows, and no more";
  l.layer_begin = 1, l.layer_count = 2, l.pairing = KvPairing::token;
  auto j = to_json(l);
  EXPECT_EQ(*layout_from(j), l);
  KvLayout mla = layout(KvOrder::head_major, 16, 5, 0, 1);
  mla.kv_heads = 1, mla.pairing = KvPairing::latent, mla.rope_dim = 1;
  EXPECT_EQ(*layout_from(to_json(mla)), mla);
  auto refused = [](nlohmann::json bad) {
    auto r = layout_from(bad);
    return r.ok() ? std::string("taken") : r.error().text();
  };
  auto with = [&](const char* key, nlohmann::json v) {
    auto bad = j;
    bad[key] = v;
    return refused(bad);
  };
  EXPECT_THAT(with("pairing", "braided"), HasSubstr("unknown KV pairing 'braided'"));
  EXPECT_THAT(with("pairing", 3), HasSubstr("malformed"));
  EXPECT_THAT(with("layer_count", -1), HasSubstr("malformed"));
  EXPECT_THAT(with("window", 128u), HasSubstr("MISMATCH: a KV layout from the peer has a field that is unknown here"));
  EXPECT_THAT(with("layer_count", 3u), HasSubstr("layers [1,4) of a model with 3"));
}

TEST(KvLayout, ParseOrder) {
  for (auto o : {KvOrder::token_major, KvOrder::head_major, KvOrder::block_major}) EXPECT_EQ(*parse_order(order_name(o)), o);
  auto bad = parse_order("nhd");
  ASSERT_FALSE(bad.ok());
  EXPECT_THAT(bad.error().what, HasSubstr("'nhd'"));
  EXPECT_THAT(bad.error().next, HasSubstr("token_major"));
}

TEST(KvLayout, ContradictionsAreRefused) {
  auto code = [](auto change) {
    KvLayout l = layout(KvOrder::token_major, 16, 5);
    change(l);
    auto s = l.check();
    return s.ok() ? 0 : s.error().code;
  };
  EXPECT_EQ(code([](KvLayout&) {}), 0);
  EXPECT_EQ(code([](KvLayout& l) { l.layers = 0; }), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(code([](KvLayout& l) { l.head_count = 0; }), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(code([](KvLayout& l) { l.head_begin = 3; }), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(code([](KvLayout& l) { l.head_begin = UINT32_MAX; }), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(code([](KvLayout& l) { l.blocks = l.block_tokens = l.head_dim = l.layers = UINT32_MAX; }), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(code([](KvLayout& l) { l.order = KvOrder(9); }), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(code([](KvLayout& l) { l.dtype = DType(77); }), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(code([](KvLayout& l) { l.pairing = KvPairing(0); }), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(code([](KvLayout& l) { l.pairing = KvPairing::latent; }), BATON_INVALID_ARGUMENT) << "of four heads";
  EXPECT_EQ(code([](KvLayout& l) { l.pairing = KvPairing::block, l.order = KvOrder::block_major; }), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(code([](KvLayout& l) { l.rope_dim = 1; }), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(code([](KvLayout& l) { l.layer_begin = 1; }), BATON_INVALID_ARGUMENT) << "of how many";
  EXPECT_EQ(code([](KvLayout& l) { l.layer_begin = 2, l.layer_count = 2; }), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(code([](KvLayout& l) { l.layer_begin = UINT32_MAX, l.layer_count = UINT32_MAX; }), BATON_INVALID_ARGUMENT);
}

// One random case: move by plan, move by definition, compare both buffers whole.
void check_one(std::mt19937& rng) {
  const uint64_t tokens = 1 + rng() % 150, begin = rng() % 3 ? 0 : rng() % tokens;
  const KvLayout model = random_layout(rng);
  const KvLayout s = place(rng, model, tokens), d = place(rng, model, tokens);
  const uint32_t hb = std::max(s.head_begin, d.head_begin), he = std::min(s.head_begin + s.head_count, d.head_begin + d.head_count);
  auto plan = KvPlan::compile(s, d);
  if (hb >= he) {
    ASSERT_FALSE(plan.ok());
    ASSERT_EQ(plan.error().code, BATON_MISMATCH);
    return;
  }
  ASSERT_TRUE(plan.ok()) << plan.error().text();
  const auto st = random_table(rng, s.blocks, uint32_t((tokens + s.block_tokens - 1) / s.block_tokens));
  const auto dt = random_table(rng, d.blocks, uint32_t((tokens + d.block_tokens - 1) / d.block_tokens));
  auto move = plan->instantiate(st, dt, begin, tokens);
  ASSERT_TRUE(move.ok()) << move.error().text();

  const uint32_t e = program::dtype_bytes(s.dtype);
  std::vector<uint8_t> from(s.bytes()), want(d.bytes(), 0xee), got(d.bytes(), 0xee);
  for (auto& b : from) b = uint8_t(rng());
  for (uint32_t y = 0; y < s.layers; ++y) {
    for (int v = 0; v < 2; ++v)
      for (uint64_t t = begin; t < tokens; ++t)
        for (uint32_t h = hb; h < he; ++h)
          for (uint32_t i = 0; i < s.head_dim; ++i)
            std::memcpy(&want[e * element(d, y, v, dt[t / d.block_tokens], uint32_t(t % d.block_tokens), h - d.head_begin, i)],
                        &from[e * element(s, y, v, st[t / s.block_tokens], uint32_t(t % s.block_tokens), h - s.head_begin, i)], e);
    uint64_t bytes = 0, end = 0;
    for (auto& g : move->layer(y)) {
      ASSERT_LE(g.src + g.bytes, from.size());
      ASSERT_LE(g.dst + g.bytes, got.size());
      ASSERT_GE(g.dst, end) << "sorted by dst, no overlap";
      ASSERT_GT(g.bytes, 0u);
      end = g.dst + g.bytes;
      bytes += g.bytes;
      std::memcpy(&got[g.dst], &from[g.src], g.bytes);
    }
    ASSERT_EQ(bytes, move->bytes(y));
    ASSERT_EQ(bytes, (tokens - begin) * 2 * (he - hb) * s.head_dim * e);
  }
  ASSERT_EQ(got, want) << s.describe() << "\n" << d.describe() << "\ntokens [" << begin << "," << tokens << ")";
}

TEST(KvPlan, MovesWhatTheDefinitionMoves) {
  std::mt19937 rng(20261123);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  const int cases = 400;
#else
  const int cases = 3000;
#endif
  for (int i = 0; i < cases && !testing::Test::HasFatalFailure(); ++i) {
    SCOPED_TRACE(i);
    check_one(rng);
  }
}

TEST(KvPlan, CoalescesWhatIsAdjacentOnBothSides) {
  const KvLayout l = layout(KvOrder::token_major, 16, 8);
  auto plan = KvPlan::compile(l, l);
  const std::vector<int32_t> up{2, 3, 4, 5}, apart{0, 2, 4, 6};
  auto a = plan->instantiate(up, up, 0, 64);
  EXPECT_EQ(a->layer(0).size(), 2u) << "one run of k, one of v";
  EXPECT_EQ(a->total_segments(), 6u);
  EXPECT_EQ(a->total_bytes(), 3u * 2 * 64 * 2 * 4 * 2);
  EXPECT_EQ(plan->instantiate(up, apart, 0, 64)->layer(0).size(), 8u);
  KvLayout b = layout(KvOrder::block_major, 16, 8);
  auto same = KvPlan::compile(b, b);
  EXPECT_EQ(same->instantiate(up, up, 0, 64)->layer(0).size(), 4u) << "k and v of a block are one segment";
}

TEST(KvPlan, EmptyRangeMovesNothing) {
  const KvLayout l = layout(KvOrder::token_major, 16, 8);
  auto m = KvPlan::compile(l, l)->instantiate(std::vector<int32_t>{1}, std::vector<int32_t>{1}, 7, 7);
  ASSERT_TRUE(m.ok());
  EXPECT_EQ(m->total_segments(), 0u);
  EXPECT_EQ(m->total_bytes(), 0u);
}

TEST(KvPlan, NamesTheFirstDifference) {
  const KvLayout l = layout(KvOrder::token_major, 16, 8);
  auto why = [&](auto change) {
    KvLayout m = l;
    change(m);
    auto p = KvPlan::compile(l, m);
    EXPECT_FALSE(p.ok());
    return p.ok() ? std::string() : p.error().text();
  };
  EXPECT_THAT(why([](KvLayout& m) { m.layers = 9; }), HasSubstr("MISMATCH: KV layouts differ in layers: source 3, destination 9"));
  EXPECT_THAT(why([](KvLayout& m) { m.kv_heads = 8; }), HasSubstr("kv_heads: source 4, destination 8"));
  EXPECT_THAT(why([](KvLayout& m) { m.head_dim = 8; }), HasSubstr("head_dim: source 4, destination 8"));
  EXPECT_THAT(why([](KvLayout& m) { m.dtype = DType::i32; }), HasSubstr("differ in dtype, and there is no conversion: source bf16, destination i32"));
  EXPECT_THAT(why([](KvLayout& m) { m.head_begin = 2; }), HasSubstr("no head is on both sides: source [0,2), destination [2,4)"));
  KvLayout low = l, high = l;
  low.layer_count = 1, high.layer_begin = 1, high.layer_count = 2;
  EXPECT_THAT(KvPlan::compile(low, high).error().text(), HasSubstr("no layer is on both sides: source [0,1), destination [1,3)"));
  EXPECT_THAT(KvPlan::compile(l, high, KvPart{0, 2, 0, 2}).error().text(), HasSubstr("a plan for layers [0,2): the destination holds [1,3)"));
  KvLayout row = layout(KvOrder::token_major, 16, 8, 0, 1);
  row.kv_heads = 1;
  KvLayout mla = row, other = row;
  mla.pairing = other.pairing = KvPairing::latent;
  mla.rope_dim = 2;
  EXPECT_THAT(KvPlan::compile(row, mla).error().text(), HasSubstr("differ in pairing: source apart, destination latent"));
  EXPECT_THAT(KvPlan::compile(mla, other).error().text(), HasSubstr("differ in rope_dim: source 2, destination 0"));
}

TEST(KvPlan, RefusesTablesThatDoNotFit) {
  const KvLayout l = layout(KvOrder::token_major, 16, 4);
  auto plan = KvPlan::compile(l, l);
  const std::vector<int32_t> good{0, 1}, high{0, 4}, negative{-1, 1}, twice{2, 2}, brief{0};
  EXPECT_TRUE(plan->instantiate(good, good, 0, 32).ok());
  EXPECT_THAT(plan->instantiate(high, good, 0, 32).error().what, HasSubstr("source block table entry 1 is 4"));
  EXPECT_THAT(plan->instantiate(good, negative, 0, 32).error().what, HasSubstr("destination block table entry 0 is -1"));
  EXPECT_THAT(plan->instantiate(good, brief, 0, 32).error().what, HasSubstr("32 tokens need 2"));
  EXPECT_THAT(plan->instantiate(good, twice, 0, 32).error().what, HasSubstr("destination block 2 is in the table twice"));
  EXPECT_TRUE(plan->instantiate(twice, good, 0, 32).ok()) << "a shared source block is fine";
  EXPECT_FALSE(plan->instantiate(good, good, 5, 4).ok());
}

TEST(KvPlan, HeadsCanBeNarrowedAndTheHashKnows) {
  const KvLayout l = layout(KvOrder::token_major, 16, 4, 0, 4);
  auto all = KvPlan::compile(l, l), one = KvPlan::compile(l, l, 1, 1);
  ASSERT_TRUE(one.ok());
  EXPECT_NE(all->hash(), one->hash());
  EXPECT_EQ(one->hash(), KvPlan::compile(l, l, 1, 1)->hash());
  EXPECT_FALSE(KvPlan::compile(l, l, 3, 2).ok());
  EXPECT_FALSE(KvPlan::compile(l, l, 0, 0).ok());
  auto m = one->instantiate(std::vector<int32_t>{3}, std::vector<int32_t>{1}, 0, 1);
  EXPECT_EQ(m->layer(0)[0].src, element(l, 0, false, 3, 0, 1, 0) * 2);
}

}  // namespace
}  // namespace baton::transport
