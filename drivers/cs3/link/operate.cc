#include "drivers/cs3/link/operate.hpp"

#include "drivers/cs3/link/connect.h"

#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

namespace baton::cs3 {
namespace {

constexpr int kNapMs = 50;  // between two looks whether the daemon lives

}  // namespace

struct WaferOperator::Impl {
  Link link;
  Fd epoll;
  uint64_t deadline_ns = 0;
  std::string where;

  // One command; its answer goes into `answer`, as far as there is room.
  Result<Completion> call(Submission s, std::span<const uint8_t> payload, std::vector<uint8_t>* answer) {
    Carrier& c = *link.carrier;
    Ticket* const t = c.begin(uint32_t(std::max(payload.size(), answer ? answer->size() : 0)));
    if (!t) return Error(BATON_BUSY, where + ": an earlier command is not answered", "connect anew");
    if (!payload.empty()) std::memcpy(t->payload, payload.data(), payload.size());
    c.push(*t, s);
    c.flush();
    for (Event ev;;) {
      const Pop p = c.pop(ev);
      if (p == Pop::broken) return c.broken();
      if (p == Pop::got) {
        if (!ev.ticket || !ev.last) continue;  // somebody's reset: what is asked here holds for any epoch
        const Completion done = ev.c;
        if (answer) answer->assign(ev.ticket->payload, ev.ticket->payload + done.payload_bytes);
        const size_t cut = ev.text.find('\n');
        const Error e(done.code, ev.text.substr(0, cut), cut == std::string_view::npos ? "" : ev.text.substr(cut + 1), "cs3://" + where);
        c.end(*ev.ticket);
        if (done.code != BATON_OK) return e;
        return done;
      }
      if (now_ns() >= deadline_ns) return Error(BATON_DEADLINE, where + " has not answered in time", "see whether its process " + std::to_string(link.daemon.pid) + " hangs or is stopped", "cs3://" + where);
      if (!c.arm()) continue;
      pollfd one{epoll.get(), POLLIN, 0};
      ::poll(&one, 1, kNapMs);
      c.disarm();
      c.check_alive();
    }
  }
  Result<Completion> call(Op op, uint64_t arg0 = 0, std::span<const uint8_t> payload = {}, std::vector<uint8_t>* answer = nullptr) {
    Submission s{};
    s.op = uint16_t(op);
    s.arg0 = arg0;
    return call(s, payload, answer);
  }
  // An answer that may be shorter or longer than this side knows it.
  template <class Reply>
  Result<Reply> ask(Op op) {
    std::vector<uint8_t> bytes(sizeof(Reply));
    BATON_TRY(status(call(op, 0, {}, &bytes)));
    Reply r{};
    std::memcpy(&r, bytes.data(), std::min(bytes.size(), sizeof r));
    if (r.bytes < sizeof r) std::memset(reinterpret_cast<uint8_t*>(&r) + std::min<size_t>(r.bytes, sizeof r), 0, sizeof r - std::min<size_t>(r.bytes, sizeof r));
    return r;
  }
  static Status status(const Result<Completion>& r) { return r ? Status() : Status(r.error()); }
  Status needs(Capability c, const char* what) const {
    if (link.daemon.capabilities & c) return {};
    return Error(BATON_UNSUPPORTED, where + " has no " + what + (link.daemon.emulated ? ": it is of an earlier release" : ": it is no emulator"), "devctl emu ls shows emulated systems", "cs3://" + where);
  }
};

WaferOperator::WaferOperator(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
WaferOperator::WaferOperator(WaferOperator&&) noexcept = default;
WaferOperator& WaferOperator::operator=(WaferOperator&&) noexcept = default;
WaferOperator::~WaferOperator() = default;

Result<WaferOperator> WaferOperator::connect(std::string_view address, uint32_t wafer, uint64_t deadline_ns) {
  constexpr std::string_view scheme = "cs3://";
  if (address.starts_with(scheme)) address.remove_prefix(scheme.size());
  auto i = std::make_unique<Impl>();
  i->where = std::string(address);
  i->deadline_ns = deadline_ns;
  BATON_ASSIGN(const HostPort at, parse_host_port(address));
  if (wafer >= kMaxStages) return Error(BATON_INVALID_ARGUMENT, i->where + " has no wafer " + std::to_string(wafer), "they count from 0");
  BATON_ASSIGN(i->link, cs3::connect(at, CarrierKind::tcp, deadline_ns, uint8_t(wafer)));
  i->epoll = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!i->epoll) return io_error("epoll", errno);
  BATON_TRY(i->link.carrier->watch(i->epoll.get()));
  return WaferOperator(std::move(i));
}

Result<WaferState> WaferOperator::state() {
  BATON_ASSIGN(InfoReply info, impl_->ask<InfoReply>(Op::info));
  BATON_ASSIGN(const TelemetryReply t, impl_->ask<TelemetryReply>(Op::telemetry));
  info.model[sizeof info.model - 1] = info.timing[sizeof info.timing - 1] = 0;
  const DaemonInfo& d = impl_->link.daemon;
  WaferState s;
  s.wafers = std::max<uint32_t>(1, d.wafers);
  s.emulated = d.emulated;
  s.modelled = info.modelled != 0;
  s.lost = info.lost != 0;
  s.pid = d.pid;
  s.sessions = info.sessions;
  s.epoch = info.epoch;
  s.model = info.model;
  s.timing = info.timing;
  s.sram_bytes = info.sram_bytes;
  s.sram_used = info.sram_used;
  s.transactions = t.transactions;
  s.ops_done = t.ops_done;
  s.ops_failed = t.ops_failed;
  s.waited_ns = t.waited_ns;
  s.bad_rows = info.bad_row_count;
  if (d.minor < 1) return s;
  const uint32_t dead = d.minor >= 2 ? t.dead_channels & ((1u << kMaxChannels) - 1) : 0;
  for (uint32_t c = 0; c < kMaxChannels; ++c) s.channels.push_back({c, (dead >> c & 1) != 0, t.channel_bytes[c], t.channel_ns[c], t.channel_rate[c]});
  return s;
}

Result<std::string> WaferOperator::faults() {
  BATON_TRY(impl_->needs(kCapFaults, "fault plan"));
  std::vector<uint8_t> text(kMaxPayload);
  BATON_TRY(Impl::status(impl_->call(Op::fault, 0, {}, &text)));
  return std::string(text.begin(), text.end());
}

Status WaferOperator::set_faults(std::string_view json) {
  BATON_TRY(impl_->needs(kCapFaults, "fault plan"));
  if (json.size() > kMaxPayload) return Error(BATON_INVALID_ARGUMENT, "a fault plan of " + std::to_string(json.size()) + " bytes: at most 1 MiB", "write fewer rules");
  return Impl::status(impl_->call(Op::fault, 1, {reinterpret_cast<const uint8_t*>(json.data()), json.size()}));
}

Result<uint64_t> WaferOperator::clock_hz() {
  BATON_TRY(impl_->needs(kCapClock, "clock that can be asked for"));
  BATON_ASSIGN(const Completion c, impl_->call(Op::clock));
  return c.value;
}

Status WaferOperator::set_clock_hz(uint64_t hz) {
  BATON_TRY(impl_->needs(kCapClock, "clock that can be set"));
  return Impl::status(impl_->call(Op::clock, hz));
}

Status WaferOperator::reset() { return Impl::status(impl_->call(Op::reset)); }

}  // namespace baton::cs3
