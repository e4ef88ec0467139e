// kv_layout.hpp: how one side keeps a KV-cache, and the plan that moves tokens of it from one layout to another.
//
// A layout says where each element is: layers, heads, head_dim, dtype, block size, order, how K and V lie, and which shard of the model
// (heads of a rank, layers of a wafer) this buffer holds. A plan is compiled once from a pair of layouts and instantiated for each
// request (block tables, tokens) into coalesced byte segments, one list for each layer.
//
// Where dtypes or scales differ the plan converts: f32, bf16, f16 and the two FP8 to one another, by the sender, in its copy. FP8 without scales
// keeps what is beyond its largest number at that number. Scales of the source are read; those of the destination are made of all that lands in a
// block of one head. FP8 with scales in blocks of the same size is copied as it is, scales too.
//
// Owner  plain data.   Threads  const use from any.   Cost  instantiate: nanoseconds a segment; into a warm KvMove it allocates nothing.
// Errors MISMATCH with the first difference named; INVALID_ARGUMENT for a layout that contradicts itself.
//
//     BATON_ASSIGN(auto plan, KvPlan::compile(rank_layout, decode_layout));
//     BATON_ASSIGN(auto move, plan.instantiate(src_blocks, dst_blocks, 0, tokens));
//     for (auto& s : move.layer(l)) memcpy(dst + s.dst, src + s.src, s.bytes);   // bytes into the two buffers; if plan.converts(): kv_recode.hpp
#pragma once

#include "hal/baton.hpp"
#include "hal/program/program.hpp"

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace baton::transport {

enum class KvOrder : uint8_t {
  token_major = 1, // [layer][k|v][block][token][head][d]   (NHD)
  head_major = 2,  // [layer][k|v][block][head][token][d]   (HND)
  block_major = 3, // [block][layer][k|v][token][head][d]
};
const char* order_name(KvOrder);
Result<KvOrder> parse_order(std::string_view);

// Where V lies beside K. The bracket [k|v] of the orders moves; latent has none.
enum class KvPairing : uint8_t {
  apart = 1,  // as the orders say
  block = 2,  // [layer][block][k|v][token][head][d], head_major [layer][block][k|v][head][token][d]; block_major has it so when apart
  token = 3,  // [layer][block][token][k|v][head][d], head_major [layer][block][head][token][k|v][d], block_major [block][layer][token][k|v][head][d]
  latent = 4, // MLA: one row [c | rope] of head_dim a token, no V; the one head is whole on every rank that holds it
};
const char* pairing_name(KvPairing);
Result<KvPairing> parse_pairing(std::string_view);

// Where the scales of FP8 numbers are. block_head: f32, one for each layer, K or V, block and head, behind the numbers:
// [layer][k|v][block][head] from the first multiple of 64 bytes, whatever the order of the numbers.
enum class KvScales : uint8_t { none = 0, block_head = 1 };
const char* scales_name(KvScales);
Result<KvScales> parse_scales(std::string_view);

struct KvLayout {
  uint32_t layers = 0;     // of the model
  uint32_t kv_heads = 0;   // of the model
  uint32_t head_dim = 0;
  program::DType dtype = program::DType::bf16;
  KvOrder order = KvOrder::token_major;
  uint32_t block_tokens = 16;
  uint32_t blocks = 0;     // in the buffer
  uint32_t head_begin = 0, head_count = 0; // the shard of heads held here (several ranks may hold the same head)
  KvPairing pairing = KvPairing::apart;
  uint32_t layer_begin = 0, layer_count = 0; // the shard of layers held here; count 0: all
  uint32_t rope_dim = 0;                     // latent: the last elements of a row that carry the position
  KvScales scales = KvScales::none;          // of an FP8 dtype

  uint32_t layers_held() const { return layer_count ? layer_count : layers; }
  uint32_t halves() const { return pairing == KvPairing::latent ? 1 : 2; } // K and V, or the row
  uint64_t bytes() const;            // of the buffer
  uint64_t scale_at(uint32_t layer, uint32_t half, uint32_t block, uint32_t head) const; // byte of the f32; layer and head from the first held
  program::KvView strides() const;   // in elements; layer 0 is the first one held; v_offset is 0 for latent
  Result<program::KvView> view() const; // the strides, for kv_store and attention; UNSUPPORTED where those cannot read the layout
  struct Range {
    uint64_t begin = 0, end = 0; // bytes
  };
  // What these layers, counted from the first held, of these blocks (one at least) lie within: the numbers; and the scales, empty where there are none.
  std::array<Range, 2> range(uint32_t layer, uint32_t count, std::span<const int32_t> of) const;
  std::string describe() const;      // one line, stable
  uint64_t hash() const;             // xxh3 of describe()
  Status check() const;
  bool operator==(const KvLayout&) const = default;
};

struct KvSegment {
  uint64_t src, dst, bytes;
};

// Tokens that stay within one block on both sides.
struct KvRun {
  int32_t src, dst; // blocks
  uint32_t src_token, dst_token, tokens;
};

// What one request moves. A layer's segments are sorted by dst and do not overlap. Layers are numbered as in the model; one that the
// plan does not move has no segments. A move that converts has no segments but units, the same for every layer: the tokens that land in one
// block of the destination, without a gap, as runs. kv_recode.hpp moves them.
class KvMove {
 public:
  std::span<const KvSegment> layer(uint32_t l) const { return has(l) ? std::span(all_.data() + (l - first_) * each_, each_) : std::span<const KvSegment>(); }
  bool converts() const { return converts_; }
  size_t units(uint32_t l) const { return has(l) ? ends_.size() : 0; }
  std::span<const KvRun> unit(size_t i) const { return std::span(runs_).subspan(i ? ends_[i - 1] : 0, ends_[i] - (i ? ends_[i - 1] : 0)); }
  uint64_t bytes(uint32_t l) const { return has(l) ? layer_bytes_ : 0; } // at the destination, scales too
  uint64_t pieces(uint32_t l) const { return converts_ ? units(l) : layer(l).size(); }
  uint64_t total_bytes() const { return layer_bytes_ * layers_; }
  uint64_t total_segments() const { return each_ * layers_; }
  uint64_t memory() const { // bytes that it holds on to
    return all_.capacity() * sizeof(KvSegment) + runs_.capacity() * sizeof(KvRun) + (ends_.capacity() + scratch_.capacity()) * sizeof(uint32_t);
  }

 private:
  friend class KvPlan;
  bool has(uint32_t l) const { return l >= first_ && l - first_ < layers_; }
  std::vector<KvSegment> all_; // each_ * layers_, and what was there before
  std::vector<KvRun> runs_;    // sorted by the destination
  std::vector<uint32_t> ends_; // of units, in runs_
  std::vector<uint32_t> scratch_; // of instantiate(), kept for its memory
  bool converts_ = false;
  size_t each_ = 0;       // segments of a layer
  uint32_t first_ = 0, layers_ = 0;
  uint64_t layer_bytes_ = 0;
};

// A rectangle of the model: what one plan moves.
struct KvPart {
  uint32_t head_begin = 0, head_count = 0, layer_begin = 0, layer_count = 0;
  bool operator==(const KvPart&) const = default;
};

class KvPlan {
 public:
  // Moves the heads and layers that BOTH hold, narrowed to a part of them if given (so that of ranks that hold the same head only one sends
  // it). Same head_dim, layers, kv_heads, and latent or not; order, pairing of K and V, block size, shards, and dtypes that convert may differ.
  static Result<KvPlan> compile(const KvLayout& src, const KvLayout& dst);
  static Result<KvPlan> compile(const KvLayout& src, const KvLayout& dst, const KvPart&);
  static Result<KvPlan> compile(const KvLayout& src, const KvLayout& dst, uint32_t head_begin, uint32_t head_count);
  // Tokens [begin, end) of a request whose blocks are these on each side. Both tables must cover `end` tokens and lie in the buffers.
  // Where the destination has scales, `begin` is the first token of one of its blocks: a scale is of all tokens that its block has, so who
  // moves a request in chunks begins again with the block that the last chunk left open. The scale of a block that `end` cuts is of its first tokens.
  Result<KvMove> instantiate(std::span<const int32_t> src_blocks, std::span<const int32_t> dst_blocks, uint64_t begin, uint64_t end) const;
  // The same into a move that was used before: allocates only where that was smaller. After an error `into` moves nothing.
  Status instantiate(std::span<const int32_t> src_blocks, std::span<const int32_t> dst_blocks, uint64_t begin, uint64_t end, KvMove& into) const;
  uint64_t hash() const; // of both layouts and the part: the two sides compare it
  const KvLayout& src() const { return src_; }
  const KvLayout& dst() const { return dst_; }
  const KvPart& part() const { return part_; }
  bool converts() const { return converts_; } // dtype or scales differ, or scales are of blocks of another size
  bool has_layer(uint32_t l) const { return l >= part_.layer_begin && l - part_.layer_begin < part_.layer_count; }

 private:
  struct Dim { // bytes from one to the next
    uint64_t count, src, dst;
  };
  enum class Scope : uint8_t { run, block, request }; // what V follows at the destination: its K of a run, of a block, of all
  class Out;
  void nest();
  void put(Out&, const KvRun&, uint64_t half) const;
  Status sorted_runs(std::span<const int32_t> src_blocks, std::span<const int32_t> dst_blocks, uint64_t begin, uint64_t end, bool dense, KvMove&) const;
  Status segments(KvMove&) const;
  Status layers_of(const Out&, size_t numbers, KvMove&) const;
  void put_scales(Out&, const std::vector<KvRun>&) const;

  KvLayout src_, dst_;
  KvPart part_;
  program::KvView from_, to_;         // strides in bytes
  Dim dims_[3] = {};                  // of a run, outermost at the destination first
  uint32_t n_dims_ = 0, token_dim_ = 0;
  Scope scope_ = Scope::run;
  std::vector<KvSegment> whole_[2];   // what most runs are: a whole block on both sides, block 0 to block 0; V apart if it follows all of K. May be empty
  uint64_t row_bytes_ = 0, src_base_ = 0, dst_base_ = 0;
  bool converts_ = false;
};

// MISMATCH with the first difference in what both sides of a plan must share.
Status same_kv_model(const KvLayout& src, const KvLayout& dst);
// The heads and layers that both hold; counts of 0 where there are none.
KvPart common_part(const KvLayout& src, const KvLayout& dst);

}  // namespace baton::transport
