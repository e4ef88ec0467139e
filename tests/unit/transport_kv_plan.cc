// N sources to M sinks against the definition: random shards of heads and layers, orders, pairings, block sizes, block tables and token ranges.
//
// The definition is written out here from the brackets of the banner of kv_layout.hpp, and shares nothing with KvLayout::strides().
#include "tests/support/count_calls.h"
#include "transport/kv_wire.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
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

// From the outermost to the innermost: l layer, p K or V, b block, t token, h head, d element.
std::string nesting(const KvLayout& l) {
  static const std::map<std::pair<KvOrder, KvPairing>, std::string> all = {
      {{KvOrder::token_major, KvPairing::apart}, "lpbthd"}, {{KvOrder::token_major, KvPairing::block}, "lbpthd"}, {{KvOrder::token_major, KvPairing::token}, "lbtphd"},
      {{KvOrder::head_major, KvPairing::apart}, "lpbhtd"},  {{KvOrder::head_major, KvPairing::block}, "lbphtd"},  {{KvOrder::head_major, KvPairing::token}, "lbhtpd"},
      {{KvOrder::block_major, KvPairing::apart}, "blpthd"}, {{KvOrder::block_major, KvPairing::token}, "bltphd"},
      {{KvOrder::token_major, KvPairing::latent}, "lbtd"},  {{KvOrder::head_major, KvPairing::latent}, "lbtd"},   {{KvOrder::block_major, KvPairing::latent}, "bltd"}};
  return all.at({l.order, l.pairing});
}

// Where each element is, in elements.
struct Places {
  std::map<char, uint64_t> step;
  explicit Places(const KvLayout& l) {
    const std::map<char, uint64_t> extent = {{'l', l.layers_held()}, {'p', 2}, {'b', l.blocks}, {'t', l.block_tokens}, {'h', l.head_count}, {'d', l.head_dim}};
    const std::string order = nesting(l);
    uint64_t n = 1;
    for (auto it = order.rbegin(); it != order.rend(); ++it) {
      step[*it] = n;
      n *= extent.at(*it);
    }
  }
};

struct Side {
  KvLayout layout;
  std::vector<int32_t> table;
  std::vector<uint8_t> bytes;
};

// The row of (layer, half, token, head), all of the model, in bytes.
uint64_t row_at(const Side& s, const Places& p, uint32_t layer, uint32_t half, uint64_t token, uint32_t head) {
  const KvLayout& l = s.layout;
  auto step = [&](char c) { return p.step.count(c) ? p.step.at(c) : 0; };
  return program::dtype_bytes(l.dtype) * ((layer - l.layer_begin) * step('l') + half * step('p') + uint64_t(s.table[token / l.block_tokens]) * step('b') +
                                          token % l.block_tokens * step('t') + (head - l.head_begin) * step('h'));
}

Side random_side(std::mt19937& rng, KvLayout l, uint64_t tokens) {
  l.order = KvOrder(1 + rng() % 3);
  if (l.pairing != KvPairing::latent) l.pairing = KvPairing(1 + rng() % 3);
  if (l.order == KvOrder::block_major && l.pairing == KvPairing::block) l.pairing = KvPairing::apart;
  l.block_tokens = (const uint32_t[]){1, 3, 16, 64}[rng() % 4];
  const uint32_t need = uint32_t((tokens + l.block_tokens - 1) / l.block_tokens);
  l.blocks = need + rng() % 3;
  Side s{l, std::vector<int32_t>(l.blocks), std::vector<uint8_t>(l.bytes())};
  std::iota(s.table.begin(), s.table.end(), 0);
  if (rng() % 3) std::shuffle(s.table.begin(), s.table.end(), rng);
  s.table.resize(need);
  return s;
}

// Cuts [0, total) into `parts` ranges; where there are fewer than parts, some are the same.
std::vector<std::pair<uint32_t, uint32_t>> cut(uint32_t total, uint32_t parts) {
  std::vector<std::pair<uint32_t, uint32_t>> all;
  for (uint32_t i = 0; i < parts; ++i) {
    const uint32_t begin = uint32_t(uint64_t(i) * total / parts), end = uint32_t(uint64_t(i + 1) * total / parts);
    all.push_back({std::min(begin, total - 1), std::max(1u, end - begin)});
  }
  return all;
}

std::vector<Side> random_shards(std::mt19937& rng, const KvLayout& model, uint32_t by_head, uint32_t by_layer, uint64_t tokens) {
  std::vector<Side> all;
  for (auto [hb, hn] : cut(model.kv_heads, by_head))
    for (auto [lb, ln] : cut(model.layers, by_layer)) {
      KvLayout l = model;
      l.head_begin = hb, l.head_count = hn, l.layer_begin = lb, l.layer_count = ln;
      all.push_back(random_side(rng, l, tokens));
    }
  std::shuffle(all.begin(), all.end(), rng);
  return all;
}

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
  high.dtype = DType::f16;
  EXPECT_THAT(share_heads(std::vector{high}, whole).error().text(), HasSubstr("differ in dtype: source f16, destination bf16"));
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
