// segment.h: the shared memory of one session on one host: two rings, an error text beside each completion, a payload arena.
//
// Owner    The daemon creates it (memfd, sealed against resizing, so that neither side can be made to fault) and passes the
//          descriptor; each side maps it and unmaps its own view.
// Threads  as ring.h.   Cost  about 18 MiB of address space; memory only for pages that were touched.
// Errors   IO; CORRUPT if a received descriptor has another size or lacks the seals.
//
//     BATON_ASSIGN(auto seg, Segment::create());           // daemon; seg.fd() is passed to the client
//     BATON_ASSIGN(auto seg, Segment::open(std::move(fd))); // client
//     Producer<Submission, kSqEntries> sq(&seg.layout().sq, seg.layout().submissions);
#pragma once

#include "drivers/cs3/link/ring.h"
#include "drivers/cs3/link/socket.h"
#include "drivers/cs3/link/wire.h"

namespace baton::cs3 {

// On which CPU each side ran last, plus 1 (0: unknown). A hint: where it is one and the same, spinning only keeps the other from running.
struct CpuHints {
  alignas(64) std::atomic<uint32_t> client;
  alignas(64) std::atomic<uint32_t> daemon;
};

struct SegmentLayout {
  RingControl sq, cq;
  CpuHints cpus;
  alignas(4096) Submission submissions[kSqEntries];
  Completion completions[kCqEntries];
  char texts[kCqEntries][kTextBytes];
  alignas(4096) uint8_t arena[kArenaBytes]; // cut up by the client
};

// Notes this side's CPU; true if the other side's is the same.
bool same_cpu(std::atomic<uint32_t>& mine, const std::atomic<uint32_t>& other);

class Segment {
 public:
  static Result<Segment> create();
  static Result<Segment> open(Fd fd);
  Segment(Segment&& o) noexcept : fd_(std::move(o.fd_)), p_(std::exchange(o.p_, nullptr)) {}
  ~Segment();
  SegmentLayout& layout() const { return *p_; }
  int fd() const { return fd_.get(); }
  void close_fd() { fd_.reset(); } // the mapping stays

 private:
  Segment(Fd fd, SegmentLayout* p) : fd_(std::move(fd)), p_(p) {}
  static Result<Segment> map(Fd fd);
  Fd fd_;
  SegmentLayout* p_;
};

}  // namespace baton::cs3
