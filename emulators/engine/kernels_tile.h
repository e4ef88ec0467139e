// kernels_tile.h: the multiplier of matmul and attention on tile registers (AMX, palette 1): bf16 x bf16 only.
//
// A template over a tile backend, so that the same logic runs on the instructions (kernels_amx.cc) and on a software model of them
// (tests/unit/kernels_tile.cc). A backend has static functions over tile numbers that are compile-time constants:
//   configure(const TileConfig&), release(), zero<t>(), load<t>(ptr, stride), store<t>(ptr, stride), multiply<c, a, b>() (TDPBF16PS)
//
// Tiles: 0..3 accumulate 2 x 2 blocks of 16 rows x 16 columns, 4 and 5 are activations (16 rows x 32 k), 6 and 7 weights
// (16 k-pairs x 16 columns). Each block multiplied is 4 loads and 4 multiplies.
#pragma once

#include "emulators/engine/kernels_fma.h"

namespace baton::engine {
namespace {

// The 64 bytes that LDTILECFG reads (Intel SDM vol. 1, 18.1 "palette 1": 8 tiles of at most 16 rows x 64 bytes).
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};  // colsb
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

template <class S, class Tile>
struct TileMultiplier {
  using Elem = uint16_t;  // bf16
  using Weight = Bf16;
  static constexpr uint32_t kPanelRows = 256;
  static constexpr uint32_t kChunkBlocks = 64;  // 256 rows x 2048 k of bf16 are 1 MiB, half of the L2 that AMX machines have
  static constexpr uint32_t kTileRows = 16;

  // Tiles of 16 rows, the last one padded; a panel of fewer rows is one short tile.
  class Tiling {
   public:
    explicit Tiling(uint32_t rows) : count_((rows + kTileRows - 1) / kTileRows), slots_(rows < kTileRows ? rows : kTileRows) {}
    uint32_t count() const { return count_; }
    uint32_t first(uint32_t i) const { return i * kTileRows; }
    uint32_t slots(uint32_t) const { return slots_; }
    uint32_t padded() const { return count_ * slots_; }

   private:
    uint32_t count_, slots_;
  };

  static uint32_t passes(const Tiling& t) { return (t.count() + 1) / 2; }

  class Guard {
   public:
    explicit Guard(const Tiling& t) {
      TileConfig c;
      for (int i = 0; i < 8; ++i) {
        c.row_bytes[i] = 64;
        c.rows[i] = uint8_t(i < 6 ? t.slots(0) : 16);  // accumulators and activations have our rows, weights 16 k-pairs
      }
      Tile::configure(c);
    }
    ~Guard() { Tile::release(); }
    Guard(const Guard&) = delete;
  };

  static void convert(const float* x, program::Act, uint16_t* to) {
    S::store_as(Bf16{}, to, S::load(x));
    S::store_as(Bf16{}, to + 16, S::load(x + 16));
  }

  // acc[slot * ld + n] (+)= ...; fresh: from +0. `ahead` is shared out over the tiles.
  static void run(const PanelView<uint16_t>& panel, const Tiling& t, const void* block, uint32_t blocks, float* acc, uint64_t ld, bool fresh,
                  Ahead ahead) {
    const auto* b = static_cast<const uint16_t*>(block);
    uint32_t i = 0;
    for (; i + 2 <= t.count(); i += 2) {
      const Ahead part{ahead.at, 2 * ahead.lines};
      pair(panel.tile(t.first(i), kTileRows), panel.tile(t.first(i + 1), kTileRows), b, blocks, acc + t.first(i) * ld, ld, fresh, part);
      ahead.at += uint64_t(blocks) * part.lines * kLine;
    }
    if (i < t.count()) single(panel.tile(t.first(i), t.slots(i)), t.slots(i), b, blocks, acc + t.first(i) * ld, ld, fresh, ahead);
  }

 private:
  static constexpr uint64_t kRowBytes = 64;

  static void fetch(Ahead& ahead) {
    for (uint32_t i = 0; i < ahead.lines; ++i, ahead.at += kLine) S::prefetch(ahead.at);
  }

  // 32 rows x 32 columns.
  static void pair(const uint16_t* a0, const uint16_t* a1, const uint16_t* b, uint32_t blocks, float* acc, uint64_t ld, bool fresh,
                   Ahead ahead) {
    const uint64_t stride = ld * sizeof(float);
    float* low = acc + kTileRows * ld;
    start<0>(acc, stride, fresh);
    start<1>(acc + 16, stride, fresh);
    start<2>(low, stride, fresh);
    start<3>(low + 16, stride, fresh);
    for (uint32_t kb = 0; kb < blocks; ++kb, a0 += 512, a1 += 512, b += kBlockElements) {
      fetch(ahead);
      Tile::template load<4>(a0, kRowBytes);
      Tile::template load<6>(b, kRowBytes);
      Tile::template load<7>(b + 512, kRowBytes);
      Tile::template load<5>(a1, kRowBytes);
      Tile::template multiply<0, 4, 6>();
      Tile::template multiply<1, 4, 7>();
      Tile::template multiply<2, 5, 6>();
      Tile::template multiply<3, 5, 7>();
    }
    Tile::template store<0>(acc, stride);
    Tile::template store<1>(acc + 16, stride);
    Tile::template store<2>(low, stride);
    Tile::template store<3>(low + 16, stride);
  }

  // At most 16 rows x 32 columns.
  static void single(const uint16_t* a, uint32_t slots, const uint16_t* b, uint32_t blocks, float* acc, uint64_t ld, bool fresh,
                     Ahead ahead) {
    const uint64_t stride = ld * sizeof(float);
    start<0>(acc, stride, fresh);
    start<1>(acc + 16, stride, fresh);
    for (uint32_t kb = 0; kb < blocks; ++kb, a += slots * kBlock, b += kBlockElements) {
      fetch(ahead);
      Tile::template load<4>(a, kRowBytes);
      Tile::template load<6>(b, kRowBytes);
      Tile::template load<7>(b + 512, kRowBytes);
      Tile::template multiply<0, 4, 6>();
      Tile::template multiply<1, 4, 7>();
    }
    Tile::template store<0>(acc, stride);
    Tile::template store<1>(acc + 16, stride);
  }

  template <int t>
  static void start(const float* acc, uint64_t stride, bool fresh) {
    if (fresh)
      Tile::template zero<t>();
    else
      Tile::template load<t>(acc, stride);
  }
};

}  // namespace
}  // namespace baton::engine
