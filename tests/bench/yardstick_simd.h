// yardstick_simd.h: the inner loops of the yardsticks, one for each instruction set; yardstick.cc chooses by CPUID.
#pragma once

#include <cstddef>
#include <cstdint>

namespace baton::bench {

struct SimdLoops {
  const char* read_path;  // "avx512"
  const char* fma_path;   // "AVX-512 f32 FMA"
  uint64_t (*read)(const uint8_t* p, size_t bytes);  // p 64-byte aligned, bytes a multiple of 1024; returns a mix of what it read
  double (*fma)(uint64_t rounds);                    // returns something that depends on the results
  double flops_per_round;
};
SimdLoops simd_loops();  // the widest that this CPU has

bool amx_bf16_available();  // CPUID leaf 7 bits and the kernel's permission for tile data (asked for once a process)
// `rounds` x 4 TDPBF16PS on independent accumulators; 32768 flop each (16x16 outputs x 32 k x 2). Only where available.
void amx_rounds(uint64_t rounds);
inline constexpr double kAmxFlopsPerRound = 4 * 32768.0;

}  // namespace baton::bench
