// A LAUNCH: one command to a wafer's slot, or one to each wafer that has a stage of the program; its marks and its time.
#include "drivers/cs3/device.h"

#include <algorithm>
#include <cstring>

namespace baton::cs3 {
namespace {

const LoadedProgram& program_of(const baton_driver_op& op) { return *static_cast<const LoadedProgram*>(op.u.launch.program); }
const Memory& memory(const baton_driver_binding& b) { return *static_cast<const Memory*>(b.mem); }

bool binds(const LoadedStage& s, const char* name) { return std::find(s.names.begin(), s.names.end(), name) != s.names.end(); }

LaunchBinding own(const char* name, Role role, uint64_t bytes) {
  LaunchBinding b{{}, 0, uint32_t(role), 0, bytes};
  std::strcpy(b.name, name);
  return b;
}

}  // namespace

// Every binding lies on the wafer of the stage that uses it; the token buffer on the first one's.
Status Device::check_launch(const StreamOp& o) const {
  const auto& l = o.op.u.launch;
  const LoadedProgram& p = program_of(o.op);
  if (l.binding_count > kMaxBindings - 2 || l.arg_count > kMaxArgs)
    return Error(BATON_INVALID_ARGUMENT, "a launch of " + std::to_string(l.binding_count) + " bindings and " + std::to_string(l.arg_count) +
                                             " arguments: a CS-3 takes " + std::to_string(kMaxBindings - 2) + " and " + std::to_string(kMaxArgs),
                 "", options_.shown);
  for (uint32_t i = 0; i < l.binding_count; ++i) {
    const baton_driver_binding& b = l.bindings[i];
    if (std::strlen(b.name) >= sizeof LaunchBinding::name)
      return Error(BATON_INVALID_ARGUMENT, "the name '" + std::string(b.name, 40) + "...' of a binding is over 63 bytes", "", options_.shown);
    for (const LoadedStage& s : p.stages) {
      if (p.stages.size() > 1 && (!binds(s, b.name) || (b.name == p.tokens && &s != &p.stages.front()))) continue;
      if (memory(b).system != s.system)
        return Error(BATON_MISMATCH, "'" + std::string(b.name) + "' is bound to memory of wafer " + std::to_string(memory(b).system->index) + ", and used on wafer " + std::to_string(s.system->index),
                     "allocate it in heap " + std::to_string(s.system->index), options_.shown);
    }
  }
  return {};
}

bool Device::push_launch(StreamOp& o, uint32_t index) {
  const LoadedProgram& p = program_of(o.op);
  if (o.number == 0) {
    if (Status st = check_launch(o); !st.ok()) {
      fail_op(o, st.error());
      return true;
    }
    o.number = ++launches_;
  }
  while (o.stages_pushed < p.stages.size()) {
    if (o.cancel_wanted || o.error.code != BATON_OK) break;  // the stages that are there hear of it
    if (!push_stage(o, index, o.stages_pushed)) return false;
  }
  if (o.stages_pushed < p.stages.size() && o.error.code == BATON_OK) fail_op(o, Error(BATON_CANCELLED, "cancelled", "", options_.shown));
  return o.pushed = true;
}

bool Device::push_stage(StreamOp& o, uint32_t index, uint32_t number) {
  const auto& l = o.op.u.launch;
  const LoadedProgram& p = program_of(o.op);
  const LoadedStage& stage = p.stages[number];
  const bool pipeline = p.stages.size() > 1, first = number == 0, last = number + 1 == p.stages.size();
  LaunchBinding table[kMaxBindings];
  uint16_t count = 0;
  const uint64_t rows = p.rows_arg >= 0 && uint32_t(p.rows_arg) < l.arg_count ? uint64_t(std::clamp<int64_t>(l.args[p.rows_arg], 1, 1 << 20)) : 1;
  if (!first) table[count++] = own(kStageIn, Role::input, rows * stage.in_bytes);
  if (!last) table[count++] = own(kStageOut, Role::output, rows * stage.out_bytes);
  for (uint32_t i = 0; i < l.binding_count; ++i) {
    const baton_driver_binding& b = l.bindings[i];
    const bool known = !pipeline || binds(stage, b.name) || (first && std::none_of(p.stages.begin(), p.stages.end(), [&](const LoadedStage& s) { return binds(s, b.name); }));
    if (!known) continue;  // of another stage; what none knows, the first one refuses
    const bool tokens = pipeline && b.name == p.tokens;
    if (tokens && !first) {
      table[count++] = own(b.name, Role::tokens, b.bytes);
      continue;
    }
    const Memory& m = memory(b);
    LaunchBinding w{{}, m.handle, uint32_t(tokens ? Role::tokens : Role::memory), m.address + b.offset, b.bytes};
    std::strcpy(w.name, b.name);
    table[count++] = w;
  }
  const uint32_t bytes = uint32_t(sizeof(LaunchHead) + count * sizeof(LaunchBinding) + l.arg_count * sizeof(int64_t));
  Ticket* t = stage.system->carrier->begin(bytes);
  if (!t) return false;
  const bool slots = (stage.system->daemon.capabilities & kCapSlots) != 0;
  LaunchHead head{count, uint16_t(l.arg_count), 0, 0, 0};
  if (slots) head = {count, uint16_t(l.arg_count), o.queue->slot, uint8_t(pipeline ? number : 0), uint8_t(pipeline ? p.stages.size() : 0)};
  uint8_t* to = t->payload;
  std::memcpy(to, &head, sizeof head);
  std::memcpy(to += sizeof head, table, count * sizeof(LaunchBinding));
  if (l.arg_count) std::memcpy(to + count * sizeof(LaunchBinding), l.args, l.arg_count * sizeof(int64_t));
  Submission s{};
  s.op = uint16_t(Op::launch);
  s.flags = uint16_t((l.want_progress ? kWantProgress : 0) | (slots ? kInSlot : 0));
  s.tag = o.op.tag;
  s.program = stage.handle;
  if (slots) {
    s.arg0 = o.op.start_ns;
    s.arg1 = o.number;
    if (pipeline) s.mem = p.stages[(number + 1) % p.stages.size()].system->index;
  }
  o.clocked = slots;
  t->owner = index;
  t->offset = number;
  stage.system->carrier->push(*t, s);
  o.launch_ids[number] = t->id;
  o.launch_on[number] = stage.system;
  ++o.stages_pushed;
  ++o.outstanding;
  return true;
}

// Mark k of a stage is a mark of the launch: each iteration has those of the first stage, then those of the next. The core hears of them in that
// order; over several connections they may come in another.
void Device::absorb_mark(uint32_t index, uint32_t stage, const Completion& c) {
  StreamOp& o = ops_[index];
  if (o.orphan) return;
  const LoadedProgram& p = program_of(o.op);
  if (p.stages.size() == 1) {
    notices_.push({index, false, c.value, c.cost_ns});
    return;
  }
  const uint32_t all = p.marks();
  if (stage >= p.stages.size() || all == 0 || p.stages[stage].marks == 0) return;
  const uint64_t own = p.stages[stage].marks, n = c.value - 1;
  o.held.push_back({n / own * all + p.stages[stage].marks_before + n % own + 1, c.cost_ns});
  for (auto m = o.held.begin(); m != o.held.end();) {
    if (m->k != o.marks_told + 1) {
      ++m;
      continue;
    }
    notices_.push({index, false, m->k, m->offset_ns});
    o.marks_told = m->k;
    o.held.erase(m);
    m = o.held.begin();
  }
}

// As the core reckons it: an op begins when its waits are met and the queue's previous op is over.
uint64_t Device::begin_ns(const StreamOp& o) const { return std::max(o.op.start_ns, o.queue->end_ns); }

}  // namespace baton::cs3
