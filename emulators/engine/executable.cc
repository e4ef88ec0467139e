// Loading: parse, decide how each constant is kept, reserve scratch, then pack constants as they arrive.
#include "emulators/engine/executable.h"
#include "hal/program/limits.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace baton::engine {

using program::Op;
using program::OpCode;
using program::Storage;
using program::Value;

namespace {

uint64_t dense_bytes(const Value& v) {
  uint64_t n = program::dtype_bytes(v.dtype);
  for (int64_t d : v.shape) n *= uint64_t(d);
  return n;
}

void note_uses(Executable::Impl& x) {
  for (const Op& op : x.program.ops) {
    auto weight = [&](size_t i) -> Weight& { return x.weights[op.in[i]]; };
    switch (op.code) {
      case OpCode::embed: weight(1).as_rows = true; break;
      case OpCode::rms_norm:
      case OpCode::rope: weight(1).as_vector = true; break;
      case OpCode::matmul:
        weight(1).as_matrix = true;
        weight(1).segments = op.segments;
        x.bf16 |= op.act == program::Act::bf16;
        if (op.in.size() == 3) weight(2).as_vector = true;
        break;
      case OpCode::sample:
        x.max_vocabulary = std::max(x.max_vocabulary, uint32_t(x.program.values[op.in[0]].shape[1]));
        break;
      default: break;
    }
    x.collective |= is_collective(op.code);
  }
}

void make_rope(Executable::Impl& x, size_t op_index) {
  const Op& op = x.program.ops[op_index];
  for (uint32_t i = 0; i < x.ropes.size(); ++i)
    if (x.ropes[i].inv_freq == op.in[1] && x.ropes[i].scale == op.scale) {
      x.rope_of[op_index] = i;
      return;
    }
  x.rope_of[op_index] = uint32_t(x.ropes.size());
  x.ropes.push_back({.inv_freq = op.in[1], .scale = op.scale, .half = op.head_dim / 2});
}

void make_table(Executable::Impl& x, size_t op_index) {
  const Op& op = x.program.ops[op_index];
  uint32_t value = op.in[2];
  auto same = std::find_if(x.tables.begin(), x.tables.end(),
                           [&](const BlockTable& t) { return t.value == value && t.block_tokens == op.view.block_tokens; });
  x.table_of[op_index] = uint32_t(same - x.tables.begin());
  if (same == x.tables.end()) x.tables.push_back({value, op.view.block_tokens});
}

// More rope tables or block tables than any model has are a hostile program: each costs memory in proportion to max_tokens.
constexpr size_t kMaxTables = 64;

Status make_tables(Executable::Impl& x) {
  x.rope_of.resize(x.program.ops.size());
  x.table_of.resize(x.program.ops.size());
  for (size_t i = 0; i < x.program.ops.size(); ++i) {
    OpCode code = x.program.ops[i].code;
    if (code == OpCode::rope) make_rope(x, i);
    if (code == OpCode::kv_store || code == OpCode::attention) make_table(x, i);
    if (x.ropes.size() > kMaxTables || x.tables.size() > kMaxTables)
      return Error(BATON_UNSUPPORTED, fmt::format("{}: more than {} different rope or block tables", x.program.name, kMaxTables),
                   "share inv_freq and block_table values between the ops");
  }
  return {};
}

// Dense bytes that the kernels may read by element: a misaligned source (a slice of a file) is copied first.
Result<const uint8_t*> aligned(std::span<const uint8_t> data, program::DType t, Region& copy) {
  if (reinterpret_cast<uintptr_t>(data.data()) % program::dtype_bytes(t) == 0) return data.data();
  BATON_ASSIGN(copy, Region::make(data.size(), "aligned copy"));
  std::memcpy(copy.data(), data.data(), data.size());
  return static_cast<const uint8_t*>(copy.data());
}

Status keep(Executable::Impl& x, Weight& w, const Value& v, std::span<const uint8_t> data) {
  Region copy;
  BATON_ASSIGN(const uint8_t* dense, aligned(data, v.dtype, copy));
  if (w.as_matrix) {
    w.packed = packed_shape(v.dtype, uint32_t(v.shape[0]), uint32_t(v.shape[1]), w.segments);
    BATON_ASSIGN(w.packed_memory, Region::make(w.packed.bytes(), "packed weights"));
    w.packed.data = w.packed_memory.data();
    pack(dense, w.packed, *x.pool);
  } else if (w.as_rows) {
    BATON_ASSIGN(w.rows, Region::make(data.size(), "embedding table"));
    std::memcpy(w.rows.data(), dense, data.size());
  }
  if (w.as_vector) {
    uint64_t count = data.size() / program::dtype_bytes(v.dtype);
    BATON_ASSIGN(w.vector, Region::make(count * sizeof(float), "weights"));
    x.kernels->widen(dense, count, v.dtype, reinterpret_cast<float*>(w.vector.data()));
  }
  w.loaded = true;
  return {};
}

}  // namespace

void gather_packed_row(const PackedMatrix& m, uint32_t row, const KernelTable& k, float* out) {
  const uint32_t width = program::dtype_bytes(m.dtype);
  const uint32_t segment_k = m.k / m.segments;
  const uint64_t row_blocks = uint64_t(row / 32) * m.segments * m.segment_blocks;
  const uint64_t in_block = uint64_t(row % 32 / 16) * 512 + uint64_t(row % 16) * 2;
  for (uint32_t s = 0; s < m.segments; ++s)
    for (uint32_t i = 0; i < segment_k; i += 2) { // k-pairs lie together
      const uint64_t block = row_blocks + uint64_t(s) * m.segment_blocks + i / 32;
      const uint8_t* pair = m.data + (block * 1024 + in_block + uint64_t(i % 32 / 2) * 32) * width;
      k.widen(pair, std::min(2u, segment_k - i), m.dtype, out + uint64_t(s) * segment_k + i);
    }
}

Result<std::unique_ptr<LaunchState>> Executable::Impl::take_state() {
  if (!idle.empty()) {
    auto s = std::move(idle.back());
    idle.pop_back();
    return s;
  }
  auto s = std::make_unique<LaunchState>();
  BATON_ASSIGN(s->arena, Region::make(plan.bytes, "scratch"));
  BATON_ASSIGN(s->probabilities, Region::make(max_vocabulary * sizeof(float), "sampling"));
  BATON_ASSIGN(s->order, Region::make(max_vocabulary * sizeof(uint32_t), "sampling"));
  for (const Rope& r : ropes)
    for (auto* list : {&s->cos, &s->sin}) {
      BATON_ASSIGN(Region table, Region::make(uint64_t(program.max_tokens) * r.half * sizeof(float), "rope table"));
      list->push_back(std::move(table));
    }
  for (const BlockTable& t : tables) {
    const uint64_t blocks = (uint64_t(program.max_context) + t.block_tokens - 1) / t.block_tokens;
    BATON_ASSIGN(Region table, Region::make(blocks * sizeof(int32_t), "block table"));
    s->tables.push_back(std::move(table));
  }
  s->base.resize(program.values.size());
  s->bound.resize(program.values.size());
  s->wanted.resize(program.values.size());
  s->live.resize(program.ops.size());
  return s;
}

// ---- Loader ----

Result<Loader> Loader::begin(std::span<const uint8_t> bytes, const Options& options) {
  BATON_TRY(parse_isa(isa_name(options.isa))); // this CPU has it
  auto x = std::make_unique<Executable::Impl>();
  BATON_ASSIGN(x->program, program::parse(bytes));
  x->options = options;
  x->kernels = &kernels(options.isa);
  x->pool = std::make_unique<Pool>(std::max(1u, options.threads));
  size_t values = x->program.values.size();
  x->weights.resize(values);
  for (uint32_t i = 0; i < values; ++i) x->by_name.emplace(x->program.values[i].name, i);
  note_uses(*x);
  BATON_TRY(make_tables(*x));
  BATON_ASSIGN(x->plan, plan_scratch(x->program));
  BATON_ASSIGN(auto first, x->take_state()); // what a launch needs is there, or the load fails
  x->idle.push_back(std::move(first));
  return Loader(std::move(x));
}

Status Loader::add(const Constant& c) {
  Executable::Impl& x = *impl_;
  auto found = x.by_name.find(c.name);
  if (found == x.by_name.end() || x.program.values[found->second].storage != Storage::constant)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{}: the program has no constant named '{}'", x.program.name, c.name),
                 "pass the constants that the program declares; baton::program::dump lists them");
  const Value& v = x.program.values[found->second];
  Weight& w = x.weights[found->second];
  if (w.loaded)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{}: constant '{}' was passed twice", x.program.name, c.name), "pass each constant once");
  if (c.data.size() != dense_bytes(v))
    return Error(BATON_INVALID_ARGUMENT,
                 fmt::format("{}: constant '{}' has {} bytes, its {} elements of {} take {}", x.program.name, c.name, c.data.size(),
                             dense_bytes(v) / program::dtype_bytes(v.dtype), program::dtype_name(v.dtype), dense_bytes(v)),
                 "check dtype and shape of the tensor against the program");
  if (!x.options.numbers) return w.loaded = true, Status();
  return keep(x, w, v, c.data);
}

Result<Executable> Loader::finish() && {
  const program::Program& p = impl_->program;
  for (size_t i = 0; i < p.values.size(); ++i)
    if (p.values[i].storage == Storage::constant && !impl_->weights[i].loaded && impl_->options.numbers)
      return Error(BATON_INVALID_ARGUMENT, fmt::format("{}: constant '{}' was not passed", p.name, p.values[i].name),
                   "pass every constant that the program declares");
  return Executable(std::move(impl_));
}

Loader::Loader(std::unique_ptr<Executable::Impl> impl) : impl_(std::move(impl)) {}
Loader::Loader(Loader&&) noexcept = default;
Loader::~Loader() = default;

// ---- Executable ----

Result<Executable> Executable::load(std::span<const uint8_t> bytes, std::span<const Constant> constants, const Options& options) {
  BATON_ASSIGN(Loader loader, Loader::begin(bytes, options));
  for (const Constant& c : constants) BATON_TRY(loader.add(c));
  return std::move(loader).finish();
}

Executable::Executable(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Executable::Executable(Executable&&) noexcept = default;
Executable& Executable::operator=(Executable&&) noexcept = default;
Executable::~Executable() = default;

const program::Program& Executable::program() const { return impl_->program; }

uint64_t Executable::constant_bytes() const {
  uint64_t n = 0;
  if (!impl_->options.numbers)
    for (const Value& v : impl_->program.values) n += v.storage == Storage::constant ? dense_bytes(v) : 0;
  for (const Weight& w : impl_->weights) n += w.packed_memory.bytes() + w.rows.bytes() + w.vector.bytes();
  return n;
}

uint64_t Executable::scratch_bytes() const {
  uint64_t n = impl_->plan.bytes;
  for (const Rope& r : impl_->ropes) n += 2 * uint64_t(impl_->program.max_tokens) * r.half * sizeof(float);
  return n;
}

}  // namespace baton::engine
