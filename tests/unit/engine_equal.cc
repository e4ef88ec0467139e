// Equality, bit for bit: the reason that the engine defines its sums. A prompt prefilled at once, in chunks, token by token, sharded
// over ranks, on any number of threads, on any ISA path, with any layout of the cache, has the same logits and the same cache.
#include "engine_device.h"

#include <gtest/gtest.h>

namespace baton::test {
namespace {

std::vector<int32_t> prompt(const Model& m, size_t n) {
  std::mt19937 g(21);
  std::vector<int32_t> ids(n);
  for (auto& i : ids) i = int32_t(g() % m.vocabulary);
  return ids;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Different logits would pass an equality of zeros or NaN.
void expect_sane(const std::vector<float>& logits) {
  double sum = 0;
  for (float f : logits) {
    ASSERT_TRUE(std::isfinite(f));
    sum += std::abs(f);
  }
  EXPECT_GT(sum / double(logits.size()), 0.05);
}

void expect_same_cache(const Model& m, const TestDevice& a, const TestDevice& b, uint32_t tokens) {
  for (uint32_t l = 0; l < m.layers; ++l)
    for (int v = 0; v < 2; ++v)
      for (uint32_t t = 0; t < tokens; ++t)
        for (uint32_t h = 0; h < m.kv_heads; ++h)
          for (uint32_t d = 0; d < m.head_dim; ++d)
            ASSERT_EQ(a.kv_bits(l, v, t, h, d), b.kv_bits(l, v, t, h, d)) << "layer " << l << " v " << v << " token " << t << " head " << h;
}

struct Variant {
  const char* name;
  void (*change)(Model&);
};

class Equal : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    GetParam().change(m_);
    w_ = random_weights(m_);
    ids_ = prompt(m_, 41);
    whole_ = std::make_unique<TestDevice>(m_, w_);
    logits_ = whole_->prefill(ids_, 0, ids_.size());
    expect_sane(logits_);
  }
  // Prefills in runs of these lengths, the last one taking the rest.
  std::vector<float> chunked(TestDevice& d, std::vector<size_t> runs) {
    std::vector<float> all;
    for (size_t at = 0, i = 0; at < ids_.size(); ++i) {
      const size_t end = i < runs.size() ? std::min(ids_.size(), at + runs[i]) : ids_.size();
      auto part = d.prefill(ids_, at, end);
      all.insert(all.end(), part.begin(), part.end());
      at = end;
    }
    return all;
  }
  Model m_;
  Weights w_;
  std::vector<int32_t> ids_;
  std::unique_ptr<TestDevice> whole_;
  std::vector<float> logits_;
};

INSTANTIATE_TEST_SUITE_P(
    Models, Equal,
    testing::Values(Variant{"llama_bf16", [](Model&) {}},                                                                  //
                    Variant{"qwen3_bf16", [](Model& m) { m.qk_norm = true; m.tied = true; }},                              //
                    Variant{"qwen2_bf16", [](Model& m) { m.bias = true; }},                                                //
                    Variant{"mistral_window", [](Model& m) { m.window = 19; }},                                            //
                    Variant{"llama_f32", [](Model& m) { m.dtype = DType::f32; m.kv_dtype = DType::f32; m.act = Act::f32; }},  //
                    Variant{"llama_f16", [](Model& m) { m.dtype = DType::f16; m.kv_dtype = DType::f16; m.act = Act::f32; }},  //
                    Variant{"bf16_weights_f32_acts", [](Model& m) { m.act = Act::f32; m.kv_dtype = DType::f32; }},         //
                    Variant{"head_dim_32", [](Model& m) { m.head_dim = 32; m.ffn = 256; }},                                //
                    Variant{"block_64", [](Model& m) { m.block_tokens = 64; }},                                            //
                    Variant{"head_major", [](Model& m) { m.order = KvOrder::head_major; }},                                //
                    Variant{"block_major_64", [](Model& m) { m.order = KvOrder::block_major; m.block_tokens = 64; }}),
    [](const auto& info) { return info.param.name; });

TEST_P(Equal, Chunks) {
  for (std::vector<size_t> runs : {std::vector<size_t>{7, 9, 1}, {1}, {16, 16}, {40}, {32}, {15, 2, 3, 5, 8}}) {
    TestDevice d(m_, w_);
    EXPECT_TRUE(same(chunked(d, runs), logits_)) << "first chunk of " << runs[0];
    expect_same_cache(m_, *whole_, d, uint32_t(ids_.size()));
  }
}

TEST_P(Equal, TokenByTokenInTheDecodeProgram) {
  TestDevice d(m_, w_);
  std::vector<float> all;
  for (size_t i = 0; i < ids_.size(); ++i) {
    std::vector<int32_t> token = {ids_[i]};
    auto row = d.decode(token, i, 1);
    all.insert(all.end(), row.begin(), row.end());
  }
  EXPECT_TRUE(same(all, logits_));
  expect_same_cache(m_, *whole_, d, uint32_t(ids_.size()));
}

TEST_P(Equal, ShardedOverRanks) {
  for (uint32_t ranks : {2u, 4u}) {
    TestDevice d(m_, w_, ranks);
    EXPECT_TRUE(same(chunked(d, {23}), logits_)) << ranks << " ranks";
    expect_same_cache(m_, *whole_, d, uint32_t(ids_.size()));
  }
}

TEST_P(Equal, Threads) {
  TestDevice d(m_, w_, 1, isas().back(), 2);
  EXPECT_TRUE(same(chunked(d, {30}), logits_));
}

TEST_P(Equal, IsaPaths) {
  for (Isa isa : isas()) {
    TestDevice d(m_, w_, 1, isa);
    EXPECT_TRUE(same(d.prefill(ids_, 0, ids_.size()), logits_)) << isa_name(isa);
    expect_same_cache(m_, *whole_, d, uint32_t(ids_.size()));
    std::vector<int32_t> tokens = {5}, scalar_tokens = {5};
    EXPECT_TRUE(same(d.decode(tokens, ids_.size(), 9), whole_->decode(scalar_tokens, ids_.size(), 9))) << isa_name(isa);
    EXPECT_EQ(tokens, scalar_tokens);
  }
}

TEST_P(Equal, GeneratedTokensPrefilledAgainGiveTheLogitsTheyWereDrawnFrom) {
  for (Sampling s : {Sampling{}, Sampling{1.1, 0.9, 77}}) {
    TestDevice d(m_, w_);
    int32_t next = 0;
    d.prefill(ids_, 0, ids_.size(), s, &next);
    std::vector<int32_t> tokens = {next};
    const auto drawn_from = d.decode(tokens, ids_.size(), 12, s);
    // In two launches instead of one.
    TestDevice twice(m_, w_, 2);
    twice.prefill(ids_, 0, ids_.size());
    std::vector<int32_t> a = {next};
    auto first = twice.decode(a, ids_.size(), 5, s);
    std::vector<int32_t> b = {a.back()};
    auto second = twice.decode(b, ids_.size() + 5, 7, s);
    first.insert(first.end(), second.begin(), second.end());
    a.insert(a.end(), b.begin() + 1, b.end());
    EXPECT_EQ(a, tokens);
    EXPECT_TRUE(same(first, drawn_from));
    // As a prompt.
    std::vector<int32_t> all = ids_;
    all.insert(all.end(), tokens.begin(), tokens.end() - 1);
    TestDevice again(m_, w_);
    auto logits = again.prefill(all, 0, all.size());
    logits.erase(logits.begin(), logits.begin() + ptrdiff_t(ids_.size() * m_.vocabulary));
    EXPECT_TRUE(same(logits, drawn_from));
  }
}

TEST(EqualLayouts, OrdersAndBlockSizesOfTheCache) {
  Model m;
  const Weights w = random_weights(m);
  const auto ids = prompt(m, 50);
  std::vector<float> first;
  for (uint32_t block : {16u, 64u, 8u, 5u})
    for (KvOrder order : {KvOrder::token_major, KvOrder::head_major, KvOrder::block_major}) {
      m.block_tokens = block;
      m.order = order;
      TestDevice d(m, w);
      auto logits = d.prefill(ids, 0, 33);
      auto rest = d.prefill(ids, 33, 50);
      logits.insert(logits.end(), rest.begin(), rest.end());
      if (first.empty()) first = logits;
      EXPECT_TRUE(same(first, logits)) << "block " << block << " order " << int(order);
    }
}

TEST(EqualLayouts, WhatLiesInUnusedPartsOfTheCacheDoesNotMatter) {
  Model m;
  const Weights w = random_weights(m);
  const auto ids = prompt(m, 21);
  TestDevice a(m, w), b(m, w);
  std::fill(b.cache().begin(), b.cache().end(), 0xFF); // NaN
  EXPECT_TRUE(same(a.prefill(ids, 0, 21), b.prefill(ids, 0, 21)));
}

}  // namespace
}  // namespace baton::test
