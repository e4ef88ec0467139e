// FP8 conversions against a reference that knows only the list of a format's numbers: every code, every 16-bit number, every boundary.
#include "transport/kv_convert.hpp"
#include "transport_kv_numbers.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace baton::transport {
namespace {

using program::DType;
using testing::HasSubstr;

std::vector<ConvertIsa> isas() {
  std::vector<ConvertIsa> all;
  for (auto i : {ConvertIsa::baseline, ConvertIsa::avx2, ConvertIsa::avx512})
    if (i <= convert_isa()) all.push_back(i);
  return all;
}

template <class To, class From>
std::vector<To> run(DType from, DType to, const std::vector<From>& in, float scale, ConvertIsa isa = convert_isa()) {
  std::vector<To> out(in.size());
  auto f = kv_converter(from, to, isa);
  EXPECT_TRUE(f.ok());
  (*f)(out.data(), in.data(), in.size(), program::dtype_bytes(to) == 1 ? 1 / scale : scale);
  return out;
}

std::vector<float> largest(DType from, const Heads& g, ConvertIsa isa) {
  std::vector<float> most(g.heads, -1.0f);
  kv_largest(from, isa)(g, most.data());
  return most;
}

std::vector<uint16_t> all_16() {
  std::vector<uint16_t> all(65536);
  for (uint32_t i = 0; i < all.size(); ++i) all[i] = uint16_t(i);
  return all;
}
std::vector<uint8_t> all_8() {
  std::vector<uint8_t> all(256);
  for (uint32_t i = 0; i < all.size(); ++i) all[i] = uint8_t(i);
  return all;
}

const float kScales[] = {1, 0.37f, 3.0f, 0x1p-20f, 0x1p+9f, 0x1.fffffep-126f, 1e30f};

TEST(KvConvert, EveryNumberOf16BitsGoesToTheNearestCode) {
  for (const Format* from : {&kBf16, &kF16})
    for (const Format* to : {&kE4m3, &kE5m2})
      for (float scale : kScales) {
        const auto got = run<uint8_t>(from->dtype, to->dtype, all_16(), scale);
        uint32_t wrong = 0;
        for (uint32_t i = 0; i < 65536; ++i) {
          const uint32_t want = nearest(*to, float(value(*from, i)) * (1 / scale));
          if (got[i] != want && wrong++ < 3)
            ADD_FAILURE() << program::dtype_name(from->dtype) << " " << i << " to " << program::dtype_name(to->dtype) << " scale " << scale << ": " << int(got[i]) << ", not " << want;
        }
        ASSERT_EQ(wrong, 0u);
      }
}

TEST(KvConvert, EveryCodeComesBackAsWhatItIs) {
  for (const Format* from : {&kE4m3, &kE5m2})
    for (float scale : kScales) {
      const auto wide = run<float>(from->dtype, DType::f32, all_8(), scale);
      const auto half = run<uint16_t>(from->dtype, DType::f16, all_8(), scale), brain = run<uint16_t>(from->dtype, DType::bf16, all_8(), scale);
      for (uint32_t i = 0; i < 256; ++i) {
        const float want = float(value(*from, i)) * scale;
        if (std::isnan(want)) ASSERT_TRUE(std::isnan(wide[i]) && std::signbit(wide[i]) == (i >> 7)) << i;
        else ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(want)) << i;
        const uint32_t nan_sign = i >> 7 << 15; // the sign of a NaN that is computed is not defined
        ASSERT_EQ(half[i], std::isnan(want) ? nan_sign | kF16.nan : nearest(kF16, want)) << i << " scale " << scale;
        ASSERT_EQ(brain[i], std::isnan(want) ? nan_sign | kBf16.nan : nearest(kBf16, want)) << i << " scale " << scale;
      }
    }
}

TEST(KvConvert, F32AtEveryBoundaryAndAtRandom) {
  std::mt19937 rng(5);
  for (const Format* to : {&kE4m3, &kE5m2}) {
    std::vector<float> x = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, -NAN, 1e-45f, 3.4e38f};
    for (uint32_t c = 0; c <= to->largest + 1; ++c) { // each number, each middle, and one f32 to each side
      const double at = c <= to->largest ? value(*to, c) : 2 * value(*to, to->largest), before = c ? value(*to, c - 1) : 0;
      for (float v : {float(at), float((at + before) / 2)})
        for (float w : {v, std::nextafter(v, 0.0f), std::nextafter(v, INFINITY)}) x.insert(x.end(), {w, -w});
    }
    for (int i = 0; i < 200000; ++i) x.push_back(std::bit_cast<float>(uint32_t(rng())));
    const auto got = run<uint8_t>(DType::f32, to->dtype, x, 1);
    for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(got[i], nearest(*to, x[i])) << x[i];
  }
}

TEST(KvConvert, NumbersOfTheStandard) { // OFP8 1.0, table 2
  EXPECT_EQ(value(kE4m3, 0x7e), 448);
  EXPECT_EQ(value(kE5m2, 0x7b), 57344);
  const auto e4 = run<uint8_t>(DType::f32, DType::f8e4m3, std::vector<float>{448, 464, 1e9f, INFINITY, -INFINITY, 0x1p-9f, 0x1p-10f, 0x1.8p-10f, 1, -0.0f}, 1);
  EXPECT_EQ(e4, (std::vector<uint8_t>{0x7e, 0x7e, 0x7e, 0x7e, 0xfe, 0x01, 0x00, 0x01, 0x38, 0x80}));
  const auto e5 = run<uint8_t>(DType::f32, DType::f8e5m2, std::vector<float>{57344, 61439, 61440, INFINITY, -INFINITY, 0x1p-16f, 0x1p-17f, 1}, 1);
  EXPECT_EQ(e5, (std::vector<uint8_t>{0x7b, 0x7b, 0x7c, 0x7c, 0xfc, 0x01, 0x00, 0x3c}));
}

const DType kTypes[] = {DType::f32, DType::bf16, DType::f16, DType::f8e4m3, DType::f8e5m2};

// Any bits of any two dtypes, against the reference; every factor that is far from 1, too.
TEST(KvConvert, EveryPairOfDtypesGoesToTheNearest) {
  std::mt19937 rng(6);
  for (DType from : kTypes)
    for (DType to : kTypes)
      for (float factor : {1.0f, 0.37f, 0x1p-20f, 0x1p+9f, 0x1.8p-120f, 0x1.4p+120f, 1e-30f, 1e30f}) {
        const Format &in = format_of(from), &out = format_of(to);
        const size_t n = 3000, ie = size_t(in.bits) / 8, oe = size_t(out.bits) / 8;
        std::vector<uint8_t> x(n * ie), y(n * oe);
        for (size_t i = 0; i < n; ++i) {
          const uint32_t c = i % 3 ? uint32_t(rng()) : nearest(in, float(int32_t(rng() % 20001) - 10000) / 999.0f);
          std::memcpy(&x[i * ie], &c, ie);
        }
        (*kv_converter(from, to))(y.data(), x.data(), n, factor);
        for (size_t i = 0; i < n; ++i) {
          const uint32_t c = code_at(in, &x[i * ie]);
          float v = float(value(in, c)) * factor;
          if (std::isnan(v)) v = std::copysign(v, c & sign_of(in) ? -1.0f : 1.0f);
          ASSERT_EQ(code_at(out, &y[i * oe]), nearest(out, v)) << program::dtype_name(from) << " " << c << " to " << program::dtype_name(to) << " times " << factor;
        }
      }
}

TEST(KvConvert, EveryInstructionSetGivesTheSameBitsAtEveryLengthAndAlignment) {
  std::mt19937 rng(11);
  for (DType from : kTypes)
    for (DType to : kTypes) {
      const uint32_t in = program::dtype_bytes(from), out = program::dtype_bytes(to);
      for (float factor : {0.37f, 0x1p-121f, 0x1p+121f})
        for (size_t n = 0; n < 300; n += n < 70 ? 1 : 37) {
          const size_t skew = rng() % 5;
          std::vector<uint8_t> src(n * in + skew), first;
          for (auto& b : src) b = uint8_t(rng());
          for (ConvertIsa isa : isas()) {
            std::vector<uint8_t> dst(n * out + skew + 8, 0xa5);
            (*kv_converter(from, to, isa))(dst.data() + skew, src.data() + skew, n, factor);
            ASSERT_TRUE(std::all_of(dst.begin(), dst.begin() + long(skew), [](uint8_t b) { return b == 0xa5; }));
            ASSERT_TRUE(std::all_of(dst.end() - 8, dst.end(), [](uint8_t b) { return b == 0xa5; })) << "written past the end";
            if (first.empty()) first = dst;
            ASSERT_EQ(dst, first) << isa_name(isa) << " " << program::dtype_name(from) << " to " << program::dtype_name(to) << " n " << n;
            ASSERT_EQ(largest(from, {src.data() + skew, n}, isa), largest(from, {src.data() + skew, n}, ConvertIsa::baseline));
          }
        }
    }
  for (float scale : kScales)
    for (DType from : {DType::bf16, DType::f16})
      for (DType to : kTypes)
        if (to != DType::f32)
          for (ConvertIsa isa : isas()) {
            if (program::dtype_bytes(to) == 1) ASSERT_EQ(run<uint8_t>(from, to, all_16(), scale, isa), run<uint8_t>(from, to, all_16(), scale, ConvertIsa::baseline)) << isa_name(isa);
            else ASSERT_EQ(run<uint16_t>(from, to, all_16(), scale, isa), run<uint16_t>(from, to, all_16(), scale, ConvertIsa::baseline)) << isa_name(isa);
          }
}

// Of heads in rows, some with what is not finite, more of them than are done at once.
TEST(KvConvert, TheLargestOfEachHead) {
  std::mt19937 rng(13);
  for (DType from : kTypes)
    for (auto [heads, rows, n] : {std::tuple{1u, 1u, 0u}, {1u, 5u, 7u}, {8u, 16u, 128u}, {3u, 2u, 100u}, {130u, 3u, 33u}}) {
      const Format& f = format_of(from);
      const size_t e = program::dtype_bytes(from), row = n * e * heads + 3;
      std::vector<uint8_t> x(rows * row + 1);
      std::vector<float> want(heads, 0.0f);
      const uint32_t odd = rng() % heads; // the one that may have infinities and NaN
      for (uint32_t r = 0; r < rows; ++r)
        for (uint32_t h = 0; h < heads; ++h)
          for (uint32_t i = 0; i < n; ++i) {
            const uint32_t c = h == odd ? uint32_t(rng()) : nearest(f, float(int32_t(rng() % 2001) - 1000) / 250.0f);
            std::memcpy(&x[r * row + (h * n + i) * e], &c, e);
            const double v = std::fabs(value(f, code_at(f, &x[r * row + (h * n + i) * e])));
            if (std::isfinite(v)) want[h] = std::max(want[h], float(v));
          }
      for (ConvertIsa isa : isas()) ASSERT_EQ(largest(from, {x.data(), n, heads, rows, n * e, row}, isa), want) << isa_name(isa) << " " << program::dtype_name(from) << " " << heads;
    }
}

// Tables give what the kernels give: all numbers of 16 bits, rows of any length and distance, factors that make everything large, small or usual.
TEST(KvConvert, TablesGiveTheSameBits) {
  std::mt19937 rng(12);
  uint32_t tables = 0;
  for (DType from : kTypes)
    for (DType to : kTypes) {
      const RowsFn f = kv_row_converter(from, to);
      if (!f) continue;
      ++tables;
      const size_t in = program::dtype_bytes(from), out = program::dtype_bytes(to);
      std::vector<float> factors{1.0f, 0.37f, 3.7f, 0x1p-8f, 0x1.fffffep+7f, 0x1p-90f, 0x1.2p+95f, 0x1p-110f, 0x1p+110f};
      for (int i = 0; i < 100; ++i) factors.push_back(std::ldexp(1.0f + float(rng() % (1u << 23)) * 0x1p-23f, int(rng() % 24) - 12)); // where they have normals, subnormals and neither
      for (float factor : factors)
        for (auto [n, rows] : {std::pair<size_t, size_t>{65536, 1}, {4099, 1}, {128, 16}, {67, 33}, {5, 7}, {1, 600}}) {
          const size_t src_step = n * in + rng() % 3 * in, dst_step = n * out + rng() % 3 * 7;
          std::vector<uint8_t> src(rows * src_step + 1), dst(rows * dst_step + 1, 0xa5), want = dst;
          for (size_t i = 0; i + in <= src.size(); i += in) {
            const uint32_t c = n == 65536 ? uint32_t(i / in) : i % 3 ? uint32_t(rng()) : nearest(format_of(from), float(int32_t(rng() % 2001) - 1000) / 250.0f);
            std::memcpy(&src[i], &c, in);
          }
          for (size_t r = 0; r < rows; ++r) (*kv_converter(from, to))(&want[r * dst_step], &src[r * src_step], n, factor);
          std::vector<uint8_t> also(rows * n * out + 1, 0xa5);
          Rows r{dst.data(), src.data(), n, rows, dst_step, src_step};
          if (n % 2 || rows > 1) r.also = also.data(), r.also_step = n * out;
          for (const bool warm : {false, true}) {
            std::fill(dst.begin(), dst.end(), 0xa5);
            std::fill(also.begin(), also.end(), 0xa5);
            r.warm = warm;
            f(r, factor);
            for (size_t i = 0; r.also && i < rows; ++i) ASSERT_EQ(std::memcmp(&also[i * n * out], &want[i * dst_step], n * out), 0);
            ASSERT_EQ(also.back(), 0xa5);
            ASSERT_TRUE(dst == want) << (warm ? "warm " : "") << program::dtype_name(from) << " to " << program::dtype_name(to) << " times " << factor << " n " << n;
          }
        }
    }
  if (tables == 0) GTEST_SKIP() << "this CPU has no AVX-512 VBMI";
  EXPECT_EQ(tables, 10u);
}

TEST(KvConvert, TheScalePutsTheLargestNumberOnTheLargestCode) {
  std::vector<float> x = {0.5f, -7.0f, NAN, INFINITY, 3};
  EXPECT_EQ(kv_scale(DType::f32, x.data(), x.size(), DType::f8e4m3), 7.0f / 448);
  EXPECT_EQ(kv_scale(DType::f32, x.data(), x.size(), DType::f8e5m2), 7.0f / 57344);
  EXPECT_EQ(kv_scale(DType::f32, x.data(), 0, DType::f8e4m3), 1);
  const std::vector<uint16_t> tiny = {0x0001, 0x8001, 0};
  EXPECT_EQ(kv_scale(DType::bf16, tiny.data(), tiny.size(), DType::f8e4m3), 0x1p-126f) << "so that 1 / scale is a number";
  std::mt19937 rng(3);
  std::vector<uint16_t> row(4096);
  for (auto& v : row) v = uint16_t(0x3c00 + rng() % 0x400) | uint16_t(rng() % 2 << 15); // bf16 of 2^-7 to 2
  const float scale = kv_scale(DType::bf16, row.data(), row.size(), DType::f8e4m3);
  const auto codes = run<uint8_t>(DType::bf16, DType::f8e4m3, row, scale);
  const auto back = run<uint16_t>(DType::f8e4m3, DType::bf16, codes, scale);
  for (size_t i = 0; i < row.size(); ++i) {
    const double was = value(kBf16, row[i]), is = value(kBf16, back[i]);
    ASSERT_LE(std::fabs(is - was), std::fabs(was) * (1.0 / 16 + 1.0 / 128) + scale * 0x1p-10) << i;
  }
}

TEST(KvConvert, RefusesOtherPairsAndAbsentInstructions) {
  EXPECT_THAT(kv_converter(DType::bf16, DType::i32).error().text(), HasSubstr("UNSUPPORTED: no conversion of KV from bf16 to i32"));
  EXPECT_FALSE(kv_convertible(DType::i32, DType::i32));
  EXPECT_EQ(kv_largest(DType::i32), nullptr);
  EXPECT_THAT(kv_converter(DType::bf16, DType::f8e4m3, ConvertIsa(9)).error().text(), HasSubstr("this CPU cannot run"));
}

}  // namespace
}  // namespace baton::transport
