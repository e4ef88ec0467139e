#include "transport/kv_pieces.hpp"

#include <algorithm>

namespace baton::transport {

KvPieces::KvPieces(std::span<const KvSegment> segments, uint64_t bytes) : segments_(segments) {
  if (segments.empty()) return;
  if (const uint64_t average = bytes / segments.size(); average < kPieceBytes) {
    each_ = uint32_t(std::min<uint64_t>(segments.size(), kPieceBytes / std::max<uint64_t>(average, 1)));
    count_ = uint32_t((segments.size() + each_ - 1) / each_);
    return;
  }
  for (uint32_t i = 0; i < segments.size(); ++i)
    for (uint64_t at = 0; at < segments[i].bytes; at += kPieceBytes) cuts_.push_back({i, at});
  count_ = uint32_t(cuts_.size());
}

uint64_t KvPieces::copy(uint32_t piece, uint8_t* dst, const uint8_t* src, CopyMode mode) const {
  if (each_) {
    const auto mine = segments_.subspan(size_t(piece) * each_, std::min<size_t>(each_, segments_.size() - size_t(piece) * each_));
    copy_segments(dst, src, mine, mode);
    uint64_t bytes = 0;
    for (const KvSegment& s : mine) bytes += s.bytes;
    return bytes;
  }
  const Cut c = cuts_[piece];
  const KvSegment& s = segments_[c.segment];
  const uint64_t n = std::min(kPieceBytes, s.bytes - c.offset);
  copy_bytes(dst + s.dst + c.offset, src + s.src + c.offset, n, mode);
  return n;
}

}  // namespace baton::transport
