// shard.hpp: which part of each weight one rank of a tensor-parallel group holds, and those parts as constants for load().
//
// q, k, v, gate and up are cut by rows (heads, features); o and down by columns, with the K segments that keep the sum's tree the
// same for every number of ranks; embeddings, norms and lm_head are on every rank. With more ranks than KV heads, neighbours hold the same one.
//
// Owner    Constants point into the Weights' mappings; column cuts and inv_freq are copies that they own.
// Threads  any.   Cost  a copy of o and down where ranks > 1, else pointers.
// Errors   INVALID_ARGUMENT: ranks that do not divide, with the numbers; CORRUPT / UNSUPPORTED: tensors, named.
//
//     BATON_ASSIGN(Shard s, Shard::make(config, rank, ranks));
//     BATON_ASSIGN(Constants c, Constants::gather(model, s));
//     dev.load(bytes, c.list(), lane, s.rank, s.ranks);
#pragma once

#include "tools/model/model.hpp"

#include <deque>
#include <functional>
#include <span>
#include <vector>

namespace baton::model {

struct Shard {
  uint32_t rank = 0, ranks = 1;
  uint32_t heads = 0, kv_heads = 0, kv_begin = 0, ffn = 0; // of this rank; kv_begin: its first KV head in the model
  uint32_t o_segments = 1, down_segments = 1;              // of this rank's matmuls
  static Result<Shard> make(const ModelConfig&, uint32_t rank, uint32_t ranks);
};

// One weight of the program: which tensor, and which rectangle of it.
struct WeightPart {
  std::string name;               // in the program: "l0.q"
  std::string tensor;             // in the checkpoint
  std::vector<uint64_t> whole;    // the tensor's shape
  std::vector<int64_t> shape;     // this rank's
  uint64_t row = 0, column = 0;   // where it begins
};
// All weights of one rank in the order of use; inv_freq is not among them.
std::vector<WeightPart> weight_parts(const ModelConfig&, const Shard&);

class Constants {
 public:
  static Result<Constants> gather(const Model&, const Shard&);
  std::span<const baton_constant> list() const { return list_; }

 private:
  void add(const std::string& name, const void* data, uint64_t bytes);
  std::deque<std::string> names_;
  std::deque<std::vector<uint8_t>> copies_;
  std::vector<baton_constant> list_;
};

}  // namespace baton::model
