// The AMX kernels' logic on a software model of the tile instructions, bit for bit against the definition, on any CPU; and the
// instructions against the model where the CPU has them.
#include "emulators/engine/kernels_tile.h"

#include "emulators/engine/kernels_attention.h"
#include "tests/unit/kernels_attention.h"

#include <atomic>

namespace baton::engine::test {
namespace {

// Tile registers as memory. TDPBF16PS in its documented and measured order: for each output the even and the odd elements of 32 k are
// summed by two chains of fused multiply-adds from +0, then dst += even + odd. RNE; FTZ and DAZ whatever MXCSR says.
struct SoftTile {
  static inline thread_local TileConfig config;
  static inline thread_local bool configured = false;
  static inline thread_local uint8_t tile[8][16][64];
  static inline std::atomic<uint64_t> multiplies{0};

  static void configure(const TileConfig& c) {
    EXPECT_FALSE(configured) << "configured twice without a release";
    EXPECT_EQ(c.palette, 1);
    EXPECT_EQ(c.start_row, 0);
    for (int t = 0; t < 16; ++t) {  // what raises #GP: limits of palette 1, tiles 8..15 in use, only one of rows and colsb zero
      EXPECT_LE(c.rows[t], t < 8 ? 16 : 0);
      EXPECT_LE(c.row_bytes[t], t < 8 ? 64 : 0);
      EXPECT_EQ(c.rows[t] == 0, c.row_bytes[t] == 0);
      EXPECT_EQ(c.row_bytes[t] % 4, 0);
    }
    for (uint8_t r : c.reserved) EXPECT_EQ(r, 0);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(&c) % 64, 0u);
    config = c;
    configured = true;
    std::memset(tile, 0, sizeof tile);
  }
  static void release() {
    EXPECT_TRUE(configured);
    configured = false;
  }
  template <int t>
  static void zero() {
    require<t>();
    std::memset(tile[t], 0, sizeof tile[t]);
  }
  template <int t>
  static void load(const void* p, uint64_t stride) {
    require<t>();
    std::memset(tile[t], 0, sizeof tile[t]);
    for (int r = 0; r < config.rows[t]; ++r) std::memcpy(tile[t][r], static_cast<const uint8_t*>(p) + r * stride, config.row_bytes[t]);
  }
  template <int t>
  static void store(void* p, uint64_t stride) {
    require<t>();
    for (int r = 0; r < config.rows[t]; ++r) std::memcpy(static_cast<uint8_t*>(p) + r * stride, tile[t][r], config.row_bytes[t]);
  }
  template <int c, int a, int b>
  static void multiply() {
    static_assert(c != a && a != b && c != b, "#UD");
    require<c>(), require<a>(), require<b>();
    // #UD unless the shapes agree.
    ASSERT_EQ(config.rows[c], config.rows[a]);
    ASSERT_EQ(config.row_bytes[c], config.row_bytes[b]);
    ASSERT_EQ(config.row_bytes[a] / 4, config.rows[b]);
    FlushDenormals flush;
    for (int m = 0; m < config.rows[c]; ++m)
      for (int n = 0; n < config.row_bytes[c] / 4; ++n) {
        float even = 0, odd = 0, dst;
        for (int k = 0; k < config.row_bytes[a] / 4; ++k) {
          even = std::fma(half(tile[a][m] + 4 * k), half(tile[b][k] + 4 * n), even);
          odd = std::fma(half(tile[a][m] + 4 * k + 2), half(tile[b][k] + 4 * n + 2), odd);
        }
        std::memcpy(&dst, tile[c][m] + 4 * n, 4);
        dst = dst + (even + odd);
        std::memcpy(tile[c][m] + 4 * n, &dst, 4);
      }
    ++multiplies;
  }

 private:
  static float half(const uint8_t* p) {
    uint16_t h;
    std::memcpy(&h, p, 2);
    return std::bit_cast<float>(uint32_t(h) << 16);
  }
  template <int t>
  static void require() {
    static_assert(t >= 0 && t < 8);
    ASSERT_TRUE(configured) << "#UD: tile " << t << " used without a configuration";
    ASSERT_GT(config.rows[t], 0);
  }
};
using Soft = TileMultiplier<Portable, SoftTile>;

void check_matmul(uint32_t rows, uint32_t n, uint32_t k, uint32_t segments, Data d, Pool& pool, uint64_t seed) {
  FlushDenormals flush;
  Random random(seed);
  const Matrix w(DType::bf16, n, k, segments, random.vector(uint64_t(n) * k, d), pool);
  const std::vector<float> x = random.vector(uint64_t(rows) * k, d), bias = random.vector(n, d);
  const std::vector<float> want = matmul_ref(x, rows, w, bias.data(), Act::bf16);
  std::vector<float> y(want.size(), -1.0f);
  matmul_with<Portable, Soft>(pool, x.data(), k, rows, w.packed, bias.data(), Act::bf16, y.data(), n);
  EXPECT_TRUE(same(y, want)) << rows << "x" << k << "x" << n << " segments " << segments << " " << data_name(d);
  EXPECT_FALSE(SoftTile::configured) << "the caller's tiles are released";
}

TEST(KernelsTile, MatmulEveryRowCount) {
  Pool one(1);
  for (uint32_t rows = 1; rows <= 70; ++rows) check_matmul(rows, 35, 70, 1, Data::wide, one, rows);
}

TEST(KernelsTile, MatmulShapesSegmentsAndData) {
  Pool one(1), two(2);
  for (Data d : kAllData) {
    check_matmul(1, 1, 1, 1, d, one, 1);
    check_matmul(33, 100, 96, 1, d, two, 2);
    check_matmul(16, 32, 256, 8, d, one, 3);
    check_matmul(50, 300, 160, 4, d, two, 4);
  }
}

TEST(KernelsTile, MatmulPanelsAndChunks) {
  Pool two(2);
  check_matmul(270, 33, 40, 1, Data::normal, two, 1);    // more rows than a panel
  check_matmul(33, 290, 2200, 1, Data::normal, two, 2);  // more k than a chunk, more strips than a group
  EXPECT_GT(SoftTile::multiplies, 0u);
}

void check_attention(const KvShape& s, uint32_t rows, uint32_t position, uint32_t window, Data d, Pool& pool, uint64_t seed) {
  FlushDenormals flush;
  Random random(seed);
  const KvCache cache(s, random, d);
  const std::vector<float> q = random.vector(uint64_t(rows) * s.heads * s.head_dim, d);
  const std::vector<float> want = attention_ref(cache, cache.args(q.data(), nullptr, rows, position, Act::bf16, window));
  std::vector<float> out(want.size());
  attention_with<Portable, Soft>(pool, cache.args(q.data(), out.data(), rows, position, Act::bf16, window));
  EXPECT_TRUE(same(out, want)) << "heads " << s.heads << "/" << s.kv_heads << " dim " << s.head_dim << " rows " << rows << " at " << position
                               << " window " << window << " " << data_name(d);
  EXPECT_FALSE(SoftTile::configured);
}

TEST(KernelsTile, Attention) {
  Pool one(1), two(2);
  uint64_t seed = 1;
  for (uint32_t dim : {32u, 64u, 80u, 128u})
    for (uint32_t kv_heads : {1u, 2u, 4u}) check_attention({.heads = 4, .kv_heads = kv_heads, .head_dim = dim, .keys = 60}, 30, 30, 0, Data::normal, two, ++seed);
  for (Data d : kAllData) check_attention({.heads = 4, .kv_heads = 1, .head_dim = 40, .keys = 90}, 21, 69, 33, d, one, ++seed);
  check_attention({.heads = 2, .kv_heads = 1, .head_dim = 32, .keys = 150}, 150, 0, 0, Data::normal, two, ++seed);
  check_attention({.heads = 8, .kv_heads = 1, .head_dim = 32, .keys = 40}, 1, 39, 0, Data::normal, one, ++seed);
}

#if defined(__x86_64__)
TEST(KernelsTile, InstructionsEqualTheModel) {
  if (!cpu_features().amx) GTEST_SKIP() << "this CPU or kernel offers no AMX (CPUID.7.0:EDX bits 22 and 24, XCR0 bits 17 and 18, arch_prctl)";
  FlushDenormals flush;
  Random random(9);
  Pool pool(2);
  for (uint32_t rows : {1u, 15u, 16u, 17u, 33u, 64u, 300u})
    for (Data d : kAllData) {
      const uint32_t n = 70, k = 200;
      const Matrix w(DType::bf16, n, k, 1, random.vector(n * k, d), pool);
      const std::vector<float> x = random.vector(rows * k, d);
      std::vector<float> soft(rows * n), hard(rows * n);
      matmul_with<Portable, Soft>(pool, x.data(), k, rows, w.packed, nullptr, Act::bf16, soft.data(), n);
      kernels_amx().matmul(pool, x.data(), k, rows, w.packed, nullptr, Act::bf16, hard.data(), n);
      EXPECT_TRUE(same(hard, soft)) << rows << " rows " << data_name(d);
    }
}
#endif

}  // namespace
}  // namespace baton::engine::test
