#include "drivers/cs3/stages.h"

#include <algorithm>
#include <map>
#include <optional>

namespace baton::cs3 {
namespace {

using program::Op;
using program::OpCode;
using program::Program;
using program::Storage;
using program::Value;

Error unsupported(const Program& p, const std::string& why) {
  return Error(BATON_UNSUPPORTED, "'" + p.name + "' over several wafers: " + why, "give each wafer a run of whole layers, with a cache of their own");
}

std::optional<uint32_t> cache_of(const Program& p, const Op& op) {
  for (const auto* list : {&op.in, &op.out})
    for (const uint32_t v : *list)
      if (p.values[v].storage == Storage::cache) return v;
  return std::nullopt;
}

uint64_t row_bytes(const Value& v) {
  uint64_t n = program::dtype_bytes(v.dtype);
  for (const int64_t d : v.shape) n *= d < 0 ? 1 : uint64_t(d);
  return n;
}

// Values of the program's own that are written before op `at` and read from it on.
std::vector<uint32_t> crossing(const Program& p, size_t at) {
  std::vector<uint8_t> written(p.values.size()), read(p.values.size());
  for (size_t i = 0; i < p.ops.size(); ++i) {
    const Op& op = p.ops[i];
    if (i < at)
      for (const uint32_t v : op.out) written[v] = 1;
    else
      for (const uint32_t v : op.in) read[v] = 1;
  }
  std::vector<uint32_t> out;
  for (uint32_t v = 0; v < p.values.size(); ++v)
    if (written[v] && read[v] && (p.values[v].storage == Storage::scratch || p.values[v].storage == Storage::output)) out.push_back(v);
  return out;
}

struct Cut {
  size_t at;       // first op of the next stage
  uint32_t value;  // that crosses
};

// Between the last use of one cache and the first of the next: where fewest bytes cross, and of such places the last, where a layer is whole.
Result<Cut> best_cut(const Program& p, size_t from, size_t to) {
  std::optional<Cut> best;
  uint64_t least = UINT64_MAX;
  for (size_t at = from; at <= to; ++at) {
    const auto values = crossing(p, at);
    if (values.size() != 1 || p.values[values[0]].dtype != program::DType::f32) continue;
    if (const uint64_t n = row_bytes(p.values[values[0]]); n <= least) least = n, best = Cut{at, values[0]};
  }
  if (!best) return unsupported(p, "more than one value would cross between ops " + std::to_string(from) + " and " + std::to_string(to));
  return *best;
}

// Ops [begin, end) as a program of their own.
Result<StageProgram> part(const Program& p, size_t begin, size_t end, std::optional<uint32_t> in, std::optional<uint32_t> out, const std::string& name) {
  StageProgram s;
  Program& q = s.program;
  q.name = name;
  q.ranks = p.ranks;
  q.loop = p.loop;
  q.max_tokens = p.max_tokens;
  q.max_steps = p.max_steps;
  q.max_context = p.max_context;
  q.args = p.args;
  std::map<uint32_t, uint32_t> index;
  const auto place = [&](uint32_t v) {
    const auto [at, fresh] = index.try_emplace(v, uint32_t(q.values.size()));
    if (!fresh) return at->second;
    Value value = p.values[v];
    if (in == v || out == v) {
      value.storage = in == v ? Storage::input : Storage::output;
      value.name = in == v ? kStageIn : kStageOut;
      value.optional = false;
      (in == v ? s.in_bytes : s.out_bytes) = uint32_t(row_bytes(value));
    }
    if (value.storage == Storage::constant) s.constants.push_back(value.name);
    q.values.push_back(std::move(value));
    return at->second;
  };
  for (size_t i = begin; i < end; ++i) {
    Op op = p.ops[i];
    for (auto* list : {&op.in, &op.out})
      for (uint32_t& v : *list) v = place(v);
    s.marks += op.code == OpCode::mark;
    q.ops.push_back(std::move(op));
  }
  if (in && out && in == out) return unsupported(p, "a stage passes a value on unchanged");
  BATON_TRY(program::verify(q));
  return s;
}

// The buffer that embed reads and sample writes in a loop.
std::optional<uint32_t> token_buffer(const Program& p) {
  if (!p.loop) return std::nullopt;
  for (const Op& e : p.ops)
    for (const Op& s : p.ops)
      if (e.code == OpCode::embed && s.code == OpCode::sample && e.in[0] == s.out[0]) return e.in[0];
  return std::nullopt;
}

}  // namespace

Result<Stages> cut_stages(const Program& p) {
  Stages all;
  std::vector<uint32_t> order;                      // caches by first use
  std::map<uint32_t, std::pair<size_t, size_t>> use; // first and last op
  for (size_t i = 0; i < p.ops.size(); ++i) {
    const auto c = cache_of(p, p.ops[i]);
    if (!c) continue;
    if (use.try_emplace(*c, i, i).second) order.push_back(*c);
    else use[*c].second = i;
  }
  const auto tokens = token_buffer(p);
  std::optional<uint32_t> in;
  size_t begin = 0;
  for (size_t s = 0; s < std::max<size_t>(1, order.size()); ++s) {
    size_t end = p.ops.size();
    std::optional<uint32_t> out;
    if (s + 1 < order.size()) {
      const size_t last = use[order[s]].second, next = use[order[s + 1]].first;
      if (next <= last) return unsupported(p, "the caches '" + p.values[order[s]].name + "' and '" + p.values[order[s + 1]].name + "' are used in turns");
      BATON_ASSIGN(const Cut cut, best_cut(p, last + 1, next));
      end = cut.at;
      out = cut.value;
    }
    const std::string name = order.size() > 1 ? p.name + " stage " + std::to_string(s) : p.name;
    BATON_ASSIGN(StageProgram stage, part(p, begin, end, in, out, name));
    stage.marks_before = all.list.empty() ? 0 : all.list.back().marks_before + all.list.back().marks;
    if (tokens) {
      const std::string& buffer = p.values[*tokens].name;
      stage.tokens = std::any_of(stage.program.values.begin(), stage.program.values.end(), [&](const Value& v) { return v.name == buffer; });
      if (stage.tokens && s > 0 && s + 1 < order.size()) return unsupported(p, "'" + buffer + "' is used in the middle");
    }
    all.list.push_back(std::move(stage));
    in = out;
    begin = end;
  }
  if (tokens) all.tokens = p.values[*tokens].name;
  if (all.list.size() > 1 && tokens && !(all.list.front().tokens && all.list.back().tokens))
    return unsupported(p, "tokens are embedded or sampled elsewhere than at its ends");
  return all;
}

}  // namespace baton::cs3
