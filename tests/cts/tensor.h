// tensor.h: host-side numbers for tests of programs: rounding to bf16 and f16, random weights, and their bytes as a load wants them.
//
// Owner    value types.   Threads  any.   Cost  -   Errors  none: test data has no NaN.
//
//     Weights w{{"w", random_tensor(rng, DType::bf16, {n, k}, 0.5f)}};
//     Bytes bytes = to_bytes(w["w"].data, DType::bf16);
#pragma once

#include "hal/program/program.hpp"

#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace baton::cts {

using program::DType;

inline uint16_t to_bf16(float f) { // RNE
  uint32_t u = std::bit_cast<uint32_t>(f);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
inline float from_bf16(uint16_t h) { return std::bit_cast<float>(uint32_t(h) << 16); }

// Through _Float16, which g++ rounds to nearest even.
inline uint16_t to_f16(float f) { return std::bit_cast<uint16_t>(_Float16(f)); }
inline float from_f16(uint16_t h) { return float(std::bit_cast<_Float16>(h)); }

inline float rounded(float f, DType t) {
  return t == DType::bf16 ? from_bf16(to_bf16(f)) : t == DType::f16 ? from_f16(to_f16(f)) : f;
}

inline std::vector<uint8_t> to_bytes(const std::vector<float>& v, DType t) {
  std::vector<uint8_t> out(v.size() * program::dtype_bytes(t));
  for (size_t i = 0; i < v.size(); ++i) {
    uint16_t h = t == DType::bf16 ? to_bf16(v[i]) : to_f16(v[i]);
    if (t == DType::f32)
      std::memcpy(&out[i * 4], &v[i], 4);
    else
      std::memcpy(&out[i * 2], &h, 2);
  }
  return out;
}

struct Tensor {
  DType dtype;
  std::vector<int64_t> shape;
  std::vector<float> data; // already representable in dtype
};

using Weights = std::map<std::string, Tensor>;

template <class Generator>
Tensor random_tensor(Generator& g, DType t, std::vector<int64_t> shape, float scale, float mean = 0) {
  std::normal_distribution<float> normal(mean, scale);
  uint64_t n = 1;
  for (int64_t d : shape) n *= uint64_t(d);
  Tensor x{t, std::move(shape), std::vector<float>(n)};
  for (float& f : x.data) f = rounded(normal(g), t);
  return x;
}

}  // namespace baton::cts
