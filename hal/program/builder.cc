// Builder: each op appends itself and one scratch value with a generated name. Nothing is judged here: an index that does not
// exist yields an empty shape, and verify() in finish() reports it by op.
#include "hal/program/program.hpp"

#include <fmt/format.h>

namespace baton::program {
namespace {

// The shape of value i, or none.
std::vector<int64_t> shape_of(const Program& p, uint32_t i) { return i < p.values.size() ? p.values[i].shape : std::vector<int64_t>{}; }

int64_t axis(const std::vector<int64_t>& shape, size_t i) { return i < shape.size() ? shape[i] : 0; }

}  // namespace

Builder::Builder(std::string name) { p_.name = std::move(name); }

uint32_t Builder::value(std::string name, DType dtype, Storage storage, std::vector<int64_t> shape, bool optional) {
  p_.values.push_back({std::move(name), dtype, storage, optional, std::move(shape)});
  return uint32_t(p_.values.size() - 1);
}

uint32_t Builder::constant(std::string name, DType dtype, std::vector<int64_t> shape) {
  return value(std::move(name), dtype, Storage::constant, std::move(shape));
}

// '%' starts generated names, so that they cannot meet a caller's as long as callers do not use it.
uint32_t Builder::emit(Op op, DType dtype, std::vector<int64_t> shape) {
  uint32_t out = value(fmt::format("%{}.{}", p_.values.size(), opcode_name(op.code)), dtype, Storage::scratch, std::move(shape));
  op.out = {out};
  p_.ops.push_back(std::move(op));
  return out;
}

uint32_t Builder::embed(uint32_t ids, uint32_t table, std::vector<int32_t> stops) {
  Op op{.code = OpCode::embed, .in = {ids, table}, .stops = std::move(stops)};
  int64_t rows = p_.loop ? 1 : axis(shape_of(p_, ids), 0);
  return emit(std::move(op), DType::f32, {rows, axis(shape_of(p_, table), 1)});
}

uint32_t Builder::rms_norm(uint32_t x, uint32_t weight, float eps) {
  Op op{.code = OpCode::rms_norm, .in = {x, weight}, .eps = eps};
  return emit(std::move(op), DType::f32, shape_of(p_, x));
}

uint32_t Builder::matmul(uint32_t x, uint32_t w, Act act, uint32_t segments, int64_t bias, int64_t into) {
  Op op{.code = OpCode::matmul, .in = {x, w}, .act = act, .segments = segments};
  if (bias >= 0) op.in.push_back(uint32_t(bias));
  if (into < 0) return emit(std::move(op), DType::f32, {axis(shape_of(p_, x), 0), axis(shape_of(p_, w), 0)});
  op.out = {uint32_t(into)};
  p_.ops.push_back(std::move(op));
  return uint32_t(into);
}

uint32_t Builder::rope(uint32_t x, uint32_t inv_freq, uint32_t heads, uint32_t head_dim, float scale) {
  Op op{.code = OpCode::rope, .in = {x, inv_freq}, .scale = scale, .heads = heads, .head_dim = head_dim};
  return emit(std::move(op), DType::f32, shape_of(p_, x));
}

void Builder::kv_store(uint32_t k, uint32_t v, uint32_t block_table, uint32_t cache, uint32_t layer, uint32_t kv_heads,
                       uint32_t head_dim, const KvView& view) {
  p_.ops.push_back({.code = OpCode::kv_store, .in = {k, v, block_table}, .out = {cache}, .kv_heads = kv_heads,
                    .head_dim = head_dim, .layer = layer, .view = view});
}

uint32_t Builder::attention(uint32_t q, uint32_t cache, uint32_t block_table, Act act, uint32_t layer, uint32_t heads,
                            uint32_t kv_heads, uint32_t head_dim, float scale, uint32_t window, const KvView& view) {
  Op op{.code = OpCode::attention, .in = {q, cache, block_table}, .act = act, .scale = scale, .heads = heads,
        .kv_heads = kv_heads, .head_dim = head_dim, .layer = layer, .window = window, .view = view};
  return emit(std::move(op), DType::f32, shape_of(p_, q));
}

uint32_t Builder::silu_mul(uint32_t gate, uint32_t up) {
  return emit({.code = OpCode::silu_mul, .in = {gate, up}}, DType::f32, shape_of(p_, gate));
}

uint32_t Builder::add(uint32_t a, uint32_t b) { return emit({.code = OpCode::add, .in = {a, b}}, DType::f32, shape_of(p_, a)); }

uint32_t Builder::all_reduce(uint32_t x) { return emit({.code = OpCode::all_reduce, .in = {x}}, DType::f32, shape_of(p_, x)); }

uint32_t Builder::all_gather(uint32_t x) {
  return emit({.code = OpCode::all_gather, .in = {x}}, DType::f32, {axis(shape_of(p_, x), 0), axis(shape_of(p_, x), 1) * p_.ranks});
}

uint32_t Builder::reduce_scatter(uint32_t x) {
  return emit({.code = OpCode::reduce_scatter, .in = {x}}, DType::f32, {axis(shape_of(p_, x), 0), p_.ranks ? axis(shape_of(p_, x), 1) / p_.ranks : 0});
}

uint32_t Builder::take_last(uint32_t x) {
  return emit({.code = OpCode::take_last, .in = {x}}, DType::f32, {1, axis(shape_of(p_, x), 1)});
}

void Builder::sample(uint32_t logits, uint32_t token, std::vector<int32_t> stops) {
  p_.ops.push_back({.code = OpCode::sample, .in = {logits}, .out = {token}, .stops = std::move(stops)});
}

void Builder::mark() { p_.ops.push_back({.code = OpCode::mark}); }

Result<Program> Builder::finish() && {
  BATON_TRY(verify(p_));
  return std::move(p_);
}

}  // namespace baton::program
