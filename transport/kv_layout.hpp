// kv_layout.hpp: how one side keeps a KV-cache, and the plan that moves tokens of it from one layout to another.
//
// A layout says where each element is: layers, heads, head_dim, dtype, block size, order, and which shard of the model this
// buffer holds. A plan is compiled once from a pair of layouts and instantiated for each request (block tables, tokens) into
// coalesced byte segments, one list for each layer.
//
// Owner  plain data.   Threads  const use from any.   Cost  instantiate: nanoseconds a segment; segments() allocates nothing once warm.
// Errors MISMATCH with the first difference named; INVALID_ARGUMENT for a layout that contradicts itself.
//
//     BATON_ASSIGN(auto plan, KvPlan::compile(rank_layout, decode_layout));
//     BATON_ASSIGN(auto move, plan.instantiate(src_blocks, dst_blocks, 0, tokens));
//     for (auto& s : move.layer(l)) memcpy(dst + s.dst, src + s.src, s.bytes);
#pragma once

#include "hal/baton.hpp"
#include "hal/program/program.hpp"

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

struct KvLayout {
  uint32_t layers = 0;     // of the model
  uint32_t kv_heads = 0;   // of the model
  uint32_t head_dim = 0;
  program::DType dtype = program::DType::bf16;
  KvOrder order = KvOrder::token_major;
  uint32_t block_tokens = 16;
  uint32_t blocks = 0;     // in the buffer
  uint32_t head_begin = 0, head_count = 0; // the shard of heads held here (several ranks may hold the same head)

  uint64_t bytes() const;            // of the buffer
  program::KvView view() const;      // strides in elements, for kv_store and attention
  std::string describe() const;      // one line, stable
  uint64_t hash() const;             // xxh3 of describe()
  Status check() const;
  bool operator==(const KvLayout&) const = default;
};

struct KvSegment {
  uint64_t src, dst, bytes;
};

// The segments of one request. A layer's segments are sorted by dst and do not overlap.
class KvMove {
 public:
  std::span<const KvSegment> layer(uint32_t l) const { return {all_.data() + first_[l], first_[l + 1] - first_[l]}; }
  uint64_t bytes(uint32_t l) const { return layer_bytes_[l]; }
  uint64_t total_bytes() const;
  uint64_t total_segments() const { return all_.size(); }

 private:
  friend class KvPlan;
  std::vector<KvSegment> all_;
  std::vector<uint32_t> first_;
  std::vector<uint64_t> layer_bytes_;
};

class KvPlan {
 public:
  // Moves the heads [head_begin, head_begin + head_count) that BOTH hold, narrowed to `heads` of the source's if given (so that of ranks
  // that hold the same head only one sends it). Same dtype, head_dim, layers, kv_heads; order and block size may differ.
  static Result<KvPlan> compile(const KvLayout& src, const KvLayout& dst);
  static Result<KvPlan> compile(const KvLayout& src, const KvLayout& dst, uint32_t head_begin, uint32_t head_count);
  // Tokens [begin, end) of a request whose blocks are these on each side. Both tables must cover `end` tokens and lie in the buffers.
  Result<KvMove> instantiate(std::span<const int32_t> src_blocks, std::span<const int32_t> dst_blocks, uint64_t begin, uint64_t end) const;
  uint64_t hash() const; // of both layouts: the two sides compare it
  const KvLayout& src() const { return src_; }
  const KvLayout& dst() const { return dst_; }

 private:
  KvLayout src_, dst_;
  uint32_t head_begin_ = 0, head_count_ = 0;
};

}  // namespace baton::transport
