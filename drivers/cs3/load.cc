// Streams programs and their constants to the wafers: chunks are sent as slots become free; the first error ends the load.
#include "drivers/cs3/device.h"

#include <algorithm>
#include <cstring>

namespace baton::cs3 {
namespace {

constexpr uint64_t kChunkNs = 60'000'000'000;  // for a slot to become free: packing one large constant may take seconds

// Of a load that failed at a stage; what a wafer alone would say to do next is not what a pipeline can.
Error named(Error e, size_t stage, size_t of) {
  Error::put(e.what, "stage " + std::to_string(stage) + " of " + std::to_string(of) + ": " + std::string(e.what));
  if (e.code == BATON_CAPACITY)
    Error::put(e.next, "more wafers than " + std::to_string(of) + " ('devctl place' says how many), fewer sequences, a shorter context, or spill KV to host memory");
  return e;
}

std::span<const uint8_t> bytes_of(const char* text) { return {reinterpret_cast<const uint8_t*>(text), std::strlen(text)}; }

}  // namespace

Status Device::push_load(System& system, Submission s, std::span<const uint8_t> payload) {
  if (load_error_.code != BATON_OK) return load_error_;
  Ticket* t = begin_waiting(system, uint32_t(payload.size()), now_ns() + kChunkNs);
  if (!t)
    return any_broken() ? lost_error() : Error(BATON_DEADLINE, name_of(system) + " took no chunk of the load for 60 s", "see whether the daemon hangs", options_.shown);
  std::memcpy(t->payload, payload.data(), payload.size());
  t->owner = kLoadOwner;
  ++loads_out_;
  system.carrier->push(*t, s);
  system.carrier->flush();
  return {};
}

Status Device::stream(System& system, Op op, uint32_t program, std::span<const uint8_t> bytes) {
  for (uint64_t at = 0; at < bytes.size();) {
    const uint64_t n = std::min<uint64_t>(kMaxPayload, bytes.size() - at);
    Submission s{};
    s.op = uint16_t(op);
    s.program = program;
    s.address = at;
    s.bytes = n;
    BATON_TRY(push_load(system, s, bytes.subspan(at, n)));
    at += n;
  }
  return {};
}

Result<uint32_t> Device::load_on(System& system, std::span<const uint8_t> program, std::span<const baton_constant> constants) {
  Submission s{};
  s.op = uint16_t(Op::load_begin);
  s.bytes = program.size();
  s.arg0 = constants.size();
  auto begun = call(system, s);
  if (!begun) return begun.error();
  const uint32_t handle = begun->handle;
  load_error_ = Error();
  loads_out_ = 0;
  const auto stream_all = [&]() -> Status {
    BATON_TRY(stream(system, Op::load_program, handle, program));
    for (const baton_constant& c : constants) {
      const auto name = bytes_of(c.name);
      if (name.empty() || name.size() > kSmallBytes)
        return Error(BATON_INVALID_ARGUMENT, "a constant's name has " + std::to_string(name.size()) + " bytes", "1 to 16384", options_.shown);
      Submission begin{};
      begin.op = uint16_t(Op::load_constant);
      begin.program = handle;
      begin.bytes = c.bytes;
      BATON_TRY(push_load(system, begin, name));
      BATON_TRY(stream(system, Op::load_chunk, handle, {static_cast<const uint8_t*>(c.data), c.bytes}));
    }
    return {};
  };
  Status st = stream_all();
  const Status answered = wait(now_ns() + kChunkNs, [&] { return loads_out_ == 0; });
  if (load_error_.code != BATON_OK) st = load_error_;  // the first cause
  else if (st.ok()) st = answered;
  Submission end{};
  end.op = uint16_t(st.ok() ? Op::load_finish : Op::unload);
  end.program = handle;
  auto finished = call(system, end);
  if (!st.ok()) return st.error();
  if (!finished) {
    Submission drop{};
    drop.op = uint16_t(Op::unload);
    drop.program = handle;
    (void)call(system, drop).ok();
    return finished.error();
  }
  return handle;
}

// Stages on `from` can send to `to` from now on.
Status Device::open_peer(System& from, const System& to) {
  if (from.peers[to.index]) return {};
  uint8_t key[16] = {};
  Submission ask{};
  ask.op = uint16_t(Op::peer_key);
  auto c = call(*systems_[to.index], ask, {}, key, sizeof key);
  if (!c) return c.error();
  std::vector<uint8_t> payload(std::begin(key), std::end(key));
  const std::string where = to.where();
  payload.insert(payload.end(), where.begin(), where.end());
  Submission open{};
  open.op = uint16_t(Op::peer_open);
  open.arg0 = to.index;
  c = call(from, open, payload);
  if (!c) return c.error();
  from.peers[to.index] = true;
  return {};
}

// On one wafer a program is loaded as it is; over several, each gets its stage.
Result<LoadedProgram*> Device::load(uint32_t lane, std::span<const uint8_t> program, std::span<const baton_constant> constants, uint32_t rank, uint32_t ranks) {
  if (rank != 0 || ranks != 1)
    return Error(BATON_UNSUPPORTED, "a program of " + std::to_string(ranks) + " ranks: wafers are stages of a pipeline, not lanes of a collective",
                 "shard on the prefill side, or build the decode program with ranks = 1", options_.shown);
  auto loaded = std::make_unique<LoadedProgram>();
  loaded->connection = connection_;
  Stages stages;
  if (systems_.size() > 1) {
    BATON_ASSIGN(const program::Program whole, program::parse(program));
    BATON_ASSIGN(stages, cut_stages(whole));
    const auto rows = std::find(whole.args.begin(), whole.args.end(), program::Arg::tokens);
    if (rows != whole.args.end() && !whole.loop) loaded->rows_arg = int(rows - whole.args.begin());
  }
  if (stages.list.size() <= 1) {
    BATON_ASSIGN(const uint32_t handle, load_on(*systems_[lane], program, constants));
    loaded->stages.push_back({.system = systems_[lane].get(), .handle = handle});
    return loaded.release();
  }
  if (lane + stages.list.size() > systems_.size())
    return Error(BATON_CAPACITY, std::to_string(stages.list.size()) + " stages from wafer " + std::to_string(lane) + " on: " + options_.shown + " has " + std::to_string(systems_.size()),
                 "open more systems as one device, or give the program fewer caches", options_.shown);
  for (size_t i = 0; i < stages.list.size(); ++i)
    if (const System& s = *systems_[lane + i]; !(s.daemon.capabilities & kCapSlots))
      return Error(BATON_UNSUPPORTED, name_of(s) + " cannot run a stage of a pipeline", "give the program one cache, so that it is loaded on one wafer", options_.shown);
  loaded->tokens = stages.tokens;
  const auto has = [](const StageProgram& s, const char* name) { return std::find(s.constants.begin(), s.constants.end(), name) != s.constants.end(); };
  for (const baton_constant& c : constants)
    if (std::none_of(stages.list.begin(), stages.list.end(), [&](const StageProgram& s) { return has(s, c.name); }))
      return Error(BATON_MISMATCH, "the program declares no constant '" + std::string(c.name).substr(0, 80) + "'", "load the constants that the program declares", options_.shown);
  const auto load_stages = [&]() -> Status {
    for (const StageProgram& s : stages.list) {
      System& system = *systems_[lane + loaded->stages.size()];
      std::vector<baton_constant> own;
      for (const baton_constant& c : constants)
        if (has(s, c.name)) own.push_back(c);
      const auto handle = load_on(system, program::serialize(s.program), own);
      if (!handle) return named(handle.error(), loaded->stages.size(), stages.list.size());
      LoadedStage stage{&system, *handle, s.marks_before, s.marks, s.in_bytes, s.out_bytes, {}, s.tokens};
      for (const program::Value& v : s.program.values)
        if (v.storage != program::Storage::constant && v.storage != program::Storage::scratch) stage.names.push_back(v.name);
      loaded->stages.push_back(std::move(stage));
    }
    for (size_t i = 0; i < loaded->stages.size(); ++i)
      BATON_TRY(open_peer(*loaded->stages[i].system, *loaded->stages[(i + 1) % loaded->stages.size()].system));
    return {};
  };
  if (Status st = load_stages(); !st.ok()) {
    unload(loaded.release());
    return st.error();
  }
  return loaded.release();
}

}  // namespace baton::cs3
