// Streams a program and its constants to the wafer: chunks are sent as slots become free; the first error ends the load.
#include "drivers/cs3/device.h"

#include <algorithm>
#include <cstring>

namespace baton::cs3 {
namespace {

constexpr uint64_t kChunkNs = 60'000'000'000;  // for a slot to become free: packing one large constant may take seconds

std::span<const uint8_t> bytes_of(const char* text) { return {reinterpret_cast<const uint8_t*>(text), std::strlen(text)}; }

}  // namespace

Status Device::push_load(Submission s, std::span<const uint8_t> payload) {
  if (load_error_.code != BATON_OK) return load_error_;
  Ticket* t = begin_waiting(uint32_t(payload.size()), now_ns() + kChunkNs);
  if (!t)
    return carrier_->is_broken() ? lost_error()
                                 : Error(BATON_DEADLINE, options_.shown + " took no chunk of the load for 60 s", "see whether the daemon hangs", options_.shown);
  std::memcpy(t->payload, payload.data(), payload.size());
  t->owner = kLoadOwner;
  ++loads_out_;
  carrier_->push(*t, s);
  carrier_->flush();
  return {};
}

Status Device::stream(Op op, uint32_t program, std::span<const uint8_t> bytes) {
  for (uint64_t at = 0; at < bytes.size();) {
    const uint64_t n = std::min<uint64_t>(kMaxPayload, bytes.size() - at);
    Submission s{};
    s.op = uint16_t(op);
    s.program = program;
    s.address = at;
    s.bytes = n;
    BATON_TRY(push_load(s, bytes.subspan(at, n)));
    at += n;
  }
  return {};
}

Result<LoadedProgram*> Device::load(std::span<const uint8_t> program, std::span<const baton_constant> constants, uint32_t rank,
                                    uint32_t ranks) {
  if (rank != 0 || ranks != 1)
    return Error(BATON_UNSUPPORTED, "a program of " + std::to_string(ranks) + " ranks: a CS-3 has one lane, so no collectives",
                 "shard on the prefill side, or build the decode program with ranks = 1", options_.shown);
  Submission s{};
  s.op = uint16_t(Op::load_begin);
  s.bytes = program.size();
  s.arg0 = constants.size();
  auto begun = call(s);
  if (!begun) return begun.error();
  const uint32_t handle = begun->handle;
  load_error_ = Error();
  loads_out_ = 0;
  const auto stream_all = [&]() -> Status {
    BATON_TRY(stream(Op::load_program, handle, program));
    for (const baton_constant& c : constants) {
      const auto name = bytes_of(c.name);
      if (name.empty() || name.size() > kSmallBytes)
        return Error(BATON_INVALID_ARGUMENT, "a constant's name has " + std::to_string(name.size()) + " bytes", "1 to 16384", options_.shown);
      Submission begin{};
      begin.op = uint16_t(Op::load_constant);
      begin.program = handle;
      begin.bytes = c.bytes;
      BATON_TRY(push_load(begin, name));
      BATON_TRY(stream(Op::load_chunk, handle, {static_cast<const uint8_t*>(c.data), c.bytes}));
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
  auto finished = call(end);
  if (!st.ok()) return st.error();
  if (!finished) {
    Submission drop{};
    drop.op = uint16_t(Op::unload);
    drop.program = handle;
    (void)call(drop).ok();
    return finished.error();
  }
  return new LoadedProgram{handle, connection_};
}

}  // namespace baton::cs3
