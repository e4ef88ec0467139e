#include "drivers/cs3/device.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace baton::cs3 {
namespace {

constexpr uint64_t kAnswerNs = 30'000'000'000;  // the longest step of a launch is far below: a daemon that takes longer hangs
constexpr uint64_t kSpinNs = 50'000;

Submission command(Op op) {
  Submission s{};
  s.op = uint16_t(op);
  return s;
}

}  // namespace

Result<std::unique_ptr<Device>> Device::open(const baton_driver_host* host, std::string_view uri) {
  BATON_ASSIGN(Options o, parse_options(uri));
  std::unique_ptr<Device> d(new Device(host, std::move(o)));
  d->epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  d->link_epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  d->again_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!d->epoll_ || !d->link_epoll_ || !d->again_) return io_error("eventfd or epoll", errno);
  for (const int fd : {d->link_epoll_.get(), d->again_.get()}) {
    epoll_event ev{.events = EPOLLIN, .data = {.fd = fd}};
    if (::epoll_ctl(d->epoll_.get(), EPOLL_CTL_ADD, fd, &ev) != 0) return io_error("epoll_ctl", errno);
  }
  d->free_ops_.reserve(kOps);
  for (uint32_t i = 0; i < kOps; ++i) d->free_ops_.push_back(kOps - 1 - i);
  BATON_TRY(d->connect_link());
  return d;
}

Device::~Device() = default;  // closing the connection frees everything on the wafer

Status Device::connect_link() {
  carrier_.reset();
  regions_.clear();
  auto link = connect(options_.address, options_.carrier, deadline_in_ms(options_.timeout_ms));
  if (!link) {
    Error e = link.error();
    Error::put(e.device, options_.shown);
    return e;
  }
  carrier_ = std::move(link->carrier);
  daemon_ = link->daemon;
  ++connection_;
  loss_.reset();
  lost_told_ = reset_by_others_ = false;
  BATON_TRY(carrier_->watch(link_epoll_.get()));
  BATON_TRY(open_stream());
  constexpr std::string_view symbol = "sram";
  auto id = call(command(Op::get_id), std::span(reinterpret_cast<const uint8_t*>(symbol.data()), symbol.size()));
  return id ? Status() : id.error();
}

// As SdkRuntime: load once, then the command stream opens with run().
Status Device::open_stream() {
  if (daemon_.minor >= 1) {
    auto loaded = call(command(Op::load));
    if (!loaded) return loaded.error();
  }
  auto rc = call(command(Op::run));
  return rc ? Status() : rc.error();
}

Error Device::error_of(const Completion& c, std::string_view text) const {
  const size_t cut = text.find('\n');
  Error e(c.code, text.empty() || cut == 0 ? "the daemon failed the command without a reason" : text.substr(0, cut), cut == std::string_view::npos ? "" : text.substr(cut + 1), options_.shown);
  e.epoch = c.epoch;
  return e;
}

Error Device::lost_error() {
  const std::string where = options_.address.host + ":" + options_.address.port;
  std::string what = carrier_ ? std::string(carrier_->broken().what) : "not connected";
  if (daemon_.same_host && ::kill(pid_t(daemon_.pid), 0) != 0 && errno == ESRCH) what += "; process " + std::to_string(daemon_.pid) + " has ended";
  Error e(BATON_DEVICE_LOST, where + ": " + what, "restart it (baton-emu-cs3 --listen " + where + "), then reset or reopen the device", options_.shown);
  e.epoch = daemon_.epoch;
  return e;
}

void Device::tell_lost() {
  if (lost_told_) return;
  lost_told_ = true;
  if (!loss_) loss_ = lost_error();
  abandon_all();
  host_.lost(host_.core_device, &*loss_);
}

Status Device::wait(uint64_t deadline_ns, const std::function<bool()>& done) {
  uint64_t spin_until = now_ns() + kSpinNs;
  while (!done()) {
    if (pump()) continue;
    if (carrier_->is_broken()) return lost_error();
    carrier_->flush();
    const uint64_t now = now_ns();
    if (now >= deadline_ns)
      return Error(BATON_DEADLINE, options_.shown + " did not answer in " + std::to_string(kAnswerNs / 1'000'000'000) + " s",
                   "see whether process " + std::to_string(daemon_.pid) + " hangs or is stopped", options_.shown);
    if (now < spin_until && !carrier_->shares_cpu()) {
      __builtin_ia32_pause();
      continue;
    }
    if (!carrier_->arm()) continue;
    pollfd p{link_epoll_.get(), POLLIN, 0};
    const timespec nap{0, 200'000'000};  // looks at the deadline and at the daemon now and then
    ::ppoll(&p, 1, &nap, nullptr);
    carrier_->disarm();
    spin_until = 0;
  }
  return {};
}

Ticket* Device::begin_waiting(uint32_t bytes, uint64_t deadline_ns) {
  Ticket* t = nullptr;
  (void)wait(deadline_ns, [&] { return (t = carrier_->begin(bytes)) != nullptr; }).ok();
  return t;
}

Result<Completion> Device::call(Submission s, std::span<const uint8_t> payload, void* answer, uint32_t answer_bytes) {
  if (!carrier_ || carrier_->is_broken()) return lost_error();
  const uint64_t deadline = now_ns() + kAnswerNs;
  const uint32_t bytes = std::max(uint32_t(payload.size()), answer_bytes);
  Ticket* t = begin_waiting(bytes, deadline);
  if (!t) {
    wake();
    return carrier_->is_broken() ? lost_error() : Error(BATON_BUSY, "no command slot became free in 30 s", "", options_.shown);
  }
  if (!payload.empty()) std::memcpy(t->payload, payload.data(), payload.size());
  t->owner = kWaitedOwner;
  waited_.id = t->id;
  waited_.done = false;
  waited_.answer = answer;
  waited_.answer_bytes = answer_bytes;
  carrier_->push(*t, s);
  const Status waited = wait(deadline, [&] { return waited_.done; });
  waited_.id = 0;  // a late answer is dropped
  wake();  // other answers may have come meanwhile: the core must poll
  if (!waited.ok()) return waited.error();
  if (waited_.c.code != BATON_OK) return waited_.error;
  return waited_.c;
}

Status Device::info(baton_device_info& out) {
  InfoReply r{};
  auto c = call(command(Op::info), {}, &r, sizeof r);
  if (!c) return c.error();
  r.model[sizeof r.model - 1] = r.firmware[sizeof r.firmware - 1] = r.timing[sizeof r.timing - 1] = 0;
  const std::string place = options_.address.host + ":" + options_.address.port;
  out.emulated = r.emulated != 0;
  Error::put(out.uri, options_.shown);
  Error::put(out.name, "cs0");
  const std::string fabric = r.fabric_w ? ", " + std::to_string(r.fabric_w) + " x " + std::to_string(r.fabric_h) + " PEs" : "";
  Error::put(out.model, r.model + fabric);
  Error::put(out.driver, "cs3");
  Error::put(out.firmware, r.firmware);
  Error::put(out.location, place);
  out.epoch = r.epoch;
  out.lanes = 1;  // one ordered command stream
  out.heap_count = 1;
  Error::put(out.heaps[0].name, "sram");
  out.heaps[0].bytes_total = r.sram_bytes;
  out.heaps[0].bytes_used = r.sram_used;
  out.progress = r.progress != 0;
  out.modelled = r.modelled != 0;
  out.numa_node = UINT32_MAX;
  Error::put(out.timing, r.timing);
  return {};
}

Status Device::telemetry(baton_telemetry& out) {
  TelemetryReply r{};
  auto c = call(command(Op::telemetry), {}, &r, sizeof r);
  if (!c) return c.error();
  out.ops_done = r.ops_done;
  out.ops_failed = r.ops_failed;
  out.launches = r.launches;
  out.bytes_in = r.bytes_in;
  out.bytes_out = r.bytes_out;
  out.busy_ns = r.busy_ns;
  out.modelled_ns = r.modelled_ns;
  return {};
}

Status Device::reset() {
  abandon_all();
  if (!carrier_ || carrier_->is_broken()) return connect_link();  // a fresh session: nothing of the old one is left
  if (!std::exchange(reset_by_others_, false)) {                  // else resetting again would lose it for them in turn
    auto c = call(command(Op::reset));
    if (!c) return c.error();
    daemon_.epoch = c->epoch;
    ++connection_;  // memory and programs of before are gone
  }
  regions_.clear();
  loss_.reset();
  lost_told_ = false;
  return open_stream();
}

Result<Memory*> Device::alloc(uint64_t bytes) {
  Submission s = command(Op::alloc);
  s.bytes = bytes;
  auto c = call(s);
  if (!c) return c.error();
  return new Memory{c->handle, connection_, c->address, bytes};
}

void Device::free(Memory* m) {
  if (m->connection == connection_) {
    Submission s = command(Op::free);
    s.mem = m->handle;
    (void)call(s).ok();  // if the daemon is gone, so is the memory
  }
  delete m;
}

void Device::unload(LoadedProgram* p) {
  if (p->connection == connection_) {
    Submission s = command(Op::unload);
    s.program = p->handle;
    (void)call(s).ok();
  }
  delete p;
}

}  // namespace baton::cs3
