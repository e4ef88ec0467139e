// attention: every path against the definition, bit for bit, and that chunking, blocks, views and threads leave the bits alone.
#include "tests/unit/kernels_attention.h"

namespace baton::engine::test {
namespace {

void check(const KvShape& s, uint32_t rows, uint32_t position, Act act, uint32_t window, Data d, const std::vector<Pool*>& pools, uint64_t seed) {
  FlushDenormals flush;
  Random random(seed);
  const KvCache cache(s, random, d);
  const std::vector<float> q = random.vector(uint64_t(rows) * s.heads * s.head_dim, d);
  const std::vector<float> want = attention_ref(cache, cache.args(q.data(), nullptr, rows, position, act, window));
  for (const Path& p : paths())
    for (Pool* pool : pools) {
      std::vector<float> out(want.size(), 77.0f);
      p.table->attention(*pool, cache.args(q.data(), out.data(), rows, position, act, window));
      EXPECT_TRUE(same(out, want)) << p.name << " heads " << s.heads << "/" << s.kv_heads << " dim " << s.head_dim << " rows " << rows << " at "
                                   << position << " window " << window << " " << program::dtype_name(s.dtype) << " " << data_name(d)
                                   << (act == Act::bf16 ? " act bf16" : " act f32") << " threads " << pool->size();
    }
}

TEST(KernelsAttention, HeadDimsAndGroups) {
  Pool one(1), two(2);
  uint64_t seed = 1;
  for (uint32_t dim : {32u, 64u, 80u, 128u, 20u})
    for (uint32_t kv_heads : {1u, 2u, 6u}) {
      const KvShape s{.heads = 6, .kv_heads = kv_heads, .head_dim = dim, .keys = 75};
      check(s, 5, 70, Act::bf16, 0, Data::normal, {&one, &two}, ++seed);
      check(s, 35, 3, Act::bf16, 0, Data::normal, {&two}, ++seed);
    }
}

TEST(KernelsAttention, CacheTypesActsAndData) {
  Pool one(1);
  uint64_t seed = 100;
  for (DType t : {DType::bf16, DType::f16, DType::f32})
    for (Act act : {Act::f32, Act::bf16})
      for (Data d : kAllData) {
        const KvShape s{.heads = 4, .kv_heads = 2, .head_dim = 48, .keys = 50, .dtype = t};
        check(s, 1, 49, act, 0, d, {&one}, ++seed);
        check(s, 20, 30, act, 0, d, {&one}, ++seed);
      }
}

TEST(KernelsAttention, Windows) {
  Pool one(1), three(3);
  uint64_t seed = 200;
  const KvShape s{.heads = 2, .kv_heads = 1, .head_dim = 32, .keys = 200};
  for (uint32_t window : {1u, 5u, 16u, 31u, 32u, 33u, 64u, 150u, 500u}) {
    check(s, 1, 199, Act::bf16, window, Data::normal, {&one}, ++seed);
    check(s, 90, 110, Act::bf16, window, Data::normal, {&one, &three}, ++seed);
  }
}

TEST(KernelsAttention, EveryLengthAroundARunOfKeys) {
  Pool one(1);
  const KvShape s{.heads = 2, .kv_heads = 1, .head_dim = 32, .keys = 70};
  for (uint32_t position = 0; position < 70; ++position) check(s, 1, position, Act::bf16, 0, Data::normal, {&one}, 300 + position);
}

// Enough rows and keys for several units a kv head, on more threads than kv heads.
TEST(KernelsAttention, ManyUnits) {
  Pool one(1), four(4);
  check({.heads = 2, .kv_heads = 1, .head_dim = 32, .keys = 330}, 150, 180, Act::bf16, 0, Data::normal, {&one, &four}, 400);
  check({.heads = 3, .kv_heads = 3, .head_dim = 32, .keys = 120}, 120, 0, Act::bf16, 40, Data::normal, {&one, &four}, 401);
}

TEST(KernelsAttention, ChunksBlocksAndViewsLeaveTheBitsAlone) {
  FlushDenormals flush;
  Random random(500);
  Pool pool(2);
  KvShape s{.heads = 8, .kv_heads = 2, .head_dim = 64, .keys = 130};
  const uint32_t rows = 100, position = 30, width = s.heads * s.head_dim;
  const std::vector<float> q = random.vector(rows * width, Data::normal);
  const KvCache first(s, random, Data::normal);
  std::vector<float> want(rows * width);
  kernels_portable().attention(pool, first.args(q.data(), want.data(), rows, position, Act::bf16));
  for (const Path& p : paths())
    for (uint32_t block : {1u, 16u, 24u, 64u})
      for (Order order : {Order::token_major, Order::head_major})
        for (uint32_t chunk : {1u, 7u, 48u, rows}) {
          s.block_tokens = block;
          s.order = order;
          const KvCache cache(s, first.k, first.v, random);
          std::vector<float> out(want.size());
          for (uint32_t r = 0; r < rows; r += chunk)
            p.table->attention(pool, cache.args(&q[r * width], &out[r * width], std::min(chunk, rows - r), position + r, Act::bf16));
          EXPECT_TRUE(same(out, want)) << p.name << " block " << block << " order " << int(order) << " chunk " << chunk;
        }
}

// A value that one row sees and another does not: 0 * infinity must not reach the other.
TEST(KernelsAttention, InfinitiesReachOnlyThoseWhoSeeThem) {
  FlushDenormals flush;
  Random random(600);
  Pool pool(2);
  const KvShape s{.heads = 4, .kv_heads = 2, .head_dim = 32, .keys = 80};
  const uint32_t rows = 60, position = 20, width = s.heads * s.head_dim;
  std::vector<float> keys = random.vector(KvCache::count(s), Data::normal), values = random.vector(KvCache::count(s), Data::normal);
  values[50 * s.kv_heads * s.head_dim + 3] = INFINITY;
  values[70 * s.kv_heads * s.head_dim + s.head_dim + 9] = std::nanf("");
  keys[60 * s.kv_heads * s.head_dim + 1] = -INFINITY;
  for (uint32_t window : {0u, 12u}) {
    const KvCache cache(s, keys, values, random);
    const std::vector<float> q = random.vector(rows * width, Data::normal);
    const std::vector<float> want = attention_ref(cache, cache.args(q.data(), nullptr, rows, position, Act::bf16, window));
    EXPECT_FALSE(std::isnan(want[(49 - position) * width + 3])) << "row 49 does not see key 50";
    EXPECT_TRUE(std::isinf(want[(50 - position) * width + 3]));
    for (const Path& p : paths()) {
      std::vector<float> out(want.size()), alone(want.size());
      p.table->attention(pool, cache.args(q.data(), out.data(), rows, position, Act::bf16, window));
      for (uint32_t r = 0; r < rows; ++r)
        p.table->attention(pool, cache.args(&q[r * width], &alone[r * width], 1, position + r, Act::bf16, window));
      EXPECT_TRUE(same(out, want)) << p.name << " window " << window;
      EXPECT_TRUE(same(alone, want)) << p.name << " window " << window << " row by row";
    }
  }
}

}  // namespace
}  // namespace baton::engine::test
