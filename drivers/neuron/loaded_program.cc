#include "drivers/neuron/loaded_program.hpp"

#include "drivers/neuron/quirks.hpp"

#include <fmt/format.h>

#include <atomic>
#include <cstring>

namespace baton::neuron {
namespace {

uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

std::atomic_ref<uint64_t> word(uint64_t& w) { return std::atomic_ref<uint64_t>(w); }

uint64_t marks_of(const program::Program& p) {
  uint64_t marks = 0;
  for (const program::Op& op : p.ops) marks += op.code == program::OpCode::mark;
  return p.loop ? marks * p.max_steps : marks;
}

}  // namespace

Result<std::unique_ptr<LoadedProgram>> LoadedProgram::load(const Port& port, ModelCache& models, const Placement& place, std::span<const uint8_t> bytes,
                                                           std::span<const baton_constant> constants, uint32_t rank, uint32_t ranks) {
  BATON_ASSIGN(program::Program parsed, program::parse(bytes));
  if (ranks > 1 && !port.load_collectives)
    return Error(BATON_UNSUPPORTED, "this runtime has no nrt_load_collectives: no program over " + std::to_string(ranks) + " lanes", "use one lane");
  std::unique_ptr<LoadedProgram> p(new LoadedProgram(port, place));
  p->describe(parsed);
  BATON_ASSIGN(p->model_, models.load({bytes, parsed, constants, rank, ranks}, place));
  BATON_TRY(p->make_slots());
  return p;
}

void LoadedProgram::describe(const program::Program& p) {
  name_ = p.name;
  args_ = uint32_t(p.args.size());
  page_bytes_ = round_up(progress_bytes(marks_of(p)), 64);
  for (const program::Value& v : p.values) {
    using program::Storage;
    bool both = v.storage == Storage::inout || v.storage == Storage::cache;
    bool in = both || v.storage == Storage::input, out = both || v.storage == Storage::output;
    if (!in && !out) continue;
    values_[v.name] = {in, out, v.optional};
    required_ += !v.optional;
  }
}

// Pages are host memory, which the device writes as it writes any completion word: a CPU does well to leave device memory alone.
Status LoadedProgram::attach_page(LaunchSlot& s, uint8_t* at) {
  if (int32_t status = port_.tensor_empty(kProgressTensor, &s.page)) return status_error(port_, status, "nrt_tensor_allocate_empty");
  if (int32_t status = port_.tensor_attach(s.page, at, page_bytes_)) return status_error(port_, status, "nrt_tensor_attach_buffer");
  s.mapped = reinterpret_cast<ProgressPage*>(at);
  return {};
}

// One allocation of each kind for all slots, at 64 bytes.
Status LoadedProgram::make_slots() {
  const bool attach = port_.tensor_empty && port_.tensor_attach;
  const uint64_t args_bytes = round_up(std::max<uint64_t>(args_, 1) * sizeof(int64_t), 64), slot_bytes = args_bytes + (attach ? 0 : page_bytes_);
  BATON_ASSIGN(arena_, Memory::allocate(port_, place_.vnc, place_.lane, kSlots * slot_bytes));
  if (attach) {
    const uint64_t bytes = round_up(kSlots * page_bytes_, kPageBytes);
    pages_.reset(static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, bytes)));
    if (!pages_) return Error(BATON_CAPACITY, "no host memory for " + std::to_string(bytes) + " bytes of progress pages", "free host memory");
    std::memset(pages_.get(), 0, bytes);
  }
  for (uint32_t i = 0; i < kSlots; ++i) {
    LaunchSlot& s = slots_[i];
    BATON_ASSIGN(s.args, arena_->range(i * slot_bytes, args_bytes));
    if (attach) {
      BATON_TRY(attach_page(s, pages_.get() + i * page_bytes_));
    } else {
      BATON_ASSIGN(s.page, arena_->range(i * slot_bytes + args_bytes, page_bytes_));
      s.copied.resize(page_bytes_ / sizeof(uint64_t));
    }
  }
  return {};
}

LoadedProgram::~LoadedProgram() { drop(); }

void LoadedProgram::drop() {
  for (LaunchSlot& s : slots_) clear(s);
  model_.reset();
  for (LaunchSlot& s : slots_)
    if (pages_ && s.page) port_.tensor_free(&s.page);
  arena_.reset();
}

void LoadedProgram::clear(LaunchSlot& s) {
  if (s.in) port_.set_destroy(&s.in);
  if (s.out) port_.set_destroy(&s.out);
  s.in = s.out = nullptr;
}

bool LoadedProgram::has_free_slot() const { return busy_ < kSlots; }

Status LoadedProgram::add(void* set, const char* name, nrt::Tensor* t) {
  if (int32_t s = port_.set_add(set, name, t)) return status_error(port_, s, "nrt_add_tensor_to_tensor_set", name);
  return {};
}

Status LoadedProgram::bind_one(LaunchSlot& slot, const baton_driver_binding& b) {
  auto* m = static_cast<Memory*>(b.mem);
  auto v = values_.find(b.name);
  if (v == values_.end())
    return Error(BATON_INVALID_ARGUMENT, "program '" + name_ + "' has nothing named '" + b.name + "' to bind", "bind the inputs, outputs and caches that it declares");
  if (!m->tensor()) return Error(BATON_DEVICE_LOST, std::string("the buffer bound to '") + b.name + "' was lost in a reset", "allocate it again");
  if (m->vnc() >= 0 && m->vnc() != place_.vnc)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("'{}' is bound to memory of heap {}, lane {} works on heap {}", b.name, m->heap(), place_.lane, place_.lane),
                 fmt::format("allocate what a lane works on in its own heap: {}", place_.lane));
  BATON_ASSIGN(nrt::Tensor* t, m->range(b.offset, b.bytes));
  if (v->second.in) BATON_TRY(add(slot.in, b.name, t));
  if (v->second.out) BATON_TRY(add(slot.out, b.name, t));
  m->acquire();
  slot.bound.push_back(m);
  return {};
}

Status LoadedProgram::bind(LaunchSlot& slot, const baton_driver_op& op) {
  const auto& launch = op.u.launch;
  if (!model_) return Error(BATON_DEVICE_LOST, "program '" + name_ + "' was lost in a reset", "load it again");
  if (launch.arg_count != args_)
    return Error(BATON_INVALID_ARGUMENT, "program '" + name_ + "' takes " + std::to_string(args_) + " arguments, the launch passes " +
                                             std::to_string(launch.arg_count), "pass one int64 for each declared argument");
  if (int32_t s = port_.set_allocate(&slot.in)) return status_error(port_, s, "nrt_allocate_tensor_set");
  if (int32_t s = port_.set_allocate(&slot.out)) return status_error(port_, s, "nrt_allocate_tensor_set");
  uint32_t required = 0;
  for (uint32_t i = 0; i < launch.binding_count; ++i) {
    BATON_TRY(bind_one(slot, launch.bindings[i]));
    required += !values_[launch.bindings[i].name].optional;
  }
  if (required < required_)
    return Error(BATON_INVALID_ARGUMENT, "the launch binds " + std::to_string(required) + " of the " + std::to_string(required_) + " values that program '" +
                                             name_ + "' needs", "bind every value that is not optional");
  if (args_) {
    if (int32_t s = port_.tensor_write(slot.args, launch.args, 0, args_ * sizeof(int64_t))) return status_error(port_, s, "nrt_tensor_write");
    BATON_TRY(add(slot.in, kArgsTensor, slot.args));
  }
  BATON_TRY(model_->bind_weights(slot.in));
  ProgressPage blank{};
  if (slot.mapped) {
    *slot.mapped = blank;
  } else {
    if (int32_t s = port_.tensor_write(slot.page, &blank, 0, sizeof blank)) return status_error(port_, s, "nrt_tensor_write");
    std::memcpy(slot.copied.data(), &blank, sizeof blank);
  }
  return add(slot.out, kProgressTensor, slot.page);
}

LaunchSlot* LoadedProgram::begin(const baton_driver_op& op, Error& error) {
  for (LaunchSlot& s : slots_) {
    if (s.busy) continue;
    s.busy = true;
    ++busy_;
    if (Status bound = bind(s, op); bound.ok()) return &s;
    else error = bound.error();
    std::vector<Memory*> freed;  // none: the core holds what it passes
    end(s, freed);
    return nullptr;
  }
  error = Error(BATON_INTERNAL, "no launch slot is free", "");
  return nullptr;
}

bool LoadedProgram::end(LaunchSlot& slot, std::vector<Memory*>& freed) {
  clear(slot);
  for (Memory* m : slot.bound)
    if (m->release()) freed.push_back(m);
  slot.bound.clear();
  slot.busy = false;
  return --busy_ == 0 && orphan_;
}

LaunchResult LoadedProgram::execute(LaunchSlot& slot) {
  LaunchResult r;
  r.status = port_.execute(model_->get(), slot.in, slot.out);
  if (slot.mapped) {
    r.cost_ns = word(slot.mapped->cost_ns).load(std::memory_order_acquire);
  } else if (int32_t s = port_.tensor_read(slot.page, slot.copied.data(), 0, page_bytes_)) {
    if (!r.status) r.status = s;
  } else {
    r.cost_ns = reinterpret_cast<ProgressPage*>(slot.copied.data())->cost_ns;
  }
  return r;
}

// Where the page is in device memory, `copied` is written by the queue's thread before it hands the launch back, and read after that.
uint64_t LoadedProgram::marks(const LaunchSlot& slot) {
  if (slot.mapped) return word(slot.mapped->count).load(std::memory_order_acquire);
  return reinterpret_cast<const ProgressPage*>(slot.copied.data())->count;
}

uint64_t LoadedProgram::mark_offset(const LaunchSlot& slot, uint64_t k) {
  if (slot.mapped) return word(progress_offsets(slot.mapped)[k - 1]).load(std::memory_order_relaxed);
  return slot.copied[sizeof(ProgressPage) / sizeof(uint64_t) + k - 1];
}

void LoadedProgram::cancel(LaunchSlot& slot) {
  if (slot.mapped) word(slot.mapped->cancel).store(1, std::memory_order_release);
}

}  // namespace baton::neuron
