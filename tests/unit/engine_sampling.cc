// Sampling: the generator's published vectors, greedy rules, the nucleus, and that paths agree.
#include "emulators/engine/sampling.h"
#include "engine_device.h"

#include <gtest/gtest.h>

#include <numeric>

namespace baton::test {
namespace {

using engine::draw;
using engine::Draw;
using engine::kernels;
using engine::philox4x32;

struct Sampler {
  Isa isa = Isa::scalar;
  std::vector<float> p;
  std::vector<uint32_t> order;
  uint32_t operator()(const std::vector<float>& x, Draw d) {
    p.resize(x.size());
    order.resize(x.size());
    engine::FlushDenormals flush;
    return draw(kernels(isa), x.data(), uint32_t(x.size()), d, p.data(), order.data());
  }
};

TEST(Philox, KnownAnswers) { // Random123 1.14, tests/kat_vectors, philox4x32 10
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Uniform, IsSpreadAndDependsOnSeedAndPosition) {
  double sum = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const double u = engine::uniform(3, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.01);
  EXPECT_EQ(engine::uniform(3, 4), engine::uniform(3, 4));
  EXPECT_NE(engine::uniform(3, 4), engine::uniform(4, 4));
  EXPECT_NE(engine::uniform(3, 4), engine::uniform(3, 1ull << 32 | 4));
}

TEST(Greedy, LowestIndexWinsAndNanLoses) {
  Sampler s;
  EXPECT_EQ(s({1, 3, 3, 2}, {}), 1u);
  EXPECT_EQ(s({NAN, -3, NAN, -4}, {}), 1u);
  EXPECT_EQ(s({-INFINITY, -INFINITY}, {}), 0u);
  EXPECT_EQ(s({1, INFINITY, 2}, {.temperature = 1}), 1u); // no finite maximum: argmax
}

TEST(Draws, FollowTheProbabilities) {
  Sampler s;
  const std::vector<float> x = {std::log(0.1f), std::log(0.6f), std::log(0.3f)};
  std::vector<int> count(3);
  for (uint64_t i = 0; i < 20000; ++i) ++count[s(x, {.temperature = 1, .seed = 9, .position = i})];
  EXPECT_NEAR(count[0] / 20000.0, 0.1, 0.01);
  EXPECT_NEAR(count[1] / 20000.0, 0.6, 0.015);
  EXPECT_NEAR(count[2] / 20000.0, 0.3, 0.015);
}

TEST(Draws, TemperatureSharpens) {
  Sampler s;
  int best = 0;
  for (uint64_t i = 0; i < 2000; ++i) best += s({0, 1, 0, 0}, {.temperature = 0.1, .seed = 1, .position = i}) == 1;
  EXPECT_GT(best, 1990);
}

TEST(Draws, TheNucleusIsTheFewestBestTokens) {
  Sampler s;
  const std::vector<float> x = {std::log(0.1f), std::log(0.5f), std::log(0.1f), std::log(0.3f)};
  auto drawn = [&](double top_p) {
    std::set<uint32_t> all;
    for (uint64_t i = 0; i < 3000; ++i) all.insert(s(x, {.temperature = 1, .top_p = top_p, .seed = 2, .position = i}));
    return all;
  };
  EXPECT_EQ(drawn(0.4), (std::set<uint32_t>{1}));
  EXPECT_EQ(drawn(0.7), (std::set<uint32_t>{1, 3}));
  EXPECT_EQ(drawn(0.85), (std::set<uint32_t>{0, 1, 3})); // of the two of 0.1 the lower index
  EXPECT_EQ(drawn(1), (std::set<uint32_t>{0, 1, 2, 3}));
}

TEST(Draws, AgreeWithTheDefinitionAndAcrossPaths) {
  std::mt19937 g(4);
  std::normal_distribution<float> normal(0, 3);
  for (int round = 0; round < 60; ++round) {
    std::vector<float> x(1 + g() % 3000);
    for (float& f : x) f = std::round(normal(g) * 4) / 4; // many ties
    if (round % 5 == 0) x[g() % x.size()] = NAN;
    const Draw d{.temperature = 0.5 + round % 3, .top_p = round % 4 ? 0.3 + 0.2 * (round % 4) : 1.0, .seed = g(), .position = g()};
    Sampler scalar;
    const uint32_t token = scalar(x, d);
    for (Isa isa : isas()) EXPECT_EQ(Sampler{isa}(x, d), token);
    // The definition, by a full stable sort.
    std::vector<uint32_t> order(x.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return (std::isnan(x[a]) ? -INFINITY : x[a]) > (std::isnan(x[b]) ? -INFINITY : x[b]); });
    double total = std::accumulate(scalar.p.begin(), scalar.p.end(), 0.0), nucleus = 0;
    size_t n = 0;
    while (n < order.size() && nucleus < d.top_p * total) nucleus += double(scalar.p[order[n++]]);
    if (d.top_p == 1) nucleus = total, n = order.size();
    const double target = engine::uniform(d.seed, d.position) * nucleus;
    double sum = 0;
    size_t i = 0;
    while (i + 1 < n && (sum += double(scalar.p[order[i]])) <= target) ++i;
    EXPECT_EQ(token, order[i]) << "round " << round;
  }
}

}  // namespace
}  // namespace baton::test
