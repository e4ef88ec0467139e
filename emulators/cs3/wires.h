// wires.h: what a transfer costs on the way between host and wafer: wavelets, channels, order; counted, and as modelled time.
//
// A wavelet carries 32 bits and one element, so 16-bit elements waste half of it. A transfer uses its channels (0: all), less the dead ones.
// The cost model (engine::CostModel::copy_ns) speaks of bytes in wafer-friendly order over all channels: here what differs is said in bytes of that kind.
//
// Owner    value type.   Threads  any.   Cost  arithmetic.   Errors  none.
//
//     const Wires w = wires_of(s, rectangle, conditions);
//     w.count(telemetry); cost_ns = cost.copy_ns(w.equivalent_bytes, w.inward);
#pragma once

#include "emulators/cs3/fault.h"
#include "emulators/cs3/rectangle.h"

namespace baton::cs3 {

// Row-major against column-major: 2 GiB by memcpy in 2540 ms and in 519 ms (facts/cs3 1.2, 1.5: WE1, measured on a CS-3).
inline constexpr double kRowMajorCost = 2540.0 / 519.0;

struct Wires {
  bool inward = true;
  uint64_t wavelets = 0;
  uint64_t equivalent_bytes = 0;
  uint32_t wanted = 0;  // channels; 0: all
  const Conditions* conditions = nullptr;
  uint64_t bytes() const { return wavelets * 4; }
  void count(TelemetryReply&) const;
};

// Of the whole transfer that `s` is, or ends (`total` bytes). nullptr: the linear space.
Wires wires_of(const Submission& s, const Rectangle*, const Conditions&);

}  // namespace baton::cs3
