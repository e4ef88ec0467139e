#include "transport/kv_sum.hpp"

#include <algorithm>

namespace baton::transport {

void LayerSum::follow(const Batch& b) {
  if (b.units) return;
  auto add = [&](uint64_t end) { sum_.add(b.src + b.segments[next_].src + offset_, end - offset_); };
  for (; next_ < b.next; ++next_, offset_ = 0) add(b.segments[next_].bytes);
  if (offset_ < b.offset) add(b.offset);
  offset_ = b.offset;
}

void LayerSum::landed(const uint8_t* base, std::span<const KvSegment> segments, const LayerUnits& units, std::vector<uint8_t>& scratch) {
  for (const KvSegment& g : segments) sum_.add(base + g.dst, g.bytes);
  if (units) units.add_landed(sum_, base, scratch);
}

uint64_t sum_of(std::span<const uint64_t> layers) { return std::max<uint64_t>(checksum(layers.data(), layers.size_bytes()), 1); }

bool landed_right(const Note& note, const KvMoves& moves, const uint8_t* base, std::vector<uint8_t>& scratch) {
  if (note.source >= moves.parts.size()) return false;
  std::vector<uint64_t> sums;
  for (uint32_t l = moves.first_layer + note.layer; l <= moves.first_layer + note.layer + note.part; ++l) {
    LayerSum sum;
    for (uint32_t i = 0; i < moves.parts[note.source].size(); ++i)
      sum.landed(base, moves.parts[note.source][i].layer(l), moves.units(note.source, i, l), scratch);
    sums.push_back(sum.value());
  }
  return note.checksum == sum_of(sums);
}

}  // namespace baton::transport
