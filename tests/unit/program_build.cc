// The builder, dump and the arithmetic of KvView.
#include "engine_model.h"
#include "hal/program/kv_view.hpp"

#include <gtest/gtest.h>

#include <set>

namespace baton::test {
namespace {

using program::blocks_in;
using program::check_view;
using program::kv_element;

TEST(Builder, BuildsModelsInEveryVariant) {
  for (bool loop : {false, true})
    for (uint32_t ranks : {1u, 2u, 4u})
      for (int variant = 0; variant < 8; ++variant) {
        Model m;
        m.qk_norm = variant & 1;
        m.bias = variant & 2;
        m.tied = variant & 4;
        m.order = KvOrder(variant % 3);
        const Weights w = shard(random_weights(m), 0, ranks);
        auto p = build_model(m, w, loop, ranks).finish();
        ASSERT_TRUE(p.ok()) << p.error().what;
      }
}

TEST(Builder, GeneratedNamesAreUnique) {
  Model m;
  auto p = build_model(m, random_weights(m), false).finish();
  ASSERT_TRUE(p.ok());
  std::set<std::string> names;
  for (const auto& v : p->values) EXPECT_TRUE(names.insert(v.name).second) << v.name;
}

TEST(Builder, AnIndexThatDoesNotExistIsReportedByFinish) {
  Builder b("bad");
  b.add(7, 9);
  auto p = std::move(b).finish();
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.error().code, BATON_INVALID_ARGUMENT);
}

TEST(Dump, OneLineEachAndStable) {
  Builder b("tiny");
  b.program().args = {Arg::tokens};
  b.program().max_tokens = 8;
  uint32_t x = b.value("x", DType::f32, Storage::input, {program::kTokens, 4});
  uint32_t w = b.constant("w", DType::bf16, {3, 4});
  uint32_t y = b.value("y", DType::f32, Storage::output, {program::kTokens, 3}, true);
  b.matmul(x, w, Act::bf16, 2, -1, y);
  b.mark();
  auto p = std::move(b).finish();
  ASSERT_TRUE(p.ok()) << p.error().what;
  EXPECT_EQ(dump(*p),
            "program tiny ranks=1 loop=false max_tokens=8 max_steps=1 max_context=0 args=(tokens)\n"
            "  value x f32[T,4] input\n"
            "  value w bf16[3,4] constant\n"
            "  value y f32[T,3] output optional\n"
            "  op 0 y = matmul(x, w) act=bf16 segments=2\n"
            "  op 1 mark()\n");
}

TEST(KvView, EveryElementIsApartAndBlocksAreCounted) {
  for (KvOrder order : {KvOrder::token_major, KvOrder::head_major, KvOrder::block_major}) {
    Model m{.layers = 3};
    m.order = order;
    const KvView v = m.view();
    ASSERT_TRUE(check_view(v, m.layers - 1, m.kv_heads, m.head_dim).ok());
    std::vector<bool> seen(m.cache_elements());
    for (uint32_t l = 0; l < m.layers; ++l)
      for (int kv = 0; kv < 2; ++kv)
        for (uint32_t b = 0; b < m.pool_blocks(); ++b)
          for (uint32_t t = 0; t < m.block_tokens; ++t)
            for (uint32_t h = 0; h < m.kv_heads; ++h)
              for (uint32_t d = 0; d < m.head_dim; ++d) {
                const uint64_t e = kv_element(v, l, kv, b, t, h) + d;
                ASSERT_LT(e, seen.size());
                ASSERT_FALSE(seen[e]);
                seen[e] = true;
              }
    for (uint32_t l = 0; l < m.layers; ++l) {
      EXPECT_EQ(blocks_in(v, l, m.kv_heads, m.head_dim, m.cache_elements()), m.pool_blocks()) << int(order) << " layer " << l;
    }
    // One element less and the last block of the last layer is not whole.
    EXPECT_EQ(blocks_in(v, m.layers - 1, m.kv_heads, m.head_dim, m.cache_elements() - 1), m.pool_blocks() - 1) << int(order);
    EXPECT_EQ(blocks_in(v, 0, m.kv_heads, m.head_dim, 0), 0u);
  }
}

TEST(KvView, OverlapsAreFound) {
  Model m;
  const KvView good = m.view();
  auto refused = [&](KvView v) { return !check_view(v, 1, m.kv_heads, m.head_dim).ok(); };
  auto with = [&](auto f) {
    KvView v = good;
    f(v);
    return v;
  };
  EXPECT_TRUE(refused(with([](KvView& v) { v.head_stride -= 1; })));
  EXPECT_TRUE(refused(with([](KvView& v) { v.token_stride = v.head_stride; })));
  EXPECT_TRUE(refused(with([](KvView& v) { v.block_stride -= 1; })));
  EXPECT_TRUE(refused(with([](KvView& v) { v.v_offset = 0; })));
  EXPECT_TRUE(refused(with([](KvView& v) { v.layer_stride = 0; })));
  EXPECT_TRUE(refused(with([](KvView& v) { v.block_tokens = 0; })));
  EXPECT_TRUE(refused(with([](KvView& v) { v.layer_stride = UINT64_MAX / 2; })));
  EXPECT_TRUE(refused(with([](KvView& v) { v.token_stride = UINT64_MAX - 3; })));
  EXPECT_TRUE(refused(KvView{}));
}

}  // namespace
}  // namespace baton::test
