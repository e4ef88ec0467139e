#include "transport/kv_pack.hpp"

#include <algorithm>
#include <cstring>

namespace baton::transport {
namespace {

// The source is prefetched this far ahead of the copy, over the ends of segments, which the hardware's prefetcher cannot. Measured on a Zen 4,
// 64 MiB: 4 KiB segments 7.6 ms instead of 9.3, 512 B 9.4 instead of 12; 8 KiB ahead gains no more.
constexpr uint64_t kAhead = 4096, kStep = 512;

} // namespace

Packer::Packer(const uint8_t* src, std::span<const KvSegment> segments) : src_(src), segments_(segments) { prefetch(kAhead); }

Packer::Packer(const uint8_t* src, const LayerUnits& units) : src_(src), units_(units) {}

void Packer::prefetch(uint64_t bytes) {
  while (bytes && ahead_ < segments_.size()) {
    const KvSegment& s = segments_[ahead_];
    const uint64_t n = std::min(bytes, s.bytes - ahead_offset_);
    const uint8_t* p = src_ + s.src + ahead_offset_;
    for (uint64_t line = 0; line < n; line += 64) __builtin_prefetch(p + line, 0, 3);
    bytes -= n;
    ahead_offset_ += n;
    if (ahead_offset_ == s.bytes) ++ahead_, ahead_offset_ = 0;
  }
}

uint64_t Packer::pack_units(std::span<uint8_t> out) {
  uint64_t done = 0;
  while (done < out.size()) {
    if (offset_ < unit_.size()) {
      const uint64_t n = std::min(unit_.size() - offset_, out.size() - done);
      std::memcpy(out.data() + done, unit_.data() + offset_, n);
      done += n;
      offset_ += n;
      continue;
    }
    if (next_ == units_.size()) break;
    const auto unit = units_.move->unit(next_++);
    const uint64_t bytes = units_.how->unit_bytes(unit);
    if (bytes <= out.size() - done) {
      units_.how->pack(out.data() + done, src_, units_.layer, unit, units_.unit(next_));
      done += bytes;
    } else {
      unit_.resize(bytes);
      units_.how->pack(unit_.data(), src_, units_.layer, unit, units_.unit(next_));
      offset_ = 0;
    }
  }
  return done;
}

uint64_t Packer::pack(std::span<uint8_t> out) {
  if (units_) return pack_units(out);
  uint64_t done = 0;
  while (done < out.size() && next_ < segments_.size()) {
    const KvSegment& s = segments_[next_];
    const uint64_t n = std::min({s.bytes - offset_, out.size() - done, kStep});
    prefetch(n);
    std::memcpy(out.data() + done, src_ + s.src + offset_, n);
    done += n;
    offset_ += n;
    if (offset_ == s.bytes) ++next_, offset_ = 0;
  }
  return done;
}

Unpacker::Unpacker(uint8_t* dst, std::span<const KvSegment> segments, CopyMode mode) : dst_(dst), segments_(segments), mode_(mode) {}

Unpacker::Unpacker(uint8_t* dst, const LayerUnits& units) : dst_(dst), units_(units) {}

uint64_t Unpacker::unpack_units(std::span<const uint8_t> in) {
  uint64_t done = 0;
  while (done < in.size() && next_ < units_.size()) {
    const auto unit = units_.move->unit(next_);
    const uint64_t bytes = units_.how->unit_bytes(unit), have = in.size() - done;
    const uint8_t* from = in.data() + done;
    if (unit_.empty() && bytes <= have) {
      units_.how->unpack(dst_, from, units_.layer, unit);
      done += bytes;
      ++next_;
      continue;
    }
    const uint64_t n = std::min(bytes - unit_.size(), have);
    unit_.insert(unit_.end(), from, from + n);
    done += n;
    if (unit_.size() < bytes) break;
    units_.how->unpack(dst_, unit_.data(), units_.layer, unit);
    unit_.clear();
    ++next_;
  }
  return done;
}

uint64_t Unpacker::unpack(std::span<const uint8_t> in) {
  if (units_) return unpack_units(in);
  uint64_t done = 0;
  while (done < in.size() && next_ < segments_.size()) {
    const KvSegment& s = segments_[next_];
    const uint64_t n = std::min(s.bytes - offset_, in.size() - done);
    copy_bytes(dst_ + s.dst + offset_, in.data() + done, n, mode_);
    done += n;
    offset_ += n;
    if (offset_ == s.bytes) ++next_, offset_ = 0;
  }
  return done;
}

}  // namespace baton::transport
