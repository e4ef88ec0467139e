#include "transport/kv_pack.hpp"

#include <algorithm>
#include <cstring>

namespace baton::transport {
Packer::Packer(const uint8_t* src, std::span<const KvSegment> segments) : src_(src), segments_(segments) {}

Packer::Packer(const uint8_t* src, const LayerUnits& units) : src_(src), units_(units) {}

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

void Packer::skip(uint64_t bytes) {
  if (!units_) {
    for (; bytes; offset_ = 0) {
      const uint64_t left = segments_[next_].bytes - offset_;
      if (bytes < left) {
        offset_ += bytes;
        break;
      }
      bytes -= left;
      ++next_;
    }
    return;
  }
  while (bytes) {
    const uint64_t left = unit_.size() - offset_, n = std::min(bytes, left);
    offset_ += n;
    bytes -= n;
    if (!bytes) break;
    const auto unit = units_.move->unit(next_++);
    const uint64_t whole = units_.how->unit_bytes(unit);
    unit_.clear();
    offset_ = 0;
    if (bytes >= whole) {
      bytes -= whole;
      continue;
    }
    unit_.resize(whole);
    units_.how->pack(unit_.data(), src_, units_.layer, unit, units_.unit(next_));
  }
}

uint64_t Packer::pack(std::span<uint8_t> out) {
  if (units_) return pack_units(out);
  uint64_t done = 0;
  while (done < out.size() && next_ < segments_.size()) {
    const KvSegment& s = segments_[next_];
    const uint8_t* from = src_ + s.src + offset_;
    const uint64_t left = s.bytes - offset_, n = std::min(left, out.size() - done);
    CopyNext next{from + n, left - n}; // of the next piece, if this one ends within the segment
    if (n == left && next_ + 1 < segments_.size()) next = {src_ + segments_[next_ + 1].src, segments_[next_ + 1].bytes};
    if (next_ + 2 < segments_.size()) __builtin_prefetch(src_ + segments_[next_ + 2].src, 0, 2); // finds its page
    copy_near(out.data() + done, from, n, next);
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
