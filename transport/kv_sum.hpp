// kv_sum.hpp (internal): the checksum of a layer (TransferOptions::checksum): of its bytes in the order of the sink's addresses, part after part.
//
// The sender adds what has been moved while it is still in the cache, so that the source comes from memory once; units, which are converted, are added by
// whoever packs them (Batch::sum). The sink reads what its memory has. A note for several layers has the checksum of their sums.
//
// Owner    a transfer, a sink.   Threads  one at a time.   Cost  the cache's bandwidth for what was just moved, else memory's.   Errors  none.
//
//     LayerSum sum;   ... sender.step(batch, budget); sum.follow(batch); ...   const uint64_t all[] = {sum.value()};   note.checksum = sum_of(all);
#pragma once

#include "transport/checksum.hpp"
#include "transport/fabric.hpp"

namespace baton::transport {

inline constexpr uint64_t kSumBytes = 256u << 10; // to be moved at once, so that it is still there

class LayerSum {
 public:
  void follow(const Batch&); // what it has moved since, of its source
  Checksum* units() { return &sum_; }
  void next_part() { next_ = 0, offset_ = 0; }
  void landed(const uint8_t* base, std::span<const KvSegment>, const LayerUnits&, std::vector<uint8_t>& scratch); // a whole part, at the sink
  uint64_t value() const { return sum_.value(); }

 private:
  Checksum sum_;
  size_t next_ = 0;     // segment of the part
  uint64_t offset_ = 0; // in it
};

uint64_t sum_of(std::span<const uint64_t> layers); // never 0
// Whether the sink's memory has what the source had, by the note's checksum.
bool landed_right(const Note&, const KvMoves&, const uint8_t* base, std::vector<uint8_t>& scratch);

}  // namespace baton::transport
