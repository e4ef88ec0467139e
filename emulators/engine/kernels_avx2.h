// kernels_avx2.h: sixteen f32 lanes as two YMM registers (AVX2, FMA, F16C). See kernels_portable.h.
#pragma once

#include "emulators/engine/kernels_portable.h"

#include <immintrin.h>

namespace baton::engine {
namespace {

struct Avx2 {
  struct V {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };
  static constexpr uint32_t kRows = 2, kCols = 1;  // 8 accumulators, 4 weights, 2 activations: 14 of 16 registers

#define BATON_INLINE [[gnu::always_inline]] static inline
  BATON_INLINE V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  BATON_INLINE V set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  BATON_INLINE V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  BATON_INLINE void store(float* p, V v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
  }
  BATON_INLINE V add(V x, V y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  BATON_INLINE V sub(V x, V y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  BATON_INLINE V mul(V x, V y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  BATON_INLINE V div(V x, V y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  BATON_INLINE V fma(V x, V y, V z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  BATON_INLINE V if_greater(V x, V y, V yes, V no) {
    return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)),
            _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))};
  }
  BATON_INLINE V if_nan(V x, V yes, V no) {
    return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q)),
            _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q))};
  }
  BATON_INLINE I bits(V v) { return {_mm256_castps_si256(v.a), _mm256_castps_si256(v.b)}; }
  BATON_INLINE V from_bits(I v) { return {_mm256_castsi256_ps(v.a), _mm256_castsi256_ps(v.b)}; }
  BATON_INLINE I iset1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  BATON_INLINE I iadd(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  BATON_INLINE I isub(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
  BATON_INLINE I half(I x) { return {_mm256_srai_epi32(x.a, 1), _mm256_srai_epi32(x.b, 1)}; }
  BATON_INLINE I to_exponent(I x) { return {_mm256_slli_epi32(x.a, 23), _mm256_slli_epi32(x.b, 23)}; }

  // ---- 16-bit floats ----
  BATON_INLINE __m256i bf16_bits(__m256 v) {  // in the low half of each lane
    const __m256i u = _mm256_castps_si256(v), high = _mm256_srli_epi32(u, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
  }
  BATON_INLINE V round_bf16(V v) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(bf16_bits(v.a), 16)), _mm256_castsi256_ps(_mm256_slli_epi32(bf16_bits(v.b), 16))};
  }
  BATON_INLINE void store_as(Bf16, uint16_t* p, V v) {
    const __m256i mixed = _mm256_packus_epi32(bf16_bits(v.a), bf16_bits(v.b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(mixed, 0xd8));
  }
  BATON_INLINE void store_as(F16, uint16_t* p, V v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  BATON_INLINE __m128i load8(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  BATON_INLINE __m256 bf16_8(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
  BATON_INLINE V load_as(Bf16, const uint16_t* p) { return {bf16_8(load8(p)), bf16_8(load8(p + 8))}; }
  BATON_INLINE V load_as(F16, const uint16_t* p) { return {_mm256_cvtph_ps(load8(p)), _mm256_cvtph_ps(load8(p + 8))}; }

  // ---- packed blocks ----
  BATON_INLINE __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  BATON_INLINE void pairs(Bf16, const uint16_t* p, V& even, V& odd) {
    const __m256i x = load256(p), y = load256(p + 16), mask = _mm256_set1_epi32(int32_t(0xffff0000));
    even = {_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(y, 16))};
    odd = {_mm256_castsi256_ps(_mm256_and_si256(x, mask)), _mm256_castsi256_ps(_mm256_and_si256(y, mask))};
  }
  BATON_INLINE void pairs(F16, const uint16_t* p, V& even, V& odd) {
    const __m256i x = load256(p), y = load256(p + 16), mask = _mm256_set1_epi32(0xffff);
    const __m256i e = _mm256_permute4x64_epi64(_mm256_packus_epi32(_mm256_and_si256(x, mask), _mm256_and_si256(y, mask)), 0xd8);
    const __m256i o = _mm256_permute4x64_epi64(_mm256_packus_epi32(_mm256_srli_epi32(x, 16), _mm256_srli_epi32(y, 16)), 0xd8);
    even = {_mm256_cvtph_ps(_mm256_castsi256_si128(e)), _mm256_cvtph_ps(_mm256_extracti128_si256(e, 1))};
    odd = {_mm256_cvtph_ps(_mm256_castsi256_si128(o)), _mm256_cvtph_ps(_mm256_extracti128_si256(o, 1))};
  }
  BATON_INLINE void split8(const uint32_t* p, __m256& even, __m256& odd) {
    const __m256 x = _mm256_castsi256_ps(load256(p)), y = _mm256_castsi256_ps(load256(p + 8));
    const __m256d e = _mm256_castps_pd(_mm256_shuffle_ps(x, y, 0x88)), o = _mm256_castps_pd(_mm256_shuffle_ps(x, y, 0xdd));
    even = _mm256_castpd_ps(_mm256_permute4x64_pd(e, 0xd8));
    odd = _mm256_castpd_ps(_mm256_permute4x64_pd(o, 0xd8));
  }
  BATON_INLINE void pairs(F32, const uint32_t* p, V& even, V& odd) {
    split8(p, even.a, odd.a);
    split8(p + 16, even.b, odd.b);
  }
  BATON_INLINE void pairs(Planar, const uint32_t* p, V& even, V& odd) {
    even = load(reinterpret_cast<const float*>(p));
    odd = load(reinterpret_cast<const float*>(p + 16));
  }
  BATON_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  // Eight rows of eight dwords to columns: rounds of interleaving at 32, 64 and 128 bits.
  BATON_INLINE void transpose8(const uint16_t* const* rows, uint32_t at, uint16_t* to, uint32_t stride) {
    __m256i r[8], t[8];
    for (int i = 0; i < 8; ++i) r[i] = load256(rows[i] + at);
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int c = 0; c < 4; ++c) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + c * stride), _mm256_permute2x128_si256(r[c], r[4 + c], 0x20));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + (4 + c) * stride), _mm256_permute2x128_si256(r[c], r[4 + c], 0x31));
    }
  }
#undef BATON_INLINE

  template <class T>
  static void pack_rows_as_n(const T* const* rows, T* to) {
    if constexpr (sizeof(T) == 4) {
      Portable::pack_rows_as_n(rows, to);
    } else {
      for (int n = 0; n < 32; n += 8)    // eight rows ...
        for (int p = 0; p < 16; p += 8)  // ... of eight pairs, to [tile][pair][n][2]
          transpose8(rows + n, uint32_t(2 * p), to + (n / 16 * 16 + p) * 32 + n % 16 * 2, 32);
    }
  }
  template <class T>
  static bool pack_rows_as_k(const T* const* rows, T exponent, T* to) { return Portable::pack_rows_as_k(rows, exponent, to); }
};

}  // namespace
}  // namespace baton::engine
