#include "drivers/cs3/placement/shape.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace baton::cs3 {
namespace {

using program::DType;
using program::kSteps;
using program::kTokens;
using program::Op;
using program::OpCode;
using program::Program;
using program::Storage;
using program::Value;

// At the bounds of the program; of a value that has one row a step, a step's.
uint64_t bytes_of(const Program& p, const Value& v) {
  uint64_t n = program::dtype_bytes(v.dtype);
  for (const int64_t d : v.shape) n *= d == kTokens ? p.max_tokens : d == kSteps ? 1 : uint64_t(d);
  return n;
}

// Activations stay with the op; a cache, a block table and token ids do not.
uint64_t activations(const Program& p, const Op& op) {
  uint64_t n = 0;
  for (const auto* list : {&op.in, &op.out})
    for (const uint32_t v : *list)
      if (p.values[v].dtype == DType::f32 && p.values[v].storage != Storage::constant && p.values[v].storage != Storage::cache) n += bytes_of(p, p.values[v]);
  return n;
}

bool touches_cache(const Op& op) { return op.code == OpCode::kv_store || op.code == OpCode::attention; }

// Where the part that follows the op at `from` begins, if the next layer's kv_store is at `to`: behind the last `add`, or else at once.
size_t begin_of_next(const Program& p, size_t from, size_t to) {
  for (size_t i = to; i-- > from + 1;)
    if (p.ops[i].code == OpCode::add) return i + 1;
  return from + 1;
}

// The first op of each layer, and where the last one ends. None if its layers do not follow each other: then all is one part.
std::vector<size_t> cuts(const Program& p) {
  std::vector<size_t> first;  // op that touches the cache of a layer first
  std::vector<size_t> last;   // and last
  uint32_t layer = 0;         // of the op before; a stage of a pipeline does not begin with 0
  for (size_t i = 0; i < p.ops.size(); ++i) {
    const Op& op = p.ops[i];
    if (!touches_cache(op)) continue;
    if (first.empty() || op.layer == layer + 1) {
      first.push_back(i);
      last.push_back(i);
    } else if (op.layer == layer) {
      last.back() = i;
    } else {
      return {};
    }
    layer = op.layer;
  }
  std::vector<size_t> begin;
  if (first.empty()) return begin;
  size_t before = 0;  // the ops of the embedding
  for (size_t i = 0; i < first[0]; ++i)
    if (p.ops[i].code == OpCode::embed) before = i + 1;
  begin.push_back(before);
  for (size_t l = 1; l < first.size(); ++l) begin.push_back(begin_of_next(p, last[l - 1], first[l]));
  begin.push_back(begin_of_next(p, last.back(), p.ops.size()));
  return begin;
}

}  // namespace

uint64_t Shape::weights() const {
  uint64_t n = first.weights + last.weights;
  for (const Part& l : layers) n += l.weights;
  return n;
}

uint64_t Shape::kv_token() const {
  uint64_t n = 0;
  for (const Part& l : layers) n += l.kv_token;
  return n;
}

Result<Shape> shape_of(const Program& p) {
  if (p.ranks != 1)
    return Error(BATON_UNSUPPORTED, fmt::format("'{}' has {} ranks: a CS-3 has one lane, so no collectives", p.name, p.ranks), "build the program with ranks = 1");
  const std::vector<size_t> begin = cuts(p);
  Shape s;
  s.name = p.name;
  s.layers.resize(begin.empty() ? 0 : begin.size() - 1);
  s.part_of_op.assign(p.ops.size(), kEnds);
  std::set<std::pair<uint32_t, uint32_t>> counted;  // (part, constant)
  std::set<uint32_t> own;                           // constants of the last part
  for (size_t i = 0, layer = 0; i < p.ops.size(); ++i) {
    const Op& op = p.ops[i];
    while (layer < s.layers.size() && i >= begin[layer + 1]) ++layer;
    const bool inside = layer < s.layers.size() && i >= begin[layer];
    if (inside) s.part_of_op[i] = uint32_t(layer);
    const bool behind = !inside && !begin.empty() && i >= begin.back();
    Part& part = inside ? s.layers[layer] : behind ? s.last : s.first;
    for (const uint32_t v : op.in) {
      if (p.values[v].storage != Storage::constant) continue;
      if (!counted.emplace(s.part_of_op[i], v).second) {
        if (behind && own.insert(v).second) s.both += bytes_of(p, p.values[v]);
        continue;
      }
      if (behind) own.insert(v);
      part.weights += bytes_of(p, p.values[v]);
    }
    if (op.code == OpCode::kv_store) part.kv_token += uint64_t(op.kv_heads) * op.head_dim * 2 * program::dtype_bytes(p.values[op.out[0]].dtype);
    part.scratch = std::max(part.scratch, activations(p, op));
  }
  return s;
}

}  // namespace baton::cs3
