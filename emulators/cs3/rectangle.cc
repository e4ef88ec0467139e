#include "emulators/cs3/rectangle.h"

#include <algorithm>
#include <cstring>

namespace baton::cs3 {
namespace {

// Where the elements of a tensor lie, one after the other: row y, column x, element k of that PE.
class Walk {
 public:
  Walk(const Rectangle& r, uint64_t first)
      : rows_(r.rows()), columns_(r.columns()), elements_(r.elements), order_(r.order) {
    if (order_ == Order::row_major) {
      k = uint32_t(first % elements_);
      x = uint32_t(first / elements_ % columns_);
      y = uint32_t(first / elements_ / columns_);
    } else {
      y = uint32_t(first % rows_);
      x = uint32_t(first / rows_ % columns_);
      k = uint32_t(first / rows_ / columns_);
    }
  }
  // Elements from here on that are neighbours in one PE.
  uint64_t run() const { return order_ == Order::row_major ? elements_ - k : 1; }
  void advance(uint64_t by) {
    if (order_ == Order::row_major) {
      if ((k += uint32_t(by)) < elements_) return;
      k = 0;
      if (++x == columns_) x = 0, ++y;
    } else {
      if (++y < rows_) return;
      y = 0;
      if (++x == columns_) x = 0, ++k;
    }
  }
  uint32_t x, y, k;

 private:
  uint32_t rows_, columns_, elements_;
  Order order_;
};

// Calls take(words, host byte, elements) for each run of neighbours, of each PE that has it.
template <class F>
void each_run(const Rectangle& r, uint64_t first, uint64_t bytes, PeWords to, F&& take) {
  Walk at(r, first);
  const uint64_t count = bytes / r.element_bytes;
  for (uint64_t i = 0; i < count;) {
    const uint64_t n = std::min(at.run(), count - i);
    const uint32_t across = r.broadcast == Broadcast::along_rows ? r.w : 1, down = r.broadcast == Broadcast::along_columns ? r.h : 1;
    for (uint32_t dy = 0; dy < down; ++dy)
      for (uint32_t dx = 0; dx < across; ++dx) {
        const uint64_t pe = (uint64_t(r.y) + at.y * r.col_stride + dy) * to.width + r.x + at.x * r.row_stride + dx;
        take(to.words + pe * to.elements + at.k, i * r.element_bytes, n);
      }
    at.advance(n);
    i += n;
  }
}

}  // namespace

void scatter(const Rectangle& r, uint64_t first, std::span<const uint8_t> host, PeWords to) {
  each_run(r, first, host.size(), to, [&](uint32_t* words, uint64_t at, uint64_t n) {
    if (r.element_bytes == 4) {
      std::memcpy(words, host.data() + at, n * 4);
      return;
    }
    for (uint64_t i = 0; i < n; ++i) {
      uint16_t half;
      std::memcpy(&half, host.data() + at + i * 2, 2);
      words[i] = half;
    }
  });
}

void gather(const Rectangle& r, uint64_t first, std::span<uint8_t> host, PeWords from) {
  each_run(r, first, host.size(), from, [&](const uint32_t* words, uint64_t at, uint64_t n) {
    if (r.element_bytes == 4) {
      std::memcpy(host.data() + at, words, n * 4);
      return;
    }
    for (uint64_t i = 0; i < n; ++i) {
      const uint16_t half = uint16_t(words[i]);
      std::memcpy(host.data() + at + i * 2, &half, 2);
    }
  });
}

}  // namespace baton::cs3
