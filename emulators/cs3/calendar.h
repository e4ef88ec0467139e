// calendar.h: when a wafer is busy, in modelled time. Work is an iteration of a stage, or its part to a mark: once begun, it
// has the wafer to its end.
//
// The emulator runs what is ready first in modelled time (stages.cc), so that the wafer serves in order of arrival. A launch that the client
// has sent late by the wall clock may still be early in modelled time: it gets the first gap that is long enough.
//
// Owner    The session: clients' clocks have nothing in common.   Threads  the event loop's.
// Cost     a map's lookup, and the gaps that are too short. At most kMostBusy entries: what is older counts as free.
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
  uint64_t take(uint64_t ready_ns, uint64_t cost_ns);  // when it is done

 private:
  std::map<uint64_t, uint64_t> busy_;  // begin -> end; neither touch nor overlap
};

}  // namespace baton::cs3
