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
  BATON_TRY(d->connect_links());
  return d;
}

Device::~Device() = default;  // closing the connections frees everything on the wafers

Status Device::connect_links() {
  ++connection_;  // what was made before is gone, whether or not this succeeds
  systems_.clear();
  for (const HostPort& address : options_.addresses)
    for (uint8_t wafer = 0, wafers = 1; wafer < wafers; ++wafer) {
      if (systems_.size() == kMaxStages)
        return Error(BATON_UNSUPPORTED, options_.shown + " has more than " + std::to_string(kMaxStages) + " wafers", "open fewer systems as one device", options_.shown);
      auto s = std::make_unique<System>();
      s->address = address;
      s->wafer = wafer;
      s->index = uint8_t(systems_.size());
      systems_.push_back(std::move(s));
      BATON_TRY(connect(*systems_.back()));
      wafers = systems_.back()->daemon.wafers;
    }
  loss_.reset();
  lost_told_ = false;
  for (const auto& s : systems_) BATON_TRY(begin_stream(*s));
  return {};
}

Status Device::connect(System& s) {
  auto link = cs3::connect(s.address, options_.carrier, deadline_in_ms(options_.timeout_ms), s.wafer);
  if (!link) {
    Error e = link.error();
    Error::put(e.device, options_.shown);
    return e;
  }
  s.carrier = std::move(link->carrier);
  s.daemon = link->daemon;
  s.peers.assign(kMaxStages, false);
  return s.carrier->watch(link_epoll_.get());
}

// Symbols are looked up by name.
Status Device::begin_stream(System& s) {
  BATON_TRY(open_stream(s));
  constexpr std::string_view symbol = "sram";
  auto id = call(s, command(Op::get_id), std::span(reinterpret_cast<const uint8_t*>(symbol.data()), symbol.size()));
  return id ? Status() : id.error();
}

bool Device::any_broken() const {
  return systems_.empty() || std::any_of(systems_.begin(), systems_.end(), [](const auto& s) { return s->broken(); });
}

// As SdkRuntime: load once, then the command stream opens with run().
Status Device::open_stream(System& s) {
  if (s.daemon.minor >= 1) {
    auto loaded = call(s, command(Op::load));
    if (!loaded) return loaded.error();
  }
  auto rc = call(s, command(Op::run));
  return rc ? Status() : rc.error();
}

std::string Device::name_of(const System& s) const {
  return systems_.size() > 1 ? "wafer " + std::to_string(s.index) + " (" + s.where() + (s.daemon.wafers > 1 ? ", its " + std::to_string(s.wafer) : "") + ")" : s.where();
}

// A daemon says what failed; of several wafers the driver says where.
Error Device::error_of(const System& s, const Completion& c, std::string_view text) const {
  const size_t cut = text.find('\n');
  std::string what(text.substr(0, cut));
  if (what.empty()) what = "the daemon failed the command without a reason";
  if (systems_.size() > 1) what = name_of(s) + ": " + what;
  Error e(c.code, what, cut == std::string_view::npos ? "" : text.substr(cut + 1), options_.shown);
  e.epoch = c.epoch;
  return e;
}

// Names the first wafer that is gone.
Error Device::lost_error() {
  const auto gone = std::find_if(systems_.begin(), systems_.end(), [](const auto& s) { return s->broken(); });
  const bool found = gone != systems_.end();
  const std::string where = found ? (*gone)->where() : options_.addresses[0].host + ":" + options_.addresses[0].port;
  std::string what = found && (*gone)->carrier ? std::string((*gone)->carrier->broken().what) : "not connected";
  const DaemonInfo daemon = found ? (*gone)->daemon : DaemonInfo();
  if (daemon.same_host && ::kill(pid_t(daemon.pid), 0) != 0 && errno == ESRCH) what += "; process " + std::to_string(daemon.pid) + " has ended";
  Error e(BATON_DEVICE_LOST, (found ? name_of(**gone) : where) + ": " + what, "restart it (baton-emu-cs3 --listen " + where + "), then reset or reopen the device", options_.shown);
  e.epoch = daemon.epoch;
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
    if (any_broken()) return lost_error();
    bool shared = false;
    for (const auto& s : systems_) {
      s->carrier->flush();
      shared |= s->carrier->shares_cpu();
    }
    const uint64_t now = now_ns();
    if (now >= deadline_ns) {
      const System& silent = waited_.id && waited_.system ? *waited_.system : *systems_[0];
      return Error(BATON_DEADLINE, name_of(silent) + " did not answer in " + std::to_string(kAnswerNs / 1'000'000'000) + " s",
                   "see whether process " + std::to_string(silent.daemon.pid) + " hangs or is stopped", options_.shown);
    }
    if (now < spin_until && !shared) {
      __builtin_ia32_pause();
      continue;
    }
    bool quiet = true;
    for (const auto& s : systems_) quiet = s->carrier->arm() && quiet;
    if (!quiet) continue;
    pollfd p{link_epoll_.get(), POLLIN, 0};
    const timespec nap{0, 200'000'000};  // looks at the deadline and at the daemons now and then
    ::ppoll(&p, 1, &nap, nullptr);
    for (const auto& s : systems_) s->carrier->disarm();
    spin_until = 0;
  }
  return {};
}

Ticket* Device::begin_waiting(System& s, uint32_t bytes, uint64_t deadline_ns) {
  Ticket* t = nullptr;
  (void)wait(deadline_ns, [&] { return (t = s.carrier->begin(bytes)) != nullptr; }).ok();
  return t;
}

Result<Completion> Device::call(System& system, Submission s, std::span<const uint8_t> payload, void* answer, uint32_t answer_bytes) {
  if (any_broken()) return lost_error();
  const uint64_t deadline = now_ns() + kAnswerNs;
  const uint32_t bytes = std::max(uint32_t(payload.size()), answer_bytes);
  Ticket* t = begin_waiting(system, bytes, deadline);
  if (!t) {
    wake();
    return any_broken() ? lost_error() : Error(BATON_BUSY, "no command slot became free in 30 s", "", options_.shown);
  }
  if (!payload.empty()) std::memcpy(t->payload, payload.data(), payload.size());
  t->owner = kWaitedOwner;
  waited_.id = t->id;
  waited_.system = &system;
  waited_.done = false;
  waited_.answer = answer;
  waited_.answer_bytes = answer_bytes;
  system.carrier->push(*t, s);
  const Status waited = wait(deadline, [&] { return waited_.done; });
  waited_.id = 0;  // a late answer is dropped
  wake();  // other answers may have come meanwhile: the core must poll
  if (!waited.ok()) return waited.error();
  if (waited_.c.code != BATON_OK) return waited_.error;
  return waited_.c;
}

Status Device::info(baton_device_info& out) {
  InfoReply r{};
  std::string places;
  for (const auto& s : systems_) {
    r = {};
    auto c = call(*s, command(Op::info), {}, &r, sizeof r);
    if (!c) return c.error();
    out.epoch = std::max(out.epoch, r.epoch);
    baton_heap_info& heap = out.heaps[s->index];
    Error::put(heap.name, systems_.size() == 1 ? "sram" : "sram" + std::to_string(s->index));
    heap.bytes_total = r.sram_bytes;
    heap.bytes_used = r.sram_used;
    if (s->wafer == 0) places += (places.empty() ? "" : ",") + s->where();
  }
  r.model[sizeof r.model - 1] = r.firmware[sizeof r.firmware - 1] = r.timing[sizeof r.timing - 1] = 0;
  out.emulated = r.emulated != 0;
  Error::put(out.uri, options_.shown);
  Error::put(out.name, "cs0");
  const std::string fabric = r.fabric_w ? ", " + std::to_string(r.fabric_w) + " x " + std::to_string(r.fabric_h) + " PEs" : "";
  Error::put(out.model, (systems_.size() == 1 ? std::string(r.model) : std::to_string(systems_.size()) + " x " + r.model) + fabric);
  Error::put(out.driver, "cs3");
  Error::put(out.firmware, r.firmware);
  Error::put(out.location, places);
  out.lanes = uint32_t(systems_.size());  // a program begins on its lane's wafer
  out.heap_count = uint32_t(systems_.size());
  out.progress = r.progress != 0;
  out.modelled = r.modelled != 0;
  out.numa_node = UINT32_MAX;
  Error::put(out.timing, r.timing);
  return {};
}

Status Device::telemetry(baton_telemetry& out) {
  for (const auto& s : systems_) {
    TelemetryReply r{};
    auto c = call(*s, command(Op::telemetry), {}, &r, sizeof r);
    if (!c) return c.error();
    out.ops_done += r.ops_done;
    out.ops_failed += r.ops_failed;
    out.launches += r.launches;
    out.bytes_in += r.bytes_in;
    out.bytes_out += r.bytes_out;
    out.busy_ns += r.busy_ns;
    out.modelled_ns += r.modelled_ns;
  }
  return {};
}

Status Device::reset() {
  abandon_all();
  if (any_broken()) return connect_links();  // fresh sessions: nothing of the old ones is left
  for (const auto& s : systems_) {
    if (!s->reset_by_other) {  // resetting again would lose it for them in turn
      auto c = call(*s, command(Op::reset));
      if (!c) return c.error();
      s->daemon.epoch = c->epoch;
    }
    s->reset_by_other = false;
    s->regions.clear();
  }
  ++connection_;  // memory and programs of before are gone
  loss_.reset();
  lost_told_ = false;
  for (const auto& s : systems_) BATON_TRY(open_stream(*s));
  return {};
}

Result<Memory*> Device::alloc(uint32_t wafer, uint64_t bytes) {
  Submission s = command(Op::alloc);
  s.bytes = bytes;
  auto c = call(*systems_[wafer], s);
  if (!c) return c.error();
  return new Memory{systems_[wafer].get(), c->handle, connection_, c->address, bytes};
}

void Device::free(Memory* m) {
  if (m->connection == connection_) {
    Submission s = command(Op::free);
    s.mem = m->handle;
    (void)call(*m->system, s).ok();  // if the daemon is gone, so is the memory
  }
  delete m;
}

void Device::unload(LoadedProgram* p) {
  if (p->connection == connection_)
    for (const LoadedStage& stage : p->stages) {
      Submission s = command(Op::unload);
      s.program = stage.handle;
      (void)call(*stage.system, s).ok();
    }
  delete p;
}

Device::Queue* Device::open_queue(uint32_t lane) {
  auto q = std::make_unique<Queue>();
  q->lane = lane;
  std::vector<bool> taken(kMaxSlots);
  for (const auto& other : queues_) taken[other->slot] = true;
  q->slot = uint16_t((std::find(taken.begin(), taken.end(), false) - taken.begin()) % kMaxSlots);  // beyond 256 queues: shared
  queues_.push_back(std::move(q));
  return queues_.back().get();
}

}  // namespace baton::cs3
