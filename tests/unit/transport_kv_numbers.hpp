// transport_kv_numbers.hpp: the formats of KV numbers by their standards, and the nearest number of each: what conversions are tested against.
//
// Nothing of it is how kv_convert.cc does it: a format is the list of its numbers, the nearest is found by a search in that list.
#pragma once

#include "hal/program/program.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace baton::transport {

// Sign, exponent and mantissa bits.
struct Format {
  program::DType dtype;
  int bits, mantissa, bias;
  bool infinite;                // the top exponent is infinity and NaN
  uint32_t largest, nan;        // magnitudes
};
inline const Format kE4m3{program::DType::f8e4m3, 8, 3, 7, false, 0x7e, 0x7f};
inline const Format kE5m2{program::DType::f8e5m2, 8, 2, 15, true, 0x7b, 0x7f};
inline const Format kF16{program::DType::f16, 16, 10, 15, true, 0x7bff, 0x7e00};
inline const Format kBf16{program::DType::bf16, 16, 7, 127, true, 0x7f7f, 0x7fc0};
inline const Format kF32{program::DType::f32, 32, 23, 127, true, 0x7f7fffff, 0x7fc00000};

inline const Format& format_of(program::DType t) {
  for (const Format* f : {&kE4m3, &kE5m2, &kF16, &kBf16})
    if (f->dtype == t) return *f;
  return kF32;
}

inline uint32_t sign_of(const Format& f) { return 1u << (f.bits - 1); }

inline double value(const Format& f, uint32_t code) {
  const uint32_t mag = code & (sign_of(f) - 1), exponent = mag >> f.mantissa, mantissa = mag & ((1u << f.mantissa) - 1);
  double v = exponent ? std::ldexp(1.0 + std::ldexp(double(mantissa), -f.mantissa), int(exponent) - f.bias) : std::ldexp(double(mantissa), 1 - f.bias - f.mantissa);
  if (mag > f.largest) v = f.infinite && mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  return code & sign_of(f) ? -v : v;
}

// The finite magnitudes of a format of at most 16 bits.
inline const std::vector<double>& magnitudes(const Format& f) {
  static std::vector<double> all[8];
  std::vector<double>& v = all[int(f.dtype)];
  if (v.empty())
    for (uint32_t c = 0; c <= f.largest; ++c) v.push_back(value(f, c));
  return v;
}

// The nearest number of the format, ties to the even code, by a search in the list of its numbers.
inline uint32_t nearest(const Format& f, float x) {
  const uint32_t sign = std::signbit(x) ? sign_of(f) : 0;
  if (std::isnan(x)) return sign | f.nan;
  if (f.bits == 32) return std::bit_cast<uint32_t>(x);
  const std::vector<double>& all = magnitudes(f);
  const double a = std::fabs(double(x));
  const uint32_t low = uint32_t(std::upper_bound(all.begin(), all.end(), a) - all.begin()) - 1; // the last number at most a
  const double next = low == f.largest ? 2 * all[low] - all[low - 1] : all[low + 1];            // the number that would follow
  const double below = a - all[low], above = next - a;
  const uint32_t code = below < above || (below == above && low % 2 == 0) ? low : low + 1;
  return sign | (f.infinite ? code : std::min(code, f.largest));
}

inline uint32_t code_at(const Format& f, const uint8_t* p) {
  uint32_t c = 0;
  std::memcpy(&c, p, size_t(f.bits) / 8); // little endian
  return c;
}

}  // namespace baton::transport
