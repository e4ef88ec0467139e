// wires.h: what a transfer costs on the way between host and wafer: wavelets, channels, order; counted, and as modelled time.
//
// A wavelet carries 32 bits and one element, so 16-bit elements waste half of it. A transfer uses its channels (0: all), less the dead ones.
// The cost model (engine::CostModel::copy_ns) speaks of bytes in wafer-friendly order over all channels: here what differs is said in bytes of that kind.
//
// Owner    value type.   Threads  any.   Cost  arithmetic.   Errors  none.
//
//     const Wires w = wires_of(s, rectangle, conditions);
//     const WireTime t = w.time(cost);   // t.cost_ns
//     w.count(telemetry, t);
#pragma once

#include "emulators/cs3/fault.h"
#include "emulators/cs3/rectangle.h"
#include "emulators/engine/engine.hpp"

namespace baton::cs3 {

// Row-major against column-major: 2 GiB by memcpy in 2540 ms and in 519 ms (facts/cs3 1.2, 1.5: WE1, measured on a CS-3).
inline constexpr double kRowMajorCost = 2540.0 / 519.0;

struct WireTime {
  double cost_ns = 0;    // modelled, of the whole transfer
  double even_ns = 0;    // of it, on the wire if no channel were slow
  double waited_ns = 0;  // of it, waiting for the slowest channel
};

struct Wires {
  bool inward = true;
  uint64_t wavelets = 0;
  uint64_t equivalent_bytes = 0;  // slow channels apart
  uint32_t wanted = 0;  // channels; 0: all
  const Conditions* conditions = nullptr;
  uint64_t bytes() const { return wavelets * 4; }
  WireTime time(const engine::CostModel* cost) const;  // nullptr: none, and no time
  void count(TelemetryReply&, const WireTime&) const;
};

// Of the whole transfer that `s` is, or ends (`total` bytes). nullptr: the linear space.
Wires wires_of(const Submission& s, const Rectangle*, const Conditions&);

}  // namespace baton::cs3
