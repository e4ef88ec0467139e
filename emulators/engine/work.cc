// What an op does, for the timing model: a function of shapes, positions and ranks, never of the numbers.
#include "emulators/engine/run.h"

#include <algorithm>

namespace baton::engine {
namespace {

using program::Act;
using program::DType;
using program::dtype_bytes;
using program::kSteps;
using program::kTokens;
using program::Op;
using program::OpCode;
using program::Storage;
using program::Value;

class Shapes {
 public:
  explicit Shapes(const Run::Impl& r) : r_(r) {}
  const Value& value(uint32_t v) const { return r_.x.program.values[v]; }
  uint64_t rows(uint32_t v) const {
    const int64_t d = value(v).shape[0];
    return d == kTokens ? r_.tokens : d == kSteps ? 1 : uint64_t(d);
  }
  uint64_t width(uint32_t v) const { return uint64_t(value(v).shape[1]); }
  uint64_t bytes(uint32_t v) const { return rows(v) * width(v) * dtype_bytes(value(v).dtype); }
  // Of a constant.
  uint64_t dense(uint32_t v) const {
    uint64_t n = dtype_bytes(value(v).dtype);
    for (int64_t d : value(v).shape) n *= uint64_t(d);
    return n;
  }

 private:
  const Run::Impl& r_;
};

// f32 activations in and out.
uint64_t activations(const Shapes& s, const Op& op) {
  uint64_t bytes = 0;
  for (const auto* list : {&op.in, &op.out})
    for (uint32_t v : *list)
      if (s.value(v).dtype == DType::f32 && s.value(v).storage != Storage::constant && s.value(v).storage != Storage::cache) bytes += s.bytes(v);
  return bytes;
}

void attention(const Run::Impl& r, const Shapes& s, const Op& op, OpWork& w) {
  const Value& cache = s.value(op.in[1]);
  const uint64_t position = r.now();
  auto seen = [&](uint64_t row) { return std::min<uint64_t>(position + row + 1, op.window ? op.window : UINT32_MAX); };
  uint64_t keys = 0;  // summed over rows
  for (uint64_t row = 0; row < w.tokens; ++row) keys += seen(row);
  w.context = uint32_t(seen(w.tokens - 1));
  w.n = w.context;
  w.k = uint64_t(op.heads) * op.head_dim;
  w.macs = 2 * keys * w.k;  // q.k and p.v
  w.exps = keys * op.heads;
  // Each key and value that any row sees is read once.
  const uint64_t touched = std::min<uint64_t>(position + w.tokens, op.window ? uint64_t(op.window) + w.tokens - 1 : UINT32_MAX);
  w.kv_bytes = touched * op.kv_heads * op.head_dim * 2 * dtype_bytes(cache.dtype);
  w.bf16 = op.act == Act::bf16 && cache.dtype == DType::bf16;
}

}  // namespace

OpWork work_of(const Run::Impl& r) {
  const Shapes s(r);
  const Op& op = r.x.program.ops[r.op];
  OpWork w{.code = op.code, .layer = op.layer, .op = uint32_t(r.op), .act_bytes = activations(s, op), .ranks = r.x.program.ranks, .bf16 = r.x.bf16};
  if (!op.in.empty()) w.tokens = uint32_t(op.code == OpCode::embed ? s.rows(op.out[0]) : s.rows(op.in[0]));
  if (op.code != OpCode::embed && !op.in.empty()) w.n = s.width(op.in[0]);
  switch (op.code) {
    case OpCode::embed: w.weight_bytes = s.rows(op.out[0]) * s.width(op.out[0]) * dtype_bytes(s.value(op.in[1]).dtype); break;
    case OpCode::rms_norm:
      w.k = uint64_t(s.value(op.in[1]).shape[0]);
      w.weight_bytes = s.dense(op.in[1]);
      break;
    case OpCode::matmul:
      w.n = uint64_t(s.value(op.in[1]).shape[0]);
      w.k = uint64_t(s.value(op.in[1]).shape[1]);
      w.macs = uint64_t(w.tokens) * w.n * w.k;
      w.weight_bytes = s.dense(op.in[1]) + (op.in.size() == 3 ? s.dense(op.in[2]) : 0);
      w.bf16 = op.act == Act::bf16 && s.value(op.in[1]).dtype == DType::bf16;
      break;
    case OpCode::kv_store: w.kv_bytes = uint64_t(w.tokens) * op.kv_heads * op.head_dim * 2 * dtype_bytes(s.value(op.out[0]).dtype); break;
    case OpCode::attention: attention(r, s, op, w); break;
    case OpCode::silu_mul: w.exps = s.rows(op.in[0]) * s.width(op.in[0]); break;
    case OpCode::take_last: w.act_bytes = 2 * s.width(op.in[0]) * sizeof(float); break;
    default: break;
  }
  return w;
}

}  // namespace baton::engine
