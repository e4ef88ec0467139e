// kv_pieces.hpp (internal): one layer's segments, cut into pieces of about 256 KiB that two processes can claim one by one.
//
// Both sides cut the same list by the same rule, so that a number names the same bytes on both. Small segments go together as many
// as make a piece; large ones are cut at multiples of kPieceBytes.
//
// Owner    Refers to the segments.   Threads  const use from any.   Cost  cutting: a step a segment of at least 256 KiB, else a few.
// Errors   none; the caller has checked the ranges.
//
//     KvPieces pieces(move.layer(l), move.bytes(l));
//     for (uint32_t i = 0; i < pieces.count(); ++i) pieces.copy(i, dst, src, CopyMode::streaming);
#pragma once

#include "transport/copy_kernel.hpp"

#include <vector>

namespace baton::transport {

class KvPieces {
 public:
  static constexpr uint64_t kPieceBytes = 256u << 10; // about 30 us of copying: what a cancel waits for, and what is lost when one side is late
  KvPieces() = default;
  KvPieces(std::span<const KvSegment> segments, uint64_t bytes);
  uint32_t count() const { return count_; }
  uint64_t copy(uint32_t piece, uint8_t* dst, const uint8_t* src, CopyMode) const; // its bytes

 private:
  struct Cut { // of a list of large segments
    uint32_t segment;
    uint64_t offset;
  };
  std::span<const KvSegment> segments_;
  uint32_t count_ = 0, each_ = 0; // segments of a piece; 0: cuts_ says
  std::vector<Cut> cuts_;
};

}  // namespace baton::transport
