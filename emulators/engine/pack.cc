// Weights into the order of kernels.hpp: [n/32][segment][k/32] blocks of [2 tiles][16 k-pairs][16 n][2].
#include "emulators/engine/kernels.hpp"

#include <cstring>

namespace baton::engine {
namespace {

constexpr uint32_t kBlock = 32;                    // rows of n, and of k, in a block
constexpr uint64_t kBlockElements = kBlock * kBlock;

constexpr uint32_t ceil_div(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

// Rows [n0, n0 + 32) and columns [k0, k0 + 32) of `dense`; T is one element, Pair two of them. Whole blocks only.
template <class Pair, class T>
void pack_block(const T* dense, uint64_t ld, T* to) {
  for (uint32_t tile = 0; tile < 2; ++tile)
    for (uint32_t p = 0; p < 16; ++p)
      for (uint32_t n = 0; n < 16; ++n)
        std::memcpy(to + ((tile * 16 + p) * 16 + n) * 2, dense + (tile * 16 + n) * ld + 2 * p, sizeof(Pair));
}

// The same, of an edge: rows and columns past the matrix (or past the segment) are +0.
template <class T>
void pack_edge(const T* dense, uint64_t ld, uint32_t rows, uint32_t cols, T* to) {
  std::memset(to, 0, kBlockElements * sizeof(T));
  for (uint32_t n = 0; n < rows; ++n)
    for (uint32_t k = 0; k < cols; ++k) to[(((n / 16) * 16 + k / 2) * 16 + n % 16) * 2 + k % 2] = dense[n * ld + k];
}

template <class Pair, class T>
void pack_rows(const T* dense, const PackedMatrix& m, uint32_t nb) {
  const uint32_t segment = m.k / m.segments;
  const uint32_t rows = m.n - nb * kBlock < kBlock ? m.n - nb * kBlock : kBlock;
  T* to = reinterpret_cast<T*>(m.data) + uint64_t(nb) * m.segments * m.segment_blocks * kBlockElements;
  for (uint32_t s = 0; s < m.segments; ++s)
    for (uint32_t kb = 0; kb < m.segment_blocks; ++kb, to += kBlockElements) {
      const T* from = dense + uint64_t(nb) * kBlock * m.k + uint64_t(s) * segment + kb * kBlock;
      const uint32_t cols = segment - kb * kBlock < kBlock ? segment - kb * kBlock : kBlock;
      if (rows == kBlock && cols == kBlock)
        pack_block<Pair>(from, m.k, to);
      else
        pack_edge(from, m.k, rows, cols, to);
    }
}

}  // namespace

uint64_t PackedMatrix::bytes() const {
  return uint64_t(n_blocks) * segments * segment_blocks * kBlockElements * program::dtype_bytes(dtype);
}

PackedMatrix packed_shape(program::DType dtype, uint32_t n, uint32_t k, uint32_t segments) {
  PackedMatrix m;
  m.dtype = dtype;
  m.n = n;
  m.k = k;
  m.segments = segments;
  m.n_blocks = ceil_div(n, kBlock);
  m.segment_blocks = ceil_div(k / segments, kBlock);
  return m;
}

void pack(const void* dense, PackedMatrix& to, Pool& pool) {
  const bool wide = program::dtype_bytes(to.dtype) == 4;
  pool.run(to.n_blocks, [&](uint64_t begin, uint64_t end, uint32_t) {
    for (uint64_t nb = begin; nb < end; ++nb) {
      if (wide)
        pack_rows<uint64_t>(static_cast<const uint32_t*>(dense), to, uint32_t(nb));
      else
        pack_rows<uint32_t>(static_cast<const uint16_t*>(dense), to, uint32_t(nb));
    }
  });
}

}  // namespace baton::engine
