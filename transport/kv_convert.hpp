// kv_convert.hpp: numbers of a KV-cache from one dtype to another: f32, bf16, f16 to FP8 and back, with a scale.
//
// FP8 is that of the Open Compute Project (OFP8 1.0): e4m3 (the "fn" one: no infinity, 448 is the largest, what is larger becomes 448) and
// e5m2 (IEEE: 57344 is the largest, what rounds above it becomes infinity). A number is code * scale.
// To FP8: f32(x) * (1 / scale), then to the nearest code, ties to even. From FP8: f32(code) * scale, then to the nearest of the other dtype,
// ties to even. A NaN stays one (of one pattern for each dtype) and keeps its sign; so does zero.
// One source is compiled for each instruction set: AVX-512 and AVX2 give the numbers of the baseline bit for bit. Chosen at run time.
//
// Owner    plain functions.   Threads  any.   Cost  at least half of memcpy's speed over the wide side; see the group convert of baton-bench.
// Errors   UNSUPPORTED for a pair of dtypes that is none of these, or an instruction set that this CPU does not have.
//
//     const float scale = kv_scale(DType::bf16, x, n, DType::f8e4m3);       // the largest number becomes the largest code
//     BATON_ASSIGN(ConvertFn to_fp8, kv_converter(DType::bf16, DType::f8e4m3));
//     to_fp8(codes, x, n, scale);
#pragma once

#include "hal/baton.hpp"
#include "hal/program/program.hpp"

#include <cstddef>

namespace baton::transport {

enum class ConvertIsa : uint8_t { baseline, avx2, avx512 };
const char* isa_name(ConvertIsa);
ConvertIsa convert_isa(); // the widest that this CPU has

// n elements; dst and src need no alignment and do not overlap. scale is finite and at least 2^-126.
using ConvertFn = void (*)(void* dst, const void* src, size_t n, float scale);
Result<ConvertFn> kv_converter(program::DType from, program::DType to, ConvertIsa = convert_isa());

// The scale by which the largest finite of n numbers becomes the largest finite code of `to`; 1 if all are zero. f32, bf16, f16 to FP8.
float kv_scale(program::DType from, const void* src, size_t n, program::DType to);

}  // namespace baton::transport
