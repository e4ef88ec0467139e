// The shape and attribute rules of each op, as program.hpp states them.
#include "hal/program/kv_view.hpp"
#include "hal/program/limits.hpp"
#include "hal/program/verify_rules.hpp"

#include <fmt/format.h>

#include <bit>
#include <cmath>

namespace baton::program {

std::string Rules::shown(const Value& v) const {
  std::string s = v.name + " [";
  for (size_t i = 0; i < v.shape.size(); ++i) {
    if (i) s += ",";
    s += v.shape[i] == kTokens ? "T" : v.shape[i] == kSteps ? "S" : fmt::format("{}", v.shape[i]);
  }
  return s + "]";
}

int64_t Rules::row_axis(const Value& v) const { return p_.loop && v.shape[0] == kTokens ? 1 : v.shape[0]; }

bool Rules::has(Arg a) const {
  for (Arg b : p_.args)
    if (a == b) return true;
  return false;
}

Status Rules::need(Arg a) const {
  if (has(a)) return {};
  return fail(fmt::format("needs the launch argument '{}', which the program does not declare", arg_name(a)));
}

// An activation: [rows, width] with rows of this launch or a fixed number.
Status Rules::rows(const Value& v, const char* role) const {
  if (v.shape.size() != 2) return fail(fmt::format("{} {} must have two axes", role, shown(v)));
  if (v.shape[1] < 0) return fail(fmt::format("{} {}: only axis 0 may be T or S", role, shown(v)));
  if (v.shape[0] == kSteps) return fail(fmt::format("{} {}: an S axis is written by matmul and read by sample alone", role, shown(v)));
  return {};
}

Status Rules::same_shape(std::initializer_list<const Value*> values) {
  const Value& first = **values.begin();
  for (const Value* v : values) {
    BATON_TRY(rows(*v, "operand"));
    if (row_axis(*v) != row_axis(first) || v->shape[1] != first.shape[1])
      return fail(fmt::format("{} and {} must have the same shape", shown(first), shown(*v)));
  }
  return {};
}

Status Rules::token_buffer(const Value& v) const {
  bool ok = v.shape.size() == 1 && (v.shape[0] == kSteps || v.shape[0] >= int64_t(p_.max_steps) + 1);
  if (ok) return {};
  return fail(fmt::format("{}: in a loop this is the token buffer, i32[S] or i32[{} or more] (max_steps + 1)", shown(v), p_.max_steps + 1));
}

Status Rules::stops(const Op& op, int64_t vocabulary) const {
  if (op.stops.size() > kMaxStops) return fail(fmt::format("{} stop tokens, the limit is {}", op.stops.size(), kMaxStops));
  if (p_.loop && !op.stops.empty()) BATON_TRY(need(Arg::stop));
  for (int32_t s : op.stops)
    if (s < 0 || s >= vocabulary) return fail(fmt::format("stop token {} is outside of the vocabulary of {}", s, vocabulary));
  return {};
}

Status Rules::embed(const Op& op) {
  const Value &ids = in(0), &table = in(1), &x = out(0);
  if (table.shape.size() != 2) return fail(fmt::format("table {} must be [vocabulary, hidden]", shown(table)));
  BATON_TRY(rows(x, "output"));
  if (p_.loop) {
    BATON_TRY(token_buffer(ids));
    if (row_axis(x) != 1) return fail(fmt::format("output {} must have one row in a loop", shown(x)));
  } else if (ids.shape.size() != 1 || ids.shape[0] != x.shape[0]) {
    return fail(fmt::format("ids {} must be one id for each row of {}", shown(ids), shown(x)));
  }
  if (x.shape[1] != table.shape[1]) return fail(fmt::format("output {} must be as wide as table {}", shown(x), shown(table)));
  if (!op.stops.empty() && !(p_.loop && ids.storage == Storage::inout)) return fail(fmt::format("stop tokens without a loop's token buffer ({})", shown(ids)));
  return stops(op, table.shape[0]);
}

Status Rules::rms_norm() {
  const Value &x = in(0), &w = in(1);
  BATON_TRY(same_shape({&x, &out(0)}));
  if (w.shape.size() != 1 || x.shape[1] % w.shape[0])
    return fail(fmt::format("weight {} must have one axis that divides the width of {}", shown(w), shown(x)));
  float eps = p_.ops[op_].eps;
  if (!(std::isfinite(eps) && eps >= 0)) return fail(fmt::format("eps is {}, must be finite and not negative", eps));
  return {};
}

Status Rules::matmul(const Op& op) {
  const Value &x = in(0), &w = in(1), &y = out(0);
  BATON_TRY(rows(x, "input"));
  if (w.shape.size() != 2) return fail(fmt::format("weight {} must be [N, K]", shown(w)));
  if (x.shape[1] != w.shape[1]) return fail(fmt::format("input {} and weight {} differ in K", shown(x), shown(w)));
  if (y.shape.size() != 2 || y.shape[1] != w.shape[0]) return fail(fmt::format("output {} must be [rows, {}]", shown(y), w.shape[0]));
  if (y.shape[0] == kSteps ? row_axis(x) != 1 : row_axis(y) != row_axis(x))
    return fail(fmt::format("output {} must have the rows of input {}", shown(y), shown(x)));
  if (op.in.size() == 3 && in(2).shape != std::vector<int64_t>{w.shape[0]})
    return fail(fmt::format("bias {} must be [{}]", shown(in(2)), w.shape[0]));
  if (!std::has_single_bit(op.segments) || op.segments > kMaxSegments || w.shape[1] % op.segments)
    return fail(fmt::format("segments is {}, must be a power of two up to {} that divides K = {}", op.segments, kMaxSegments, w.shape[1]));
  uint32_t& packed = uses_[op.in[1]].segments;
  if (packed && packed != op.segments)
    return fail(fmt::format("weight {} is used with {} and with {} segments; it is packed once", shown(w), packed, op.segments));
  packed = op.segments;
  return {};
}

// v is [rows, count * head_dim].
Status Rules::heads(const Op& op, const Value& v, uint32_t count) const {
  if (count == 0 || count > kMaxHeads || op.head_dim == 0 || op.head_dim > kMaxHeadDim)
    return fail(fmt::format("{} heads of {}; heads must be 1..{}, head_dim 1..{}", count, op.head_dim, kMaxHeads, kMaxHeadDim));
  BATON_TRY(rows(v, "operand"));
  if (uint64_t(v.shape[1]) != uint64_t(count) * op.head_dim)
    return fail(fmt::format("{} must be {} heads of {} wide", shown(v), count, op.head_dim));
  return {};
}

Status Rules::rope(const Op& op) {
  BATON_TRY(need(Arg::position));
  BATON_TRY(same_shape({&in(0), &out(0)}));
  BATON_TRY(heads(op, in(0), op.heads));
  if (op.head_dim % 2) return fail(fmt::format("head_dim {} must be even", op.head_dim));
  if (in(1).dtype != DType::f32 || in(1).shape != std::vector<int64_t>{int64_t(op.head_dim / 2)})
    return fail(fmt::format("inv_freq {} must be f32[{}]", shown(in(1)), op.head_dim / 2));
  if (!std::isfinite(op.scale)) return fail(fmt::format("scale is {}, must be finite", op.scale));
  return {};
}

// One view for each cache, its strides apart, and a block table that spans max_context.
Status Rules::cache(const Op& op, uint32_t cache_index, const Value& table) {
  BATON_TRY(need(Arg::position));
  const Value& c = p_.values[cache_index];
  if (op.layer >= kMaxLayers) return fail(fmt::format("layer is {}, the limit is {}", op.layer, kMaxLayers));
  if (op.kv_heads == 0 || op.kv_heads > kMaxHeads) return fail(fmt::format("kv_heads is {}, must be 1..{}", op.kv_heads, kMaxHeads));
  if (auto s = check_view(op.view, op.layer, op.kv_heads, op.head_dim); !s.ok()) return fail(s.error().what);
  if (!c.shape.empty() && blocks_in(op.view, op.layer, op.kv_heads, op.head_dim, elements(p_, c)) == 0)
    return fail(fmt::format("cache {} holds no block of layer {}", shown(c), op.layer));
  uint32_t& first = uses_[cache_index].cache_op;
  if (first == UINT32_MAX) first = uint32_t(op_);
  const Op& before = p_.ops[first];
  if (before.view != op.view || before.kv_heads != op.kv_heads || before.head_dim != op.head_dim)
    return fail(fmt::format("cache {} has another view, kv_heads or head_dim than in op {}", shown(c), first));
  if (table.storage != Storage::input && table.storage != Storage::inout) // checked as a whole before the launch runs
    return fail(fmt::format("block table {} must be an input", shown(table)));
  if (table.shape.size() != 1 || table.shape[0] < 0 || uint64_t(table.shape[0]) * op.view.block_tokens < p_.max_context)
    return fail(fmt::format("block table {} of {} tokens a block does not span max_context {}", shown(table), op.view.block_tokens,
                            p_.max_context));
  return {};
}

Status Rules::kv_store(const Op& op) {
  BATON_TRY(same_shape({&in(0), &in(1)}));
  BATON_TRY(heads(op, in(0), op.kv_heads));
  return cache(op, op.out[0], in(2));
}

Status Rules::attention(const Op& op) {
  BATON_TRY(same_shape({&in(0), &out(0)}));
  BATON_TRY(heads(op, in(0), op.heads));
  if (op.kv_heads == 0 || op.heads % op.kv_heads)
    return fail(fmt::format("{} heads cannot share {} kv_heads evenly", op.heads, op.kv_heads));
  if (!std::isfinite(op.scale)) return fail(fmt::format("scale is {}, must be finite", op.scale));
  if (op.window > kMaxContext) return fail(fmt::format("window is {}, the limit is {}", op.window, kMaxContext));
  return cache(op, op.in[1], in(2));
}

Status Rules::several_ranks() const {
  return p_.ranks > 1 ? Status() : fail("the program has one rank: nobody to meet");
}

// `whole` has the columns of all ranks, `part` one rank's.
Status Rules::shards(const Value& part, const Value& whole) const {
  BATON_TRY(several_ranks());
  BATON_TRY(rows(part, "operand"));
  BATON_TRY(rows(whole, "operand"));
  if (row_axis(part) != row_axis(whole)) return fail(fmt::format("{} and {} must have the same rows", shown(part), shown(whole)));
  if (whole.shape[1] % p_.ranks || whole.shape[1] / p_.ranks != part.shape[1])
    return fail(fmt::format("{} must be {} ranks as wide as {}", shown(whole), p_.ranks, shown(part)));
  return {};
}

Status Rules::take_last() {
  BATON_TRY(rows(in(0), "input"));
  BATON_TRY(rows(out(0), "output"));
  if (row_axis(out(0)) != 1 || out(0).shape[1] != in(0).shape[1])
    return fail(fmt::format("output {} must be [1,{}]", shown(out(0)), in(0).shape[1]));
  return {};
}

Status Rules::sample(const Op& op) {
  const Value &logits = in(0), &token = out(0);
  if (logits.shape.size() != 2 || logits.shape[1] < 0 || (logits.shape[0] != kSteps && row_axis(logits) != 1))
    return fail(fmt::format("logits {} must be [1 or S, vocabulary]", shown(logits)));
  if (p_.loop) {
    BATON_TRY(token_buffer(token));
  } else if (token.shape != std::vector<int64_t>{1}) {
    return fail(fmt::format("token {} must be i32[1]", shown(token)));
  }
  // Without `temperature` the program is greedy; with it, a draw needs its key and its counter.
  if (has(Arg::temperature)) {
    BATON_TRY(need(Arg::seed));
    BATON_TRY(need(Arg::position));
  }
  return stops(op, logits.shape[1]);
}

Status Rules::op(size_t index) {
  op_ = index;
  const Op& o = p_.ops[index];
  switch (o.code) {
    case OpCode::embed: return embed(o);
    case OpCode::rms_norm: return rms_norm();
    case OpCode::matmul: return matmul(o);
    case OpCode::rope: return rope(o);
    case OpCode::kv_store: return kv_store(o);
    case OpCode::attention: return attention(o);
    case OpCode::silu_mul:
    case OpCode::add: return same_shape({&in(0), &in(1), &out(0)});
    case OpCode::all_reduce:
      BATON_TRY(several_ranks());
      return same_shape({&in(0), &out(0)});
    case OpCode::all_gather: return shards(in(0), out(0));
    case OpCode::reduce_scatter: return shards(out(0), in(0));
    case OpCode::take_last: return take_last();
    case OpCode::sample: return sample(o);
    case OpCode::mark: return {};
  }
  return {};
}

}  // namespace baton::program
