// verbs_write.hpp (internal): batches as chains of RDMA writes, and notes behind them.
//
// A step makes one chain of work requests and rings the doorbell once. A work request is one contiguous run at the sink, gathered from as many
// pieces here as the device takes; only the last of a chain is signalled, so a chain costs one completion. What is small goes inline.
//
// A note is an RDMA write with immediate: its 64 bytes, inline, go to a ring at the sink, and the immediate (the ring's slot) makes the completion
// that wakes the sink. It is posted behind its batch, without waiting for it. That stands on two guarantees of reliable connected queue
// pairs, and on no other order: requests of one queue pair are executed at the responder in the order of posting, and once the completion of a
// receive is read there, the bytes of every write before it are visible. (Looking for a note in memory, without a completion, would have
// neither.) Against a plain write into the ring it wakes a sleeping sink; against a send it needs no buffer for each receive.
// A note that finds the sink without a free receive is refused whole, as it is one packet, and repeated by the device; a receive
// is given back only when its slot has been read, so no slot is written over.
//
// Owner    a VerbsSender.   Threads  as the Instance.   Cost  nothing allocated after the start.
// Errors   Batch::error: the queue pair's first.
//
//     uint64_t n = writer.step(batch, budget);   ... qp.drain([&](auto& wc) { writer.take(wc); });   writer.notify(note);
#pragma once

#include "transport/stream.hpp"
#include "transport/verbs_qp.hpp"

namespace baton::transport {

inline constexpr uint32_t kVerbsNotes = 256; // the ring's slots, and the receives that wait for them

// The sink's memory, as it told.
struct VerbsTarget {
  uint64_t base = 0, bytes = 0, ring = 0;
  uint32_t key = 0, ring_key = 0;
};

class VerbsWriter {
 public:
  static VerbsQp::Needs needs(const VerbsDevice&);
  static Result<std::unique_ptr<VerbsWriter>> open(VerbsQp&, const VerbsTarget&);
  uint64_t step(Batch&, uint64_t budget);
  // One write of its own, with its own completion. False: the queue is full.
  Result<bool> write(const void* from, uint64_t bytes, uint32_t local_key, uint64_t remote, uint32_t key, StreamPosted*);
  bool notify(const Note&);   // false: the queue is full
  void take(const ibv_wc&);   // a completion of a send
  void settle_lost();         // the device is gone: what was posted is over
  uint64_t operations() const { return operations_; }   // writes of data
  uint64_t completions() const { return completions_; } // that the device reported
  uint64_t notes() const { return notes_; }

 private:
  explicit VerbsWriter(VerbsQp& q) : qp_(q) {}
  struct Record { // what one completion ends
    uint64_t last = 0; // its last work request
    Batch* batch = nullptr;
    StreamPosted* piece = nullptr; // neither: a note
    uint32_t requests = 0;
    uint64_t bytes = 0;
    bool note() const { return !batch && !piece; }
  };
  uint32_t free_requests() const { return qp_.sends() - used_; }
  uint64_t fill(Batch&, uint64_t budget, uint32_t room, uint32_t& requests);
  bool post(uint32_t requests, Batch*, uint64_t bytes, StreamPosted* = nullptr);
  void end(const Record&, bool failed);
  void end_before(uint64_t request);

  VerbsQp& qp_;
  VerbsTarget to_;
  std::vector<ibv_send_wr> requests_;
  std::vector<ibv_sge> pieces_; // [request][gather]
  std::vector<Record> records_; // a ring
  size_t first_ = 0, count_ = 0;
  uint64_t next_request_ = 0, notes_ = 0, in_flight_ = 0, operations_ = 0, completions_ = 0;
  uint32_t used_ = 0;
  std::vector<Note> staged_; // notes of devices that take nothing inline
  VerbsMr staged_mr_;
};

}  // namespace baton::transport
