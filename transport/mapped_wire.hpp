// mapped_wire.hpp (internal): what the two sides of the fabric `mapped` share: the control page, the messages on the socket, mappings.
//
// Copying together. A sender with much to move publishes it as a job: which of the request's moves, and a claim word (a sequence and the number of
// the next piece). Either side claims a piece by a compare-and-exchange of that word, copies it and counts it in `done`. So a sink that
// is awake doubles the bandwidth, and one that is not costs nothing. What a piece is, both compute from the plan (kv_pieces.hpp): nothing
// that the sink follows is read from the page but indices, and those are checked. The sender ends a job by closing the claim word; then it
// waits for the pieces that were claimed, since the sink may be reading the source's memory.
//
// Owner    MappedLanding makes the page; each side maps it.   Threads  shared with another process.   Cost  -   Errors  IO, CORRUPT, UNSUPPORTED.
#pragma once

#include "transport/fabric.hpp"
#include "transport/socket.hpp"

#include <atomic>
#include <cstdint>
#include <utility>

namespace baton::transport::mapped {

inline constexpr uint32_t kMagic = 0x324d4b42; // "BKM2"
inline constexpr uint32_t kSlots = 64;         // transfers at once over one session into one sink
inline constexpr uint64_t kRing = 1024;
inline constexpr uint32_t kJobs = 8;           // at once; more are copied by the sender alone
inline constexpr uint32_t kRegions = 64;       // source buffers that the sink maps
inline constexpr uint64_t kSharedBytes = 1u << 20; // a layer below this is copied by the sender alone
inline constexpr uint32_t kClosed = UINT32_MAX;

struct Slot {
  alignas(64) std::atomic<uint64_t> valid;
  alignas(64) std::atomic<uint64_t> writing;
};

struct Job {
  alignas(64) std::atomic<uint64_t> claim; // sequence << 32 | next piece, or kClosed
  alignas(64) std::atomic<uint32_t> done;  // pieces copied
  // Written before the claim word opens, unchanged until it has closed.
  alignas(64) uint64_t generation;
  uint32_t slot, source, part, layer, region, serial, mode;
};

// Zeroed memory is a valid start. Ring: the sender writes entry head, then head; the sink reads to head, then stores tail.
struct Control {
  uint32_t magic;
  alignas(64) std::atomic<uint64_t> head;
  alignas(64) std::atomic<uint64_t> tail;
  alignas(64) std::atomic<uint32_t> parked;     // the sink found nothing to do and may be asleep
  alignas(64) std::atomic<uint32_t> open_jobs;  // bit i: job i may have pieces to claim
  alignas(64) std::atomic<uint32_t> regions[kRegions]; // the sink's: the serial number of the source buffer that it has mapped
  Slot slots[kSlots];
  Job jobs[kJobs];
  Note ring[kRing];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// sink > sender, with the memory's and the page's descriptors
struct Welcome {
  uint32_t magic, slots;
  uint64_t bytes, fd_offset, control_bytes;
};
// sender > sink, with the descriptor of a source buffer; bytes 0, without one: it is gone
struct Region {
  uint32_t magic, index;
  uint64_t serial; // counts up from 1
  uint64_t bytes, fd_offset;
};

class Mapping {
 public:
  Mapping() = default;
  Mapping(void* p, size_t n, size_t skip) : p_(p), n_(n), skip_(skip) {}
  Mapping(Mapping&& o) noexcept : p_(std::exchange(o.p_, nullptr)), n_(std::exchange(o.n_, 0)), skip_(std::exchange(o.skip_, 0)) {}
  Mapping& operator=(Mapping&& o) noexcept {
    if (this != &o) {
      reset();
      p_ = std::exchange(o.p_, nullptr);
      n_ = std::exchange(o.n_, 0);
      skip_ = std::exchange(o.skip_, 0);
    }
    return *this;
  }
  ~Mapping() { reset(); }
  void reset();
  uint8_t* get() const { return p_ ? static_cast<uint8_t*>(p_) + skip_ : nullptr; }
  // [offset, offset + bytes) of an object; its pages are entered at once (once, as registering memory does elsewhere, in place of a fault a page
  // in the first transfers), up to a limit; holes stay holes.
  enum class Use : uint8_t { read, write };
  static Result<Mapping> of(int fd, uint64_t offset, uint64_t bytes, Use);

 private:
  void* p_ = nullptr;
  size_t n_ = 0, skip_ = 0; // skip_: from the page's start
};


// A mapping whose object is cut short ends this process with SIGBUS. Whoever holds the descriptor may add the seal that forbids it, unless
// the object was made without MFD_ALLOW_SEALING. Then its size now must do: the peer is authenticated and has the same user.
Status check_object(int fd, uint64_t need);

}  // namespace baton::transport::mapped
