// kernels_avx512.h: sixteen f32 lanes as one ZMM register (AVX-512 F, BW, DQ, VL). See kernels_portable.h.
#pragma once

#include "emulators/engine/kernels_portable.h"

#include <immintrin.h>

namespace baton::engine {
namespace {

struct Avx512 {
  using V = __m512;
  using I = __m512i;
  // 24 accumulators, 4 weights, 2 activations: 30 of 32 registers. VDPBF16PS is not used: half the rate of FMA, and another order.
  static constexpr uint32_t kRows = 6, kCols = 2;

#define BATON_INLINE [[gnu::always_inline]] static inline
  BATON_INLINE V zero() { return _mm512_setzero_ps(); }
  BATON_INLINE V set1(float x) { return _mm512_set1_ps(x); }
  BATON_INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
  BATON_INLINE void store(float* p, V v) { _mm512_storeu_ps(p, v); }
  BATON_INLINE V add(V x, V y) { return _mm512_add_ps(x, y); }
  BATON_INLINE V sub(V x, V y) { return _mm512_sub_ps(x, y); }
  BATON_INLINE V mul(V x, V y) { return _mm512_mul_ps(x, y); }
  BATON_INLINE V div(V x, V y) { return _mm512_div_ps(x, y); }
  BATON_INLINE V fma(V x, V y, V z) { return _mm512_fmadd_ps(x, y, z); }
  BATON_INLINE V if_greater(V x, V y, V yes, V no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_GT_OQ), no, yes); }
  BATON_INLINE V if_nan(V x, V yes, V no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), no, yes); }
  BATON_INLINE I bits(V v) { return _mm512_castps_si512(v); }
  BATON_INLINE V from_bits(I v) { return _mm512_castsi512_ps(v); }
  BATON_INLINE I iset1(int32_t x) { return _mm512_set1_epi32(x); }
  BATON_INLINE I iadd(I x, I y) { return _mm512_add_epi32(x, y); }
  BATON_INLINE I isub(I x, I y) { return _mm512_sub_epi32(x, y); }
  BATON_INLINE I half(I x) { return _mm512_srai_epi32(x, 1); }
  BATON_INLINE I to_exponent(I x) { return _mm512_slli_epi32(x, 23); }

  // ---- 16-bit floats. Integer RNE: VCVTNEPS2BF16 would flush f32 denormals that round up to the least normal bf16 ----
  BATON_INLINE I bf16_bits(V v) {  // in the low half of each lane
    const I u = bits(v), high = _mm512_srli_epi32(u, 16), odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const I rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
    return _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), high, _mm512_set1_epi32(0x40));
  }
  BATON_INLINE V round_bf16(V v) { return from_bits(_mm512_slli_epi32(bf16_bits(v), 16)); }
  BATON_INLINE void store256(uint16_t* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  BATON_INLINE __m256i load256(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  BATON_INLINE void store_as(Bf16, uint16_t* p, V v) { store256(p, _mm512_cvtepi32_epi16(bf16_bits(v))); }
  BATON_INLINE void store_as(F16, uint16_t* p, V v) {
    store256(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  BATON_INLINE V load_as(Bf16, const uint16_t* p) { return from_bits(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load256(p)), 16)); }
  BATON_INLINE V load_as(F16, const uint16_t* p) { return _mm512_cvtph_ps(load256(p)); }

  // ---- packed blocks ----
  BATON_INLINE void pairs(Bf16, const uint16_t* p, V& even, V& odd) {
    const I x = _mm512_loadu_si512(p);
    even = from_bits(_mm512_slli_epi32(x, 16));
    odd = from_bits(_mm512_and_si512(x, _mm512_set1_epi32(int32_t(0xffff0000))));
  }
  BATON_INLINE void pairs(F16, const uint16_t* p, V& even, V& odd) {
    alignas(64) static constexpr uint16_t kSplit[32] = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                        1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
    const I x = _mm512_permutexvar_epi16(_mm512_load_si512(kSplit), _mm512_loadu_si512(p));
    even = _mm512_cvtph_ps(_mm512_castsi512_si256(x));
    odd = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(x, 1));
  }
  BATON_INLINE void pairs(F32, const uint32_t* p, V& even, V& odd) {
    const V x = from_bits(_mm512_loadu_si512(p)), y = from_bits(_mm512_loadu_si512(p + 16));
    const I first = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const I second = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    even = _mm512_permutex2var_ps(x, first, y);
    odd = _mm512_permutex2var_ps(x, second, y);
  }
  BATON_INLINE void pairs(Planar, const uint32_t* p, V& even, V& odd) {
    even = load(reinterpret_cast<const float*>(p));
    odd = load(reinterpret_cast<const float*>(p + 16));
  }
  BATON_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  // Rows of 16 dwords to columns: four rounds of interleaving at 32, 64, 128 and 256 bits.
  BATON_INLINE void transpose16(I* r) {
    I t[16];
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // r[4g + c] holds, in 128-bit lane q, column 4q + c of rows 4g .. 4g + 3.
    for (int c = 0; c < 4; ++c) {
      t[c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);           // lanes 0, 2 of groups 0 and 1
      t[4 + c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);       // lanes 1, 3
      t[8 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);  // the same of groups 2 and 3
      t[12 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    }
    for (int c = 0; c < 4; ++c) {
      r[c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0x88);           // lane 0 of groups 0 .. 3: column c
      r[8 + c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0xdd);       // lane 2: column 8 + c
      r[4 + c] = _mm512_shuffle_i32x4(t[4 + c], t[12 + c], 0x88);  // lane 1
      r[12 + c] = _mm512_shuffle_i32x4(t[4 + c], t[12 + c], 0xdd); // lane 3
    }
  }
#undef BATON_INLINE

  template <class T>
  static void pack_rows_as_n(const T* const* rows, T* to) {
    if constexpr (sizeof(T) == 4) {
      Portable::pack_rows_as_n(rows, to);
    } else {
      for (int t = 0; t < 2; ++t) {
        I r[16];
#pragma GCC unroll 16
        for (int n = 0; n < 16; ++n) r[n] = _mm512_loadu_si512(rows[t * 16 + n]);
        transpose16(r);
#pragma GCC unroll 16
        for (int p = 0; p < 16; ++p) _mm512_storeu_si512(to + (t * 16 + p) * 32, r[p]);
      }
    }
  }
  template <class T>
  static bool pack_rows_as_k(const T* const* rows, T exponent, T* to) {
    if constexpr (sizeof(T) == 4) {
      return Portable::pack_rows_as_k(rows, exponent, to);
    } else {
      alignas(64) uint16_t low[32], high[32];
      for (int i = 0; i < 32; ++i) {
        low[i] = uint16_t(i / 2 + (i % 2) * 32);
        high[i] = uint16_t(low[i] + 16);
      }
      const I first = _mm512_load_si512(low), second = _mm512_load_si512(high), mask = _mm512_set1_epi16(int16_t(exponent));
      __mmask32 found = 0;
      for (int p = 0; p < 16; ++p) {
        const I x = _mm512_loadu_si512(rows[2 * p]), y = _mm512_loadu_si512(rows[2 * p + 1]);
        found |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(x, mask), mask) | _mm512_cmpeq_epi16_mask(_mm512_and_si512(y, mask), mask);
        _mm512_storeu_si512(to + p * 32, _mm512_permutex2var_epi16(x, first, y));
        _mm512_storeu_si512(to + (16 + p) * 32, _mm512_permutex2var_epi16(x, second, y));
      }
      return found != 0;
    }
  }
};

}  // namespace
}  // namespace baton::engine
