// One op on host memory: finds the operands' addresses and calls a kernel.
#include "emulators/engine/run.h"
#include "emulators/engine/sampling.h"
#include "hal/program/kv_view.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace baton::engine {
namespace {

using program::Act;
using program::dtype_bytes;
using program::kSteps;
using program::kTokens;
using program::Op;
using program::OpCode;
using program::Storage;
using program::Value;

// The operands of the current op.
class Frame {
 public:
  explicit Frame(Run::Impl& r) : r_(r), x_(r.x), op_(r.x.program.ops[r.op]) {}
  const Op& op() const { return op_; }
  const Value& value(uint32_t v) const { return x_.program.values[v]; }
  uint32_t rows(uint32_t v) const {
    const int64_t d = value(v).shape[0];
    return d == kTokens ? r_.tokens : d == kSteps ? 1 : uint32_t(d);
  }
  uint64_t width(uint32_t v) const { return uint64_t(value(v).shape[1]); }
  uint64_t count(uint32_t v) const { return rows(v) * width(v); }
  float* f32(uint32_t v) const {
    auto* p = reinterpret_cast<float*>(r_.s->base[v]);
    // Only a bound output has a row for each step; its stand-in in the arena has one.
    return value(v).shape[0] == kSteps && r_.s->bound[v] ? p + r_.iteration * width(v) : p;
  }
  const float* in(size_t i) const { return f32(op_.in[i]); }
  float* out() const { return f32(op_.out[0]); }
  int32_t* i32(uint32_t v) const { return reinterpret_cast<int32_t*>(r_.s->base[v]); }
  const Weight& weight(size_t i) const { return x_.weights[op_.in[i]]; }
  const float* vector(size_t i) const { return reinterpret_cast<const float*>(weight(i).vector.data()); }
  const BlockTable& table() const { return x_.tables[x_.table_of[r_.op]]; }
  const int32_t* blocks() const { return r_.s->entries(x_.table_of[r_.op]); }

 private:
  Run::Impl& r_;
  Executable::Impl& x_;
  const Op& op_;
};

Status embed(Run::Impl& r, const Frame& f) {
  const Op& op = f.op();
  const Value& table = f.value(op.in[1]);
  const Weight& kept = f.weight(1);
  const uint64_t hidden = uint64_t(table.shape[1]);
  const int32_t* ids = f.i32(op.in[0]) + (r.x.program.loop ? r.iteration : 0);
  for (uint32_t row = 0; row < f.rows(op.out[0]); ++row) {
    const int32_t id = ids[row];
    if (id < 0 || id >= table.shape[0])
      return Error(BATON_INVALID_ARGUMENT,
                   fmt::format("{}: '{}' holds token {} at position {}, the vocabulary has {}", r.x.program.name, f.value(op.in[0]).name, id,
                               r.now() + row, table.shape[0]),
                   "do not write the token buffer while the launch runs");
    float* to = f.out() + row * hidden;
    if (kept.as_matrix)
      gather_packed_row(kept.packed, uint32_t(id), *r.x.kernels, to);
    else
      r.x.kernels->widen(kept.rows.data() + uint64_t(id) * hidden * dtype_bytes(table.dtype), hidden, table.dtype, to);
  }
  return {};
}

void rms_norm(Run::Impl& r, const Frame& f) {
  const Op& op = f.op();
  const uint32_t d = uint32_t(f.value(op.in[1]).shape[0]);
  r.x.kernels->rms_norm(*r.x.pool, f.in(0), f.count(op.in[0]) / d, d, f.vector(1), op.eps, f.out());
}

void matmul(Run::Impl& r, const Frame& f) {
  const Op& op = f.op();
  const PackedMatrix& m = f.weight(1).packed;
  const float* bias = op.in.size() == 3 ? f.vector(2) : nullptr;
  r.x.kernels->matmul(*r.x.pool, f.in(0), m.k, f.rows(op.in[0]), m, bias, op.act, f.out(), m.n);
}

void rope(Run::Impl& r, const Frame& f) {
  const uint32_t t = r.x.rope_of[r.op];
  r.x.kernels->rope(*r.x.pool, f.in(0), reinterpret_cast<const float*>(r.s->cos[t].data()), reinterpret_cast<const float*>(r.s->sin[t].data()),
                    f.rows(f.op().in[0]), f.op().heads, f.op().head_dim, f.out());
}

void kv_store(Run::Impl& r, const Frame& f) {
  const Op& op = f.op();
  const program::DType dtype = f.value(op.out[0]).dtype;
  const uint32_t size = dtype_bytes(dtype);
  const uint32_t block_tokens = f.table().block_tokens;
  uint8_t* cache = r.s->base[op.out[0]];
  // Heads that lie one after another are rounded in one go.
  const bool dense = op.view.head_stride == op.head_dim || op.kv_heads == 1;
  const uint32_t runs = dense ? 1 : op.kv_heads;
  const uint64_t run = uint64_t(op.head_dim) * (dense ? op.kv_heads : 1);
  for (uint32_t row = 0; row < f.rows(op.in[0]); ++row) {
    const uint32_t at = r.now() + row;
    const uint64_t block = uint64_t(f.blocks()[at / block_tokens]);
    for (int v = 0; v < 2; ++v)
      for (uint32_t h = 0; h < runs; ++h) {
        const uint64_t element = kv_element(op.view, op.layer, v, block, at % block_tokens, h);
        r.x.kernels->round_to(f.in(v) + row * f.width(op.in[v]) + h * run, run, dtype, cache + element * size);
      }
  }
}

void attention(Run::Impl& r, const Frame& f) {
  const Op& op = f.op();
  const Value& cache = f.value(op.in[1]);
  AttentionArgs a{};
  a.q = f.in(0);
  a.out = f.out();
  a.rows = f.rows(op.in[0]);
  a.heads = op.heads;
  a.kv_heads = op.kv_heads;
  a.head_dim = op.head_dim;
  a.window = op.window;
  a.position = r.now();
  a.scale = op.scale;
  a.act = op.act;
  a.kv_dtype = cache.dtype;
  a.cache = r.s->base[op.in[1]];
  a.view = op.view;
  a.layer = op.layer;
  a.block_table = f.blocks();
  r.x.kernels->attention(*r.x.pool, a);
}

Status all_reduce(Run::Impl& r, const Frame& f) {
  const uint64_t n = f.count(f.op().in[0]);
  std::memcpy(f.out(), f.in(0), n * sizeof(float));
  return r.hooks.collective->all_reduce(r.hooks.rank, f.out(), n);
}

Status all_gather(Run::Impl& r, const Frame& f) {
  const uint32_t x = f.op().in[0];
  return r.hooks.collective->all_gather(r.hooks.rank, f.in(0), f.rows(x), f.width(x), f.out());
}

Status reduce_scatter(Run::Impl& r, const Frame& f) {
  const uint32_t x = f.op().in[0];
  return r.hooks.collective->reduce_scatter(r.hooks.rank, f.in(0), f.rows(x), f.width(x), f.out());
}

void take_last(const Frame& f) {
  const uint64_t width = f.width(f.op().in[0]);
  std::memcpy(f.out(), f.in(0) + (f.rows(f.op().in[0]) - 1) * width, width * sizeof(float));
}

void sample(Run::Impl& r, const Frame& f) {
  const Op& op = f.op();
  const bool loop = r.x.program.loop;
  Draw d{.temperature = r.temperature, .top_p = r.top_p, .seed = r.seed};
  d.position = uint64_t(r.now()) + (loop ? 1 : r.tokens); // the token drawn follows the last row
  const int32_t token = int32_t(draw(*r.x.kernels, f.in(0), uint32_t(f.width(op.in[0])), d, reinterpret_cast<float*>(r.s->probabilities.data()),
                                     reinterpret_cast<uint32_t*>(r.s->order.data())));
  int32_t* to = f.i32(op.out[0]);
  if (!loop) {
    to[0] = token;
    return;
  }
  to[r.iteration + 1] = token;
  if (r.stop && std::find(op.stops.begin(), op.stops.end(), token) != op.stops.end()) {
    r.stopped = true;
    std::fill(to + r.iteration + 2, to + r.steps + 1, -1);
  }
}

Status mark(Run::Impl& r) {
  const uint64_t k = ++r.marks;
  if (!r.hooks.on_mark || r.hooks.on_mark(k, uint64_t(std::llround(r.modelled)))) return {};
  return Error(BATON_CANCELLED, fmt::format("{}: cancelled at mark {}", r.x.program.name, k), "");
}

Status compute(Run::Impl& r, const Frame& f) {
  FlushDenormals flush;
  const Op& op = f.op();
  switch (op.code) {
    case OpCode::embed: return embed(r, f);
    case OpCode::rms_norm: rms_norm(r, f); break;
    case OpCode::matmul: matmul(r, f); break;
    case OpCode::rope: rope(r, f); break;
    case OpCode::kv_store: kv_store(r, f); break;
    case OpCode::attention: attention(r, f); break;
    case OpCode::silu_mul: r.x.kernels->silu_mul(*r.x.pool, f.in(0), f.in(1), f.count(op.in[0]), f.out()); break;
    case OpCode::add: r.x.kernels->add(*r.x.pool, f.in(0), f.in(1), f.count(op.in[0]), f.out()); break;
    case OpCode::all_reduce: return all_reduce(r, f);
    case OpCode::take_last: take_last(f); break;
    case OpCode::sample: sample(r, f); break;
    case OpCode::mark: break;
    case OpCode::all_gather: return all_gather(r, f);
    case OpCode::reduce_scatter: return reduce_scatter(r, f);
  }
  return {};
}

}  // namespace

void fill_ropes(Run::Impl& r) {
  if (!r.x.options.numbers) return;
  for (size_t n = 0; n < r.x.ropes.size(); ++n) {
    const Rope& t = r.x.ropes[n];
    const auto* inv_freq = reinterpret_cast<const float*>(r.x.weights[t.inv_freq].vector.data());
    auto* cos = reinterpret_cast<float*>(r.s->cos[n].data());
    auto* sin = reinterpret_cast<float*>(r.s->sin[n].data());
    for (uint32_t row = 0; row < r.tokens; ++row)
      for (uint32_t i = 0; i < t.half; ++i) {
        const double angle = double(r.now() + row) * double(inv_freq[i]);
        cos[uint64_t(row) * t.half + i] = float(std::cos(angle) * double(t.scale));
        sin[uint64_t(row) * t.half + i] = float(std::sin(angle) * double(t.scale));
      }
  }
}

Status execute(Run::Impl& r) {
  Frame f(r);
  if (f.op().code == OpCode::mark) return mark(r);
  if (r.x.options.numbers) BATON_TRY(compute(r, f));
  if (r.x.options.cost) r.modelled += r.x.options.cost->op_ns(work_of(r));
  return {};
}

}  // namespace baton::engine
