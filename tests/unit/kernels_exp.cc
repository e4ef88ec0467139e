// exp: its accuracy, its edges, and equal bits in each path. Also the portable path's fused multiply-add without the instruction.
#include "emulators/engine/kernels_portable.h"
#include "tests/unit/kernels_test.h"

namespace baton::engine::test {
namespace {

double ulps(float got, double want) {
  const int e = std::max(std::ilogb(want), -126);
  return std::abs(double(got) - want) / std::ldexp(1.0, e - 23);
}

TEST(KernelsExp, WithinTwoUlp) {
  FlushDenormals flush;
  std::vector<float> x;
  for (float v = -87.0f; v <= 88.0f; v += 0.0007f) x.push_back(v);
  for (int n = -125; n <= 126; ++n)  // where round(x / ln 2) changes, and around whole powers
    for (double at : {n * std::log(2.0), (n + 0.5) * std::log(2.0)})
      for (int i = -20; i <= 20; ++i) {
        const float v = float(at + i * 1e-6);
        if (v >= -87 && v <= 88) x.push_back(v);
      }
  std::vector<float> y(x.size());
  for (const Path& p : paths()) {
    p.table->exp(x.data(), x.size(), y.data());
    double worst = 0;
    float where = 0;
    for (size_t i = 0; i < x.size(); ++i)
      if (double u = ulps(y[i], std::exp(double(x[i]))); u > worst) worst = u, where = x[i];
    EXPECT_LE(worst, 2.0) << p.name << " at " << where;
    RecordProperty(std::string("worst_ulp_") + p.name, std::to_string(worst));
  }
}

TEST(KernelsExp, Edges) {
  FlushDenormals flush;
  const float inf = INFINITY;
  const std::vector<float> x = {0.0f, -0.0f, -inf, inf, -88.0f, -1000.0f, -3e38f, 88.73f, 1000.0f, 3e38f, std::nanf(""), 88.0f, -87.0f};
  for (const Path& p : paths()) {
    std::vector<float> y(x.size());
    p.table->exp(x.data(), x.size(), y.data());
    for (int i : {0, 1}) EXPECT_TRUE(same_bits(y[i], 1.0f)) << p.name;
    for (int i : {2, 4, 5, 6}) EXPECT_TRUE(same_bits(y[i], 0.0f)) << p.name << " exp(" << x[i] << ") = " << y[i];
    for (int i : {3, 7, 8, 9}) EXPECT_TRUE(same_bits(y[i], inf)) << p.name << " exp(" << x[i] << ") = " << y[i];
    EXPECT_TRUE(std::isnan(y[10])) << p.name;
    EXPECT_GT(y[12], 0.0f) << p.name;
  }
}

TEST(KernelsExp, EqualBitsOnAnyInput) {
  FlushDenormals flush;
  Random random(1);
  std::vector<float> x(50003);
  for (size_t i = 0; i < x.size(); ++i) x[i] = i % 2 ? random.any_bits() : float(random.below(1 << 24)) * 0x1p-24f * 180.0f - 90.0f;
  std::vector<float> want(x.size());
  kernels_portable().exp(x.data(), x.size(), want.data());
  for (const Path& p : paths()) {
    std::vector<float> y(x.size());
    p.table->exp(x.data(), x.size(), y.data());
    EXPECT_TRUE(same(y, want)) << p.name;
  }
}

// fma1 of this file is compiled without FMA (baseline flags); std::fma is the C library's, exact by contract.
TEST(KernelsFma, EmulatedEqualsTheLibrary) {
  FlushDenormals flush;
  Random random(2);
  for (Data d : kAllData)
    for (int i = 0; i < 100000; ++i) {
      volatile float a = random(d), b = random(d), c = random(d);
      const float want = std::fma(float(a), float(b), float(c)), got = fma1(a, b, c);
      ASSERT_TRUE(same_bits(got, want)) << std::hexfloat << a << " * " << b << " + " << c << ": " << got << " instead of " << want;
      // Sums whose product nearly cancels, or lands on half an ulp.
      c = -(float(a) * float(b));
      ASSERT_TRUE(same_bits(fma1(a, b, c), std::fma(float(a), float(b), float(c)))) << std::hexfloat << a << " * " << b << " + " << c;
    }
  for (int i = 0; i < 300000; ++i) {
    volatile float a = random.any_bits(), b = random.any_bits(), c = random.any_bits();
    const float want = std::fma(float(a), float(b), float(c)), got = fma1(a, b, c);
    ASSERT_TRUE(same_bits(got, want) || (std::isnan(got) && std::isnan(want))) << std::hexfloat << a << " * " << b << " + " << c;
  }
}

TEST(KernelsFma, DoubleRoundingIsAvoided) {
  volatile float a = 1.0f + 0x1p-12f, b = 1.0f + 0x1p-12f, c = 0x1p-60f;  // product ends in an f32 tie; c decides it
  EXPECT_TRUE(same_bits(fma1(a, b, c), std::fma(float(a), float(b), float(c))));
  c = -0x1p-60f;
  EXPECT_TRUE(same_bits(fma1(a, b, c), std::fma(float(a), float(b), float(c))));
  c = 0;
  EXPECT_TRUE(same_bits(fma1(a, b, c), std::fma(float(a), float(b), float(c))));
}

}  // namespace
}  // namespace baton::engine::test
