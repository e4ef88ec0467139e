// Norms, rope, silu, add, argmax and conversions: every path against the definition, bit for bit.
#include "tests/unit/kernels_test.h"

namespace baton::engine::test {
namespace {

float lanes_ref(const std::vector<float>& lane) { return tree_ref(lane.data(), 16); }

TEST(KernelsRows, RmsNorm) {
  FlushDenormals flush;
  Pool one(1), three(3);
  Random random(1);
  for (uint32_t d : {1u, 15u, 16u, 17u, 64u, 100u, 300u})
    for (Data data : kAllData) {
      const uint32_t rows = d == 300 ? 150 : 3;
      const std::vector<float> x = random.vector(rows * d, data), w = random.vector(d, Data::normal);
      std::vector<float> want(x.size());
      for (uint32_t r = 0; r < rows; ++r) {
        std::vector<float> lane(16);
        for (uint32_t i = 0; i < d; ++i) lane[i % 16] = std::fma(x[r * d + i], x[r * d + i], lane[i % 16]);
        const float inverse = 1.0f / std::sqrt(lanes_ref(lane) / float(d) + 1e-5f);
        for (uint32_t i = 0; i < d; ++i) want[r * d + i] = x[r * d + i] * inverse * w[i];
      }
      for (const Path& p : paths())
        for (Pool* pool : {&one, &three}) {
          std::vector<float> y(x.size());
          p.table->rms_norm(*pool, x.data(), rows, d, w.data(), 1e-5f, y.data());
          EXPECT_TRUE(same(y, want)) << p.name << " d " << d << " " << data_name(data);
        }
    }
}

TEST(KernelsRows, RopeInPlaceAndNot) {
  FlushDenormals flush;
  Pool pool(2);
  Random random(2);
  for (uint32_t head_dim : {2u, 32u, 64u, 80u, 128u}) {
    const uint32_t rows = 70, heads = 5, half = head_dim / 2;
    const std::vector<float> x = random.vector(rows * heads * head_dim, Data::wide);
    std::vector<float> cos(rows * half), sin(rows * half), want(x.size());
    for (uint32_t i = 0; i < cos.size(); ++i) {
      cos[i] = float(std::cos(0.37 * i));
      sin[i] = float(std::sin(0.37 * i));
    }
    for (uint32_t r = 0; r < rows; ++r)
      for (uint32_t h = 0; h < heads; ++h)
        for (uint32_t i = 0; i < half; ++i) {
          const uint32_t at = (r * heads + h) * head_dim + i;
          const float a = x[at], b = x[at + half], c = cos[r * half + i], s = sin[r * half + i];
          want[at] = std::fma(a, c, -(b * s));
          want[at + half] = std::fma(b, c, a * s);
        }
    for (const Path& p : paths()) {
      std::vector<float> y(x.size()), in_place = x;
      p.table->rope(pool, x.data(), cos.data(), sin.data(), rows, heads, head_dim, y.data());
      p.table->rope(pool, in_place.data(), cos.data(), sin.data(), rows, heads, head_dim, in_place.data());
      EXPECT_TRUE(same(y, want)) << p.name << " head_dim " << head_dim;
      EXPECT_TRUE(same(in_place, want)) << p.name << " in place";
    }
  }
}

TEST(KernelsRows, SiluAndAddOnAnyCountAndThreads) {
  FlushDenormals flush;
  Pool one(1), three(3);
  Random random(3);
  for (uint64_t count : {1ull, 15ull, 16ull, 33ull, 1000ull, 40007ull})
    for (Data data : kAllData) {
      std::vector<float> a = random.vector(count, data), b = random.vector(count, data);
      if (count > 15) {
        a[3] = INFINITY;
        a[4] = -INFINITY;
        a[5] = std::nanf("");
        a[6] = -100.0f;
        a[7] = 100.0f;
      }
      std::vector<float> e(count), silu(count), sum(count);
      for (uint64_t i = 0; i < count; ++i) e[i] = 0.0f - a[i];
      kernels_portable().exp(e.data(), count, e.data());
      for (uint64_t i = 0; i < count; ++i) {
        silu[i] = a[i] / (1.0f + e[i]) * b[i];
        sum[i] = a[i] + b[i];
      }
      for (const Path& p : paths())
        for (Pool* pool : {&one, &three}) {
          std::vector<float> y(count), z(count);
          p.table->silu_mul(*pool, a.data(), b.data(), count, y.data());
          p.table->add(*pool, a.data(), b.data(), count, z.data());
          EXPECT_TRUE(same(y, silu)) << p.name << " silu " << count << " " << data_name(data);
          EXPECT_TRUE(same(z, sum)) << p.name << " add " << count << " " << data_name(data);
        }
    }
}

TEST(KernelsRows, SiluMatchesLibm) {
  FlushDenormals flush;
  Pool pool(1);
  std::vector<float> g, u;
  for (float x = -80.0f; x < 80.0f; x += 0.37f) g.push_back(x), u.push_back(1.5f);
  std::vector<float> y(g.size());
  kernels(best_isa()).silu_mul(pool, g.data(), u.data(), g.size(), y.data());
  for (size_t i = 0; i < g.size(); ++i) {
    const double want = g[i] / (1.0 + std::exp(-double(g[i]))) * 1.5;
    EXPECT_NEAR(y[i], want, 1e-6 * std::abs(want)) << g[i];
  }
}

TEST(KernelsRows, ArgmaxLowestIndexWinsAndNanLoses) {
  FlushDenormals flush;
  Random random(4);
  const float nan = std::nanf(""), inf = INFINITY;
  for (const Path& p : paths()) {
    auto argmax = [&](std::vector<float> v) { return p.table->argmax(v.data(), uint32_t(v.size())); };
    EXPECT_EQ(argmax({5}), 0u);
    EXPECT_EQ(argmax({1, 7, 7, 3}), 1u) << p.name;
    EXPECT_EQ(argmax({nan, -5, nan, -4}), 3u) << p.name;
    EXPECT_EQ(argmax({nan, nan}), 0u) << p.name;
    EXPECT_EQ(argmax({nan, -inf, -inf}), 1u) << p.name;
    EXPECT_EQ(argmax({-1, -0.0f, 0.0f}), 1u) << p.name;
    for (int round = 0; round < 50; ++round) {
      const uint32_t n = 1 + random.below(500);
      std::vector<float> v(n);
      for (float& x : v) x = float(random.below(40));
      if (round % 3 == 0) v[random.below(n)] = nan;
      uint32_t want = UINT32_MAX;
      for (uint32_t i = 0; i < n; ++i)
        if (v[i] == v[i] && (want == UINT32_MAX || v[i] > v[want])) want = i;
      EXPECT_EQ(argmax(v), want == UINT32_MAX ? 0 : want) << p.name;
    }
  }
}

TEST(KernelsConvert, EveryF16AndBf16Widens) {
  FlushDenormals flush;  // must not touch denormal f16, whose f32 is normal
  std::vector<uint16_t> h(65536);
  for (uint32_t i = 0; i < h.size(); ++i) h[i] = uint16_t(i);
  for (DType t : {DType::bf16, DType::f16}) {
    std::vector<float> want(h.size());
    for (uint32_t i = 0; i < h.size(); ++i) want[i] = widen_ref(h[i], t);
    for (const Path& p : paths()) {
      std::vector<float> y(h.size());
      p.table->widen(h.data(), h.size(), t, y.data());
      ASSERT_TRUE(same(y, want)) << p.name << " " << program::dtype_name(t);
      std::vector<uint16_t> back(h.size());
      p.table->round_to(y.data(), y.size(), t, back.data());
      for (uint32_t i = 0; i < h.size(); ++i) {
        if (std::isnan(y[i])) continue;
        ASSERT_EQ(back[i], h[i]) << p.name << " there and back";
      }
    }
  }
}

// Nearest of the two neighbours, even on a tie; everything by comparing in f64 (which FTZ and DAZ of f32 do not reach).
uint16_t round_by_search(float x, DType t) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0, top = t == DType::bf16 ? 0x7f80 : 0x7c00;
  auto value = [&](uint32_t h) {
    if (h == top) return t == DType::bf16 ? 0x1p128 : 65536.0;  // what infinity stands for when rounding
    return t == DType::f16 ? double(widen_ref(uint16_t(h), t))
                           : std::ldexp(double((h & 0x7f) | (h >> 7 ? 0x80 : 0)), int(h >> 7 ? h >> 7 : 1) - 127 - 7);
  };
  const uint32_t u = std::bit_cast<uint32_t>(x) & 0x7fffffff;
  if (u == 0x7f800000) return sign | top;
  const double a = std::ldexp(double((u & 0x7fffff) | (u >> 23 ? 0x800000 : 0)), int(u >> 23 ? u >> 23 : 1) - 127 - 23);
  uint32_t low = 0, high = top;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (value(middle) <= a ? low : high) = middle;
  }
  if (a >= value(top)) return sign | top;
  const double down = a - value(low), up = value(high) - a;
  return uint16_t(sign | (down < up || (down == up && low % 2 == 0) ? low : high));
}

TEST(KernelsConvert, RoundsToNearestEven) {
  FlushDenormals flush;
  Random random(5);
  std::vector<float> x = {0.0f, -0.0f, INFINITY, -INFINITY, 65504.0f, 65519.99f, 65520.0f, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f, 0x1.8p-24f,
                          0x1p-14f, 0x1.ffcp-15f, 3.3895e38f, 3.39e38f, std::bit_cast<float>(0x007fffffu), std::bit_cast<float>(0x00000001u),
                          std::bit_cast<float>(0x80018000u)};
  for (uint32_t h = 0; h < 0x7c00; h += 7) {  // ties between f16 neighbours, and their neighbours
    const float tie = 0.5f * (widen_ref(uint16_t(h), DType::f16) + widen_ref(uint16_t(h + 1), DType::f16));
    for (float v : {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e9f)}) x.push_back(v);
  }
  for (uint32_t h = 0; h < 0x7f80; h += 11)
    for (uint32_t low : {0x7fffu, 0x8000u, 0x8001u}) x.push_back(std::bit_cast<float>(0x80000000u | (h << 16) | low));
  for (int i = 0; i < 20000; ++i) {
    const float v = random.any_bits();
    if (!std::isnan(v)) x.push_back(v);
  }
  for (DType t : {DType::bf16, DType::f16}) {
    std::vector<uint16_t> want(x.size());
    for (size_t i = 0; i < x.size(); ++i) want[i] = round_by_search(x[i], t);
    for (const Path& p : paths()) {
      std::vector<uint16_t> got(x.size());
      p.table->round_to(x.data(), x.size(), t, got.data());
      for (size_t i = 0; i < x.size(); ++i)
        ASSERT_EQ(got[i], want[i]) << p.name << " " << program::dtype_name(t) << " of " << std::hexfloat << x[i] << " (" << i << ")";
    }
  }
}

TEST(KernelsConvert, NanStaysNanWithTheSameBitsInEachPath) {
  std::vector<float> x;
  for (uint32_t u : {0x7f800001u, 0x7fc00000u, 0xff800001u, 0x7fffffffu, 0xffc12345u, 0x7f80ffffu, 0x7f812345u}) x.push_back(std::bit_cast<float>(u));
  for (DType t : {DType::bf16, DType::f16}) {
    std::vector<uint16_t> want(x.size());
    kernels_portable().round_to(x.data(), x.size(), t, want.data());
    for (const Path& p : paths()) {
      std::vector<uint16_t> got(x.size());
      p.table->round_to(x.data(), x.size(), t, got.data());
      EXPECT_EQ(got, want) << p.name << " " << program::dtype_name(t);
      std::vector<float> back(x.size());
      p.table->widen(got.data(), got.size(), t, back.data());
      for (float v : back) EXPECT_TRUE(std::isnan(v)) << p.name;
    }
  }
}

TEST(KernelsConvert, F32IsACopy) {
  FlushDenormals flush;
  Random random(6);
  std::vector<float> x(1001), y(1001), z(1001);
  for (float& v : x) v = random.any_bits();
  for (const Path& p : paths()) {
    p.table->round_to(x.data(), x.size(), DType::f32, y.data());
    p.table->widen(y.data(), y.size(), DType::f32, z.data());
    EXPECT_EQ(std::memcmp(x.data(), z.data(), x.size() * 4), 0) << p.name;
  }
}

}  // namespace
}  // namespace baton::engine::test
