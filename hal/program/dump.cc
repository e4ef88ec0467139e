// dump: one line for each value and op, in order; names, never addresses, so that two dumps can be diffed.
#include "hal/program/program.hpp"

#include <fmt/format.h>

namespace baton::program {
namespace {

const char* storage_name(Storage s) {
  switch (s) {
    case Storage::input: return "input";
    case Storage::output: return "output";
    case Storage::inout: return "inout";
    case Storage::cache: return "cache";
    case Storage::constant: return "constant";
    case Storage::scratch: return "scratch";
  }
  return "storage?";
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i) s += ",";
    s += shape[i] == kTokens ? "T" : shape[i] == kSteps ? "S" : fmt::format("{}", shape[i]);
  }
  return s + "]";
}

std::string names(const Program& p, const std::vector<uint32_t>& of) {
  std::string s;
  for (uint32_t i : of) {
    if (!s.empty()) s += ", ";
    s += i < p.values.size() ? p.values[i].name : fmt::format("value?{}", i);
  }
  return s;
}

const char* act_name(Act a) { return a == Act::bf16 ? "bf16" : a == Act::f32 ? "f32" : "act?"; }

std::string view_text(const KvView& v) {
  return fmt::format("view=layer:{},v:{},block:{},token:{},head:{},block_tokens:{}", v.layer_stride, v.v_offset, v.block_stride,
                     v.token_stride, v.head_stride, v.block_tokens);
}

// What this op's code gives a meaning to, and nothing else.
std::string attributes(const Op& op) {
  switch (op.code) {
    case OpCode::rms_norm: return fmt::format(" eps={}", op.eps);
    case OpCode::matmul: return fmt::format(" act={} segments={}", act_name(op.act), op.segments);
    case OpCode::rope: return fmt::format(" heads={} head_dim={} scale={}", op.heads, op.head_dim, op.scale);
    case OpCode::kv_store:
      return fmt::format(" layer={} kv_heads={} head_dim={} {}", op.layer, op.kv_heads, op.head_dim, view_text(op.view));
    case OpCode::attention:
      return fmt::format(" layer={} act={} heads={} kv_heads={} head_dim={} scale={} window={} {}", op.layer, act_name(op.act),
                         op.heads, op.kv_heads, op.head_dim, op.scale, op.window, view_text(op.view));
    case OpCode::embed:
    case OpCode::sample: return op.stops.empty() ? "" : fmt::format(" stops={}", fmt::join(op.stops, ","));
    default: return "";
  }
}

}  // namespace

std::string dump(const Program& p) {
  std::string args;
  for (Arg a : p.args) args += fmt::format("{}{}", args.empty() ? "" : ", ", arg_name(a));
  std::string s = fmt::format("program {} ranks={} loop={} max_tokens={} max_steps={} max_context={} args=({})\n", p.name, p.ranks,
                              p.loop, p.max_tokens, p.max_steps, p.max_context, args);
  for (const Value& v : p.values)
    s += fmt::format("  value {} {}{} {}{}\n", v.name, dtype_name(v.dtype), shape_text(v.shape), storage_name(v.storage),
                     v.optional ? " optional" : "");
  for (size_t i = 0; i < p.ops.size(); ++i) {
    const Op& op = p.ops[i];
    s += fmt::format("  op {} {}{}({}){}\n", i, op.out.empty() ? "" : names(p, op.out) + " = ", opcode_name(op.code),
                     names(p, op.in), attributes(op));
  }
  return s;
}

}  // namespace baton::program
