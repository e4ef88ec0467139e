// N sources to M sinks against the definition: random shards of heads and layers, orders, pairings, block sizes, block tables and token ranges.
//
// The definition is that of transport_kv_places.hpp.
#include "tests/support/count_calls.h"
#include "transport/kv_wire.hpp"
#include "transport_kv_places.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <random>

namespace baton::transport {
namespace {

using program::DType;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kCases = 250;
#else
constexpr int kCases = 4000;
#endif

KvLayout random_model(std::mt19937& rng) {
  KvLayout m;
  m.layers = 1 + rng() % 5;
  m.kv_heads = 1 + rng() % 8;
  m.head_dim = 1 + rng() % 6;
  m.dtype = rng() % 2 ? DType::bf16 : DType::f32;
  if (rng() % 5 == 0) m.kv_heads = 1, m.pairing = KvPairing::latent, m.rope_dim = rng() % m.head_dim;
  return m;
}

struct Model { // every source holds the same model: its rows are made of where they are
  uint32_t row_bytes;
  void row(uint8_t* to, uint32_t layer, uint32_t half, uint64_t token, uint32_t head) const {
    for (uint32_t i = 0; i < row_bytes; ++i) to[i] = uint8_t(((layer * 2 + half) * 131 + token) * 29 + head * 7 + i * 3 + 1);
  }
};

template <class F>
void each_row(const KvLayout& l, uint64_t begin, uint64_t end, F f) {
  for (uint32_t y = l.layer_begin; y < l.layer_begin + l.layers_held(); ++y)
    for (uint32_t p = 0; p < l.halves(); ++p)
      for (uint64_t t = begin; t < end; ++t)
        for (uint32_t h = l.head_begin; h < l.head_begin + l.head_count; ++h) f(y, p, t, h);
}

void check_one(std::mt19937& rng) {
  const KvLayout m = random_model(rng);
  const uint64_t tokens = 1 + rng() % 90, begin = rng() % 3 ? 0 : rng() % tokens;
  auto from = random_shards(rng, m, 1 + rng() % 8, 1 + rng() % 2, tokens);
  const Model model{m.head_dim * program::dtype_bytes(m.dtype)};
  std::vector<KvLayout> layouts;
  for (Side& s : from) {
    const Places p(s.layout);
    each_row(s.layout, 0, tokens, [&](uint32_t y, uint32_t half, uint64_t t, uint32_t h) { model.row(&s.bytes[row_at(s, p, y, half, t, h)], y, half, t, h); });
    layouts.push_back(s.layout);
  }
  KvMove move; // used for all
  for (Side& to : random_shards(rng, m, 1 + rng() % 2, 1 + rng() % 8, tokens)) {
    SCOPED_TRACE(to.layout.describe());
    auto shares = share_heads(layouts, to.layout);
    ASSERT_TRUE(shares.ok()) << shares.error().text();
    std::fill(to.bytes.begin(), to.bytes.end(), 0);
    std::vector<uint8_t> want = to.bytes, times(to.bytes.size());
    const Places p(to.layout);
    each_row(to.layout, begin, tokens, [&](uint32_t y, uint32_t half, uint64_t t, uint32_t h) { model.row(&want[row_at(to, p, y, half, t, h)], y, half, t, h); });
    uint64_t bytes = 0;
    for (size_t i = 0; i < from.size(); ++i)
      for (const KvPlan& plan : shares->plans[i]) {
        auto ok = plan.instantiate(from[i].table, to.table, begin, tokens, move);
        ASSERT_TRUE(ok.ok()) << ok.error().text();
        for (uint32_t y = 0; y < m.layers; ++y) {
          uint64_t end = 0, sum = 0;
          for (const KvSegment& g : move.layer(y)) {
            ASSERT_TRUE(g.bytes && g.src + g.bytes <= from[i].bytes.size() && g.dst + g.bytes <= to.bytes.size() && g.dst >= end);
            ASSERT_FALSE(end && g.dst == end && (&g)[-1].src + (&g)[-1].bytes == g.src) << "not coalesced";
            end = g.dst + g.bytes;
            sum += g.bytes;
            std::memcpy(&to.bytes[g.dst], &from[i].bytes[g.src], g.bytes);
            for (uint64_t b = 0; b < g.bytes; ++b) ++times[g.dst + b];
          }
          ASSERT_EQ(sum, move.bytes(y));
          bytes += sum;
        }
      }
    ASSERT_EQ(bytes, (tokens - begin) * to.layout.halves() * to.layout.head_count * to.layout.layers_held() * model.row_bytes);
    ASSERT_LE(*std::max_element(times.begin(), times.end()), 1) << "a byte was written twice";
    ASSERT_EQ(to.bytes, want);
  }
}

TEST(KvPlan, ShardsOfHeadsAndLayersMoveWhatTheDefinitionMoves) {
  std::mt19937 rng(20261126);
  for (int i = 0; i < kCases && !testing::Test::HasFatalFailure(); ++i) {
    SCOPED_TRACE(i);
    check_one(rng);
  }
}

KvLayout big() { // Llama-3.1-70B
  KvLayout l;
  l.layers = 80, l.kv_heads = l.head_count = 8, l.head_dim = 128, l.blocks = 1024;
  return l;
}

TEST(KvShares, TheLowestSourceSendsAndAHoleIsNamed) {
  KvLayout whole = big();
  whole.blocks = 1;
  KvLayout low = whole, high = whole;
  low.layer_count = 50;
  high.layer_begin = 40, high.layer_count = 40;
  auto s = share_heads(std::vector{low, high}, whole);
  ASSERT_TRUE(s.ok());
  EXPECT_EQ(s->plans[0][0].part(), (KvPart{0, 8, 0, 50}));
  EXPECT_EQ(s->plans[1][0].part(), (KvPart{0, 8, 50, 30}));
  EXPECT_EQ(s->active, 2u);
  low.layer_count = 30, low.head_count = 4;
  EXPECT_THAT(share_heads(std::vector{low, high}, whole).error().text(), HasSubstr("MISMATCH: no source holds head 4 of the sink's [0,8) in layer 0"));
  EXPECT_THAT(share_heads(std::vector{high}, whole).error().text(), HasSubstr("no source holds head 0 of the sink's [0,8) in layer 0"));
  high.layer_begin = 0, high.layer_count = 80, high.head_begin = 4, high.head_count = 4;
  EXPECT_THAT(share_heads(std::vector{high}, whole).error().text(), AllOf(HasSubstr("no source holds head 0 of the sink's [0,8)"), Not(HasSubstr("in layer")))) << "of any layer";
  high.dtype = DType::i32;
  EXPECT_THAT(share_heads(std::vector{high}, whole).error().text(), HasSubstr("differ in dtype, and there is no conversion: source i32, destination bf16"));
}

TEST(KvPlan, AllocatesNothingOnceWarm) {
  KvLayout to = big();
  to.order = KvOrder::head_major, to.block_tokens = 64;
  const KvLayout from = big();
  const KvPlan plan = *KvPlan::compile(from, to);
  std::vector<int32_t> a(32), b(8);
  std::iota(a.rbegin(), a.rend(), 5);
  std::iota(b.rbegin(), b.rend(), 2);
  KvMove move;
  ASSERT_TRUE(plan.instantiate(a, b, 0, 512, move).ok());
  const auto before = test::calls().allocations;
  const bool ok = plan.instantiate(a, b, 0, 512, move).ok() && plan.instantiate(a, b, 3, 500, move).ok();
  const auto after = test::calls().allocations;
  EXPECT_TRUE(ok);
  EXPECT_EQ(after, before);
}

// In a pool that the request fills, blocks come in order from a walk over all of it; in a much larger one from sorting. A block that is there twice goes the second way.
TEST(KvPlan, HowLargeThePoolIsChangesNothing) {
  auto segments = [](KvLayout l, uint32_t blocks, const std::vector<int32_t>& to, uint64_t begin, uint64_t end) {
    l.order = KvOrder::block_major, l.blocks = blocks; // where a block lies does not depend on how many there are
    std::vector<int32_t> from(to.size());
    std::iota(from.rbegin(), from.rend(), 0);
    auto move = KvPlan::compile(l, l)->instantiate(from, to, begin, end);
    std::vector<std::array<uint64_t, 3>> all;
    for (uint32_t y = 0; move.ok() && y < l.layers; ++y)
      for (const KvSegment& g : move->layer(y)) all.push_back({g.src, g.dst, g.bytes});
    return all;
  };
  std::mt19937 rng(7);
  for (int i = 0; i < 50; ++i) {
    std::vector<int32_t> to(40);
    std::iota(to.begin(), to.end(), 0);
    std::shuffle(to.begin(), to.end(), rng);
    to.resize(1 + rng() % 40);
    const uint64_t end = 16 * to.size() - rng() % 16, begin = rng() % end;
    const auto small = segments(big(), 40, to, begin, end);
    EXPECT_FALSE(small.empty());
    EXPECT_EQ(small, segments(big(), 4000, to, begin, end)) << begin << ".." << end;
  }
  const std::vector<int32_t> twice{3, 1, 3}; // its end, then its beginning
  EXPECT_EQ(segments(big(), 4, twice, 8, 40), segments(big(), 4000, twice, 8, 40));
  EXPECT_FALSE(segments(big(), 4, twice, 8, 40).empty());
  EXPECT_TRUE(segments(big(), 4, twice, 8, 41).empty()) << "a token is there twice";
}

TEST(KvPlan, AFailedInstantiateMovesNothing) {
  const KvLayout l = big();
  const KvPlan plan = *KvPlan::compile(l, l);
  const std::vector<int32_t> good{0, 1}, bad{0, 4096};
  KvMove move;
  ASSERT_TRUE(plan.instantiate(good, good, 0, 32, move).ok());
  EXPECT_GT(move.total_bytes(), 0u);
  EXPECT_FALSE(plan.instantiate(good, bad, 0, 32, move).ok());
  EXPECT_EQ(move.total_bytes() + move.total_segments() + move.bytes(0) + move.layer(0).size(), 0u);
}

}  // namespace
}  // namespace baton::transport
