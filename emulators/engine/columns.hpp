// columns.hpp: one rank's columns of a matrix, for collectives that see runs of it: [rows, width] beside [rows, ranks*width].
//
// Owner    the caller, of all memory.   Threads  none of its own.   Cost  a memcpy for each row that the run touches.
// Errors   none: ranges are the caller's to check.
//
//     put_columns({part, at, n}, width, ranks, rank, whole);   // all_gather
//     take_columns({sum, at, n}, width, ranks, rank, part);    // reduce_scatter
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace baton::engine {

// Elements [at, at + n) of a matrix, row-major; `data` is the first of them.
struct MatrixRun {
  const float* data;
  uint64_t at, n;
};

// A run of [rows, width] to its place in `whole` [rows, ranks*width].
inline void put_columns(MatrixRun run, uint64_t width, uint64_t ranks, uint64_t rank, float* whole) {
  for (uint64_t done = 0; done < run.n;) {
    const uint64_t row = (run.at + done) / width, column = (run.at + done) % width, n = std::min(run.n - done, width - column);
    std::memcpy(whole + (row * ranks + rank) * width + column, run.data + done, n * sizeof(float));
    done += n;
  }
}

// What a run of [rows, ranks*width] has of the rank's columns, to its place in `part` [rows, width].
inline void take_columns(MatrixRun run, uint64_t width, uint64_t ranks, uint64_t rank, float* part) {
  const uint64_t whole = ranks * width, first = rank * width;
  for (uint64_t done = 0; done < run.n;) {
    const uint64_t row = (run.at + done) / whole, column = (run.at + done) % whole, n = std::min(run.n - done, whole - column);
    const uint64_t from = std::max(column, first), to = std::min(column + n, first + width);
    if (from < to) std::memcpy(part + row * width + (from - first), run.data + done + (from - column), (to - from) * sizeof(float));
    done += n;
  }
}

}  // namespace baton::engine
