// What a client asks about names, of the fault plan, and of the clock; and what the plan does to its commands.
#include "emulators/cs3/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace baton::cs3 {
namespace {

constexpr uint64_t kLeastHz = 10'000'000, kMostHz = 100'000'000'000;  // as the option clock_ghz

std::string name_of(const Submission& s, const Payload& payload) {
  const uint64_t bytes = s.bytes ? std::min<uint64_t>(s.bytes, s.payload_bytes) : s.payload_bytes;
  return std::string(reinterpret_cast<const char*>(payload.data()), bytes ? std::min<uint64_t>(bytes, 256) : 0);
}

// A lost wafer still says what it is, gives up what it holds, and takes a reset.
bool needs_wafer(Op op) {
  return is_stream(op) || op == Op::load || op == Op::run || op == Op::symbol || op == Op::port || op == Op::alloc || op == Op::peer_key || op == Op::peer_open || (op >= Op::load_begin && op <= Op::load_finish);
}

}  // namespace

void Session::answer_symbol(const Submission& s, const SymbolReply& r, Completion& c) {
  c.handle = r.id;
  c.address = r.base;
  c.value = r.mem;
  c.payload_bytes = s.payload_bytes >= sizeof r ? uint32_t(sizeof r) : 0;
  if (c.payload_bytes) std::memcpy(port_->answer(s), &r, sizeof r);
}

Status Session::control_symbol(const Submission& s, const Payload& payload, Completion& c) {
  const std::string name = name_of(s, payload);
  if (Op(s.op) == Op::get_id && name == "sram") {
    Symbol sram{name, kSramSymbol, SymbolKind::linear, symbols_.program};
    answer_symbol(s, sram.reply(), c);
    return {};
  }
  if (Op(s.op) != Op::get_id && life_ == Life::fresh)
    return clients_bug("a symbol before load", "a program's symbols are there once it is loaded");
  const Symbol* found = nullptr;
  if (Op(s.op) == Op::get_id) {
    BATON_ASSIGN(found, symbols_.find(name));
  } else if (Op(s.op) == Op::symbol) {
    BATON_ASSIGN(found, symbols_.add_array(host_.wafer, id_, name, {s.x, s.y, s.w, s.h}, s.elements_per_pe, host_.faults.conditions()));
  } else {
    BATON_ASSIGN(found, symbols_.add_port(name, s.symbol, s.x, s.y, s.arg0 == 1));
  }
  answer_symbol(s, found->reply(), c);
  return {};
}

Status Session::control_fault(const Submission& s, const Payload& payload, Completion& c) {
  if (s.arg0 == 1) {
    const std::string text(reinterpret_cast<const char*>(payload.data()), s.payload_bytes);
    BATON_ASSIGN(host_.faults, FaultPlan::parse(text.empty() ? "{}" : text));  // no path: a client is not to make the daemon read files
    ++host_.plans;
    std::fill(std::begin(host_.wafer.counters.channel_rate), std::end(host_.wafer.counters.channel_rate), 0);  // of the plan before
    return {};
  }
  const std::string text = host_.faults.report();
  c.value = text.size();
  if (text.size() > s.payload_bytes)
    return Error(BATON_CAPACITY, fmt::format("the fault plan is {} bytes: there is room for {}", text.size(), s.payload_bytes), "ask with a larger answer, up to 1 MiB");
  c.payload_bytes = uint32_t(text.size());
  std::memcpy(port_->answer(s), text.data(), text.size());
  return {};
}

// The model is one for all wafers of the daemon. What runs goes on at the new clock, op by op.
Status Session::control_clock(const Submission& s, Completion& c) {
  timing::WaferModel* const model = host_.wafer.cost();
  if (!model) return Error(BATON_UNSUPPORTED, "this daemon has no timing model (timing=none), and so no clock", "start it with timing=cs3");
  if (s.arg0) {
    if (s.arg0 < kLeastHz || s.arg0 > kMostHz) return Error(BATON_INVALID_ARGUMENT, fmt::format("a clock of {} Hz", s.arg0), "10 MHz to 100 GHz; sources say 0.75, 0.85, 1.1 and 1.4 GHz");
    model->set_clock_hz(double(s.arg0));
  }
  c.value = uint64_t(std::llround(model->clock_hz()));
  return {};
}

Status Session::meet_fault(Op op, Command* c) {
  if (host_.lost && needs_wafer(op)) return *host_.lost;
  const auto fault = host_.faults.match(op);
  if (!fault) return {};
  switch (fault->action) {
    case Fault::Action::fail: return Error(fault->code, "failed, by " + fault->text(), "as planned: change the plan where that is not wanted");
    case Fault::Action::delay:
      if (c) c->delay_ns = fault->delay_ns;
      if (c) resume_ns_ = now_ns() + fault->delay_ns;
      return {};
    case Fault::Action::kill: host_.die(); return {};
    case Fault::Action::hang:
      if (c) c->hang = *fault;
      return {};
    case Fault::Action::drop_link: port_->cut("dropped, by " + fault->text()); return {};
    case Fault::Action::lose_wafer:
      host_.lost = Error(BATON_DEVICE_LOST, "the wafer is lost, by " + fault->text(), "reset the device: its epoch rises, and memory and programs are gone");
      return *host_.lost;
  }
  return {};
}

Error Session::because_of_hang(Error e) {
  if (!hung_) return e;
  Error::put(e.what, fmt::format("{}; the kernel's bug: launch {} never unblocked the command stream, and what is behind it did not run ({})", e.what, hung_->launch,
                                 hung_->by.text()));
  Error::put(e.next, "the kernel must call sys_mod.unblock_cmd_stream() when it ends");
  return e;
}

}  // namespace baton::cs3
