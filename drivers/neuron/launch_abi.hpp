// launch_abi.hpp: how a launch of Baton's portable program talks through ordinary NEFF tensors: arguments, marks, cancel, cost.
//
// A compiled NEFF has named inputs and outputs and nothing else, so what a LAUNCH passes and reports is two more tensors:
//   "baton.args"      input   int64[Program::args]: the launch arguments in the program's order
//   "baton.progress"  output  ProgressPage: the program stores offsets[k-1], then count = k, at its k-th mark
// A device store is all that a mark needs: the page is host memory attached to its tensor, which the host reads while nrt_execute
// runs; where the runtime cannot attach any it is device memory, read once at the end. The host asks a launch to stop by storing 1 to `cancel`; a
// program that does not look at it runs to its end, which is harmless.
//
// Owner    the driver, as part of each loaded program's arena.
// Threads  device and host at once: every field by std::atomic_ref, count with release/acquire.
#pragma once

#include <cstdint>

namespace baton::neuron {

inline constexpr char kArgsTensor[] = "baton.args";
inline constexpr char kProgressTensor[] = "baton.progress";

struct ProgressPage {
  uint64_t count;    // marks reached; offsets[0..count-1] are valid
  uint64_t cost_ns;  // modelled device time of the whole launch, stored at its end; 0: not modelled
  uint64_t device_line[6];
  uint64_t cancel;  // host to device: non-zero asks the program to stop between ops
  uint64_t host_line[7];
  // uint64_t offsets[marks] follow: modelled ns since the launch started
};
static_assert(sizeof(ProgressPage) == 128);

inline uint64_t progress_bytes(uint64_t marks) { return sizeof(ProgressPage) + marks * sizeof(uint64_t); }
inline uint64_t* progress_offsets(ProgressPage* p) { return reinterpret_cast<uint64_t*>(p + 1); }

}  // namespace baton::neuron
