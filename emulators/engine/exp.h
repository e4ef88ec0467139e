// exp.h: the engine's exp: one polynomial, the same operations in each path. Also the lane helpers that every kernel shares.
//
// exp(x) = 2^n * e^r, n = round(x / ln 2), |r| <= ln2/2. e^r by a polynomial of degree 6: 1 + r + r^2 q(r), q interpolated at the Chebyshev
// nodes of degree 4 and its coefficients rounded to f32 (truncation error 0.18 * 2^-24, computed in rationals). Below ln(FLT_MIN): +0;
// above ln(FLT_MAX): infinity; NaN: NaN. At most 2 ulp in between (tests/unit/kernels_exp.cc).
#pragma once

#include "emulators/engine/kernels_portable.h"

namespace baton::engine {
namespace {

template <class S>
[[gnu::always_inline]] inline typename S::V exp_lanes(typename S::V x) {
  using V = typename S::V;
  constexpr float kMagic = 0x1.8p23f;  // adding it leaves round-to-nearest integers in the low mantissa bits
  const V t = S::fma(x, S::set1(0x1.715476p0f), S::set1(kMagic));
  const V n = S::sub(t, S::set1(kMagic));
  V r = S::fma(n, S::set1(-0x1.62ep-1f), x);  // ln 2 in two parts; the first has 12 trailing zeros
  r = S::fma(n, S::set1(-0x1.0bfbe8p-15f), r);
  V p = S::set1(0x1.6d113ep-10f);
  p = S::fma(p, r, S::set1(0x1.120ba4p-7f));
  p = S::fma(p, r, S::set1(0x1.55551ap-5f));
  p = S::fma(p, r, S::set1(0x1.5554dcp-3f));
  p = S::fma(p, r, S::set1(0.5f));
  p = S::fma(p, r, S::set1(1.0f));
  p = S::fma(p, r, S::set1(1.0f));
  // 2^n in two factors: n reaches 128, whose exponent does not fit one.
  const typename S::I i = S::isub(S::bits(t), S::iset1(cast_bits<int32_t>(kMagic)));
  const typename S::I low = S::half(i), bias = S::iset1(127);
  p = S::mul(p, S::from_bits(S::to_exponent(S::iadd(low, bias))));
  p = S::mul(p, S::from_bits(S::to_exponent(S::iadd(S::isub(i, low), bias))));
  p = S::if_greater(S::set1(-87.336540f), x, S::zero(), p);
  p = S::if_greater(x, S::set1(88.722839f), S::set1(__builtin_inff()), p);
  return S::if_nan(x, x, p);
}

// Lanes as a balanced binary tree of neighbours: ((l0+l1)+(l2+l3))+...
template <class S>
[[gnu::always_inline]] inline float sum_lanes(typename S::V v) {
  alignas(64) float a[16];
  S::store(a, v);
  for (int w = 1; w < 16; w *= 2)
    for (int i = 0; i < 16; i += 2 * w) a[i] += a[i + w];
  return a[0];
}

// The last n (1..15) elements of a row, the other lanes +0.
template <class S>
[[gnu::always_inline]] inline typename S::V load_part(const float* p, uint64_t n) {
  alignas(64) float a[16] = {};
  std::memcpy(a, p, n * sizeof(float));
  return S::load(a);
}
template <class S>
[[gnu::always_inline]] inline void store_part(float* p, typename S::V v, uint64_t n) {
  alignas(64) float a[16];
  S::store(a, v);
  std::memcpy(p, a, n * sizeof(float));
}

// f(lanes) over `count` elements of `x` into `y`, 16 at a time; the last ones through load_part.
template <class S, class F>
[[gnu::always_inline]] inline void each_lane(const float* x, uint64_t count, float* y, F&& f) {
  uint64_t i = 0;
  for (; i + 16 <= count; i += 16) S::store(y + i, f(S::load(x + i), i));
  if (i < count) store_part<S>(y + i, f(load_part<S>(x + i, count - i), i), count - i);
}

}  // namespace
}  // namespace baton::engine
