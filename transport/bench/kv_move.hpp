// kv_move.hpp: how long 64 MiB of KV take between two processes, per fabric and shape, beside plain memcpy of the same segments.
//
// Forks a child that decodes; this process prefills. Both pools are 128 MiB and pre-faulted; slots are random on both sides and new in each
// iteration. Timed from the lists of blocks to the acknowledgement: agreeing, plan, move, note, seen by the receiver's application, and its
// message back, seen here; the receiver had made the ticket before. Of a loan: list, ring, taken by the receiver, its receipt in shared memory, seen here.
// Between devices whose memory a fabric does not reach (a wafer), the bytes go through host memory on that side, and the time has both copies in it.
// Yardsticks: memcpy of the same segments by one thread, and the copy kernel by one and by two, each between two private pools, after each transfer.
// The first transfer of each shape, or every one, is verified byte for byte.
//
// Owner    -   Threads  none; fork()s, so call it before starting threads.   Cost  seconds.
// Errors   a fabric that is not available is left out, with its reason in `skipped`; bytes that arrived wrong are counted, not an error; what either process's
//          device says.
//
//     for (auto& r : *kv_move({.fabrics = {"mapped"}})) printf("%s %s %.2f ms, memcpy %.2f ms\n", ...);
#pragma once

#include "hal/baton.hpp"

#include <functional>
#include <string>
#include <vector>

namespace baton::transport {

struct KvMoveOptions {
  std::vector<std::string> fabrics = {"mapped", "shm", "tcp"};
  uint32_t iterations = 9;
  bool raw = false;           // shm and tcp: libfabric itself, too
  std::string from = "host://", to = "host://"; // devices: this process's, the other's. Loans are between hosts alone
  bool verify_all = false;    // every transfer, not the first of each row alone; a loan's first all the same
  // Before each transfer: which row it is for, and of how many transfers. False: end with what there is.
  std::function<bool(const std::string& row, size_t transfers)> step = {};
};

struct KvMoveRow {
  std::string name;  // "kv_move/mapped/4096x16KiB"
  std::string shape; // "1x64MiB", "4096x16KiB", "16384x4KiB"
  std::string fabric; // or way: "mapped" (both sides awake), "mapped asleep" (the receiver), "mapped checked" (with checksums), "lend" (no copy)
  uint64_t bytes = 0, segments = 0;
  uint32_t count = 0;         // transfers that were measured
  uint64_t verified = 0, wrong = 0; // transfers compared at the destination; 8-byte words that were not what was sent
  double p99_ms = 0;
  double modelled_ms = 0;     // of the last: the link by its model, and the copies between host and device by theirs; 0: no device has one
  double median_ms = 0;       // from the lists of blocks to the other side's acknowledgement
  double yardstick_ms = 0;    // memcpy of the same segments, one thread
  double streamed_ms = 0, streamed2_ms = 0; // the large copies' kernel, one thread and two
  double ratio = 0;           // yardstick / median: above 1 is faster than memcpy
  double raw_ms = 0;          // libfabric itself, a write for each block
  double open_ms = 0;         // of median_ms: agreeing
  double notify_ns = 0, notify_asleep_ns = 0; // lend, last shape: one way, polled; to a waiter that sleeps, and back by one that polls
  double wake_ns = 0;         // beside the latter: a byte to a socket on which a thread sleeps, and its answer through memory
  std::string skipped; // not empty: why there are no numbers
};

Result<std::vector<KvMoveRow>> kv_move(const KvMoveOptions&);

}  // namespace baton::transport
