// limits.hpp: the bounds that verify() and parse() enforce, so that hostile bytes cannot make a reader allocate or loop without end.
//
// Owner  constants.   Errors  a program beyond them does not verify (INVALID_ARGUMENT) or parse (CORRUPT).
#pragma once

#include <cstdint>

namespace baton::program {

inline constexpr uint64_t kMaxValues = 1u << 20;
inline constexpr uint64_t kMaxOps = 1u << 20;
inline constexpr uint32_t kMaxArgs = 7;             // each Arg once
inline constexpr uint32_t kMaxName = 255;           // bytes
inline constexpr uint32_t kMaxRanks = 64;           // lanes; a power of two
inline constexpr uint32_t kMaxDims = 8;             // axes of a shape
inline constexpr uint64_t kMaxElements = 1ull << 40; // of one value, with its axes at their bounds
inline constexpr uint64_t kMaxAxis = 1ull << 31;    // but of a cache; kernels index rows and columns by 32 bits
inline constexpr uint32_t kMaxTokens = 1u << 20;
inline constexpr uint32_t kMaxSteps = 1u << 20;
inline constexpr uint32_t kMaxContext = 1u << 28;
inline constexpr uint32_t kMaxSegments = 1024;
inline constexpr uint32_t kMaxHeads = 1u << 16;
inline constexpr uint32_t kMaxHeadDim = 1024;
inline constexpr uint32_t kMaxBlockTokens = 1u << 16;
inline constexpr uint32_t kMaxLayers = 1u << 16;
inline constexpr uint32_t kMaxStops = 1024;         // stop tokens of one sample
inline constexpr uint64_t kMaxAllStops = 1u << 16;  // of a program
inline constexpr uint64_t kMaxStride = 1ull << 48;  // of a KvView, in elements
inline constexpr uint64_t kMaxBytes = 256ull << 20; // of a serialized program

}  // namespace baton::program
