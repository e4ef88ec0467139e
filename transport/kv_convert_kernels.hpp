// kv_convert_kernels.hpp (internal): the conversions of kv_convert.hpp by AVX-512 (kv_convert_avx512.cc, kv_convert_tables.cc) and AVX2, bit for bit those of its scalar loops.
//
// 32 numbers at a time: to f32 (FP8 is f16 by a shift: e5m2 has its exponent, e4m3 is 2^8 too small), times the factor, and back. To FP8 by way
// of f16, truncated with its last bit set where that was not exact ("rounding to odd"), so that the second rounding, in 16-bit lanes, is the only one.
//
// Owner    plain functions.   Threads  any.   Cost  1.3 to 3 times the speed of the compiler's vectors.   Errors  none.
//
//     if (ConvertFn f = avx512_converter(DType::f16, DType::f8e4m3)) f(codes, x, n, 1 / scale);   // where convert_isa() is avx512
#pragma once

#include "transport/kv_convert.hpp"

namespace baton::transport {

ConvertFn avx512_converter(program::DType from, program::DType to); // nullptr for other dtypes, and where the compiler's target is not x86-64
ConvertFn avx2_converter(program::DType from, program::DType to);   // kv_convert_avx2.cc; nullptr: the compiler's vectors
LargestFn avx512_largest(program::DType);                            // of 16-bit numbers; nullptr as above
RowsFn table_converter(program::DType from, program::DType to);      // kv_convert_tables.cc; nullptr: none for these, or for this CPU

}  // namespace baton::transport
