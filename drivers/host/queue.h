// queue.h: the one lane of a host device: runs ops in order, on the polling thread.
//
// Short ops (NOP, FILL and COPY up to 256 KiB) that find the queue empty complete inside submit. All else goes through a ring and runs
// inside poll, in slices of about 1 ms, so that progress is seen as it happens and other queues get their turn.
//
// Owner    the core, by the driver's handle.   Threads  calls are serialized by the core; no thread of its own (the engine's pool only).
// Cost     an empty op: a copy of 24 bytes and two calls.   Errors  through complete(): the engine's; UNSUPPORTED opcode.
#pragma once

#include "drivers/host/launch.h"

#include <deque>
#include <memory>

namespace baton::host_driver {

struct Counters {  // of a device; telemetry
  uint64_t ops_done = 0, ops_failed = 0, launches = 0, bytes_in = 0, bytes_out = 0, busy_ns = 0;
};

class Queue {
 public:
  static Result<Queue*> open(const baton_driver_host* core, Counters*);
  ~Queue();
  Queue(const Queue&) = delete;
  int fd() const { return event_; }
  uint32_t submit(const baton_driver_op* ops, uint32_t count);  // how many were taken
  uint32_t poll(uint32_t budget);
  void drop();  // a reset: what is pending is forgotten; the core has failed it already

 private:
  static constexpr uint32_t kDepth = 256;
  explicit Queue(const baton_driver_host* core, Counters* c) : core_(core), counters_(c) {}
  bool advance(uint64_t slice_end_ns);  // runs the first op; true when it is over
  bool advance_bytes(baton_driver_op&);
  bool advance_launch(baton_driver_op&, uint64_t slice_end_ns);
  void finish(const baton_driver_op&, const baton_error*);
  void set_readable(bool);

  const baton_driver_host* core_;
  Counters* counters_;
  int event_ = -1;         // readable while ops are pending
  bool readable_ = false;
  baton_driver_op ring_[kDepth];
  uint32_t head_ = 0, count_ = 0;
  uint64_t moved_ = 0;     // bytes of the first op, if it is a COPY or FILL
  std::unique_ptr<Launch> launch_;  // of the first op, once it has begun
};

}  // namespace baton::host_driver
