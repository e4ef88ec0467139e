// kernels_rows.h: the kernels that go over rows or elements once: norms, rope, silu, add, conversions, argmax. Templates over a vector set.
#pragma once

#include "emulators/engine/exp.h"
#include "emulators/engine/kernels.hpp"

namespace baton::engine {
namespace {

constexpr uint64_t kForkElements = 1 << 15;  // guess: below this one thread is done before a fork pays

template <class S>
void rms_norm_row(const float* x, uint32_t d, const float* weight, float eps, float* y) {
  using V = typename S::V;
  V squares = S::zero();
  uint32_t i = 0;
  for (; i + 16 <= d; i += 16) {
    const V v = S::load(x + i);
    squares = S::fma(v, v, squares);
  }
  if (i < d) {
    const V v = load_part<S>(x + i, d - i);
    squares = S::fma(v, v, squares);
  }
  const float mean = sum_lanes<S>(squares) / float(d);
  const V inverse = S::set1(1.0f / __builtin_sqrtf(mean + eps));
  each_lane<S>(x, d, y, [&](V v, uint64_t at) {
    const V w = at + 16 <= d ? S::load(weight + at) : load_part<S>(weight + at, d - at);
    return S::mul(S::mul(v, inverse), w);
  });
}

template <class S>
void rms_norm(Pool& pool, const float* x, uint64_t rows, uint32_t d, const float* weight, float eps, float* y) {
  pool.run_if(rows * d >= kForkElements, rows, [&](uint64_t begin, uint64_t end, uint32_t) {
    for (uint64_t r = begin; r < end; ++r) rms_norm_row<S>(x + r * d, d, weight, eps, y + r * d);
  });
}

template <class S>
void rope_head(const float* x, const float* cos, const float* sin, uint32_t half, float* y) {
  using V = typename S::V;
  for (uint32_t i = 0; i < half; i += 16) {
    const uint32_t n = half - i < 16 ? half - i : 16;
    auto get = [&](const float* p) { return n == 16 ? S::load(p) : load_part<S>(p, n); };
    auto put = [&](float* p, V v) { n == 16 ? S::store(p, v) : store_part<S>(p, v, n); };
    const V a = get(x + i), b = get(x + half + i), c = get(cos + i), s = get(sin + i);
    put(y + i, S::fma(a, c, S::sub(S::zero(), S::mul(b, s))));
    put(y + half + i, S::fma(b, c, S::mul(a, s)));
  }
}

template <class S>
void rope(Pool& pool, const float* x, const float* cos, const float* sin, uint32_t rows, uint32_t heads, uint32_t head_dim, float* y) {
  const uint32_t half = head_dim / 2;
  pool.run_if(uint64_t(rows) * heads * head_dim >= kForkElements, rows, [&](uint64_t begin, uint64_t end, uint32_t) {
    for (uint64_t r = begin; r < end; ++r)
      for (uint32_t h = 0; h < heads; ++h) {
        const uint64_t at = (r * heads + h) * head_dim;
        rope_head<S>(x + at, cos + r * half, sin + r * half, half, y + at);
      }
  });
}

// f(x + begin, y + begin, count) over pieces of whole vectors, so that any number of threads sees the same lanes.
template <class F>
void over_elements(Pool& pool, uint64_t count, F&& f) {
  const uint64_t vectors = (count + 15) / 16;
  pool.run_if(count >= kForkElements, vectors, [&](uint64_t begin, uint64_t end, uint32_t) {
    const uint64_t from = begin * 16, to = end * 16 < count ? end * 16 : count;
    f(from, to - from);
  });
}

template <class S>
void silu_mul(Pool& pool, const float* gate, const float* up, uint64_t count, float* y) {
  using V = typename S::V;
  over_elements(pool, count, [&](uint64_t from, uint64_t n) {
    each_lane<S>(gate + from, n, y + from, [&](V g, uint64_t at) {
      const V u = at + 16 <= n ? S::load(up + from + at) : load_part<S>(up + from + at, n - at);
      const V e = exp_lanes<S>(S::sub(S::zero(), g));
      return S::mul(S::div(g, S::add(S::set1(1.0f), e)), u);
    });
  });
}

template <class S>
void add(Pool& pool, const float* a, const float* b, uint64_t count, float* y) {
  using V = typename S::V;
  over_elements(pool, count, [&](uint64_t from, uint64_t n) {
    each_lane<S>(a + from, n, y + from, [&](V v, uint64_t at) {
      return S::add(v, at + 16 <= n ? S::load(b + from + at) : load_part<S>(b + from + at, n - at));
    });
  });
}

template <class S>
void exp_all(const float* x, uint64_t count, float* y) {
  each_lane<S>(x, count, y, [](typename S::V v, uint64_t) { return exp_lanes<S>(v); });
}

template <class S, class W>
void round_16(const float* x, uint64_t count, uint16_t* out) {
  uint64_t i = 0;
  for (; i + 16 <= count; i += 16) S::store_as(W{}, out + i, S::load(x + i));
  if (i < count) {
    uint16_t a[16];
    S::store_as(W{}, a, load_part<S>(x + i, count - i));
    std::memcpy(out + i, a, (count - i) * 2);
  }
}

template <class S, class W>
void widen_16(const uint16_t* x, uint64_t count, float* out) {
  uint64_t i = 0;
  for (; i + 16 <= count; i += 16) S::store(out + i, S::load_as(W{}, x + i));
  if (i < count) {
    uint16_t a[16] = {};
    std::memcpy(a, x + i, (count - i) * 2);
    store_part<S>(out + i, S::load_as(W{}, a), count - i);
  }
}

template <class S>
void round_to(const float* x, uint64_t count, program::DType dtype, void* out) {
  switch (dtype) {
    case program::DType::bf16: return round_16<S, Bf16>(x, count, static_cast<uint16_t*>(out));
    case program::DType::f16: return round_16<S, F16>(x, count, static_cast<uint16_t*>(out));
    default: std::memcpy(out, x, count * sizeof(float));
  }
}

template <class S>
void widen(const void* x, uint64_t count, program::DType dtype, float* out) {
  switch (dtype) {
    case program::DType::bf16: return widen_16<S, Bf16>(static_cast<const uint16_t*>(x), count, out);
    case program::DType::f16: return widen_16<S, F16>(static_cast<const uint16_t*>(x), count, out);
    default: std::memcpy(out, x, count * sizeof(float));
  }
}

// The largest value first, then the lowest index that has it. NaN never wins; 0 if there is nothing else.
template <class S>
uint32_t argmax(const float* x, uint32_t count) {
  using V = typename S::V;
  V best = S::set1(-__builtin_inff());
  uint32_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const V v = S::load(x + i);
    best = S::if_greater(v, best, v, best);
  }
  alignas(64) float lanes[16];
  S::store(lanes, best);
  float most = -__builtin_inff();
  for (float v : lanes) most = v > most ? v : most;
  for (; i < count; ++i) most = x[i] > most ? x[i] : most;
  for (uint32_t j = 0; j < count; ++j)
    if (x[j] == most) return j;
  return 0;
}

}  // namespace
}  // namespace baton::engine
