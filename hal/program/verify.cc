// verify: bounds, values, then for each op its operands (count, storage, dtype, definition before use) and its own rules
// (verify_ops.cc). The text of the first violation names the op and its values.
#include "hal/program/limits.hpp"
#include "hal/program/verify_rules.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <string_view>
#include <unordered_set>

namespace baton::program {
namespace {

Error invalid(const std::string& what) {
  return Error(BATON_INVALID_ARGUMENT, what, "correct what builds the program; baton::program::dump shows it");
}

// Names go into one-line errors and dumps.
bool plain(std::string_view s) {
  return !s.empty() && s.size() <= kMaxName && std::none_of(s.begin(), s.end(), [](char c) { return uint8_t(c) < 0x20 || c == 0x7f; });
}

Status check_header(const Program& p) {
  if (!plain(p.name)) return invalid(fmt::format("program name of {} bytes; it must be 1..{} printable bytes", p.name.size(), kMaxName));
  if (p.values.size() > kMaxValues || p.ops.size() > kMaxOps)
    return invalid(fmt::format("{} values and {} ops; the limits are {} and {}", p.values.size(), p.ops.size(), kMaxValues, kMaxOps));
  if (!std::has_single_bit(p.ranks) || p.ranks > kMaxRanks)
    return invalid(fmt::format("ranks is {}, must be a power of two up to {}", p.ranks, kMaxRanks));
  auto bound = [](const char* name, uint32_t v, uint32_t low, uint32_t high) -> Status {
    if (v >= low && v <= high) return {};
    return invalid(fmt::format("{} is {}, must be {}..{}", name, v, low, high));
  };
  BATON_TRY(bound("max_tokens", p.max_tokens, 1, kMaxTokens));
  BATON_TRY(bound("max_steps", p.max_steps, 1, kMaxSteps));
  BATON_TRY(bound("max_context", p.max_context, 0, kMaxContext));
  if (p.loop && p.max_tokens != 1) return invalid(fmt::format("a loop runs one token at a time: max_tokens is {}, must be 1", p.max_tokens));
  if (!p.loop && p.max_steps != 1) return invalid(fmt::format("max_steps is {} in a program that is not a loop", p.max_steps));
  return {};
}

Status check_args(const Program& p) {
  if (p.args.size() > kMaxArgs) return invalid(fmt::format("{} args, the limit is {}", p.args.size(), kMaxArgs));
  auto has = [&](Arg a) { return std::find(p.args.begin(), p.args.end(), a) != p.args.end(); };
  for (size_t i = 0; i < p.args.size(); ++i) {
    if (p.args[i] < Arg::tokens || p.args[i] > Arg::stop) return invalid(fmt::format("arg {} is {}: no such argument", i, unsigned(p.args[i])));
    if (std::find(p.args.begin(), p.args.begin() + i, p.args[i]) != p.args.begin() + i)
      return invalid(fmt::format("argument '{}' is declared twice", arg_name(p.args[i])));
  }
  if (p.loop && !has(Arg::steps)) return invalid("a loop needs the launch argument 'steps'");
  if (!p.loop && has(Arg::steps)) return invalid("argument 'steps' in a program that is not a loop");
  if (has(Arg::position) && p.max_context == 0) return invalid("argument 'position' needs a max_context above 0");
  return {};
}

Status check_value(const Program& p, const Value& v) {
  auto bad = [&](const std::string& why) { return invalid(fmt::format("value {}: {}", v.name, why)); };
  if (v.dtype < DType::f32 || v.dtype > DType::i32) return bad(fmt::format("dtype {} does not exist", unsigned(v.dtype)));
  if (v.storage < Storage::input || v.storage > Storage::scratch) return bad(fmt::format("storage {} does not exist", unsigned(v.storage)));
  if (v.optional && v.storage != Storage::output) return bad("only an output may be optional");
  if (v.shape.size() > kMaxDims || (v.shape.empty() && v.storage != Storage::cache))
    return bad(fmt::format("{} axes, must be 1..{}", v.shape.size(), kMaxDims));
  bool tokens = std::find(p.args.begin(), p.args.end(), Arg::tokens) != p.args.end();
  for (size_t i = 0; i < v.shape.size(); ++i) {
    int64_t d = v.shape[i];
    bool open = d == kTokens || d == kSteps;
    const bool cache = v.storage == Storage::cache; // a KvView reaches into it by 64 bits
    if (!open && (d <= 0 || uint64_t(d) > (cache ? kMaxElements : kMaxAxis))) return bad(fmt::format("axis {} is {}, must be 1..2^{}", i, d, cache ? 40 : 31));
    if (open && i) return bad("only axis 0 may be T or S");
    if (open && (v.storage == Storage::constant || v.storage == Storage::cache)) return bad("a constant or cache has fixed axes");
    if (d == kSteps && !p.loop) return bad("an S axis in a program that is not a loop");
    if (d == kSteps && v.storage == Storage::scratch) return bad("scratch lasts one iteration and has no S axis");
    if (d == kTokens && !p.loop && !tokens) return bad("a T axis needs the launch argument 'tokens'");
  }
  if (!Rules::elements(p, v)) return bad("more than 2^40 elements");
  return {};
}

Status check_values(const Program& p) {
  std::unordered_set<std::string_view> names;
  for (size_t i = 0; i < p.values.size(); ++i) {
    const Value& v = p.values[i];
    if (!plain(v.name)) return invalid(fmt::format("value {}: a name of {} bytes; it must be 1..{} printable bytes", i, v.name.size(), kMaxName));
    if (!names.insert(v.name).second) return invalid(fmt::format("two values are named {}", v.name));
    BATON_TRY(check_value(p, v));
  }
  return {};
}

// What an operand of an op may be. A class stands for several dtypes.
enum class Kind : uint8_t {
  activation, // f32, not a constant, not a cache
  integers,   // i32, not a constant, not a cache
  weight,     // constant f32, bf16 or f16
  cache,      // a KV-cache f32, bf16 or f16
};

struct Signature {
  std::vector<Kind> in, out;
  uint32_t optional_in = 0;
};

const Signature* signature(OpCode c) {
  using enum Kind;
  static const Signature all[] = {
      {},
      {{integers, weight}, {activation}},                      // embed
      {{activation, weight}, {activation}},                    // rms_norm
      {{activation, weight, weight}, {activation}, 1},         // matmul
      {{activation, weight}, {activation}},                    // rope
      {{activation, activation, integers}, {cache}},           // kv_store
      {{activation, cache, integers}, {activation}},           // attention
      {{activation, activation}, {activation}},                // silu_mul
      {{activation, activation}, {activation}},                // add
      {{activation}, {activation}},                            // all_reduce
      {{activation}, {activation}},                            // take_last
      {{activation}, {integers}},                              // sample
      {{}, {}},                                                // mark
      {{activation}, {activation}},                            // all_gather
      {{activation}, {activation}},                            // reduce_scatter
  };
  size_t i = size_t(c);
  return i == 0 || i >= std::size(all) ? nullptr : &all[i];
}

bool is_kind(const Value& v, Kind k) {
  bool device = v.storage != Storage::constant && v.storage != Storage::cache;
  bool floating = v.dtype != DType::i32;
  switch (k) {
    case Kind::activation: return device && v.dtype == DType::f32;
    case Kind::integers: return device && v.dtype == DType::i32;
    case Kind::weight: return v.storage == Storage::constant && floating;
    case Kind::cache: return v.storage == Storage::cache && floating;
  }
  return false;
}

const char* kind_text(Kind k) {
  switch (k) {
    case Kind::activation: return "an f32 value";
    case Kind::integers: return "an i32 value";
    case Kind::weight: return "a constant of f32, bf16 or f16";
    case Kind::cache: return "a cache of f32, bf16 or f16";
  }
  return "?";
}

Error op_error(const Program& p, size_t index, const std::string& why) {
  const Op& op = p.ops[index];
  std::string names;
  for (const auto* list : {&op.in, &op.out})
    for (uint32_t i : *list)
      if (i < p.values.size() && names.size() < 100) names += (names.empty() ? "" : ", ") + p.values[i].name;
  return invalid(fmt::format("op {} {} ({}): {}", index, opcode_name(op.code), names, why));
}

// Operand count, indices, storage, dtype, and definition before use; then marks what the op writes.
Status check_operands(const Program& p, size_t index, std::vector<bool>& written) {
  const Op& op = p.ops[index];
  auto bad = [&](const std::string& why) { return op_error(p, index, why); };
  const Signature* s = signature(op.code);
  if (!s) return bad(fmt::format("opcode {} does not exist", unsigned(op.code)));
  if (op.act != Act::f32 && op.act != Act::bf16) return bad(fmt::format("act {} does not exist", unsigned(op.act)));
  if (op.in.size() > s->in.size() || op.in.size() + s->optional_in < s->in.size() || op.out.size() != s->out.size())
    return bad(fmt::format("{} inputs and {} outputs, must be {} and {}", op.in.size(), op.out.size(), s->in.size(), s->out.size()));
  auto check = [&](uint32_t i, Kind k) -> Status {
    if (i >= p.values.size()) return bad(fmt::format("value {} does not exist, the program has {}", i, p.values.size()));
    if (!is_kind(p.values[i], k)) return bad(fmt::format("{} must be {}", p.values[i].name, kind_text(k)));
    return {};
  };
  for (size_t i = 0; i < op.in.size(); ++i) {
    BATON_TRY(check(op.in[i], s->in[i]));
    const Value& v = p.values[op.in[i]];
    if ((v.storage == Storage::scratch || v.storage == Storage::output) && !written[op.in[i]])
      return bad(fmt::format("{} is read before it is written", v.name));
  }
  for (size_t i = 0; i < op.out.size(); ++i) {
    BATON_TRY(check(op.out[i], s->out[i]));
    const Value& v = p.values[op.out[i]];
    if (v.storage == Storage::input) return bad(fmt::format("{} is an input and cannot be written", v.name));
    if (std::find(op.in.begin(), op.in.end(), op.out[i]) != op.in.end()) return bad(fmt::format("{} is both read and written", v.name));
    written[op.out[i]] = true;
  }
  return {};
}

}  // namespace

uint64_t Rules::elements(const Program& p, const Value& v) {
  uint64_t n = 1;
  for (int64_t d : v.shape) {
    // A token buffer of S steps holds one more: the token that the loop starts from.
    uint64_t axis = d == kTokens ? p.max_tokens : d == kSteps ? uint64_t(p.max_steps) + 1 : uint64_t(d);
    if (axis == 0 || n > kMaxElements / axis) return 0;
    n *= axis;
  }
  return n;
}

Error Rules::fail(const std::string& why) const { return op_error(p_, op_, why); }

Status verify(const Program& p) {
  BATON_TRY(check_header(p));
  BATON_TRY(check_args(p));
  BATON_TRY(check_values(p));
  Rules rules(p);
  std::vector<bool> written(p.values.size());
  for (size_t i = 0; i < p.ops.size(); ++i) {
    BATON_TRY(check_operands(p, i, written));
    BATON_TRY(rules.op(i));
  }
  for (size_t i = 0; i < p.values.size(); ++i)
    if (p.values[i].storage == Storage::output && !p.values[i].optional && !written[i])
      return invalid(fmt::format("output {} is never written", p.values[i].name));
  return {};
}

}  // namespace baton::program
