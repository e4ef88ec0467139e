// What a launch passes, checked before anything runs: arguments, bindings and their sizes, token ids, block tables, and that every cache
// address that the ops can form lies in the bound bytes.
#include "emulators/engine/run.h"
#include "hal/program/kv_view.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

namespace baton::engine {
namespace {

using program::Arg;
using program::kSteps;
using program::kTokens;
using program::Op;
using program::OpCode;
using program::Program;
using program::Storage;
using program::Value;

Error invalid(const Run::Impl& r, const std::string& what, const char* next) {
  return Error(BATON_INVALID_ARGUMENT, fmt::format("{}: {}", r.x.program.name, what), next);
}

Status in_range(const Run::Impl& r, Arg a, int64_t v, int64_t low, int64_t high) {
  if (v >= low && v <= high) return {};
  return invalid(r, fmt::format("argument '{}' is {}, must be {}..{}", arg_name(a), v, low, high), "pass arguments within the program's bounds");
}

Status take_arg(Run::Impl& r, Arg a, int64_t v) {
  const Program& p = r.x.program;
  const double real = std::bit_cast<double>(v);
  switch (a) {
    case Arg::tokens:
      BATON_TRY(in_range(r, a, v, 1, p.max_tokens));
      r.tokens = uint32_t(v);
      return {};
    case Arg::position:
      BATON_TRY(in_range(r, a, v, 0, p.max_context));
      r.position = uint32_t(v);
      return {};
    case Arg::steps:
      BATON_TRY(in_range(r, a, v, 1, p.max_steps));
      r.steps = uint32_t(v);
      return {};
    case Arg::temperature:
      if (!(std::isfinite(real) && real >= 0))
        return invalid(r, fmt::format("argument 'temperature' is {}, must be finite and not negative", real), "0 is greedy; 0.8 is usual");
      r.temperature = real;
      return {};
    case Arg::top_p:
      if (!(real > 0 && real <= 1)) return invalid(r, fmt::format("argument 'top_p' is {}, must be above 0 and up to 1", real), "1 keeps all tokens");
      r.top_p = real;
      return {};
    case Arg::seed: r.seed = uint64_t(v); return {};
    case Arg::stop:
      BATON_TRY(in_range(r, a, v, 0, 1));
      r.stop = v != 0;
      return {};
  }
  return {};
}

Status take_args(Run::Impl& r, std::span<const int64_t> args) {
  const Program& p = r.x.program;
  if (args.size() != p.args.size()) {
    std::string names;
    for (Arg a : p.args) names += fmt::format("{}{}", names.empty() ? "" : ", ", arg_name(a));
    return invalid(r, fmt::format("the launch passes {} arguments, the program declares {} ({})", args.size(), p.args.size(), names),
                   "pass one int64 for each, floats as the bits of a double");
  }
  for (size_t i = 0; i < args.size(); ++i) BATON_TRY(take_arg(r, p.args[i], args[i]));
  const uint64_t end = uint64_t(r.position) + (p.loop ? r.steps : r.tokens);
  if (p.max_context && end > p.max_context)
    return invalid(r, fmt::format("position {} + {} {} is beyond the context of {}", r.position, p.loop ? r.steps : r.tokens,
                                  p.loop ? "steps" : "tokens", p.max_context),
                   "launch fewer, or build the program for a longer context");
  return {};
}

bool bindable(const Value& v) { return v.storage != Storage::constant && v.storage != Storage::scratch; }

// Bytes of a bound value that this launch may touch. Caches are judged by address (check_cache).
uint64_t needed_bytes(const Run::Impl& r, uint32_t index, bool token_buffer) {
  const Value& v = r.x.program.values[index];
  if (v.storage == Storage::cache) return 0;
  uint64_t n = 1;
  for (int64_t d : v.shape) n *= d == kTokens ? r.tokens : d == kSteps ? r.steps : uint64_t(d);
  if (token_buffer) n = uint64_t(r.steps) + 1;
  return n * dtype_bytes(v.dtype);
}

Status take_bindings(Run::Impl& r, std::span<const Binding> bindings) {
  Executable::Impl& x = r.x;
  LaunchState& s = *r.s;
  std::fill(s.base.begin(), s.base.end(), nullptr);
  std::fill(s.bound.begin(), s.bound.end(), 0);
  for (const Binding& b : bindings) {
    auto found = x.by_name.find(b.name);
    if (found == x.by_name.end() || !bindable(x.program.values[found->second]))
      return invalid(r, fmt::format("nothing named '{}' can be bound", b.name), "bind the inputs, outputs and caches that the program declares");
    const Value& v = x.program.values[found->second];
    if (s.base[found->second]) return invalid(r, fmt::format("'{}' is bound twice", b.name), "bind each value once");
    if (!b.data.data()) return invalid(r, fmt::format("'{}' is bound to no memory", b.name), "bind a buffer");
    if (reinterpret_cast<uintptr_t>(b.data.data()) % dtype_bytes(v.dtype))
      return invalid(r, fmt::format("'{}' is bound to an address that is not a multiple of {}", b.name, dtype_bytes(v.dtype)), "align the offset");
    s.base[found->second] = b.data.data();
    s.bound[found->second] = b.data.size();
  }
  for (uint32_t i = 0; i < x.program.values.size(); ++i) {
    const Value& v = x.program.values[i];
    if (bindable(v) && !s.base[i] && !v.optional) return invalid(r, fmt::format("'{}' is not bound", v.name), "bind every value that is not optional");
  }
  return {};
}

// In a loop, what embed reads and what sample writes is a token buffer: steps + 1 entries.
void find_token_buffers(Run::Impl& r) {
  std::fill(r.s->wanted.begin(), r.s->wanted.end(), 0);
  if (!r.x.program.loop) return;
  for (const Op& op : r.x.program.ops) {
    if (op.code == OpCode::embed) r.s->wanted[op.in[0]] = 1;
    if (op.code == OpCode::sample) r.s->wanted[op.out[0]] = 1;
  }
}

Status check_sizes(Run::Impl& r) {
  const Executable::Impl& x = r.x;
  const LaunchState& s = *r.s;
  find_token_buffers(r);
  for (uint32_t i = 0; i < x.program.values.size(); ++i) {
    if (!s.base[i]) continue;
    const uint64_t need = needed_bytes(r, i, s.wanted[i]);
    if (s.bound[i] < need)
      return invalid(r, fmt::format("'{}' is bound to {} bytes, this launch needs {}", x.program.values[i].name, s.bound[i], need),
                     "bind a longer range of the buffer");
  }
  return {};
}

// A launch queued behind one that stopped begins with what that one left.
void find_over(Run::Impl& r) {
  for (const Op& op : r.x.program.ops) {
    if (op.code != OpCode::embed || op.stops.empty() || !r.stop || !r.s->base[op.in[0]]) continue;
    int32_t first;
    std::memcpy(&first, r.s->base[op.in[0]], sizeof first);
    r.over = r.over || first == -1 || std::find(op.stops.begin(), op.stops.end(), first) != op.stops.end();
  }
}

Status check_tokens(const Run::Impl& r) {
  const Program& p = r.x.program;
  for (const Op& op : p.ops) {
    if (op.code != OpCode::embed || !r.s->base[op.in[0]]) continue;
    const Value& ids = p.values[op.in[0]];
    const int64_t vocabulary = p.values[op.in[1]].shape[0];
    const auto* id = reinterpret_cast<const int32_t*>(r.s->base[op.in[0]]);
    const bool given = ids.storage == Storage::input || (ids.storage == Storage::inout && !p.loop);
    // The later entries of a loop's token buffer are written by sample as it goes.
    const uint64_t count = !given ? uint64_t(ids.storage == Storage::inout) : p.loop ? r.steps
                           : ids.shape[0] == kTokens ? r.tokens : uint64_t(ids.shape[0]);
    for (uint64_t i = 0; i < count; ++i)
      if (id[i] < 0 || id[i] >= vocabulary)
        return invalid(r, fmt::format("'{}' [{}] is token {}, the vocabulary has {}", ids.name, i, id[i], vocabulary),
                       "use the tokenizer of this model");
  }
  return {};
}

// Blocks that positions 0 .. position + rows - 1 use.
uint64_t blocks_used(const Run::Impl& r, uint32_t block_tokens) {
  const uint64_t end = uint64_t(r.position) + (r.x.program.loop ? r.steps : r.tokens);
  return (end + block_tokens - 1) / block_tokens;
}

void copy_tables(Run::Impl& r) {
  for (uint32_t i = 0; i < r.x.tables.size(); ++i) {
    const BlockTable& t = r.x.tables[i];
    std::memcpy(r.s->entries(i), r.s->base[t.value], blocks_used(r, t.block_tokens) * sizeof(int32_t));
  }
}

Status check_cache(const Run::Impl& r, size_t op_index, uint32_t cache) {
  const Op& op = r.x.program.ops[op_index];
  const Value& c = r.x.program.values[cache];
  const BlockTable& t = r.x.tables[r.x.table_of[op_index]];
  const int32_t* entries = r.s->entries(r.x.table_of[op_index]);
  const uint64_t blocks = blocks_in(op.view, op.layer, op.kv_heads, op.head_dim, r.s->bound[cache] / dtype_bytes(c.dtype));
  for (uint64_t i = 0, n = blocks_used(r, t.block_tokens); i < n; ++i)
    if (entries[i] < 0 || uint64_t(entries[i]) >= blocks)
      return invalid(r, fmt::format("'{}' [{}] is block {}, but cache '{}' ({} bytes) holds {} blocks of layer {}", r.x.program.values[t.value].name,
                                    i, entries[i], c.name, r.s->bound[cache], blocks, op.layer),
                     "allocate blocks within the bound cache");
  return {};
}

Status check_caches(Run::Impl& r) {
  copy_tables(r);
  for (size_t i = 0; i < r.x.program.ops.size(); ++i) {
    const Op& op = r.x.program.ops[i];
    if (op.code == OpCode::kv_store) BATON_TRY(check_cache(r, i, op.out[0]));
    if (op.code == OpCode::attention) BATON_TRY(check_cache(r, i, op.in[1]));
  }
  return {};
}

// Scratch lies in the arena, and so does an unbound optional output that a later op reads.
void place_scratch(const Executable::Impl& x, LaunchState& s) {
  for (uint32_t i = 0; i < x.program.values.size(); ++i)
    if (!s.base[i] && x.plan.offset[i] != kNoScratch) s.base[i] = s.arena.data() + x.plan.offset[i];
}

// An op is live if it moves something outside (cache, mark, collective: all ranks must meet) or something live reads what it writes.
void find_live(const Executable::Impl& x, LaunchState& s) {
  for (uint32_t i = 0; i < x.program.values.size(); ++i) s.wanted[i] = bindable(x.program.values[i]) && s.bound[i];
  for (size_t i = x.program.ops.size(); i-- > 0;) {
    const Op& op = x.program.ops[i];
    bool live = op.code == OpCode::kv_store || op.code == OpCode::mark || is_collective(op.code);
    for (uint32_t v : op.out) live = live || s.wanted[v];
    s.live[i] = live;
    if (live)
      for (uint32_t v : op.in) s.wanted[v] = 1;
  }
}

}  // namespace

Status bind(Run::Impl& r, std::span<const Binding> bindings, std::span<const int64_t> args) {
  const Program& p = r.x.program;
  BATON_TRY(take_args(r, args));
  BATON_TRY(take_bindings(r, bindings));
  BATON_TRY(check_sizes(r));
  find_over(r);
  if (!r.over) BATON_TRY(check_tokens(r));
  BATON_TRY(check_caches(r));
  if (r.hooks.rank >= p.ranks) return invalid(r, fmt::format("rank {} of {}", r.hooks.rank, p.ranks), "load one lane for each rank");
  if (r.x.collective && r.x.options.numbers && !r.hooks.collective)
    return invalid(r, fmt::format("{} ranks that meet, without a collective", p.ranks), "load the program on as many lanes as it has ranks");
  place_scratch(r.x, *r.s);
  find_live(r.x, *r.s);
  return {};
}

}  // namespace baton::engine
