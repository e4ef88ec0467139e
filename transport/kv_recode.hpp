// kv_recode.hpp (internal): moves what a plan converts: a layer's tokens, unit by unit (see KvMove), into another dtype and with other scales.
//
// A number becomes f32(x) * factor, to the nearest of the destination's dtype. factor = (scale of the source's block and head, else 1) *
// (1 / scale of the destination's, else 1), in f32. The destination's scale is made: the largest finite |number| that the unit has of that head
// becomes the largest code (kv_scale). Reading comes first and whole: the source of a unit must not change meanwhile.
//
// A unit can also be packed, as a stream of bytes for a fabric that cannot write in place: its numbers in the order of the destination without gaps,
// then its scales, f32 [k|v][head]. Of the source it has only the values, so the far side needs its own layout and block table alone.
//
// Owner    Recoder: a value, made of a plan.   Threads  const use from any.   Cost  see the group convert of baton-bench; allocates nothing.
// Errors   none: plans refuse what does not convert, and the caller has checked that both buffers have KvLayout::bytes().
//
//     const Recoder how(plan);
//     for (size_t u = 0; u < move.units(l); ++u) how.move(dst, src, l, move.unit(u));
#pragma once

#include "transport/copy_kernel.hpp"
#include "transport/kv_convert.hpp"
#include "transport/kv_layout.hpp"

#include <span>

namespace baton::transport {

class Checksum;

class Recoder {
 public:
  Recoder() = default;
  explicit Recoder(const KvPlan&);
  uint64_t unit_bytes(std::span<const KvRun> unit) const; // at the destination and in the stream
  uint64_t dst_bytes() const { return dst_bytes_; }       // of the whole destination: nothing is written beyond
  // `then` is moved after it: its source is prefetched. Streamed stores need a copy_fence(). To `stream`, if given, it is packed as well.
  void move(uint8_t* dst, const uint8_t* src, uint32_t layer, std::span<const KvRun> unit, std::span<const KvRun> then = {}, CopyMode = CopyMode::cached, uint8_t* stream = nullptr) const;
  void pack(uint8_t* stream, const uint8_t* src, uint32_t layer, std::span<const KvRun> unit, std::span<const KvRun> then = {}) const;
  void unpack(uint8_t* dst, const uint8_t* stream, uint32_t layer, std::span<const KvRun> unit) const;
  void repack(uint8_t* stream, const uint8_t* dst, uint32_t layer, std::span<const KvRun> unit) const; // of what has landed: the same stream

 private:
  struct Side { // in bytes; a layer, head, block or token that the side has more of are so far apart
    uint64_t at = 0, layer = 0, half = 0, block = 0, token = 0, head = 0;
    uint64_t scales = 0, scale_layer = 0, scale_half = 0, scale_block = 0; // of heads: 4
    bool scaled = false;
    uint32_t layer_begin = 0;
  };
  struct How {
    ConvertFn convert;
    RowsFn rows; // nullptr: row by row
    LargestFn largest;
    uint32_t from_element, to_element;
    program::DType to;
    bool carry; // scales as they are
  };
  static Side side(const KvLayout&, const KvPart&);
  Side packed(std::span<const KvRun> unit) const;
  void run(const How&, const Side& from, const Side& to, uint8_t* dst, const uint8_t* src, uint32_t layer, std::span<const KvRun> unit, std::span<const KvRun> then = {}, bool stream = false, uint8_t* also = nullptr) const;

  KvLayout unit_; // the destination's, of the part's heads and one layer; block_tokens are those of a unit
  Side from_, to_;
  How how_{}, copy_{};
  uint32_t halves_ = 0, heads_ = 0, head_dim_ = 0;
  uint64_t dst_bytes_ = 0;
};

// A layer of a converting move: what a fabric has in place of segments. Both outlive it.
struct LayerUnits {
  const Recoder* how = nullptr;
  const KvMove* move = nullptr;
  uint32_t layer = 0;
  explicit operator bool() const { return how; }
  size_t size() const { return move->units(layer); }
  // Moves units from `next` on: at least one, and no more than are `budget` bytes at the destination; returns the bytes.
  // With a sum: they are added to it, from `scratch`.
  uint64_t step(uint8_t* dst, const uint8_t* src, size_t& next, uint64_t budget, CopyMode = CopyMode::cached, Checksum* sum = nullptr, std::vector<uint8_t>* scratch = nullptr) const;
  std::span<const KvRun> unit(size_t i) const { return i < size() ? move->unit(i) : std::span<const KvRun>(); }
  void add_landed(Checksum&, const uint8_t* dst, std::vector<uint8_t>& scratch) const; // the same of all units, as they are there
};

}  // namespace baton::transport
