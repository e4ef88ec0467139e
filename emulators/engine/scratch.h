// scratch.h: where each scratch value of a program lies in one arena. Values whose lives do not overlap share bytes.
//
// Owner  plain data.   Threads  any.   Cost  O(ops log ops), at load.   Errors  CAPACITY if the sizes do not add up in 64 bits.
#pragma once

#include "hal/program/program.hpp"

#include <cstdint>
#include <vector>

namespace baton::engine {

inline constexpr uint64_t kNoScratch = UINT64_MAX;

struct ScratchPlan {
  std::vector<uint64_t> offset; // by value; kNoScratch: not in the arena. Multiples of 64
  uint64_t bytes = 0;
};

// In the arena: scratch values, and one row of each optional output that a later op reads (it may be left unbound).
Result<ScratchPlan> plan_scratch(const program::Program&);

// Rows of a value with T at max_tokens and one row for S.
uint64_t scratch_bytes_of(const program::Program&, const program::Value&);

}  // namespace baton::engine
