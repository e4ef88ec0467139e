// bf16 to FP8 by AVX2, 16 numbers at a time, as even and odd halves of 32-bit lanes: the product is rounded to a normal code by its bits and to a subnormal
// one by the adder of f32, as in kv_convert_tables.cc, and each number takes the one that it is.
#include "transport/kv_convert_kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace baton::transport {
#if defined(__x86_64__)
namespace {

using program::DType;

#define BATON_256 [[gnu::target("avx2"), gnu::always_inline]] static inline

template <int M, int Bias, int Top> // mantissa bits, exponent bias, the largest code
struct Fp8 {
  static constexpr int kDrop = 23 - M, kNormal = (127 + 1 - Bias) << 23;              // the smallest normal product, as f32
  static constexpr int kRound = (1 << (kDrop - 1)) - 1 - ((127 - Bias) << 23);        // half a step but one bit, and the other bias
  static constexpr int kMagic = (127 + 23 + 1 - Bias - M) << 23;                      // its last bit is worth the smallest subnormal

  BATON_256 __m256i lanes(__m256i x, __m256 factor) { // magnitudes of f32; codes in the lower halves
    const __m256 p = _mm256_mul_ps(_mm256_castsi256_ps(x), factor);
    const __m256i u = _mm256_castps_si256(p), odd = _mm256_and_si256(_mm256_srli_epi32(u, kDrop), _mm256_set1_epi32(1));
    const __m256i normal = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(kRound)), odd), kDrop);
    const __m256i subnormal = _mm256_castps_si256(_mm256_add_ps(p, _mm256_castsi256_ps(_mm256_set1_epi32(kMagic))));
    return _mm256_blendv_epi8(_mm256_min_epi32(normal, _mm256_set1_epi32(Top)), subnormal, _mm256_cmpgt_epi32(_mm256_set1_epi32(kNormal), u));
  }
  BATON_256 __m256i codes(__m256i w, __m256 factor) { // in 16-bit lanes
    const __m256i a = _mm256_and_si256(w, _mm256_set1_epi16(0x7fff));
    const __m256i even = lanes(_mm256_slli_epi32(a, 16), factor), odd = lanes(_mm256_and_si256(a, _mm256_set1_epi32(int(0xffff0000))), factor);
    __m256i c = _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa);
    const __m256i nan = _mm256_cmpgt_epi16(a, _mm256_set1_epi16(0x7f80)), quiet = _mm256_set1_epi16(0x7f);
    c = _mm256_blendv_epi8(c, quiet, nan);
    return _mm256_or_si256(c, _mm256_and_si256(_mm256_srli_epi16(w, 8), _mm256_set1_epi16(0x80)));
  }
  BATON_256 void step(uint8_t* d, const uint8_t* s, __m256 factor) { // 32 numbers
    const __m256i lo = codes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(s)), factor), hi = codes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(s + 32)), factor);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(d), _mm256_permute4x64_epi64(_mm256_packus_epi16(lo, hi), 0xd8)); // packus works on halves
  }
  [[gnu::target("avx2")]] static void run(void* dst, const void* src, size_t n, float factor) {
    auto* d = static_cast<uint8_t*>(dst);
    const auto* s = static_cast<const uint8_t*>(src);
    const __m256 f = _mm256_set1_ps(factor);
    for (; n >= 32; n -= 32, s += 64, d += 32) {
      _mm_prefetch(reinterpret_cast<const char*>(s) + 4096, _MM_HINT_T0); // a page ends the hardware's
      step(d, s, f);
    }
    if (!n) return;
    uint8_t in[64] = {}, out[32];
    __builtin_memcpy(in, s, 2 * n);
    step(out, in, f);
    __builtin_memcpy(d, out, n);
  }
};

}  // namespace

ConvertFn avx2_converter(DType from, DType to) {
  if (from != DType::bf16) return nullptr;
  return to == DType::f8e4m3 ? Fp8<3, 7, 0x7e>::run : to == DType::f8e5m2 ? Fp8<2, 15, 0x7c>::run : nullptr;
}
#else
ConvertFn avx2_converter(program::DType, program::DType) { return nullptr; }
#endif

}  // namespace baton::transport
