// kernels_matmul.h: y = x w^T (+ bias) over packed weights, around a multiplier (kernels_fma.h, kernels_tile.h).
//
// Rows go in panels of at most kPanelRows, converted once; each thread has a run of 32-column strips and reads its weights once for each
// panel. Partial sums live in the thread's scratch [level][strip][row][32]: one level for each node of the segment tree that is open at a time.
#pragma once

#include "emulators/engine/kernels_fma.h"

namespace baton::engine {
namespace {

constexpr uint64_t kForkMacs = 1 << 17;   // guess: about 5 us of one thread
constexpr uint32_t kGroupStrips = 8;      // strips that share a piece of the panel while it is in cache

struct MatmulCall {
  const float* x;
  uint64_t ldx;
  uint32_t rows;
  const PackedMatrix& w;
  const float* bias;
  program::Act act;
  float* y;
  uint64_t ldy;

  uint32_t runs() const { return w.segments * w.segment_blocks; }  // of 32 k, padded
  uint32_t segment() const { return w.k / w.segments; }            // k of a segment
};

template <class M>
void pack_panel_tile(const MatmulCall& c, const typename M::Tiling& t, uint32_t i, typename M::Elem* panel) {
  const uint32_t slots = t.slots(i), first = t.first(i), segment = c.segment();
  typename M::Elem* tile = panel + uint64_t(first) * c.runs() * kBlock;
  for (uint32_t r = 0; r < slots; ++r)
    for (uint32_t s = 0; s < c.w.segments; ++s)
      for (uint32_t kb = 0; kb < c.w.segment_blocks; ++kb) {
        typename M::Elem* to = tile + (uint64_t(s * c.w.segment_blocks + kb) * slots + r) * kBlock;
        const uint32_t left = segment - kb * kBlock, cols = first + r >= c.rows ? 0 : left < kBlock ? left : kBlock;
        const float* from = c.x + (first + r) * c.ldx + uint64_t(s) * segment + kb * kBlock;
        alignas(64) float edge[kBlock];
        if (cols < kBlock) {
          std::memset(edge, 0, sizeof edge);
          if (cols > 0) std::memcpy(edge, from, cols * sizeof(float));
          from = edge;
        }
        M::convert(from, c.act, to);
      }
}

template <class S>
void store_strip(const MatmulCall& c, const float* acc, uint32_t strip) {
  const uint32_t n0 = strip * kBlock, cols = c.w.n - n0 < kBlock ? c.w.n - n0 : kBlock;
  for (uint32_t r = 0; r < c.rows; ++r, acc += kBlock) {
    float* to = c.y + r * c.ldy + n0;
    for (uint32_t i = 0; i < cols; i += 16) {
      const uint32_t n = cols - i < 16 ? cols - i : 16;
      typename S::V v = S::load(acc + i);
      if (c.bias) v = S::add(v, n == 16 ? S::load(c.bias + n0 + i) : load_part<S>(c.bias + n0 + i, n));
      n == 16 ? S::store(to + i, v) : store_part<S>(to + i, v, n);
    }
  }
}

// Strips [begin, end) of one panel, by one thread.
template <class S, class M>
class StripRun {
 public:
  StripRun(const MatmulCall& c, const typename M::Elem* panel, const typename M::Tiling& t, Pool& pool, uint32_t thread)
      : c_(c), panel_(panel), tiling_(t), guard_(t), block_bytes_(kBlockElements * sizeof(typename M::Weight::T)) {
    // Weights that pass once leave nothing to keep in cache: each strip is one linear stream.
    streaming_ = M::passes(t) == 1;
    chunk_ = streaming_ ? c.w.segment_blocks : even_chunk(c.w.segment_blocks);
    group_ = streaming_ || (c.w.segments == 1 && chunk_ == c.w.segment_blocks) ? 1 : kGroupStrips;
    strip_floats_ = uint64_t(t.padded()) * kBlock;
    acc_ = pool.scratch<float>(thread, 1, levels() * group_ * strip_floats_);
  }

  void run(uint32_t begin, uint32_t end) {
    for (uint32_t g = begin; g < end; g += group_) {
      const uint32_t strips = end - g < group_ ? end - g : group_;
      uint32_t open = 0;  // subtrees of the segment tree that wait for their right half
      for (uint32_t s = 0; s < c_.w.segments; ++s) {
        segment(g, strips, s, level(open++));
        for (uint32_t done = s; done & 1; done >>= 1, --open) fold(level(open - 2), level(open - 1), strips);
      }
      for (uint32_t i = 0; i < strips; ++i) store_strip<S>(c_, level(0) + i * strip_floats_, g + i);
    }
  }

 private:
  static uint32_t even_chunk(uint32_t blocks) {
    const uint32_t pieces = (blocks + M::kChunkBlocks - 1) / M::kChunkBlocks;
    return (blocks + pieces - 1) / pieces;
  }
  uint64_t levels() const {
    uint64_t n = 1;
    for (uint32_t s = c_.w.segments; s > 1; s >>= 1) ++n;
    return n;
  }
  float* level(uint32_t i) const { return acc_ + uint64_t(i) * group_ * strip_floats_; }
  const uint8_t* block(uint32_t strip, uint32_t run) const { return c_.w.data + (uint64_t(strip) * c_.runs() + run) * block_bytes_; }

  void segment(uint32_t g, uint32_t strips, uint32_t s, float* acc) {
    for (uint32_t kb = 0; kb < c_.w.segment_blocks; kb += chunk_) {
      const uint32_t left = c_.w.segment_blocks - kb, blocks = left < chunk_ ? left : chunk_, run = s * c_.w.segment_blocks + kb;
      const PanelView<typename M::Elem> view{panel_, c_.runs(), run};
      for (uint32_t i = 0; i < strips; ++i)
        M::run(view, tiling_, block(g + i, run), blocks, acc + i * strip_floats_, kBlock, kb == 0, ahead(g, strips, i, run, blocks));
    }
  }

  // Streaming: the whole block at once, so that its misses overlap (further ahead was slower on Zen 4: kernels_bench gemv).
  // Else the next piece of weights, while this one is multiplied.
  Ahead ahead(uint32_t g, uint32_t strips, uint32_t i, uint32_t run, uint32_t blocks) const {
    const uint32_t lines = uint32_t(block_bytes_ / kLine);
    if (streaming_) return {block(g + i, run), lines};
    const uint8_t* next = i + 1 < strips ? block(g + i + 1, run) : run + blocks < c_.runs() ? block(g, run + blocks) : block(g + strips, 0);
    return {next, (lines + tiling_.count() - 1) / tiling_.count()};
  }

  void fold(float* left, const float* right, uint32_t strips) {
    for (uint64_t i = 0; i < strips * strip_floats_; i += 16) S::store(left + i, S::add(S::load(left + i), S::load(right + i)));
  }

  const MatmulCall& c_;
  const typename M::Elem* panel_;
  const typename M::Tiling& tiling_;
  typename M::Guard guard_;
  uint64_t block_bytes_, strip_floats_ = 0;
  uint32_t chunk_ = 0, group_ = 1;
  bool streaming_ = false;
  float* acc_ = nullptr;
};

template <class S, class M>
void matmul_panel(Pool& pool, const MatmulCall& c) {
  const typename M::Tiling tiling(c.rows);
  auto* panel = pool.scratch<typename M::Elem>(0, 0, uint64_t(tiling.padded()) * c.runs() * kBlock);
  pool.run_if(uint64_t(c.rows) * c.w.k >= kForkMacs, tiling.count(), [&](uint64_t begin, uint64_t end, uint32_t) {
    for (uint64_t i = begin; i < end; ++i) pack_panel_tile<M>(c, tiling, uint32_t(i), panel);
  });
  pool.run_if(uint64_t(c.rows) * c.w.n * c.w.k >= kForkMacs, c.w.n_blocks, [&](uint64_t begin, uint64_t end, uint32_t thread) {
    StripRun<S, M>(c, panel, tiling, pool, thread).run(uint32_t(begin), uint32_t(end));
  });
}

template <class S, class M>
void matmul_with(Pool& pool, const float* x, uint64_t ldx, uint32_t rows, const PackedMatrix& w, const float* bias, program::Act act,
                 float* y, uint64_t ldy) {
  // Panels of nearly equal height, so that the last one is not a sliver.
  const uint32_t panels = (rows + M::kPanelRows - 1) / M::kPanelRows;
  uint32_t from = 0;
  for (uint32_t i = 0; i < panels; ++i) {
    const uint32_t to = from + (rows - from + panels - i - 1) / (panels - i);
    matmul_panel<S, M>(pool, {x + from * ldx, ldx, to - from, w, bias, act, y + from * ldy, ldy});
    from = to;
  }
}

template <class S>
void matmul(Pool& pool, const float* x, uint64_t ldx, uint32_t rows, const PackedMatrix& w, const float* bias, program::Act act, float* y,
            uint64_t ldy) {
  switch (w.dtype) {
    case program::DType::bf16: return matmul_with<S, FmaMultiplier<S, Bf16>>(pool, x, ldx, rows, w, bias, act, y, ldy);
    case program::DType::f16: return matmul_with<S, FmaMultiplier<S, F16>>(pool, x, ldx, rows, w, bias, act, y, ldy);
    default: return matmul_with<S, FmaMultiplier<S, F32>>(pool, x, ldx, rows, w, bias, act, y, ldy);
  }
}

}  // namespace
}  // namespace baton::engine
