// case_program.h: a transformer of given dimensions, or one matrix, as a program, for what is compared with published figures.
//
// The layers are those of tools/model/programs.cc op for op; a daemon cannot include a tool.
//
// Owner    plain data.   Threads  any.   Cost  microseconds a layer.   Errors  INVALID_ARGUMENT: dimensions that make no program.
//
//     BATON_ASSIGN(program::Program p, case_program({.hidden = 4096, .layers = 2, ...}, /*tokens=*/1, /*context=*/4096));
#pragma once

#include "hal/program/program.hpp"

#include <cstdint>

namespace baton::cs3 {

struct CaseModel {
  uint32_t hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocabulary = 0; // vocabulary 0: no ends
  bool qk_norm = false;
  uint32_t matrix = 0; // not 0: one product [1, matrix] x [matrix, matrix] and nothing else
};

inline constexpr uint32_t kCaseBlockTokens = 16;

// tokens 1: a decode loop up to `context`; more: a prefill of so many. Blocks of the cache lie over each other: no number is computed.
Result<program::Program> case_program(const CaseModel&, uint32_t tokens, uint32_t context);

}  // namespace baton::cs3
