#include "transport/kv_convert_kernels.hpp"

#include <algorithm>
#include <bit>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace baton::transport {
#if defined(__x86_64__)
namespace {

using program::DType;

#define BATON_512 [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,f16c"), gnu::always_inline]] static inline

struct Two { // 32 f32
  __m512 lo, hi;
};

BATON_512 Two of_halves(__m512i h) { return {_mm512_cvtph_ps(_mm512_castsi512_si256(h)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1))}; }
BATON_512 __m512i join(__m256i lo, __m256i hi) { return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1); }
// The quiet NaN of f32 (or in its upper half that of bf16) with the sign that x had.
BATON_512 __m512i with_nan(__m512i bits, __m512 x) {
  const __m512i nan = _mm512_ternarylogic_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(int(0x80000000)), _mm512_set1_epi32(0x7fc00000), 0xea); // (x & sign) | nan
  return _mm512_mask_mov_epi32(bits, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), nan);
}

struct F32 {
  static constexpr size_t kBytes = 4;
  static constexpr float kUnit = 1;
  BATON_512 Two load(const uint8_t* p) { return {_mm512_loadu_ps(p), _mm512_loadu_ps(p + 64)}; }
  BATON_512 void store(uint8_t* p, Two x) {
    _mm512_storeu_si512(p, with_nan(_mm512_castps_si512(x.lo), x.lo));
    _mm512_storeu_si512(p + 64, with_nan(_mm512_castps_si512(x.hi), x.hi));
  }
};

struct Bf16 {
  static constexpr size_t kBytes = 2;
  static constexpr float kUnit = 1;
  BATON_512 __m512 widen(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
  BATON_512 Two load(const uint8_t* p) {
    const __m512i w = _mm512_loadu_si512(p);
    return {widen(_mm512_castsi512_si256(w)), widen(_mm512_extracti64x4_epi64(w, 1))};
  }
  BATON_512 __m512i round(__m512 x) { // bf16 in the upper halves
    const __m512i u = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    return with_nan(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), x);
  }
  BATON_512 void store(uint8_t* p, Two x) {
    const __m512i odd = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    _mm512_storeu_si512(p, _mm512_permutex2var_epi16(round(x.lo), odd, round(x.hi))); // the upper halves
  }
};

constexpr short kF16Inf = 0x7c00;
BATON_512 __m512i set16(int v) { return _mm512_set1_epi16(short(v)); }
BATON_512 __mmask32 nans(__m512i h) { return _mm512_cmpgt_epi16_mask(_mm512_and_si512(h, set16(0x7fff)), set16(kF16Inf)); }

struct F16 {
  static constexpr size_t kBytes = 2;
  static constexpr float kUnit = 1;
  BATON_512 Two load(const uint8_t* p) { return of_halves(_mm512_loadu_si512(p)); }
  BATON_512 void store(uint8_t* p, Two x) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m512i h = join(_mm512_cvtps_ph(x.lo, kNearest), _mm512_cvtps_ph(x.hi, kNearest));
    const __m512i nan = _mm512_or_si512(_mm512_and_si512(h, set16(0x8000)), set16(0x7e00));
    _mm512_storeu_si512(p, _mm512_mask_mov_epi16(h, nans(h), nan));
  }
};

// f16, truncated; the last bit says that something was cut off.
BATON_512 __m512i odd_halves(Two x) {
  constexpr int kTruncate = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
  const __m256i lo = _mm512_cvtps_ph(x.lo, kTruncate), hi = _mm512_cvtps_ph(x.hi, kTruncate);
  const __mmask16 cut_lo = _mm512_cmp_ps_mask(_mm512_cvtph_ps(lo), x.lo, _CMP_NEQ_OQ), cut_hi = _mm512_cmp_ps_mask(_mm512_cvtph_ps(hi), x.hi, _CMP_NEQ_OQ);
  const __m512i h = join(lo, hi);
  return _mm512_mask_mov_epi16(h, _mm512_kunpackw(cut_hi, cut_lo), _mm512_or_si512(h, set16(1)));
}

struct E5m2 {
  static constexpr size_t kBytes = 1;
  static constexpr float kUnit = 1;
  BATON_512 Two load(const uint8_t* p) {
    return of_halves(_mm512_slli_epi16(_mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 8));
  }
  BATON_512 void store(uint8_t* p, Two x) {
    const __m512i h = odd_halves(x), top = _mm512_srli_epi16(h, 8);
    const __m512i c = _mm512_srli_epi16(_mm512_add_epi16(_mm512_add_epi16(h, set16(0x7f)), _mm512_and_si512(top, set16(1))), 8);
    const __m512i out = _mm512_mask_mov_epi16(c, nans(h), _mm512_or_si512(top, set16(0x7f)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi16_epi8(out));
  }
};

struct E4m3 { // as f16 a number is 1/256 of what it is
  static constexpr size_t kBytes = 1;
  static constexpr float kUnit = 256;
  BATON_512 Two load(const uint8_t* p) {
    const __m512i w = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), a = _mm512_and_si512(w, set16(0x7f));
    __m512i h = _mm512_or_si512(_mm512_slli_epi16(a, 7), _mm512_slli_epi16(_mm512_xor_si512(w, a), 8));
    h = _mm512_mask_mov_epi16(h, _mm512_cmpeq_epi16_mask(a, set16(0x7f)), _mm512_or_si512(h, set16(0x7e00)));
    return of_halves(h);
  }
  BATON_512 void store(uint8_t* p, Two x) {
    const __m512i h = odd_halves(x);
    const __m512i a = _mm512_min_epu16(_mm512_and_si512(h, set16(0x7fff)), set16(0x7e << 7)); // what is larger becomes the largest
    const __m512i c = _mm512_srli_epi16(_mm512_add_epi16(_mm512_add_epi16(a, set16(0x3f)), _mm512_and_si512(_mm512_srli_epi16(a, 7), set16(1))), 7);
    const __m512i signed_c = _mm512_or_si512(c, _mm512_and_si512(_mm512_srli_epi16(h, 8), set16(0x80)));
    const __m512i out = _mm512_mask_mov_epi16(signed_c, nans(h), _mm512_or_si512(signed_c, set16(0x7f)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi16_epi8(out));
  }
};

// One product by all three factors where their product is exact; the results are the same: they differ only far below what FP8 has.
template <class From, class To, bool One>
BATON_512 void step(uint8_t* d, const uint8_t* s, __m512 f) {
  Two x = From::load(s);
  auto times = [&](__m512 y) __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,f16c"), always_inline)) { x = {_mm512_mul_ps(x.lo, y), _mm512_mul_ps(x.hi, y)}; };
  if (!One) times(_mm512_set1_ps(From::kUnit));
  times(f);
  if (!One) times(_mm512_set1_ps(1 / To::kUnit));
  To::store(d, x);
}

template <class From, class To, bool One>
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,f16c")]] void loop(uint8_t* d, const uint8_t* s, size_t n, float factor) {
  const __m512 f = _mm512_set1_ps(factor);
  for (; n >= 32; n -= 32, s += 32 * From::kBytes, d += 32 * To::kBytes) step<From, To, One>(d, s, f);
  if (!n) return;
  uint8_t in[32 * From::kBytes] = {}, out[32 * To::kBytes];
  __builtin_memcpy(in, s, n * From::kBytes);
  step<From, To, One>(out, in, f);
  __builtin_memcpy(d, out, n * To::kBytes);
}

template <class From, class To>
void run(void* dst, const void* src, size_t n, float factor) {
  auto* d = static_cast<uint8_t*>(dst);
  const auto* s = static_cast<const uint8_t*>(src);
  if (factor > 0x1p-100f && factor < 0x1p+100f) loop<From, To, true>(d, s, n, factor * (From::kUnit / To::kUnit));
  else loop<From, To, false>(d, s, n, factor);
}

template <class From>
ConvertFn from(DType to) {
  switch (to) {
    case DType::f32: return run<From, F32>;
    case DType::bf16: return run<From, Bf16>;
    case DType::f16: return run<From, F16>;
    case DType::f8e4m3: return run<From, E4m3>;
    case DType::f8e5m2: return run<From, E5m2>;
    default: return nullptr;
  }
}

// A vector for each head, whose lanes meet once, in the end. Infinities and NaN are larger than every number: only a head that has one is read again.
template <uint32_t Inf, bool Finite>
BATON_512 __m512i larger(__m512i most, const uint8_t* s, size_t n) {
  auto with = [&](__m512i x) __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,f16c"), always_inline)) {
    const __m512i a = _mm512_and_si512(x, set16(0x7fff));
    most = _mm512_max_epu16(most, Finite ? _mm512_maskz_mov_epi16(_mm512_cmplt_epu16_mask(a, set16(Inf)), a) : a);
  };
  for (; n >= 32; n -= 32, s += 64) with(_mm512_loadu_si512(s));
  if (n) with(_mm512_maskz_loadu_epi16((1u << n) - 1, s));
  return most;
}
BATON_512 uint16_t largest_lane(__m512i x) {
  const __m256i h = _mm256_max_epu16(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
  const __m128i q = _mm_max_epu16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  return uint16_t(~_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_xor_si128(q, _mm_set1_epi16(-1))))); // there is one for the least alone
}

template <uint32_t Inf, bool Brain>
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,f16c")]] void largest(const Heads& g, float* most) {
  constexpr uint32_t kAtOnce = 64;
  __m512i all[kAtOnce];
  for (uint32_t first = 0; first < g.heads; first += kAtOnce) {
    const uint32_t heads = std::min(kAtOnce, g.heads - first);
    const uint8_t* const src = g.src + first * g.head_step;
    for (uint32_t h = 0; h < heads; ++h) all[h] = _mm512_setzero_si512();
    for (uint32_t row = 0; row < g.rows; ++row)
      for (uint32_t h = 0; h < heads; ++h) all[h] = larger<Inf, false>(all[h], src + row * g.row_step + h * g.head_step, g.n);
    for (uint32_t h = 0; h < heads; ++h) {
      uint16_t code = largest_lane(all[h]);
      if (code >= Inf) {
        __m512i again = _mm512_setzero_si512();
        for (uint32_t row = 0; row < g.rows; ++row) again = larger<Inf, true>(again, src + row * g.row_step + h * g.head_step, g.n);
        code = largest_lane(again);
      }
      most[first + h] = Brain ? std::bit_cast<float>(uint32_t(code) << 16) : _cvtsh_ss(code);
    }
  }
}

}  // namespace

ConvertFn avx512_converter(DType f, DType to) {
  switch (f) {
    case DType::f32: return from<F32>(to);
    case DType::bf16: return from<Bf16>(to);
    case DType::f16: return from<F16>(to);
    case DType::f8e4m3: return from<E4m3>(to);
    case DType::f8e5m2: return from<E5m2>(to);
    default: return nullptr;
  }
}

LargestFn avx512_largest(DType t) { return t == DType::bf16 ? largest<0x7f80, true> : t == DType::f16 ? largest<kF16Inf, false> : nullptr; }
#else
LargestFn avx512_largest(program::DType) { return nullptr; }
ConvertFn avx512_converter(program::DType, program::DType) { return nullptr; }
#endif

}  // namespace baton::transport
