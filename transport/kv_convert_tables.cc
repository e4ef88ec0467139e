// Conversions whose answer is in a table of 128: FP8 to anything of 16 bits or less by its magnitude, bf16 to FP8 by its mantissa. A table is made with
// the exact kernel for each factor, and looked up 64 at a time (AVX-512 VBMI).
//
// bf16 to FP8: while code and product are normal, one more in the exponent of bf16 is one more in that of the code, so that
// code = table[mantissa] + (exponent << mantissa bits of FP8) - a constant. Where the code is a subnormal, the adder of f32 rounds the product: added to
// a number whose last bit is worth the smallest subnormal, it leaves the code in the lower half of the sum. Both are at hand for each number, so that
// how many are subnormal costs nothing: in a cache without scales half of all vectors have one.
#include "transport/kv_convert_kernels.hpp"

#include <array>
#include <cmath>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace baton::transport {
#if defined(__x86_64__)
namespace {

using program::DType;

#define BATON_VBMI gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")

constexpr size_t kFewest = 512; // numbers that are worth a table

struct Table {
  __m512i low, high;
};
[[BATON_VBMI, gnu::always_inline]] inline Table table(const uint8_t* bytes) { return {_mm512_loadu_si512(bytes), _mm512_loadu_si512(bytes + 64)}; }
[[BATON_VBMI, gnu::always_inline]] inline __m512i look_up(const Table& t, __m512i index) { return _mm512_permutex2var_epi8(t.low, index, t.high); } // bits 0..6

// Numbers [i, n) of a row.
void rest(ConvertFn exact, const Rows& r, size_t row, size_t i, uint32_t in, uint32_t out, float factor) {
  uint8_t* const d = r.dst + row * r.dst_step + i * out;
  exact(d, r.src + row * r.src_step + i * in, r.n - i, factor);
  if (r.also) std::memcpy(r.also + row * r.also_step + i * out, d, (r.n - i) * out);
}
void each_row(ConvertFn exact, const Rows& r, uint32_t in, uint32_t out, float factor) {
  if (!r.also && r.dst_step == r.n * out && r.src_step == r.n * in) return exact(r.dst, r.src, r.n * r.rows, factor);
  for (size_t i = 0; i < r.rows; ++i) rest(exact, r, i, 0, in, out, factor);
}

[[BATON_VBMI, gnu::always_inline]] inline __m512i set8(int v) { return _mm512_set1_epi8(char(v)); }
[[BATON_VBMI, gnu::always_inline]] inline __m512i set16(int v) { return _mm512_set1_epi16(short(v)); }

constexpr std::array<uint8_t, 128> kMagnitudes = [] {
  std::array<uint8_t, 128> all{};
  for (size_t i = 0; i < all.size(); ++i) all[i] = uint8_t(i);
  return all;
}();

// A page ends the hardware's prefetch, and blocks are scattered. `at` of `all` bytes of the source have been read, `row + at` is the next.
constexpr size_t kAhead = 4096;
[[gnu::always_inline]] inline void prefetch(const Rows& r, const uint8_t* row, size_t at, size_t all, size_t bytes) {
  if (r.warm) {
    for (size_t line = 0; r.next && line < bytes; line += 64) __builtin_prefetch(r.next + at + line, 0, 2); // it may be more than the nearest cache holds
    return;
  }
  if (r.rows > 1) return;
  const uint8_t* p = at + kAhead < all ? row + at + kAhead : r.next ? r.next + (at + kAhead - all) : nullptr;
  if (p)
    for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(p + line, 0, 3);
}
// At byte `at` of a row.
[[BATON_VBMI, gnu::always_inline]] inline void put(const Rows& r, size_t row, size_t at, __m512i x) {
  uint8_t* const d = r.dst + row * r.dst_step + at;
  if (r.stream && reinterpret_cast<uintptr_t>(d) % 64 == 0) _mm512_stream_si512(reinterpret_cast<__m512i*>(d), x);
  else _mm512_storeu_si512(d, x);
  if (r.also) _mm512_storeu_si512(r.also + row * r.also_step + at, x);
}

template <DType From, DType To>
[[BATON_VBMI]] void to_16(const Rows& r, float factor) {
  const ConvertFn exact = avx512_converter(From, To);
  if (r.n * r.rows < kFewest) return each_row(exact, r, 1, 2, factor);
  uint16_t all[128];
  uint8_t low[128], high[128];
  exact(all, kMagnitudes.data(), 128, factor);
  for (int i = 0; i < 128; ++i) low[i] = uint8_t(all[i]), high[i] = uint8_t(all[i] >> 8);
  const Table tl = table(low), th = table(high);
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7); // so that the halves of lanes that unpack takes are neighbours in the end
  for (size_t row = 0; row < r.rows; ++row) {
    const uint8_t* s = r.src + row * r.src_step;
    size_t i = 0;
    for (; i + 64 <= r.n; i += 64) {
      prefetch(r, s, row * r.n + i, r.n, 64);
      const __m512i c = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(s + i));
      const __m512i a = look_up(tl, c), b = _mm512_ternarylogic_epi64(look_up(th, c), c, set8(0x80), 0xf8); // | (c & sign)
      const __m512i first = _mm512_unpacklo_epi8(a, b), second = _mm512_unpackhi_epi8(a, b);
      put(r, row, 2 * i, first);
      put(r, row, 2 * i + 64, second);
    }
    if (i < r.n) rest(exact, r, row, i, 1, 2, factor);
  }
}

template <DType From, DType To>
[[BATON_VBMI]] void to_8(const Rows& r, float factor) {
  const ConvertFn exact = avx512_converter(From, To);
  if (r.n * r.rows < kFewest) return each_row(exact, r, 1, 1, factor);
  uint8_t all[128];
  exact(all, kMagnitudes.data(), 128, factor);
  const Table t = table(all);
  for (size_t row = 0; row < r.rows; ++row) {
    const uint8_t* s = r.src + row * r.src_step;
    size_t i = 0;
    for (; i + 64 <= r.n; i += 64) {
      const __m512i c = _mm512_loadu_si512(s + i);
      put(r, row, i, _mm512_ternarylogic_epi64(look_up(t, c), c, set8(0x80), 0xf8));
    }
    if (i < r.n) rest(exact, r, row, i, 1, 1, factor);
  }
}

// Few: hardly any code is a subnormal, and a branch that is foreseen costs less than both answers.
template <DType To, bool Few>
[[BATON_VBMI]] void from_bf16_as(const Rows& r, float factor) {
  constexpr int kMantissa = To == DType::f8e4m3 ? 3 : 2, kTop = To == DType::f8e4m3 ? 0x7e : 0x7c;
  const ConvertFn exact = avx512_converter(DType::bf16, To);
  if (r.n * r.rows < kFewest || !(factor > 0x1p-100f && factor < 0x1p+100f)) return each_row(exact, r, 2, 1, factor);
  int exponent;
  (void)std::frexp(factor, &exponent);
  const int one = 127 + 1 - exponent; // bf16's exponent of numbers whose product is between 1 and 4
  uint16_t x[128];
  uint8_t codes[128];
  for (int i = 0; i < 128; ++i) x[i] = uint16_t(one << 7 | i);
  exact(codes, x, 128, factor);
  const Table t = table(codes);
  const __m512i base = set16(one << kMantissa), normal = set16((one << kMantissa) + (1 << kMantissa));
  const __m512 times = _mm512_set1_ps(factor), magic = _mm512_set1_ps(To == DType::f8e4m3 ? 0x1p+14f : 0x1p+7f); // 2^23 of the smallest subnormal: 2^-9, 2^-16
  auto half = [&](__m512i w) __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi"), always_inline)) {
    const __m512i a = _mm512_and_si512(w, set16(0x7fff));
    const __m512i step = _mm512_and_si512(_mm512_srli_epi16(a, 7 - kMantissa), set16(0xff << kMantissa));
    const __m512i sum = _mm512_add_epi16(step, _mm512_and_si512(look_up(t, w), set16(0xff)));
    __m512i c = _mm512_min_epu16(_mm512_sub_epi16(sum, base), set16(kTop));
    const __mmask32 small = _mm512_cmplt_epu16_mask(sum, normal), nan = _mm512_cmpgt_epu16_mask(a, set16(0x7f80));
    if (!Few || (small | nan)) {
      const __m512 even = _mm512_add_ps(_mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), times), magic);
      const __m512 odd = _mm512_add_ps(_mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(int(0xffff0000)))), times), magic);
      c = _mm512_mask_mov_epi16(c, small, _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_castps_si512(even), _mm512_slli_epi32(_mm512_castps_si512(odd), 16)));
      c = _mm512_mask_mov_epi16(c, nan, set16(0x7f));
    }
    return _mm512_ternarylogic_epi64(c, _mm512_srli_epi16(w, 8), set16(0x80), 0xf8);
  };
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7); // undoes what packus does to lanes
  for (size_t row = 0; row < r.rows; ++row) {
    const uint8_t* s = r.src + row * r.src_step;
    size_t i = 0;
    for (; i + 64 <= r.n; i += 64) {
      prefetch(r, s, 2 * (row * r.n + i), 2 * r.n, 128);
      const __m512i lo = half(_mm512_loadu_si512(s + 2 * i)), hi = half(_mm512_loadu_si512(s + 2 * i + 64));
      put(r, row, i, _mm512_permutexvar_epi64(order, _mm512_packus_epi16(lo, hi)));
    }
    if (i < r.n) rest(exact, r, row, i, 2, 1, factor);
  }
}

// What has been read has been scaled, so that its largest is the largest code: 1 in 28672 of it and less is subnormal (e4m3).
template <DType To>
void from_bf16(const Rows& r, float factor) {
  r.warm ? from_bf16_as<To, true>(r, factor) : from_bf16_as<To, false>(r, factor);
}

}  // namespace

RowsFn table_converter(DType from, DType to) {
  static const bool here = __builtin_cpu_supports("avx512vbmi") && convert_isa() == ConvertIsa::avx512;
  constexpr DType k4 = DType::f8e4m3, k5 = DType::f8e5m2;
  if (!here) return nullptr;
  if (from == DType::bf16) return to == k4 ? from_bf16<k4> : to == k5 ? from_bf16<k5> : nullptr;
  if (from == k4)
    return to == DType::bf16 ? to_16<k4, DType::bf16> : to == DType::f16 ? to_16<k4, DType::f16> : to == k4 ? to_8<k4, k4> : to == k5 ? to_8<k4, k5> : nullptr;
  if (from == k5)
    return to == DType::bf16 ? to_16<k5, DType::bf16> : to == DType::f16 ? to_16<k5, DType::f16> : to == k4 ? to_8<k5, k4> : to == k5 ? to_8<k5, k5> : nullptr;
  return nullptr;
}
#else
RowsFn table_converter(program::DType, program::DType) { return nullptr; }
#endif

}  // namespace baton::transport
