// calendar.h: when a wafer is busy, in modelled time: work takes the free time from when it is ready on, whatever the order it is told in.
//
// Sequences in flight share a wafer op by op, so work may be split over gaps that earlier work has left. That makes the outcome depend on
// what was ready when, hardly on which sequence the emulator happened to run first.
//
// Owner    The session: clients' clocks have nothing in common.   Threads  the event loop's.
// Cost     a map's lookup, and what is filled is one entry less. At most kMostBusy entries: what is older counts as free.
// Errors   none.
//
//     uint64_t end = calendar.take(ready_ns, cost_ns);
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace baton::cs3 {

inline constexpr size_t kMostBusy = 1u << 16;

class Calendar {
 public:
  uint64_t take(uint64_t ready_ns, uint64_t cost_ns);  // when that much has been done

 private:
  std::map<uint64_t, uint64_t> busy_;  // begin -> end; neither touch nor overlap
};

}  // namespace baton::cs3
