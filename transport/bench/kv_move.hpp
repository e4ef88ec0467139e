// kv_move.hpp: how long 64 MiB of KV take between two processes, per fabric and shape, beside plain memcpy of the same segments.
//
// Forks a child that decodes; this process prefills. Both pools are 128 MiB and pre-faulted; slots are random on both sides and new in each
// iteration. Timed from submitting the copy to the acknowledgement: post, move, note, seen by the receiver's timeline, a message
// back over the session, seen here. The ticket and the plan are made before the clock starts (open_ms says how long that takes).
// Yardstick: one thread's memcpy of the same segments between two private pools, one after each transfer of the same run.
// The first transfer of each shape is verified byte for byte.
//
// Owner    -   Threads  none; fork()s, so call it before starting threads.   Cost  seconds.
// Errors   a fabric that is not available is left out, with its reason in `skipped`.
//
//     for (auto& r : *kv_move({.fabrics = {"mapped"}})) printf("%s %s %.2f ms, memcpy %.2f ms\n", ...);
#pragma once

#include "hal/baton.hpp"

#include <string>
#include <vector>

namespace baton::transport {

struct KvMoveOptions {
  std::vector<std::string> fabrics = {"mapped", "shm", "tcp"};
  uint32_t iterations = 9;
};

struct KvMoveRow {
  std::string name;  // "kv_move/mapped/4096x16KiB"
  std::string shape; // "1x64MiB", "4096x16KiB", "16384x4KiB"
  std::string fabric;
  uint64_t bytes = 0, segments = 0;
  double median_ms = 0, yardstick_ms = 0;
  double ratio = 0; // yardstick / median: above 1 is faster than memcpy
  double open_ms = 0;
  std::string skipped; // not empty: why there are no numbers
};

Result<std::vector<KvMoveRow>> kv_move(const KvMoveOptions&);

}  // namespace baton::transport
