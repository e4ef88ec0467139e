// kernels_paths.h: the instruction-set paths behind kernels(Isa), and what this CPU has. For the engine and its tests.
//
// kernels(Isa::scalar) is the portable source: compiled at the baseline, and a second time for AVX2 + FMA + F16C where the CPU has them.
// A table whose instructions the CPU lacks must not be called.
//
// Threads  any.   Cost  cpu_features: CPUID and one system call at the first call.   Errors  none.
#pragma once

#include "emulators/engine/kernels.hpp"

namespace baton::engine {

struct CpuFeatures {
  bool avx2 = false;    // AVX2, FMA and F16C
  bool avx512 = false;  // F, BW, DQ, VL (and avx2)
  bool amx = false;     // AMX-TILE and AMX-BF16, permitted by the kernel (and avx512)
};
const CpuFeatures& cpu_features();

const KernelTable& kernels_portable();  // baseline instructions
#if defined(__x86_64__) && !defined(BATON_ENGINE_BASELINE)  // (the preset fuzz compiles the portable source once)
#define BATON_ENGINE_PATHS
const KernelTable& kernels_avx2();
const KernelTable& kernels_avx512();
const KernelTable& kernels_amx();
#endif

}  // namespace baton::engine
