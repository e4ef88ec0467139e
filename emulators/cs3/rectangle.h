// rectangle.h: a transfer between a host tensor and the words of a rectangle of PEs: which element is whose.
//
// The host's tensor is A[h][w][l] (rows, columns, elements a PE). Row major: l is fastest. Column major: h is fastest, then w, then l
// (Cerebras sdk-examples, function COL_MAJOR of the stencil benchmarks: h + w * height + l * height * width), so consecutive elements go to
// different PEs. Along rows, A is [h][1][l]; along columns [1][w][l]: each share goes to all PEs of its row or column.
// By stride, every row_stride'th PE of a row and every col_stride'th row receive, the corner first: A has the rows and columns that do.
// On the wafer an element is a 32-bit word. One of 16 bits is zero-extended on the way in; on the way out its low half is taken.
//
// Owner    value type.   Threads  any.   Cost  move(): a few ns an element in column-major order, memcpy of runs of l in row-major order.
// Errors   none: the caller has checked that the rectangle lies in the symbol, and the chunk in the tensor.
//
//     Rectangle r{.x = 0, .y = 0, .w = 4, .h = 2, .elements = 8, .order = Order::column_major};
//     scatter(r, first, host_bytes, words_of_symbol, symbol_w, symbol_elements);
#pragma once

#include "drivers/cs3/link/wire.h"

#include <cstdint>
#include <span>

namespace baton::cs3 {

enum class Broadcast : uint8_t { none, along_rows, along_columns };

struct Rectangle {
  uint32_t x = 0, y = 0, w = 0, h = 0;  // PEs, from the symbol's corner
  uint32_t elements = 0;                // a PE
  Order order = Order::row_major;
  Broadcast broadcast = Broadcast::none;
  uint8_t element_bytes = 4;            // 2 or 4, at the host
  uint32_t row_stride = 1, col_stride = 1; // in PEs
  uint32_t columns() const { return broadcast == Broadcast::along_rows ? 1 : (w + row_stride - 1) / row_stride; } // of the tensor
  uint32_t rows() const { return broadcast == Broadcast::along_columns ? 1 : (h + col_stride - 1) / col_stride; }
  uint64_t tensor_elements() const { return uint64_t(columns()) * rows() * elements; }
};

// The symbol's memory: words of PE (x, y) begin at words[(y * width + x) * elements].
struct PeWords {
  uint32_t* words;
  uint32_t width, elements;
};

// Elements first, first + 1, ... of the host's tensor, as many as `host` holds whole.
void scatter(const Rectangle&, uint64_t first, std::span<const uint8_t> host, PeWords);
void gather(const Rectangle&, uint64_t first, std::span<uint8_t> host, PeWords);

}  // namespace baton::cs3
