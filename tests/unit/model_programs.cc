#include "tools/model/programs.hpp"

#include "tests/unit/model_fixture.hpp"
#include "tools/model/synthetic.hpp"

#include <algorithm>

namespace baton::model {
namespace {

ModelConfig tiny(uint32_t heads = 8, uint32_t kv_heads = 2, uint32_t ffn = 640) {
  ModelConfig c = tinyllama_shape();
  c.hidden = 64;
  c.layers = 2;
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.head_dim = 32;
  c.ffn = ffn;
  c.vocab = 128;
  c.max_context = 64;
  c.window.assign(c.layers, 0);
  return c;
}

TEST(Shard, CutsHeadsAndSegments) {
  ModelConfig c = tiny();
  auto one = Shard::make(c, 0, 1), four = Shard::make(c, 3, 4);
  ASSERT_TRUE(one.ok() && four.ok());
  EXPECT_EQ(one->o_segments, 8u);
  EXPECT_EQ(one->down_segments, 4u);
  EXPECT_EQ(four->heads, 2u);
  EXPECT_EQ(four->kv_heads, 1u);
  EXPECT_EQ(four->kv_begin, 1u); // ranks 2 and 3 both hold KV head 1
  EXPECT_EQ(Shard::make(c, 1, 4)->kv_begin, 0u);
  EXPECT_EQ(four->o_segments, 2u);
  EXPECT_EQ(four->down_segments, 1u);
}

TEST(Shard, RefusesWhatDoesNotDivide) {
  auto says = [](Result<Shard> s, const char* text) {
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().code, BATON_INVALID_ARGUMENT);
    EXPECT_NE(std::string(s.error().what).find(text), std::string::npos) << s.error().what;
  };
  says(Shard::make(tiny(), 0, 3), "power of two");
  says(Shard::make(tiny(), 0, 16), "8 attention heads");
  says(Shard::make(tiny(6, 3), 0, 2), "3 KV heads");
  says(Shard::make(tiny(8, 2, 96), 0, 2), "K = 96 has 1 segments");
  ModelConfig biased = tiny();
  biased.qkv_bias = biased.o_bias = true;
  says(Shard::make(biased, 0, 2), "bias");
}

TEST(Constants, PartsOfTheRanksMakeTheWhole) {
  auto m = synthetic_model(tiny(8, 4), "BF16", 1);
  ASSERT_TRUE(m.ok()) << m.error().text();
  auto find = [](const Constants& c, std::string_view name) {
    auto it = std::find_if(c.list().begin(), c.list().end(), [&](auto& k) { return name == k.name; });
    EXPECT_NE(it, c.list().end()) << name;
    return std::span(static_cast<const uint16_t*>(it->data), it->bytes / 2);
  };
  auto whole = Constants::gather(*m, *Shard::make(m->config, 0, 1));
  ASSERT_TRUE(whole.ok());
  auto q = find(*whole, "l0.q"), o = find(*whole, "l0.o");
  for (uint32_t r = 0; r < 4; ++r) {
    auto part = Constants::gather(*m, *Shard::make(m->config, r, 4));
    ASSERT_TRUE(part.ok());
    auto pq = find(*part, "l0.q");
    ASSERT_EQ(pq.size() * 4, q.size());
    EXPECT_TRUE(std::equal(pq.begin(), pq.end(), q.begin() + long(r * pq.size())));
    auto po = find(*part, "l0.o");
    ASSERT_EQ(po.size() * 4, o.size());
    for (uint32_t row = 0; row < 64; ++row)
      for (uint32_t k = 0; k < 64; ++k) ASSERT_EQ(po[row * 64 + k], o[row * 256 + r * 64 + k]);
  }
}

uint32_t count(const program::Program& p, program::OpCode c) {
  return uint32_t(std::count_if(p.ops.begin(), p.ops.end(), [&](auto& o) { return o.code == c; }));
}

TEST(Programs, VerifyForEveryFamilyAndRank) {
  for (Family f : {Family::llama, Family::mistral, Family::qwen2, Family::qwen3})
    for (uint32_t ranks : {1u, 2u, 4u})
      for (auto order : {transport::KvOrder::token_major, transport::KvOrder::head_major, transport::KvOrder::block_major}) {
        ModelConfig c = tiny();
        c.family = f;
        c.qkv_bias = f == Family::qwen2;
        c.qk_norm = f == Family::qwen3;
        c.tied = f == Family::llama;
        if (f == Family::mistral) c.window.assign(c.layers, 16);
        auto m = synthetic_model(c, "BF16", 1);
        ASSERT_TRUE(m.ok());
        auto n = Numbers::of(*m, Precision::automatic);
        auto s = Shard::make(c, ranks - 1, ranks);
        ASSERT_TRUE(n.ok() && s.ok());
        auto layout = kv_layout(c, *n, *s, order, 16, 8);
        auto p = prefill_program(*m, *n, *s, {layout}, {32, 64});
        ASSERT_TRUE(p.ok()) << p.error().text();
        EXPECT_EQ(count(*p, program::OpCode::mark), c.layers);
        EXPECT_EQ(count(*p, program::OpCode::all_reduce), ranks > 1 ? 2 * c.layers : 0);
        // The mark comes right after the layer's KV, before its attention.
        auto at = std::find_if(p->ops.begin(), p->ops.end(), [](auto& o) { return o.code == program::OpCode::kv_store; });
        EXPECT_EQ((at + 1)->code, program::OpCode::mark);
        if (ranks > 1) continue;
        auto d = decode_program(*m, *n, *s, {layout}, {1, 64});
        ASSERT_TRUE(d.ok()) << d.error().text();
        EXPECT_TRUE(d->loop);
        EXPECT_EQ(count(*d, program::OpCode::mark), 1u);
      }
}

TEST(Programs, PrecisionFollowsTheCheckpoint) {
  auto numbers = [](const char* dtype, Precision p) { return *Numbers::of(*synthetic_model(tiny(), dtype, 1), p); };
  EXPECT_EQ(numbers("BF16", Precision::automatic).act, program::Act::bf16);
  EXPECT_EQ(numbers("BF16", Precision::automatic).kv, program::DType::bf16);
  EXPECT_EQ(numbers("F16", Precision::automatic).act, program::Act::f32);
  EXPECT_EQ(numbers("F16", Precision::automatic).kv, program::DType::f16);
  EXPECT_EQ(numbers("BF16", Precision::f32).kv, program::DType::f32);
}

TEST(Synthetic, DeterministicAndTheRightSize) {
  auto a = synthetic_model(tiny(), "BF16", 7), b = synthetic_model(tiny(), "BF16", 7), c = synthetic_model(tiny(), "BF16", 8);
  EXPECT_EQ(a->id, b->id);
  EXPECT_NE(a->id, c->id);
  EXPECT_NEAR(double(tinyllama_shape().parameters()), 1.1e9, 0.01e9);
}

}  // namespace
}  // namespace baton::model
