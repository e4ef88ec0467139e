// kernels_test.h: what the kernel tests share: the paths of this CPU, data that hurts, a bitwise comparison, and references that
// follow the text of kernels.hpp one operation at a time.
#pragma once

#include "emulators/engine/kernels.hpp"
#include "emulators/engine/kernels_paths.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace baton::engine::test {

using program::Act;
using program::DType;

struct Path {
  const char* name;
  const KernelTable* table;
};

// Every path that this CPU can run; the baseline one first. AMX is among them only where CPUID and the kernel offer it.
inline std::vector<Path> paths() {
  std::vector<Path> all = {{"portable", &kernels_portable()}};
#if defined(__x86_64__)
  const CpuFeatures& cpu = cpu_features();
  if (cpu.avx2) all.push_back({"avx2", &kernels_avx2()});
  if (cpu.avx512) all.push_back({"avx512", &kernels_avx512()});
  if (cpu.amx) all.push_back({"amx", &kernels_amx()});
#endif
  return all;
}

// ---- data ----

enum class Data { normal, wide, tiny, sparse };
inline const std::vector<Data> kAllData = {Data::normal, Data::wide, Data::tiny, Data::sparse};
inline const char* data_name(Data d) {
  return d == Data::normal ? "normal" : d == Data::wide ? "wide" : d == Data::tiny ? "tiny" : "sparse";
}

class Random {
 public:
  explicit Random(uint64_t seed) : g_(seed) {}
  uint32_t below(uint32_t n) { return uint32_t(g_() % n); }
  float operator()(Data d) {
    const float sign = (g_() & 1) ? 1.0f : -1.0f;
    const float m = 1.0f + float(g_() % (1 << 23)) * 0x1p-23f;
    switch (d) {
      case Data::normal: return sign * m * std::ldexp(1.0f, -int(below(4)));
      case Data::wide: return sign * m * std::ldexp(1.0f, int(below(100)) - 50);
      // Products and sums around the least normal number, and denormal operands.
      case Data::tiny: return below(8) == 0 ? from_bits(uint32_t(g_()) & 0x807fffff) : sign * std::ldexp(m, -int(50 + below(30)));
      case Data::sparse: return below(3) == 0 ? sign * m : sign * 0.0f;
    }
    return 0;
  }
  std::vector<float> vector(uint64_t n, Data d) {
    std::vector<float> v(n);
    for (float& x : v) x = (*this)(d);
    return v;
  }
  float any_bits() { return from_bits(uint32_t(g_())); }

 private:
  static float from_bits(uint32_t u) { return std::bit_cast<float>(u); }
  std::mt19937_64 g_;
};

inline bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

// Equal bits; a NaN equals any NaN (which operand's payload survives depends on instruction forms, and is not defined).
inline ::testing::AssertionResult same(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return ::testing::AssertionFailure() << got.size() << " values, not " << want.size();
  uint64_t different = 0, first = 0;
  for (uint64_t i = 0; i < got.size(); ++i)
    if (!same_bits(got[i], want[i]) && !(std::isnan(got[i]) && std::isnan(want[i])) && different++ == 0) first = i;
  if (!different) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << different << " of " << got.size() << " differ, first at " << first << ": " << std::hexfloat
                                       << got[first] << " instead of " << want[first];
}

// ---- conversions, bit by bit from the formats' definitions: compare with every neighbour in f64 ----

inline float widen_ref(uint16_t h, DType t) {
  if (t == DType::bf16) return std::bit_cast<float>(uint32_t(h) << 16);
  const int e = (h >> 10) & 31, m = h & 0x3ff;
  const float sign = h & 0x8000 ? -1.0f : 1.0f;
  if (e == 31) return m ? std::nanf("") : sign * INFINITY;
  return sign * float(e ? std::ldexp(1024.0 + m, e - 25) : std::ldexp(double(m), -24));
}

// ---- references ----

inline float round_ref(float x, Act act) {  // finite x
  if (act == Act::f32) return x;
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t low = u & 0xffff, up = low > 0x8000 || (low == 0x8000 && (u & 0x10000));
  return std::bit_cast<float>((u & 0xffff0000) + (up ? 0x10000 : 0));
}

// One run of 32 k in the order of TDPBF16PS; a and b by k.
template <class A, class B>
float dot32_ref(float dst, A&& a, B&& b) {
  float even = 0, odd = 0;
  for (int k = 0; k < 32; k += 2) {
    even = std::fma(a(k), b(k), even);
    odd = std::fma(a(k + 1), b(k + 1), odd);
  }
  return dst + (even + odd);
}

inline float tree_ref(const float* s, uint32_t n) { return n == 1 ? s[0] : tree_ref(s, n / 2) + tree_ref(s + n / 2, n / 2); }

struct Matrix {  // dense values, their bytes in `dtype`, and the packed form
  DType dtype;
  uint32_t n, k, segments;
  std::vector<float> values;  // as widened again
  std::vector<uint8_t> dense, storage;
  PackedMatrix packed;

  Matrix(DType t, uint32_t n_, uint32_t k_, uint32_t segments_, std::vector<float> v, Pool& pool)
      : dtype(t), n(n_), k(k_), segments(segments_), values(std::move(v)) {
    const uint32_t size = program::dtype_bytes(t);
    dense.resize(values.size() * size);
    kernels_portable().round_to(values.data(), values.size(), t, dense.data());
    kernels_portable().widen(dense.data(), values.size(), t, values.data());
    packed = packed_shape(t, n, k, segments);
    storage.resize(packed.bytes() + 64);
    packed.data = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(storage.data()) + 63) & ~uintptr_t(63));
    pack(dense.data(), packed, pool);
  }
};

inline std::vector<float> matmul_ref(const std::vector<float>& x, uint32_t rows, const Matrix& w, const float* bias, Act act) {
  const uint32_t segment = w.k / w.segments;
  std::vector<float> y(uint64_t(rows) * w.n), part(w.segments);
  for (uint32_t r = 0; r < rows; ++r)
    for (uint32_t n = 0; n < w.n; ++n) {
      for (uint32_t s = 0; s < w.segments; ++s) {
        part[s] = 0;
        for (uint32_t k0 = 0; k0 < segment; k0 += 32) {
          auto at = [&](int k) { return s * segment + k0 + k; };
          auto in = [&](int k) { return k0 + k < segment; };
          part[s] = dot32_ref(
              part[s], [&](int k) { return in(k) ? round_ref(x[uint64_t(r) * w.k + at(k)], act) : 0.0f; },
              [&](int k) { return in(k) ? w.values[uint64_t(n) * w.k + at(k)] : 0.0f; });
        }
      }
      y[uint64_t(r) * w.n + n] = tree_ref(part.data(), w.segments) + (bias ? bias[n] : 0.0f);
      if (!bias) y[uint64_t(r) * w.n + n] = tree_ref(part.data(), w.segments);
    }
  return y;
}

}  // namespace baton::engine::test
