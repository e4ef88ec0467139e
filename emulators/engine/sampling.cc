#include "emulators/engine/sampling.h"

#include <algorithm>
#include <cmath>

namespace baton::engine {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * c[0], b = uint64_t(0xCD9E8D57u) * c[2]; // multipliers: SC'11, table 2
    c = {uint32_t(b >> 32) ^ c[1] ^ k[0], uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ k[1], uint32_t(a)};
    k = {k[0] + 0x9E3779B9u, k[1] + 0xBB67AE85u}; // Weyl key schedule: SC'11, section 3
  }
  return c;
}

double uniform(uint64_t seed, uint64_t position) {
  auto r = philox4x32({uint32_t(position), uint32_t(position >> 32), 0, 0}, {uint32_t(seed), uint32_t(seed >> 32)});
  const uint64_t bits = uint64_t(r[1]) << 32 | r[0];
  return double(bits >> 11) * 0x1p-53;
}

uint32_t draw(const KernelTable& k, const float* x, uint32_t count, const Draw& d, float* p, uint32_t* order) {
  const uint32_t best = k.argmax(x, count);
  const float t = float(d.temperature);
  if (!(t > 0) || !std::isfinite(x[best])) return best;
  for (uint32_t i = 0; i < count; ++i) p[i] = std::isnan(x[i]) ? -INFINITY : (x[i] - x[best]) / t;
  k.exp(p, count, p);
  double total = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (!(p[i] > 0)) p[i] = 0;
    total += double(p[i]);
    order[i] = i;
  }
  // A heap yields the order token by token: most draws need a few dozen of a hundred thousand.
  auto worse = [x](uint32_t a, uint32_t b) {
    const float xa = std::isnan(x[a]) ? -INFINITY : x[a], xb = std::isnan(x[b]) ? -INFINITY : x[b];
    return xa != xb ? xa < xb : a > b;
  };
  std::make_heap(order, order + count, worse);
  uint32_t popped = 0;
  auto next = [&] {
    std::pop_heap(order, order + count - popped, worse);
    ++popped;
    return order[count - popped];
  };
  double nucleus = total;
  if (d.top_p < 1) {
    nucleus = 0;
    while (popped < count && nucleus < d.top_p * total) nucleus += double(p[next()]);
  }
  const double target = uniform(d.seed, d.position) * nucleus;
  double sum = 0;
  // order[] holds what was popped from its end backwards.
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t token = i < popped ? order[count - 1 - i] : next();
    sum += double(p[token]);
    if (sum > target) return token;
    if (d.top_p < 1 && popped == i + 1 && sum >= nucleus) return token;
  }
  return best;
}

}  // namespace baton::engine
