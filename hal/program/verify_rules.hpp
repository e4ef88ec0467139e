// verify_rules.hpp: what verify() knows while it walks the ops, shared by verify.cc (program, values, storage, definition before use)
// and verify_ops.cc (the shape and attribute rules of each op). Internal to hal/program.
//
// Owner  one verify() call.   Threads  one.   Errors  the first violation, naming op and value.
#pragma once

#include "hal/program/program.hpp"

#include <string>
#include <vector>

namespace baton::program {

class Rules {
 public:
  explicit Rules(const Program& p) : p_(p), uses_(p.values.size()) {}

  // Indices, storage and dtypes of the op's operands have been checked (verify.cc).
  Status op(size_t index);
  Error fail(const std::string& why) const; // "op 3 matmul (x, w): why"
  const Value& in(size_t i) const { return p_.values[p_.ops[op_].in[i]]; }
  const Value& out(size_t i) const { return p_.values[p_.ops[op_].out[i]]; }
  bool has(Arg a) const;
  // Element count of a value with its open axes at their bounds; 0 if a product is beyond kMaxElements.
  static uint64_t elements(const Program& p, const Value& v);

 private:
  Status embed(const Op& op);
  Status stops(const Op& op, int64_t vocabulary) const;
  Status rms_norm();
  Status matmul(const Op& op);
  Status rope(const Op& op);
  Status kv_store(const Op& op);
  Status attention(const Op& op);
  Status same_shape(std::initializer_list<const Value*> values);
  Status several_ranks() const;
  Status shards(const Value& part, const Value& whole) const;
  Status take_last();
  Status sample(const Op& op);

  Status rows(const Value& v, const char* role) const; // 2-D activations
  int64_t row_axis(const Value& v) const;              // kTokens is 1 in a loop
  Status need(Arg a) const;
  Status heads(const Op& op, const Value& v, uint32_t count) const;
  Status cache(const Op& op, uint32_t cache_index, const Value& table);
  std::string shown(const Value& v) const;
  Status token_buffer(const Value& v) const; // i32[max_steps + 1 or more] or i32[kSteps]

  struct Use { // what the ops so far have made of a value
    uint32_t segments = 0;   // matmul weight
    uint32_t cache_op = UINT32_MAX; // first op on this cache
  };
  const Program& p_;
  size_t op_ = 0;
  std::vector<Use> uses_;
};

}  // namespace baton::program
