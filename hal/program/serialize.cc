// serialize / parse: Program <-> FlatBuffers bytes (program.fbs). parse trusts nothing: identifier, FlatBuffers verifier with bounds on
// depth and tables, version, bounds on every list before it is copied (tables of a FlatBuffer may share one long vector, so a
// small file can name a huge program), then verify().
#include "hal/program/limits.hpp"
#include "hal/program/program.hpp"

#include "hal/program/program_generated.h"

#include <fmt/format.h>

#include <cstring>

namespace baton::program {
namespace {

constexpr uint32_t kProgramVersion = 1;
constexpr uint32_t kDepth = 4; // Program > vector > Value or Op: 2 levels; some room

Error corrupt(const std::string& why) {
  return Error(BATON_CORRUPT, "program bytes: " + why, "serialize the program again; compare the file's size and hash with the sender's");
}

wire::KvView to_wire(const KvView& v) {
  return wire::KvView(v.layer_stride, v.v_offset, v.block_stride, v.token_stride, v.head_stride, v.block_tokens);
}

KvView from_wire(const wire::KvView* v) {
  if (!v) return {};
  return {v->layer_stride(), v->v_offset(), v->block_stride(), v->token_stride(), v->head_stride(), v->block_tokens()};
}

// Element by element it would be read in place: the verifier sees to a list's bounds, not to the alignment of its elements.
template <class T, class Vector>
bool copy_list(const Vector* from, size_t limit, std::vector<T>& to) {
  static_assert(sizeof(T) == sizeof(typename Vector::value_type));
  if (!from) return true;
  if (from->size() > limit) return false;
  to.resize(from->size());
  if (!to.empty()) std::memcpy(to.data(), from->Data(), to.size() * sizeof(T));
  return true;
}

Result<Value> read_value(const wire::Value& w, size_t index) {
  Value v;
  if (w.name()->size() > kMaxName) return corrupt(fmt::format("value {}: a name of {} bytes, the limit is {}", index, w.name()->size(), kMaxName));
  v.name = w.name()->str();
  v.dtype = DType(w.dtype());
  v.storage = Storage(w.storage());
  v.optional = w.optional();
  if (!copy_list(w.shape(), kMaxDims, v.shape))
    return corrupt(fmt::format("value {}: {} axes, the limit is {}", index, w.shape()->size(), kMaxDims));
  return v;
}

Result<Op> read_op(const wire::Op& w, size_t index, uint64_t& stops_left) {
  Op op;
  op.code = OpCode(w.code());
  if (!copy_list(w.inputs(), 8, op.in) || !copy_list(w.outputs(), 8, op.out))
    return corrupt(fmt::format("op {}: more than 8 inputs or outputs", index));
  if (!copy_list(w.stops(), std::min<uint64_t>(kMaxStops, stops_left), op.stops))
    return corrupt(fmt::format("op {}: {} stop tokens, the limit is {} an op and {} a program", index, w.stops()->size(), kMaxStops,
                               kMaxAllStops));
  stops_left -= op.stops.size();
  op.act = Act(w.act());
  op.segments = w.segments();
  op.eps = w.eps();
  op.scale = w.scale();
  op.heads = w.heads();
  op.kv_heads = w.kv_heads();
  op.head_dim = w.head_dim();
  op.layer = w.layer();
  op.window = w.window();
  op.view = from_wire(w.view());
  return op;
}

Result<Program> read_program(const wire::Program& w) {
  Program p;
  if (w.name()->size() > kMaxName) return corrupt(fmt::format("a program name of {} bytes, the limit is {}", w.name()->size(), kMaxName));
  p.name = w.name()->str();
  p.ranks = w.ranks();
  p.loop = w.loop();
  p.max_tokens = w.max_tokens();
  p.max_steps = w.max_steps();
  p.max_context = w.max_context();
  size_t args = w.args() ? w.args()->size() : 0, values = w.values() ? w.values()->size() : 0, ops = w.ops() ? w.ops()->size() : 0;
  if (args > kMaxArgs || values > kMaxValues || ops > kMaxOps)
    return corrupt(fmt::format("{} args, {} values, {} ops; the limits are {}, {}, {}", args, values, ops, kMaxArgs, kMaxValues, kMaxOps));
  for (size_t i = 0; i < args; ++i) p.args.push_back(Arg(w.args()->Get(uint32_t(i))));
  p.values.reserve(values);
  for (size_t i = 0; i < values; ++i) {
    BATON_ASSIGN(Value v, read_value(*w.values()->Get(uint32_t(i)), i));
    p.values.push_back(std::move(v));
  }
  p.ops.reserve(ops);
  uint64_t stops_left = kMaxAllStops;
  for (size_t i = 0; i < ops; ++i) {
    BATON_ASSIGN(Op op, read_op(*w.ops()->Get(uint32_t(i)), i, stops_left));
    p.ops.push_back(std::move(op));
  }
  return p;
}

}  // namespace

std::vector<uint8_t> serialize(const Program& p) {
  flatbuffers::FlatBufferBuilder b(4096);
  std::vector<flatbuffers::Offset<wire::Value>> values;
  values.reserve(p.values.size());
  for (const Value& v : p.values) {
    auto name = b.CreateString(v.name);
    auto shape = b.CreateVector(v.shape);
    values.push_back(wire::CreateValue(b, name, uint8_t(v.dtype), uint8_t(v.storage), v.optional, shape));
  }
  std::vector<flatbuffers::Offset<wire::Op>> ops;
  ops.reserve(p.ops.size());
  for (const Op& op : p.ops) {
    auto in = b.CreateVector(op.in);
    auto out = b.CreateVector(op.out);
    flatbuffers::Offset<flatbuffers::Vector<int32_t>> stops = 0;
    if (!op.stops.empty()) stops = b.CreateVector(op.stops);
    wire::KvView view = to_wire(op.view);
    ops.push_back(wire::CreateOp(b, uint8_t(op.code), in, out, uint8_t(op.act), op.segments, op.eps, op.scale, op.heads, op.kv_heads,
                                 op.head_dim, op.layer, op.window, op.view == KvView{} ? nullptr : &view, stops));
  }
  std::vector<uint8_t> args;
  for (Arg a : p.args) args.push_back(uint8_t(a));
  auto name = b.CreateString(p.name);
  auto args_at = b.CreateVector(args);
  auto values_at = b.CreateVector(values);
  auto ops_at = b.CreateVector(ops);
  wire::FinishProgramBuffer(b, wire::CreateProgram(b, kProgramVersion, name, p.ranks, p.loop, p.max_tokens, p.max_steps, p.max_context,
                                                   args_at, values_at, ops_at));
  return {b.GetBufferPointer(), b.GetBufferPointer() + b.GetSize()};
}

Result<Program> parse(std::span<const uint8_t> bytes) {
  if (bytes.size() < 16) return corrupt(fmt::format("{} bytes, fewer than any program has", bytes.size()));
  if (bytes.size() > kMaxBytes) return corrupt(fmt::format("{} bytes, the limit is {}", bytes.size(), kMaxBytes));
  // FlatBuffers reads scalars in place: they are aligned in the buffer, so the buffer must be aligned too.
  std::vector<uint64_t> aligned;
  if (reinterpret_cast<uintptr_t>(bytes.data()) % alignof(uint64_t)) {
    aligned.resize((bytes.size() + 7) / 8);
    std::memcpy(aligned.data(), bytes.data(), bytes.size());
    bytes = {reinterpret_cast<const uint8_t*>(aligned.data()), bytes.size()};
  }
  if (!wire::ProgramBufferHasIdentifier(bytes.data())) return corrupt("no BTNP identifier at byte 4: not a Baton program");
  flatbuffers::Verifier verifier(bytes.data(), bytes.size(), kDepth, uint32_t(kMaxValues + kMaxOps + 1));
  if (!wire::VerifyProgramBuffer(verifier)) return corrupt(fmt::format("an offset or length points outside of the {} bytes", bytes.size()));
  const wire::Program& w = *wire::GetProgram(bytes.data());
  if (w.version() != kProgramVersion)
    return Error(BATON_VERSION, fmt::format("the program has format version {}, this build reads version {}", w.version(), kProgramVersion),
                 "build sender and receiver from the same Baton release");
  BATON_ASSIGN(Program p, read_program(w));
  BATON_TRY(verify(p));
  return p;
}

std::string fingerprint(std::span<const uint8_t> bytes) {
  unsigned __int128 h = (static_cast<unsigned __int128>(0x6c62272e07bb0142) << 64) | 0x62b821756295c58d;
  constexpr unsigned __int128 kPrime = (static_cast<unsigned __int128>(1) << 88) | 0x13b;
  for (uint8_t b : bytes) h = (h ^ b) * kPrime;
  return fmt::format("{:016x}{:016x}", uint64_t(h >> 64), uint64_t(h));
}

}  // namespace baton::program
