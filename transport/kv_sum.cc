#include "transport/kv_sum.hpp"

#include <algorithm>

namespace baton::transport {

void LayerSum::follow(const Batch& b, std::vector<uint8_t>& scratch) {
  if (b.units) {
    b.units.add_to(sum_, b.src, false, next_, b.next, scratch);
    next_ = std::max(next_, b.next);
    return;
  }
  auto add = [&](uint64_t end) { sum_.add(b.src + b.segments[next_].src + offset_, end - offset_); };
  for (; next_ < b.next; ++next_, offset_ = 0) add(b.segments[next_].bytes);
  if (offset_ < b.offset) add(b.offset);
  offset_ = b.offset;
}

void LayerSum::landed(const uint8_t* base, std::span<const KvSegment> segments, const LayerUnits& units, std::vector<uint8_t>& scratch) {
  for (const KvSegment& g : segments) sum_.add(base + g.dst, g.bytes);
  if (units) units.add_to(sum_, base, true, 0, units.size(), scratch);
}

uint64_t sum_of(std::span<const uint64_t> layers) { return std::max<uint64_t>(checksum(layers.data(), layers.size_bytes()), 1); }

}  // namespace baton::transport
