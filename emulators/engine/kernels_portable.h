// kernels_portable.h: sixteen f32 lanes in plain C++, the reference for kernels_avx2.h and kernels_avx512.h.
//
// A vector set is a struct of static functions over V (16 x f32) and I (16 x i32). The kernels are templates over it, so that every path
// does the same operations in the same order by construction. Lane operations are IEEE, RNE, under the thread's FTZ and DAZ.
//
// Everything here has internal linkage: a copy compiled for one instruction set must never be merged with another's by the linker.
#pragma once

#include <cstdint>
#include <cstring>

namespace baton::engine {
namespace {

#define BATON_LANES for (int l = 0; l < 16; ++l)

template <class To, class From>
[[gnu::always_inline]] inline To cast_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &x, sizeof to);
  return to;
}

// One fused multiply-add. Without the instruction: the product of two f32 is exact in f64, the sum is rounded to odd there (so that the
// second rounding cannot go wrong; needs 24 + 2 of f64's 53 bits), and the conversion to f32 rounds and flushes as the hardware does.
[[gnu::always_inline]] inline float fma1(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  const double p = double(a) * double(b), z = double(c), s = p + z;
  const double back = s - p, lost = (p - (s - back)) + (z - back);  // exact: s + lost == p + z
  int64_t bits = cast_bits<int64_t>(s);
  const bool finite = ((bits >> 52) & 0x7ff) != 0x7ff;
  if (finite && lost != 0 && !(bits & 1)) bits += (lost > 0) == (s > 0) ? 1 : -1;
  return float(cast_bits<double>(bits));
#endif
}

// RNE on the bits: independent of FTZ and DAZ, denormals are kept. NaN stays NaN (quiet).
inline uint16_t bf16_of(float x) {
  const uint32_t u = cast_bits<uint32_t>(x);
  if ((u & 0x7fffffff) > 0x7f800000) return uint16_t((u >> 16) | 0x40);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
inline float bf16_to(uint16_t h) { return cast_bits<float>(uint32_t(h) << 16); }

// As VCVTPS2PH and VCVTPH2PS: RNE, f16 denormals are kept whatever FTZ and DAZ say.
inline uint16_t f16_of(float x) {
  const uint32_t u = cast_bits<uint32_t>(x), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
  if (a > 0x7f800000) return uint16_t(sign | 0x7e00 | ((a >> 13) & 0x3ff));
  if (a >= 0x477ff000) return uint16_t(sign | 0x7c00);  // 65520 and above round to infinity
  if (a >= 0x38800000) return uint16_t(sign | ((a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13));  // 2^-14 and above: normal
  if (a <= 0x33000000) return uint16_t(sign);                                                          // 2^-25 ties to even: 0
  const uint32_t shift = 126 - (a >> 23), m = (a & 0x7fffff) | 0x800000, half = 1u << (shift - 1);
  uint32_t r = m >> shift;
  const uint32_t rest = m & (2 * half - 1);
  r += rest > half || (rest == half && (r & 1));
  return uint16_t(sign | r);
}
inline float f16_to(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 0x3ff;
  if (e == 31) return cast_bits<float>(sign | 0x7f800000 | (m << 13) | (m ? 0x400000 : 0));
  if (e == 0) return cast_bits<float>(sign | cast_bits<uint32_t>(float(m) * 0x1p-24f));
  return cast_bits<float>(sign | ((e + 112) << 23) | (m << 13));
}

// Element types of packed matrices. kExponent: the bits that are all ones in infinities and NaN.
struct Bf16 {
  using T = uint16_t;
  static constexpr T kExponent = 0x7f80;
};
struct F16 {
  using T = uint16_t;
  static constexpr T kExponent = 0x7c00;
};
struct F32 {
  using T = uint32_t;
  static constexpr T kExponent = 0x7f800000;
};

// A block that was widened to f32: 16 even k, then 16 odd k, for each pair.
struct Planar {
  using T = uint32_t;
};

struct Portable {
  struct V {
    float f[16];
  };
  struct I {
    uint32_t i[16];
  };
  static constexpr uint32_t kRows = 2, kCols = 1;  // register tile of the matmul: rows x vectors

  static V zero() { return V{}; }
  static V set1(float x) {
    V r;
    BATON_LANES r.f[l] = x;
    return r;
  }
  static V load(const float* p) {
    V r;
    std::memcpy(r.f, p, sizeof r.f);
    return r;
  }
  static void store(float* p, const V& v) { std::memcpy(p, v.f, sizeof v.f); }

#define BATON_BINARY(name, expression)       \
  static V name(const V& a, const V& b) {    \
    V r;                                     \
    BATON_LANES r.f[l] = expression;         \
    return r;                                \
  }
  BATON_BINARY(add, a.f[l] + b.f[l])
  BATON_BINARY(sub, a.f[l] - b.f[l])
  BATON_BINARY(mul, a.f[l] * b.f[l])
  BATON_BINARY(div, a.f[l] / b.f[l])
#undef BATON_BINARY

  static V fma(const V& a, const V& b, const V& c) {  // a * b + c
    V r;
    BATON_LANES r.f[l] = fma1(a.f[l], b.f[l], c.f[l]);
    return r;
  }
  static V if_greater(const V& a, const V& b, const V& yes, const V& no) {  // a > b ? yes : no; NaN: no
    V r;
    BATON_LANES r.f[l] = a.f[l] > b.f[l] ? yes.f[l] : no.f[l];
    return r;
  }
  static V if_nan(const V& a, const V& yes, const V& no) {
    V r;
    BATON_LANES r.f[l] = a.f[l] != a.f[l] ? yes.f[l] : no.f[l];
    return r;
  }

  static I bits(const V& v) { return cast_bits<I>(v); }
  static V from_bits(const I& v) { return cast_bits<V>(v); }
  static I iset1(int32_t x) {
    I r;
    BATON_LANES r.i[l] = uint32_t(x);
    return r;
  }
  static I iadd(const I& a, const I& b) {
    I r;
    BATON_LANES r.i[l] = a.i[l] + b.i[l];
    return r;
  }
  static I isub(const I& a, const I& b) {
    I r;
    BATON_LANES r.i[l] = a.i[l] - b.i[l];
    return r;
  }
  static I half(const I& a) {  // arithmetic shift right by one
    I r;
    BATON_LANES r.i[l] = uint32_t(int32_t(a.i[l]) >> 1);
    return r;
  }
  static I to_exponent(const I& a) {  // shift left by 23
    I r;
    BATON_LANES r.i[l] = a.i[l] << 23;
    return r;
  }

  // ---- 16-bit floats ----
  static V round_bf16(const V& v) {
    V r;
    BATON_LANES r.f[l] = bf16_to(bf16_of(v.f[l]));
    return r;
  }
  static void store_as(Bf16, uint16_t* p, const V& v) { BATON_LANES p[l] = bf16_of(v.f[l]); }
  static void store_as(F16, uint16_t* p, const V& v) { BATON_LANES p[l] = f16_of(v.f[l]); }
  static V load_as(Bf16, const uint16_t* p) {
    V r;
    BATON_LANES r.f[l] = bf16_to(p[l]);
    return r;
  }
  static V load_as(F16, const uint16_t* p) {
    V r;
    BATON_LANES r.f[l] = f16_to(p[l]);
    return r;
  }

  // ---- packed blocks: 16 (even k, odd k) pairs ----
  static void pairs(Bf16, const uint16_t* p, V& even, V& odd) {
    BATON_LANES {
      even.f[l] = bf16_to(p[2 * l]);
      odd.f[l] = bf16_to(p[2 * l + 1]);
    }
  }
  static void pairs(F16, const uint16_t* p, V& even, V& odd) {
    BATON_LANES {
      even.f[l] = f16_to(p[2 * l]);
      odd.f[l] = f16_to(p[2 * l + 1]);
    }
  }
  static void pairs(F32, const uint32_t* p, V& even, V& odd) {
    BATON_LANES {
      even.f[l] = cast_bits<float>(p[2 * l]);
      odd.f[l] = cast_bits<float>(p[2 * l + 1]);
    }
  }
  static void pairs(Planar, const uint32_t* p, V& even, V& odd) {
    std::memcpy(even.f, p, sizeof even.f);
    std::memcpy(odd.f, p + 16, sizeof odd.f);
  }
  static void prefetch(const void* p) { __builtin_prefetch(p); }

  // A block [2 tiles][16 pairs][16 n][2] from 32 rows of 32 elements: rows are n (keys of a KV-cache) ...
  template <class T>
  static void pack_rows_as_n(const T* const* rows, T* to) {
    for (int t = 0; t < 2; ++t)
      for (int p = 0; p < 16; ++p)
        BATON_LANES std::memcpy(to + ((t * 16 + p) * 16 + l) * 2, rows[t * 16 + l] + 2 * p, 2 * sizeof(T));
  }
  // ... or rows are k (values of a KV-cache). True if an element has all bits of `exponent` set.
  template <class T>
  static bool pack_rows_as_k(const T* const* rows, T exponent, T* to) {
    T found = 0;
    for (int p = 0; p < 16; ++p) {
      const T *a = rows[2 * p], *b = rows[2 * p + 1];
      for (int t = 0; t < 2; ++t) {
        T* out = to + (t * 16 + p) * 32;
        BATON_LANES {
          const T x = a[t * 16 + l], y = b[t * 16 + l];
          out[2 * l] = x;
          out[2 * l + 1] = y;
          found |= T((x & exponent) == exponent) | T((y & exponent) == exponent);
        }
      }
    }
    return found != 0;
  }
};

}  // namespace
}  // namespace baton::engine
