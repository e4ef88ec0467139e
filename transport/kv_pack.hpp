// kv_pack.hpp (internal): a layer of a move as one stream of bytes: packed from its segments here, unpacked into its segments there.
//
// The stream is the layer's bytes in the order of destination addresses, without gaps or headers. How the source is cut into segments does not
// show in it, so the far side needs its own block table alone. Both ends stop and go on at any byte: the caller's chunk may be of any size;
// one of 256 KiB to 1 MiB is still in the cache when it is sent. Of a plan that converts, the stream is its units (kv_recode.hpp), converted.
//
// Owner    The caller; base and segments outlive it.   Threads  one at a time.   Errors  none; the caller has checked the ranges.
// Cost     Packing cold segments: about as one memcpy of the same ones. Allocates nothing but, once, one unit.
//
//     Packer from(src, move.layer(l));      while (!from.done()) send(chunk.first(from.pack(chunk)));
//     Unpacker to(dst, segments, mode);     while (!to.done()) to.unpack(received());   copy_fence();   // if mode is streaming
#pragma once

#include "transport/copy_kernel.hpp"
#include "transport/kv_recode.hpp"

#include <span>
#include <vector>

namespace baton::transport {

class Packer {
 public:
  Packer(const uint8_t* src, std::span<const KvSegment>);
  Packer(const uint8_t* src, const LayerUnits&);
  uint64_t pack(std::span<uint8_t> out); // how many bytes it wrote: all of `out`, or what was left
  void skip(uint64_t bytes);             // as if they were packed
  bool done() const { return units_ ? next_ == units_.size() && offset_ == unit_.size() : next_ == segments_.size(); }

 private:
  uint64_t pack_units(std::span<uint8_t> out);

  const uint8_t* src_;
  std::span<const KvSegment> segments_;
  LayerUnits units_;
  std::vector<uint8_t> unit_;                    // one that did not fit into `out` as a whole
  size_t next_ = 0;                              // the segment being packed; the next unit
  uint64_t offset_ = 0;                          // in it; in unit_
};

class Unpacker {
 public:
  Unpacker(uint8_t* dst, std::span<const KvSegment>, CopyMode);
  Unpacker(uint8_t* dst, const LayerUnits&);
  uint64_t unpack(std::span<const uint8_t> in); // how many bytes it took: all of `in`, or what was missing
  bool done() const { return next_ == (units_ ? units_.size() : segments_.size()); }

 private:
  uint64_t unpack_units(std::span<const uint8_t> in);

  uint8_t* dst_;
  std::span<const KvSegment> segments_;
  LayerUnits units_;
  std::vector<uint8_t> unit_; // one of which the rest has not come
  CopyMode mode_ = CopyMode::cached;
  size_t next_ = 0;
  uint64_t offset_ = 0;
};

}  // namespace baton::transport
