#include "emulators/neuron/model.hpp"

#include "drivers/neuron/launch_abi.hpp"
#include "emulators/neuron/gate.hpp"
#include "emulators/neuron/process.hpp"

#define XXH_STATIC_LINKING_ONLY  // the state as a value
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <vector>

namespace baton::nrt {

Model::~Model() {
  if (group) group->leave(rank);
}

}  // namespace baton::nrt

namespace baton::neuron_emu {
namespace {

using program::Storage;
using program::Value;

int32_t load_status(const Error& e) {
  switch (e.code) {
    case BATON_VERSION:
    case BATON_UNSUPPORTED: return nrt::kUnsupportedNeffVersion;
    case BATON_CAPACITY: return nrt::kResource;
    default: return nrt::kInvalid;
  }
}

// What must agree among the ranks of one program: its name, and the order, kinds and widths of its collectives.
std::string group_signature(const program::Program& p) {
  std::string s = p.name;
  for (const program::Op& op : p.ops)
    if (is_collective(op.code)) {
      s += fmt::format("/{}", opcode_name(op.code));
      for (int64_t d : p.values[op.in[0]].shape) s += fmt::format("/{}", d);
    }
  return s;
}

uint64_t constants_bytes(const NeffView& v) {
  uint64_t n = 0;
  for (const engine::Constant& c : v.constants) n += c.data.size();
  return n;
}

int32_t no_room(const Core& core, const std::string& name, uint64_t bytes) {
  return fail(nrt::kResource, "model '" + name + "' needs " + std::to_string(bytes) + " bytes on HBM " + std::to_string(core.hbm_index) + " of chip " +
                                  std::to_string(core.chip) + ", " + std::to_string(core.hbm->used()) + " of " +
                                  std::to_string(core.hbm->bytes()) + " are in use");
}

}  // namespace

namespace {

// All constants are in the container, or none is.
int32_t check_weight_inputs(const NeffView& v, const program::Program& p) {
  if (!v.constants.empty()) return fail(nrt::kInvalid, "of the constants of '" + p.name + "' some are inputs and some are in the NEFF");
  for (const Value& c : p.values)
    if (c.storage == Storage::constant && std::find(v.inputs.begin(), v.inputs.end(), c.name) == v.inputs.end())
      return fail(nrt::kInvalid, "constant '" + c.name + "' of '" + p.name + "' is neither an input nor in the NEFF");
  return nrt::kSuccess;
}

}  // namespace

HbmCharge::~HbmCharge() {
  if (!core_) return;
  core_->hbm->unreserve(bytes_);
  core_->counters->use(row_, -int64_t(bytes_));
}

bool HbmCharge::take(Core& core, DeviceMemory row, uint64_t bytes) {
  if (!core.hbm->reserve(bytes)) return false;
  core_ = &core;
  row_ = row;
  bytes_ = bytes;
  core.counters->use(row, int64_t(bytes));
  return true;
}

int32_t load_model(Machine& m, const LoadRequest& q, std::shared_ptr<nrt::Model>& out) {
  auto view = read_neff(q.neff, m.options.validate_hash);
  if (!view.ok()) return fail(load_status(view.error()), view.error());
  if (m.options.compiled_only && view->portable)
    return fail(nrt::kUnsupportedNeffVersion, "the container was built by no compiler: this machine takes compiled NEFFs alone (neff=compiled)");
  if (view->lnc != m.options.lnc)
    return fail(nrt::kInvalid, "the NEFF is for LNC " + std::to_string(view->lnc) + ", the machine runs LNC " + std::to_string(m.options.lnc));
  auto parsed = program::parse(view->program);
  if (!parsed.ok()) return fail(load_status(parsed.error()), parsed.error());
  if (parsed->ranks != q.ranks)
    return fail(nrt::kInvalid, "program '" + parsed->name + "' is for " + std::to_string(parsed->ranks) + " ranks, loaded as rank " +
                                   std::to_string(q.rank) + " of " + std::to_string(q.ranks));
  uint64_t estimate = constants_bytes(*view);
  if (estimate > q.core->hbm->bytes() - q.core->hbm->used()) return no_room(*q.core, parsed->name, estimate);

  engine::Options options;
  options.isa = m.options.isa;
  options.threads = m.options.threads;
  options.cost = m.cost.get();
  options.numbers = m.options.numbers && view->inputs.empty();  // else they come with a launch
  auto executable = engine::Executable::load(view->program, view->constants, options);
  if (!executable.ok()) return fail(load_status(executable.error()), executable.error());
  auto model = std::make_shared<nrt::Model>(std::move(*executable));
  if (!view->inputs.empty()) {
    if (int32_t s = check_weight_inputs(*view, *parsed)) return s;
    model->weight_inputs = view->inputs;
    model->program_bytes.assign(view->program.begin(), view->program.end());
    model->options = options;
    model->options.numbers = m.options.numbers;
  }
  const uint64_t constants = view->inputs.empty() ? model->executable.constant_bytes() : 0, scratch = model->executable.scratch_bytes();
  if (!model->constants.take(*q.core, DeviceMemory::constants, constants) || !model->scratch.take(*q.core, DeviceMemory::model_shared_scratchpad, scratch))
    return no_room(*q.core, parsed->name, constants + scratch);
  model->name = parsed->name;
  model->core = q.core;
  model->rank = q.rank;
  if (q.ranks > 1 && m.options.numbers) {
    if (m.ranks_meet()) {
      auto group = SharedGroup::join(m.site, m.options.root_comm, group_signature(*parsed), q.rank, q.ranks);
      if (!group.ok()) return fail(nrt::kFailure, group.error());
      model->group = std::move(*group);
    } else {
      model->group = m.groups.join(q.rank, q.ranks, group_signature(*parsed));
    }
  }
  q.core->counters->of(OtherInfo::model_load_count).add(1);
  out = std::move(model);
  return nrt::kSuccess;
}

namespace {

// The progress page of one execution, in the caller's device memory; every call is a no-op where none is bound.
class Progress {
 public:
  void attach(uint8_t* data, uint64_t bytes) {
    page_ = reinterpret_cast<neuron::ProgressPage*>(data);
    capacity_ = (bytes - sizeof(neuron::ProgressPage)) / sizeof(uint64_t);
  }
  void mark(uint64_t k, uint64_t offset_ns) {
    if (!page_ || k > capacity_) return;
    at(neuron::progress_offsets(page_)[k - 1]).store(offset_ns, std::memory_order_relaxed);
    at(page_->count).store(k, std::memory_order_release);
  }
  bool cancelled() const { return page_ && at(page_->cancel).load(std::memory_order_acquire); }
  void finish(uint64_t cost_ns) {
    if (page_) at(page_->cost_ns).store(cost_ns, std::memory_order_release);
  }

 private:
  static std::atomic_ref<uint64_t> at(uint64_t& word) { return std::atomic_ref<uint64_t>(word); }
  neuron::ProgressPage* page_ = nullptr;
  uint64_t capacity_ = 0;
};

struct Execution {
  Machine& machine;
  nrt::Model& model;
  TensorSet& in;
  TensorSet& out;
  std::vector<std::shared_ptr<nrt::Tensor>> held{};  // alive until the end
  std::vector<engine::Binding> bindings{};
  std::vector<int64_t> args{};
  Progress progress{};
  uint64_t fingerprint = 0;
  uint64_t deadline_ns = 0;
  uint64_t modelled_ns = 0;
  int32_t stop_status = nrt::kSuccess;

  // Ok to go on; else why not, with the status that nrt_execute will give.
  Status stop() {
    auto ended = [&](int32_t status, int32_t code, const char* what) {
      stop_status = status;
      return Status(Error(code, what));
    };
    if (progress.cancelled()) return ended(nrt::kExecCompletedWithErr, BATON_CANCELLED, "the host asked the launch to stop");
    if (machine.closing) return ended(nrt::kClosed, BATON_DEVICE_LOST, "nrt_close was called during the execution");
    if (now_ns() > deadline_ns) return ended(nrt::kTimeout, BATON_DEADLINE, "the execution took longer than NEURON_RT_EXEC_TIMEOUT");
    return {};
  }
};

int32_t bad_input(const std::string& text) { return fail(nrt::kExecBadInput, text); }

// In which sets a value is looked for, and whether it must be in one.
bool reads(Storage s) { return s == Storage::input || s == Storage::inout || s == Storage::cache; }
bool writes(Storage s) { return s == Storage::output || s == Storage::inout || s == Storage::cache; }

int32_t check_tensor(const Execution& x, const std::string& name, const nrt::Tensor& t) {
  if (!t.storage) return bad_input("tensor '" + name + "' has no memory attached");
  const Core* core = t.storage->core;
  if (core && core != x.model.core)
    return bad_input("tensor '" + name + "' is in the memory of core " + std::to_string(core->vnc) + ", model '" + x.model.name + "' runs on core " +
                     std::to_string(x.model.core->vnc));
  return nrt::kSuccess;
}

int32_t bind_value(Execution& x, const Value& v) {
  auto in = reads(v.storage) ? x.in.find(v.name) : nullptr;
  auto out = writes(v.storage) ? x.out.find(v.name) : nullptr;
  if (in && out && (!in->storage || in->storage != out->storage || in->offset != out->offset || in->bytes != out->bytes))
    return bad_input("'" + v.name + "' is updated in place, but the input and the output set hold different tensors");
  auto t = in ? in : out;
  if (!t) return v.optional ? nrt::kSuccess : bad_input("no tensor '" + v.name + "' in the sets");
  if (int32_t s = check_tensor(x, v.name, *t)) return s;
  x.bindings.push_back({v.name, {t->data(), t->bytes}});
  x.held.push_back(std::move(t));
  return nrt::kSuccess;
}

int32_t bind_args(Execution& x, const program::Program& p) {
  x.args.resize(p.args.size());
  if (!p.args.empty()) {
    auto t = x.in.find(neuron::kArgsTensor);
    if (!t || !t->storage || t->bytes < p.args.size() * sizeof(int64_t))
      return bad_input("the input set needs '" + std::string(neuron::kArgsTensor) + "' with " + std::to_string(p.args.size()) + " int64");
    std::memcpy(x.args.data(), t->data(), p.args.size() * sizeof(int64_t));
  }
  if (auto t = x.out.find(neuron::kProgressTensor)) {
    if (!t->storage || t->bytes < sizeof(neuron::ProgressPage) || reinterpret_cast<uintptr_t>(t->data()) % alignof(uint64_t))
      return bad_input(fmt::format("'{}' needs {} aligned bytes or more", neuron::kProgressTensor, sizeof(neuron::ProgressPage)));
    x.progress.attach(t->data(), t->bytes);
    x.held.push_back(std::move(t));
  }
  return nrt::kSuccess;
}

// What the ranks of one launch have in common: arguments and token ids. FNV-1a.
uint64_t fingerprint(const Execution& x, const program::Program& p) {
  uint64_t h = 0xcbf29ce484222325ull;
  auto mix = [&](const void* data, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; ++i) h = (h ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3ull;
  };
  mix(x.args.data(), x.args.size() * sizeof(int64_t));
  uint64_t tokens = 1;
  for (size_t i = 0; i < p.args.size(); ++i)
    if (p.args[i] == program::Arg::tokens) tokens = uint64_t(std::max<int64_t>(1, x.args[i]));
  for (const program::Op& op : p.ops) {
    if (op.code != program::OpCode::embed) continue;
    for (const engine::Binding& b : x.bindings)
      if (b.name == p.values[op.in[0]].name) mix(b.data.data(), std::min<uint64_t>(b.data.size(), tokens * sizeof(int32_t)));
  }
  return h;
}

int32_t run_status(const Execution& x, const Error& e) {
  if (x.stop_status) return x.stop_status;
  switch (e.code) {
    case BATON_INVALID_ARGUMENT: return nrt::kExecBadInput;
    case BATON_CAPACITY: return nrt::kResource;
    case BATON_CANCELLED: return nrt::kExecCompletedWithErr;
    default: return x.model.group ? nrt::kExecHwErrCollectives : nrt::kFailure;
  }
}

// The weights that the input set binds, packed if they are others than those of the last launch.
int32_t bind_weights(Execution& x) {
  if (x.model.weight_inputs.empty() || !x.machine.options.numbers) return nrt::kSuccess;
  std::vector<engine::Constant> constants;
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (const std::string& name : x.model.weight_inputs) {
    auto t = x.in.find(name);
    if (!t) return bad_input("no tensor '" + name + "' in the input set");
    if (int32_t s = check_tensor(x, name, *t)) return s;
    constants.push_back({name, {t->data(), t->bytes}});
    XXH3_64bits_update(&state, t->data(), t->bytes);
    x.held.push_back(std::move(t));
  }
  const uint64_t hash = XXH3_64bits_digest(&state);
  if (x.model.packed && hash == x.model.packed_of) return nrt::kSuccess;
  auto packed = engine::Executable::load(x.model.program_bytes, constants, x.model.options);
  if (!packed.ok()) return fail(nrt::kExecBadInput, packed.error());
  x.model.packed.emplace(std::move(*packed));
  x.model.packed_of = hash;
  return nrt::kSuccess;
}

int32_t run(Execution& x) {
  engine::RunHooks hooks;
  hooks.rank = x.model.rank;
  hooks.collective = x.model.group.get();
  hooks.on_mark = [&x](uint64_t k, uint64_t offset_ns) {
    x.model.core->hbm->exchange();  // what lies before a mark may be read by others
    x.progress.mark(k, offset_ns);
    return !x.progress.cancelled();
  };
  engine::Run run(x.model.runnable(), x.bindings, x.args, std::move(hooks));
  for (;;) {
    engine::Step step = run.step();
    if (step == engine::Step::done) break;
    if (step == engine::Step::failed) return fail(run_status(x, run.error()), run.error());
    if (Status s = x.stop(); !s.ok()) return fail(x.stop_status, s.error());
  }
  x.modelled_ns = run.modelled_ns();
  x.progress.finish(x.modelled_ns);
  return nrt::kSuccess;
}

}  // namespace

namespace {

int32_t run_ranks(Execution& x) {
  if (!x.model.group) return run(x);
  x.model.group->begin(x.model.rank, fingerprint(x, x.model.executable.program()), [&x] { return x.stop(); });
  int32_t status = run(x);
  x.model.group->end(x.model.rank, status != nrt::kSuccess);
  return status;
}

int32_t bind_and_run(Execution& x, uint64_t& busy_ns) {
  Core& core = *x.model.core;
  std::lock_guard lock(core.busy);
  core.hbm->exchange();
  const program::Program& p = x.model.executable.program();
  for (const Value& v : p.values)
    if (reads(v.storage) || writes(v.storage))
      if (int32_t s = bind_value(x, v)) return s;
  if (int32_t s = bind_args(x, p)) return s;
  if (int32_t s = bind_weights(x)) return s;
  if (int32_t s = gate(x.machine, "nrt_execute", &core, [&x] { return x.progress.cancelled(); })) return s;
  const uint64_t start = now_ns();
  x.deadline_ns = start + x.machine.exec_timeout_ns();
  core.counters->busy_since_ns = start;
  int32_t status = run_ranks(x);
  core.counters->busy_since_ns = 0;
  core.hbm->exchange();
  busy_ns = x.modelled_ns ? x.modelled_ns : now_ns() - start;
  return status;
}

}  // namespace

int32_t execute_model(Machine& m, nrt::Model& model, TensorSet& in, TensorSet& out) {
  Execution x{m, model, in, out};
  uint64_t busy_ns = 0;
  (void)Cost::take_macs();
  const int32_t status = bind_and_run(x, busy_ns);
  CoreCounters& c = *model.core->counters;
  c.of(status_row(status)).add(1);
  if (status) c.of(CoreStatus::failure).add(1);
  c.of(OtherInfo::inference_count).add(1);
  c.of(OtherInfo::flop_count).add(2 * Cost::take_macs());
  c.of(OtherInfo::nc_time_in_use).add(busy_ns / 1000);
  if (status) return status;
  {
    std::scoped_lock lock(m.outputs_mutex, out.mutex);
    for (auto& [name, tensor] : out.tensors) ++tensor.second->completions;
  }
  m.outputs_written.notify_all();
  return status;
}

namespace {

int32_t dtype(program::DType t) {
  switch (t) {
    case program::DType::bf16: return nrt::kDtypeBf16;
    case program::DType::f16: return nrt::kDtypeFp16;
    case program::DType::i32: return nrt::kDtypeInt32;
    default: return nrt::kDtypeFp32;
  }
}

struct Described {
  std::string name;
  int32_t usage, dtype;
  uint64_t element_bytes;
  std::vector<uint32_t> shape;
};

std::vector<Described> described(const program::Program& p, bool weights) {
  std::vector<Described> all;
  uint64_t marks = 0;
  for (const program::Op& op : p.ops) marks += op.code == program::OpCode::mark;
  if (p.loop) marks *= p.max_steps;
  for (const Value& v : p.values) {
    std::vector<uint32_t> shape;
    for (int64_t d : v.shape) shape.push_back(d == program::kTokens ? p.max_tokens : d == program::kSteps ? p.max_steps : uint32_t(d));
    if (reads(v.storage) || (weights && v.storage == Storage::constant)) all.push_back({v.name, nrt::kUsageInput, dtype(v.dtype), dtype_bytes(v.dtype), shape});
    if (writes(v.storage)) all.push_back({v.name, nrt::kUsageOutput, dtype(v.dtype), dtype_bytes(v.dtype), shape});
  }
  if (!p.args.empty()) all.push_back({neuron::kArgsTensor, nrt::kUsageInput, nrt::kDtypeInt64, 8, {uint32_t(p.args.size())}});
  all.push_back({neuron::kProgressTensor, nrt::kUsageOutput, nrt::kDtypeUint64, 8, {uint32_t(neuron::progress_bytes(marks) / 8)}});
  return all;
}

}  // namespace

int32_t describe_model(nrt::Model& model, nrt::TensorInfoArray** out) {
  std::vector<Described> all = described(model.executable.program(), !model.weight_inputs.empty());
  size_t shape_words = 0;
  for (const Described& d : all) shape_words += d.shape.size();
  size_t entries = sizeof(uint64_t) + all.size() * sizeof(nrt::TensorInfo);
  auto* block = static_cast<char*>(std::calloc(1, entries + shape_words * sizeof(uint32_t)));
  if (!block) return fail(nrt::kFailHostMemAlloc, "out of host memory");
  auto* array = reinterpret_cast<nrt::TensorInfoArray*>(block);
  auto* shape = reinterpret_cast<uint32_t*>(block + entries);
  array->count = all.size();
  for (size_t i = 0; i < all.size(); ++i) {
    nrt::TensorInfo& t = array->entries[i];
    std::snprintf(t.name, sizeof t.name, "%s", all[i].name.c_str());
    t.usage = all[i].usage;
    t.dtype = all[i].dtype;
    t.ndim = uint32_t(all[i].shape.size());
    t.shape = shape;
    t.size = all[i].element_bytes;
    for (uint32_t d : all[i].shape) {
      t.size *= d;
      *shape++ = d;
    }
  }
  *out = array;
  return nrt::kSuccess;
}

}  // namespace baton::neuron_emu
