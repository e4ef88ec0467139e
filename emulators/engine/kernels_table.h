// kernels_table.h: the KernelTable of a vector set. Included by one source for each path, compiled for that path's instructions.
#pragma once

#include "emulators/engine/kernels_attention.h"
#include "emulators/engine/kernels_rows.h"

namespace baton::engine {
namespace {

template <class S>
constexpr KernelTable table_of(Isa isa) {
  return {isa, matmul<S>, attention<S>, rms_norm<S>, rope<S>, silu_mul<S>, add<S>, round_to<S>, widen<S>, argmax<S>, exp_all<S>};
}

}  // namespace
}  // namespace baton::engine
