// kv_convert.hpp: numbers of a KV-cache from one dtype to another: any two of f32, bf16, f16 and the two FP8, times a factor.
//
// FP8 is that of the Open Compute Project (OFP8 1.0): e4m3 (the "fn" one: no infinity, 448 is the largest, what is larger becomes 448) and
// e5m2 (IEEE: 57344 is the largest, what rounds above it becomes infinity). An FP8 number that has a scale is code * scale.
// Each number becomes f32(x) * factor, then the nearest of the other dtype, ties to even. The factor is 1 / scale to FP8, the scale from FP8, 1
// without scales. A NaN stays one (of one pattern for each dtype) and keeps its sign; so does zero.
// AVX-512 and AVX2 give the numbers of the baseline bit for bit, by kernels of their own or the same source compiled for them. Chosen at run time.
//
// Owner    plain functions.   Threads  any.   Cost  at least half of memcpy's speed over the wide side; see the group convert of baton-bench.
// Errors   UNSUPPORTED for a pair of dtypes that is none of these, or an instruction set that this CPU does not have.
//
//     const float scale = kv_scale(DType::bf16, x, n, DType::f8e4m3);       // the largest number becomes the largest code
//     BATON_ASSIGN(ConvertFn to_fp8, kv_converter(DType::bf16, DType::f8e4m3));
//     to_fp8(codes, x, n, 1 / scale);
#pragma once

#include "hal/baton.hpp"
#include "hal/program/program.hpp"

#include <cstddef>

namespace baton::transport {

enum class ConvertIsa : uint8_t { baseline, avx2, avx512 };
const char* isa_name(ConvertIsa);
ConvertIsa convert_isa(); // the widest that this CPU has

// n elements; dst and src need no alignment and do not overlap. The factor from bf16 is above 0 and finite; from others it may be anything, as scales may be.
using ConvertFn = void (*)(void* dst, const void* src, size_t n, float factor);
Result<ConvertFn> kv_converter(program::DType from, program::DType to, ConvertIsa = convert_isa());

// The same for rows of n elements that lie so many bytes apart, by one factor: faster for many numbers where a table has the answers.
struct Rows {
  uint8_t* dst;
  const uint8_t* src;
  size_t n, rows, dst_step, src_step;
  const uint8_t* next = nullptr; // what will be read after it: prefetched near the end, as the rest is on the way
  bool warm = false;             // the source has been read: as much of `next` is prefetched all the way
  bool stream = false;           // stores that do not go through the cache; fence before publishing
  uint8_t* also = nullptr;       // a second place for the same, through the cache
  size_t also_step = 0;
};
using RowsFn = void (*)(const Rows&, float factor);
RowsFn kv_row_converter(program::DType from, program::DType to); // nullptr: use kv_converter

bool kv_convertible(program::DType from, program::DType to); // there is a converter

// Heads side by side, each in rows of n elements, as they lie in memory: row by row.
struct Heads {
  const uint8_t* src;
  size_t n;
  uint32_t heads = 1, rows = 1;
  size_t head_step = 0, row_step = 0;
};
// The largest finite magnitude of each head; 0 of none. Of f32, bf16, f16 and FP8.
using LargestFn = void (*)(const Heads&, float* largest);
LargestFn kv_largest(program::DType, ConvertIsa = convert_isa()); // nullptr for another dtype
// The scale by which `largest` becomes the largest finite code of an FP8 dtype: at least 2^-126, so that 1 / scale is a number; 1 for 0.
float kv_scale(float largest, program::DType to);
float kv_scale(program::DType from, const void* src, size_t n, program::DType to); // of n numbers

}  // namespace baton::transport
