// kernels_fma.h: the multiplier of matmul and attention on vector lanes: acc[m, 32] += panel[m, k] * block[k, 32] in the order of kernels.hpp.
//
// A multiplier is a type with
//   Elem                       an element of the activation panel
//   Weight                     an element type of the packed matrix
//   kPanelRows, kChunkBlocks   how many rows, and how many runs of 32 k, a cache-sized piece of the panel has
//   Tiling(rows)               how rows are split over register tiles: count, first(i), slots(i) (rows kept), padded()
//   Guard(tiling)              state of the thread while it multiplies (tile configuration; nothing here)
//   convert(x, act, to)        32 activations into the panel
//   run(...)                   `blocks` runs of 32 k for all rows of the panel
// A panel is [tile][run of 32 k][slot][32], so that a register tile reads one stream.
#pragma once

#include "emulators/engine/exp.h"
#include "emulators/engine/kernels.hpp"

#include <type_traits>

namespace baton::engine {
namespace {

constexpr uint32_t kBlock = 32;                     // rows of n, and of k, in a packed block
constexpr uint64_t kBlockElements = kBlock * kBlock;
constexpr uint32_t kLine = 64;                      // bytes

// What to have in cache when it is needed: `lines` cache lines for each block multiplied now.
struct Ahead {
  const uint8_t* at = nullptr;
  uint32_t lines = 0;
};

// A stretch of a panel: rows by `tiling`, runs of k from first_run on, of `runs` in all.
template <class Elem>
struct PanelView {
  const Elem* data;
  uint64_t runs;
  uint64_t first_run;
  const Elem* tile(uint64_t first_slot, uint64_t slots) const { return data + (first_slot * runs + first_run * slots) * kBlock; }
};

template <class S, class W>
struct FmaMultiplier {
  using Elem = float;
  using Weight = W;
  using V = typename S::V;
  static constexpr uint32_t kPanelRows = 240;
  static constexpr uint32_t kChunkBlocks = 16;  // 32 KiB of bf16 weights: they stay in L1 while the rows pass

  // Even tiles: 8 rows are 4 + 4, not 6 + 2.
  class Tiling {
   public:
    explicit Tiling(uint32_t rows) : rows_(rows), count_((rows + S::kRows - 1) / S::kRows) {}
    uint32_t count() const { return count_; }
    uint32_t first(uint32_t i) const { return uint32_t(uint64_t(i) * rows_ / count_); }
    uint32_t slots(uint32_t i) const { return first(i + 1) - first(i); }
    uint32_t padded() const { return rows_; }

   private:
    uint32_t rows_, count_;
  };
  static uint32_t passes(const Tiling& t) { return t.count(); }
  struct Guard {
    explicit Guard(const Tiling&) {}
  };

  static void convert(const float* x, program::Act act, float* to) {
    for (int i = 0; i < 32; i += 16) {
      const V v = S::load(x + i);
      S::store(to + i, act == program::Act::bf16 ? S::round_bf16(v) : v);
    }
  }

  template <class P, uint32_t R>
  static void tile(const float* a, const typename P::T* b, uint32_t blocks, float* acc, uint64_t ld, bool fresh, Ahead ahead) {
    constexpr uint32_t C = R <= 2 ? 1 : S::kCols;  // few rows are bound by memory, which likes one stream
    for (uint32_t kb = 0; kb < blocks; ++kb, a += R * kBlock, b += kBlockElements, fresh = false) {
      for (uint32_t i = 0; i < ahead.lines; ++i, ahead.at += kLine) S::prefetch(ahead.at);
      for (uint32_t c0 = 0; c0 < 2; c0 += C) {
        V even[R][C], odd[R][C];
        for (uint32_t r = 0; r < R; ++r)
          for (uint32_t c = 0; c < C; ++c) even[r][c] = odd[r][c] = S::zero();
        const typename P::T* pair = b + c0 * 512;
#pragma GCC unroll 2
        for (uint32_t p = 0; p < 16; ++p, pair += 32) {
          V be[C], bo[C];
#pragma GCC unroll 2
          for (uint32_t c = 0; c < C; ++c) S::pairs(P{}, pair + c * 512, be[c], bo[c]);
#pragma GCC unroll 8
          for (uint32_t r = 0; r < R; ++r) {
            const V ae = S::set1(a[r * kBlock + 2 * p]), ao = S::set1(a[r * kBlock + 2 * p + 1]);
#pragma GCC unroll 2
            for (uint32_t c = 0; c < C; ++c) {
              even[r][c] = S::fma(ae, be[c], even[r][c]);
              odd[r][c] = S::fma(ao, bo[c], odd[r][c]);
            }
          }
        }
#pragma GCC unroll 8
        for (uint32_t r = 0; r < R; ++r)
#pragma GCC unroll 2
          for (uint32_t c = 0; c < C; ++c) {
            float* to = acc + r * ld + (c0 + c) * 16;
            S::store(to, S::add(fresh ? S::zero() : S::load(to), S::add(even[r][c], odd[r][c])));
          }
      }
    }
  }

  // acc[slot * ld + n] (+)= ...; fresh: from +0. `ahead` is shared out over the tiles.
  static void run(const PanelView<float>& panel, const Tiling& t, const void* block, uint32_t blocks, float* acc, uint64_t ld, bool fresh,
                  Ahead ahead) {
    const auto* b = static_cast<const typename W::T*>(block);
    if (kWidenFirst && t.count() >= kWorthWidening)
      widened(panel, t, b, blocks, acc, ld, fresh, ahead);
    else
      tiles<W>(panel, t, b, blocks, acc, ld, fresh, ahead);
  }

 private:
  // f16 and f32 take more to unpack than bf16's shift and mask: with many tiles of rows it is done once for all of them.
  static constexpr bool kWidenFirst = !std::is_same_v<W, Bf16>;
  static constexpr uint32_t kWorthWidening = 4;
  static constexpr uint32_t kWidenBlocks = 4;  // 16 KiB of f32, half of L1

  static void widened(PanelView<float> panel, const Tiling& t, const typename W::T* b, uint32_t blocks, float* acc, uint64_t ld, bool fresh,
                      Ahead ahead) {
    alignas(64) uint32_t wide[kWidenBlocks * kBlockElements];
    for (uint32_t done = 0; done < blocks; done += kWidenBlocks, panel.first_run += kWidenBlocks, fresh = false) {
      const uint32_t now = blocks - done < kWidenBlocks ? blocks - done : kWidenBlocks;
      for (uint32_t i = 0; i < now * kBlockElements; i += 32) {
        V even, odd;
        S::pairs(W{}, b + done * kBlockElements + i, even, odd);
        S::store(reinterpret_cast<float*>(wide) + i, even);
        S::store(reinterpret_cast<float*>(wide) + i + 16, odd);
      }
      ahead.at = tiles<Planar>(panel, t, wide, now, acc, ld, fresh, ahead);
    }
  }

  // Every tile of rows; returns how far `ahead` got.
  template <class P>
  static const uint8_t* tiles(const PanelView<float>& panel, const Tiling& t, const typename P::T* b, uint32_t blocks, float* acc,
                              uint64_t ld, bool fresh, Ahead ahead) {
    for (uint32_t i = 0; i < t.count(); ++i, ahead.at += uint64_t(blocks) * ahead.lines * kLine) {
      const float* a = panel.tile(t.first(i), t.slots(i));
      float* to = acc + t.first(i) * ld;
      switch (t.slots(i)) {
        case 1: tile<P, 1>(a, b, blocks, to, ld, fresh, ahead); break;
        case 2: tile<P, 2>(a, b, blocks, to, ld, fresh, ahead); break;
        case 3: tile<P, at_most(3)>(a, b, blocks, to, ld, fresh, ahead); break;
        case 4: tile<P, at_most(4)>(a, b, blocks, to, ld, fresh, ahead); break;
        case 5: tile<P, at_most(5)>(a, b, blocks, to, ld, fresh, ahead); break;
        default: tile<P, at_most(6)>(a, b, blocks, to, ld, fresh, ahead); break;
      }
    }
    return ahead.at;
  }
  static constexpr uint32_t at_most(uint32_t rows) { return rows < S::kRows ? rows : S::kRows; }  // no larger tiles exist
};

}  // namespace
}  // namespace baton::engine
