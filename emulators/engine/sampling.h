// sampling.h: from logits to a token, the same on any device: fixed arithmetic, and a random number that depends on (seed, position)
// alone.
//
// Owner    pure functions over the caller's memory.   Threads  any.
// Cost     greedy: one pass. Otherwise a pass, a heap, and log(V) for each token of the nucleus. Allocates nothing.
// Errors   none: logits without a finite maximum fall back to argmax (NaN loses).
//
//     uint32_t token = draw(kernels, logits, vocabulary, {.temperature = 0.8, .top_p = 0.95, .seed = 7, .position = 41}, p, order);
#pragma once

#include "emulators/engine/kernels.hpp"

#include <array>
#include <cstdint>

namespace baton::engine {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11): counter and key to 128 random bits.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Uniform in [0, 1) with 53 bits: key = seed, counter = position of the token drawn.
double uniform(uint64_t seed, uint64_t position);

struct Draw {
  double temperature = 0; // 0: greedy, the lowest index wins
  double top_p = 1;       // the nucleus: the fewest best tokens whose probabilities reach this
  uint64_t seed = 0;
  uint64_t position = 0;  // of the token drawn
};

// p [count] and order [count] are scratch. Defined as: z_i = (x_i - max) / T in f32, e_i = exp(z_i); total = sum of e in index order
// in double; the tokens by falling x (ties: lower index first) are summed in double until the sum reaches top_p * total (all of
// them, with sum = total, if top_p is 1); the first token whose running sum exceeds uniform * that sum is drawn.
uint32_t draw(const KernelTable&, const float* logits, uint32_t count, const Draw&, float* p, uint32_t* order);

}  // namespace baton::engine
