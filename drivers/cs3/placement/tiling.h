// tiling.h: n equal rectangles in one: columns of them, in a snake. Inside of place.cc.
//
// Owner    plain values.   Threads  any.   Cost  O(n).   Errors  none: an empty tile where there is no room.
//
//     for (const Tile& t : tile(755, 1141, 20, 4)) ...   // 4 columns of 5
#pragma once

#include <cstdint>
#include <vector>

namespace baton::cs3 {

struct Tile {
  uint32_t x = 0, y = 0, w = 0, h = 0;
  uint64_t area() const { return uint64_t(w) * h; }
};

// Neighbours in the list are neighbours in the plane: every other column goes upwards. A column's width goes by how many it has.
inline std::vector<Tile> tile(uint32_t width, uint32_t height, uint32_t n, uint32_t columns) {
  std::vector<Tile> all;
  uint32_t before = 0;
  for (uint32_t c = 0; c < columns; ++c) {
    const uint32_t count = n / columns + (c < n % columns);
    const uint32_t x = uint32_t(uint64_t(width) * before / n), end = uint32_t(uint64_t(width) * (before + count) / n);
    before += count;
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t k = c % 2 ? count - 1 - i : i;
      const uint32_t y = uint32_t(uint64_t(height) * k / count);
      all.push_back({x, y, end - x, uint32_t(uint64_t(height) * (k + 1) / count) - y});
    }
  }
  return all;
}

}  // namespace baton::cs3
