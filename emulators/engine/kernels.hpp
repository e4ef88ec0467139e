// kernels.hpp: the arithmetic of the engine, one table of functions for each ISA path; all paths give equal bits.
//
// The order is that of TDPBF16PS (measured, bit for bit): for each run of 32 k, the 16 even-k and the 16 odd-k
// products are summed by two FMA chains that start at +0, in rising k; then dst += (even + odd). RNE, FTZ and DAZ. A K that is not a
// multiple of 32 is padded with zeros. The same order is used for every weight and activation type, widened to f32.
//   matmul     each of `segments` equal runs of K is summed so, from dst = +0; segments are then added as a balanced binary
//              tree ((s0+s1)+(s2+s3))...; then + bias.
//   attention  s_j = dot(q, k_j) in this order over d, times scale; m = max_j; p_j = exp(s_j - m) by kernel exp, and rounded to
//              bf16 if act is bf16; l = sum of p_j in 16 lanes (lane = j mod 16, rising j), lanes added as a binary tree;
//              o_d = sum_j p_j v_jd in this order over ABSOLUTE key position j (runs of 32 keys from 0, masked and missing keys are p = 0, v = 0); then (o_d + 0) / l.
//   rms_norm   sum of squares in 16 lanes of FMA (lane = i mod 16), lanes added as a binary tree; x * (1/sqrt(mean + eps)) * w,
//              1/sqrt by IEEE sqrt and division.
//   silu       g / (1 + exp(-g)) * u, by kernel exp. exp: one polynomial, the same operations in each path.
//   rope       angle, sin and cos in double by libm once for each position, rounded to f32; a*cos - b*sin with one FMA each.
// So the bits do not depend on the ISA path, the number of threads, the number of rows, or how a prompt is chunked.
//
// Owner    none: pure functions over the caller's memory.    Threads  any; a call may fan out over the Pool it is given.
#pragma once

#include "emulators/engine/engine.hpp"
#include "emulators/engine/pool.hpp"

#include <cstdint>

namespace baton::engine {

// A weight matrix [n, k] packed once: for each 32 rows of n and each 32 of k (a segment is padded to a multiple of 32 k), one block of 2
// tiles x 16 k-pairs x 16 n x 2: for bf16 exactly the B operand of TDPBF16PS; for f16 and f32 the same index order. n is padded to 32.
// Blocks run over k first, so that 32 output columns are one linear stream. 64-byte aligned.
struct PackedMatrix {
  program::DType dtype = program::DType::bf16;
  uint32_t n = 0, k = 0;       // as declared
  uint32_t segments = 1;
  uint32_t n_blocks = 0;       // ceil(n / 32)
  uint32_t segment_blocks = 0; // ceil(k / segments / 32)
  uint8_t* data = nullptr;     // n_blocks * segments * segment_blocks * 1024 elements; owned by whoever allocated it
  uint64_t bytes() const;
};
PackedMatrix packed_shape(program::DType, uint32_t n, uint32_t k, uint32_t segments);
void pack(const void* dense, PackedMatrix& to, Pool&); // dense row-major [n, k]

struct AttentionArgs {
  const float* q;           // [rows, heads, head_dim]
  float* out;               // the same shape
  uint32_t rows, heads, kv_heads, head_dim, window; // window 0: none
  uint32_t position;        // of row 0: row r sees keys 0 .. position + r
  float scale;
  program::Act act;
  program::DType kv_dtype;  // bf16, f16 or f32
  const uint8_t* cache;     // base of the cache buffer
  program::KvView view;
  uint32_t layer;
  const int32_t* block_table; // checked by the caller
};

struct KernelTable {
  Isa isa;
  void (*matmul)(Pool&, const float* x, uint64_t ldx, uint32_t rows, const PackedMatrix&, const float* bias, program::Act,
                 float* y, uint64_t ldy);
  void (*attention)(Pool&, const AttentionArgs&);
  void (*rms_norm)(Pool&, const float* x, uint64_t rows, uint32_t d, const float* weight, float eps, float* y);
  void (*rope)(Pool&, const float* x, const float* cos, const float* sin, uint32_t rows, uint32_t heads, uint32_t head_dim,
               float* y);            // cos, sin: [rows, head_dim/2]; y may be x
  void (*silu_mul)(Pool&, const float* gate, const float* up, uint64_t count, float* y);
  void (*add)(Pool&, const float* a, const float* b, uint64_t count, float* y);
  void (*round_to)(const float* x, uint64_t count, program::DType, void* out); // RNE to bf16/f16, or copy for f32
  void (*widen)(const void* x, uint64_t count, program::DType, float* out);
  uint32_t (*argmax)(const float* x, uint32_t count);   // lowest index wins; NaN loses
  void (*exp)(const float* x, uint64_t count, float* y); // kernel exp, elementwise
};
const KernelTable& kernels(Isa);

// Sets FTZ and DAZ for this thread while alive. Every thread that computes holds one.
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();

 private:
  uint32_t saved_;
};

}  // namespace baton::engine
