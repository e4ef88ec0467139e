// matmul: every path against the definition, bit for bit, and the invariances that the definition promises.
#include "tests/unit/kernels_test.h"

namespace baton::engine::test {
namespace {

struct Shape {
  uint32_t rows, n, k, segments;
};

std::string text(const Shape& s, DType t, Act act, Data d, const char* path, uint32_t threads) {
  return std::string(path) + " " + std::to_string(s.rows) + "x" + std::to_string(s.k) + "x" + std::to_string(s.n) + " segments " +
         std::to_string(s.segments) + " " + program::dtype_name(t) + (act == Act::bf16 ? " act bf16 " : " act f32 ") + data_name(d) + " threads " +
         std::to_string(threads);
}

void check(const Shape& s, DType t, Act act, Data d, bool with_bias, const std::vector<Pool*>& pools, uint64_t seed) {
  FlushDenormals flush;
  Random random(seed);
  const Matrix w(t, s.n, s.k, s.segments, random.vector(uint64_t(s.n) * s.k, d), *pools[0]);
  const std::vector<float> x = random.vector(uint64_t(s.rows) * s.k, d), bias = random.vector(s.n, d);
  const float* b = with_bias ? bias.data() : nullptr;
  const std::vector<float> want = matmul_ref(x, s.rows, w, b, act);
  for (const Path& p : paths())
    for (Pool* pool : pools) {
      std::vector<float> y(want.size(), -1.0f);
      p.table->matmul(*pool, x.data(), s.k, s.rows, w.packed, b, act, y.data(), s.n);
      EXPECT_TRUE(same(y, want)) << text(s, t, act, d, p.name, pool->size());
    }
}

constexpr DType kTypes[] = {DType::bf16, DType::f16, DType::f32};
constexpr Act kActs[] = {Act::f32, Act::bf16};

TEST(KernelsMatmul, EveryTypeOnOddShapes) {
  Pool one(1), three(3);
  const Shape shapes[] = {{1, 32, 32, 1}, {1, 1, 1, 1}, {3, 33, 50, 1}, {7, 70, 96, 1}, {17, 31, 65, 1}, {33, 40, 128, 2}, {5, 47, 120, 4}};
  uint64_t seed = 1;
  for (const Shape& s : shapes)
    for (DType t : kTypes)
      for (Act act : kActs)
        for (Data d : kAllData) {
          check(s, t, act, d, seed % 2, {&one, &three}, seed);
          ++seed;
        }
}

TEST(KernelsMatmul, EveryRowCount) {
  Pool one(1), two(2);
  for (uint32_t rows = 1; rows <= 70; ++rows) check({rows, 37, 72, 1}, DType::bf16, Act::bf16, Data::wide, true, {&one, &two}, rows);
}

TEST(KernelsMatmul, SegmentsAddAsATree) {
  Pool one(1), two(2);
  for (uint32_t segments : {1u, 2u, 4u, 8u, 16u})
    for (uint32_t rows : {1u, 20u, 50u})
      check({rows, 300, segments * 40, segments}, DType::bf16, Act::bf16, Data::wide, rows == 20, {&one, &two}, segments);
}

// More rows than a panel, more k than a chunk of it, more strips than a group: the pieces that do not fit in cache.
TEST(KernelsMatmul, PanelsChunksAndGroups) {
  Pool one(1), two(2);
  check({300, 33, 40, 1}, DType::bf16, Act::bf16, Data::normal, false, {&one}, 7);
  check({18, 330, 1100, 1}, DType::bf16, Act::bf16, Data::wide, true, {&one, &two}, 8);
  check({18, 290, 2240, 2}, DType::bf16, Act::f32, Data::wide, true, {&two}, 9);
}

TEST(KernelsMatmul, ARowDoesNotDependOnItsNeighbours) {
  FlushDenormals flush;
  Pool pool(2);
  Random random(3);
  const uint32_t rows = 45, n = 100, k = 200;
  const Matrix w(DType::bf16, n, k, 1, random.vector(n * k, Data::wide), pool);
  const std::vector<float> x = random.vector(rows * k, Data::wide);
  for (const Path& p : paths()) {
    std::vector<float> together(rows * n), alone(rows * n);
    p.table->matmul(pool, x.data(), k, rows, w.packed, nullptr, Act::bf16, together.data(), n);
    for (uint32_t r = 0; r < rows; ++r) p.table->matmul(pool, &x[r * k], k, 1, w.packed, nullptr, Act::bf16, &alone[r * n], n);
    EXPECT_TRUE(same(alone, together)) << p.name;
  }
}

// Sharding K over ranks, each with its part of the segments, then adding as the tree does.
TEST(KernelsMatmul, ShardedKEqualsWhole) {
  FlushDenormals flush;
  Pool pool(1);
  Random random(4);
  const uint32_t rows = 9, n = 64, k = 256, segments = 4;
  const std::vector<float> values = random.vector(n * k, Data::wide), x = random.vector(rows * k, Data::wide);
  const Matrix whole(DType::bf16, n, k, segments, values, pool);
  for (const Path& p : paths()) {
    std::vector<float> want(rows * n), left(rows * n), right(rows * n);
    p.table->matmul(pool, x.data(), k, rows, whole.packed, nullptr, Act::bf16, want.data(), n);
    for (uint32_t half = 0; half < 2; ++half) {
      std::vector<float> part;
      for (uint32_t i = 0; i < n; ++i) part.insert(part.end(), &values[i * k + half * k / 2], &values[i * k + half * k / 2] + k / 2);
      const Matrix shard(DType::bf16, n, k / 2, segments / 2, part, pool);
      p.table->matmul(pool, x.data() + half * k / 2, k, rows, shard.packed, nullptr, Act::bf16, half ? right.data() : left.data(), n);
    }
    std::vector<float> sum(rows * n);
    p.table->add(pool, left.data(), right.data(), sum.size(), sum.data());
    EXPECT_TRUE(same(sum, want)) << p.name;
  }
}

TEST(KernelsMatmul, StridesLeaveTheRestAlone) {
  FlushDenormals flush;
  Pool pool(1);
  Random random(5);
  const uint32_t rows = 5, n = 35, k = 40, ldx = 47, ldy = 41;
  const Matrix w(DType::f16, n, k, 1, random.vector(n * k, Data::normal), pool);
  const std::vector<float> x = random.vector(rows * ldx, Data::normal);
  std::vector<float> dense;
  for (uint32_t r = 0; r < rows; ++r) dense.insert(dense.end(), &x[r * ldx], &x[r * ldx] + k);
  const std::vector<float> want = matmul_ref(dense, rows, w, nullptr, Act::bf16);
  for (const Path& p : paths()) {
    std::vector<float> y(rows * ldy, 99.0f);
    p.table->matmul(pool, x.data(), ldx, rows, w.packed, nullptr, Act::bf16, y.data(), ldy);
    for (uint32_t r = 0; r < rows; ++r)
      for (uint32_t i = 0; i < ldy; ++i)
        ASSERT_TRUE(same_bits(y[r * ldy + i], i < n ? want[r * n + i] : 99.0f)) << p.name << " row " << r << " column " << i;
  }
}

TEST(KernelsMatmul, InfinitiesAndNan) {
  FlushDenormals flush;
  Pool pool(1);
  Random random(6);
  const uint32_t rows = 20, n = 40, k = 64;
  std::vector<float> x = random.vector(rows * k, Data::normal), values = random.vector(n * k, Data::normal);
  x[3 * k + 5] = INFINITY;
  x[4 * k + 6] = -INFINITY;
  x[5 * k + 7] = std::nanf("");
  x[6 * k + 8] = 3.4e38f;  // rounds to infinity in bf16
  values[2 * k + 5] = 0;
  values[9 * k + 1] = INFINITY;
  const Matrix w(DType::bf16, n, k, 1, values, pool);
  std::vector<float> want(rows * n);
  kernels_portable().matmul(pool, x.data(), k, rows, w.packed, nullptr, Act::bf16, want.data(), n);
  EXPECT_TRUE(std::isnan(want[3 * n + 2])) << "infinity * 0";
  EXPECT_TRUE(std::isinf(want[3 * n]));
  EXPECT_TRUE(std::isnan(want[5 * n + 30]));
  EXPECT_TRUE(std::isinf(want[6 * n + 1]));
  for (const Path& p : paths()) {
    std::vector<float> y(rows * n);
    p.table->matmul(pool, x.data(), k, rows, w.packed, nullptr, Act::bf16, y.data(), n);
    EXPECT_TRUE(same(y, want)) << p.name;
  }
}

// The packed order is a contract (engine and drivers read rows out of it): element (n, k) of the blocks of kernels.hpp.
TEST(KernelsPack, Layout) {
  Pool pool(2);
  const uint32_t n = 70, k = 2 * 45, segments = 2;
  std::vector<float> values(n * k);
  for (uint32_t i = 0; i < values.size(); ++i) values[i] = float(i + 1);
  const Matrix w(DType::f32, n, k, segments, values, pool);
  EXPECT_EQ(w.packed.n_blocks, 3u);
  EXPECT_EQ(w.packed.segment_blocks, 2u);
  EXPECT_EQ(w.packed.bytes(), 3u * 2 * 2 * 1024 * 4);
  const auto* f = reinterpret_cast<const float*>(w.packed.data);
  std::vector<float> seen(w.packed.bytes() / 4);
  for (uint32_t i = 0; i < n; ++i)
    for (uint32_t j = 0; j < k; ++j) {
      const uint32_t s = j / 45, kk = j % 45;
      const uint64_t at = ((i / 32 * segments + s) * 2 + kk / 32) * 1024 + ((i % 32 / 16 * 16 + kk % 32 / 2) * 16 + i % 16) * 2 + kk % 2;
      ASSERT_EQ(f[at], values[i * k + j]) << i << ", " << j;
      seen[at] = 1;
    }
  for (uint64_t i = 0; i < seen.size(); ++i) ASSERT_TRUE(seen[i] || same_bits(f[i], 0.0f)) << "padding at " << i;
}

}  // namespace
}  // namespace baton::engine::test
