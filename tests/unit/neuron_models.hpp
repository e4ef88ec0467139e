// neuron_models.hpp: small programs for the Neuron tests: a residual MLP over token ids, whole or sharded, as prefill and as a loop.
#pragma once

#include "hal/program/program.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace baton::test {

inline constexpr int64_t kVocabulary = 48, kHidden = 64, kInner = 128;
inline constexpr uint32_t kLayers = 3, kMaxTokens = 16, kMaxSteps = 40;

struct TinyModel {
  program::Program program;
  std::vector<uint8_t> bytes;
  std::vector<std::string> names;
  std::vector<std::vector<uint8_t>> data;
  std::vector<baton_constant> constants() const;
};

// ids i32[T] -> hidden f32[T,H]; one mark a layer. Rank `rank` of `ranks`: w_up by rows, w_down by columns, then all_reduce, or `scattered`:
// reduce_scatter and all_gather in its place.
TinyModel mlp(uint32_t rank = 0, uint32_t ranks = 1, bool scattered = false);
// Greedy loop over the token buffer `tokens` i32[kMaxSteps + 1]; one mark a step.
TinyModel generator();
// What mlp() computes for `ids`, in double (tolerance, not bits).
std::vector<double> mlp_reference(const std::vector<int32_t>& ids);

}  // namespace baton::test
