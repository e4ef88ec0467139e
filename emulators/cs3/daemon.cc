// The loop: events, steps, sleep. Connections and handshakes are in greet.cc.
#include "emulators/cs3/daemon.h"

#include "emulators/engine/kernels.hpp"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

namespace baton::cs3 {
namespace {

constexpr uint64_t kTcpId = 1, kUnixId = 2, kStdinId = 3, kSignalId = 4;
constexpr uint64_t kSpinNs = 50'000;   // idle, before sleeping: a client that answers at once is met awake
constexpr uint64_t kEventsNs = 20'000;  // how often descriptors are looked at while awake

}  // namespace

Daemon::Daemon(const DaemonOptions& o, std::vector<Wafer> wafers) : options_(o), wafers_(std::move(wafers)) {
  const std::string firmware = std::string("baton-emu-cs3 " BATON_VERSION_STRING ", ") + engine::isa_name(o.isa) + ", " + std::to_string(o.threads) +
                               (o.threads == 1 ? " thread" : " threads") + (o.numbers ? "" : ", mode=timing");
  for (size_t i = 0; i < wafers_.size(); ++i)
    hosts_.push_back({wafers_[i],
                      engine::Options{.isa = o.isa, .threads = o.threads, .cost = wafers_[i].cost(), .numbers = o.numbers},
                      firmware,
                      [this, i](uint64_t by) { reset_wafer(i, by); },
                      [this, i] { return uint32_t(std::count_if(sessions_.begin(), sessions_.end(), [i](const auto& s) { return s->wafer() == i; })); },
                      [this](const SessionKey& key) { return find(key); },
                      [this](const HostPort& to, const SessionKey& key) { return open_peer(to, key); }});
}

Result<std::unique_ptr<Daemon>> Daemon::start(const DaemonOptions& o, timing::WaferModel* cost) {
  std::vector<Wafer> wafers;
  for (uint32_t i = 0; i < o.wafers; ++i) {
    BATON_ASSIGN(Wafer wafer, Wafer::create(o.sram_bytes(), cost, o.fabric_width, o.fabric_height));
    wafers.push_back(std::move(wafer));
  }
  std::unique_ptr<Daemon> d(new Daemon(o, std::move(wafers)));
  for (Host& h : d->hosts_) {  // each wafer counts for itself
    BATON_ASSIGN(h.faults, FaultPlan::read(o.faults));
  }
  BATON_TRY(d->listen());
  return d;
}

Result<std::unique_ptr<PeerOut>> Daemon::open_peer(const HostPort& to, const SessionKey& key) {
  BATON_ASSIGN(std::unique_ptr<PeerOut> p, PeerOut::open(to, key));
  BATON_TRY(p->watch(epoll_.get(), next_id_++));
  return p;
}

Status Daemon::watch(int fd, uint64_t id) {
  epoll_event ev{.events = EPOLLIN, .data = {.u64 = id}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &ev) != 0) return io_error("epoll_ctl", errno);
  return {};
}

Status Daemon::listen() {
  epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) return io_error("epoll_create1", errno);
  BATON_ASSIGN(tcp_, listen_tcp(options_.listen.host, options_.listen.port, &port_));
  if (::getrandom(&instance_, sizeof instance_, 0) != ssize_t(sizeof instance_)) return io_error("getrandom", errno);
  read_boot_id(boot_id_);
  char name[64];
  std::snprintf(name, sizeof name, "baton-cs3-%u-%016llx", unsigned(port_), static_cast<unsigned long long>(instance_));
  unix_name_ = name;
  BATON_ASSIGN(unix_, listen_abstract(unix_name_));
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return io_error("signalfd", errno);
  BATON_TRY(watch(tcp_.get(), kTcpId));
  BATON_TRY(watch(unix_.get(), kUnixId));
  BATON_TRY(watch(signals_.get(), kSignalId));
  // A file or /dev/null cannot be watched and is at its end at once.
  if (options_.watch_stdin && !watch(STDIN_FILENO, kStdinId).ok()) end_ = true;
  return {};
}

std::string Daemon::uri() const {
  const std::string& h = options_.listen.host;
  return "cs3://" + (h.find(':') == std::string::npos ? h : "[" + h + "]") + ":" + std::to_string(port_);
}

void Daemon::poll_events(int timeout_ms) {
  epoll_event events[32];
  const int n = ::epoll_wait(epoll_.get(), events, 32, timeout_ms);
  for (int i = 0; i < n; ++i) {
    const uint64_t id = events[i].data.u64;
    char bytes[256];
    switch (id) {
      case kTcpId: accept_all(tcp_, false); continue;
      case kUnixId: accept_all(unix_, true); continue;
      case kSignalId: end_ = true; continue;
      case kStdinId:
        if (const ssize_t got = ::read(STDIN_FILENO, bytes, sizeof bytes); got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) end_ = true;
        continue;
      default: break;
    }
    const auto s = std::find_if(sessions_.begin(), sessions_.end(), [&](const auto& x) { return x->id() == id; });
    if (s != sessions_.end()) {
      (*s)->port().on_event(events[i].events);
      continue;
    }
    const auto p = std::find_if(peers_.begin(), peers_.end(), [&](const PeerIn& x) { return x.id() == id; });
    if (p != peers_.end()) {
      if (read_peer(*p)) peers_.erase(p);
      continue;
    }
    if (std::any_of(sessions_.begin(), sessions_.end(), [&](const auto& x) { return x->peer_event(id, events[i].events); })) continue;
    const auto g = std::find_if(greetings_.begin(), greetings_.end(), [&](const auto& x) { return x.id == id; });
    if (g != greetings_.end() && read_hello(*g)) greetings_.erase(g);
  }
}

// The session that reset it goes on; the others are told. Memory goes only after every launch has ended.
void Daemon::reset_wafer(size_t wafer, uint64_t by_session) {
  wafers_[wafer].next_epoch();
  for (const auto& s : sessions_)
    if (s->wafer() == wafer) s->reset_by_other(by_session);
}

Session* Daemon::find(const SessionKey& key) {
  const auto s = std::find_if(sessions_.begin(), sessions_.end(), [&](const auto& x) { return x->has_key(key); });
  return s == sessions_.end() ? nullptr : s->get();
}

Session* Daemon::find(uint64_t session) {
  const auto s = std::find_if(sessions_.begin(), sessions_.end(), [&](const auto& x) { return x->id() == session; });
  return s == sessions_.end() ? nullptr : s->get();
}

void Daemon::drop_dead_sessions() {
  for (auto s = sessions_.begin(); s != sessions_.end();) {
    if (!(*s)->over()) {
      ++s;
      continue;
    }
    if (options_.verbose) std::fprintf(stderr, "session %llu ended: %s\n", static_cast<unsigned long long>((*s)->id()), (*s)->port().why().c_str());
    const std::unique_ptr<Session> gone = std::move(*s);  // ends when it is in the list no more: its stages still have something to say to others
    s = sessions_.erase(s);
  }
}

// One round: what came, then one step of one session. False: nothing to do.
bool Daemon::work() {
  bool busy = false, dead = false;
  for (const auto& s : sessions_) {
    busy |= s->serve();
    dead |= s->over();
  }
  if (dead) drop_dead_sessions();
  for (size_t i = 0; i < sessions_.size(); ++i) {
    Session& s = *sessions_[(turn_ + i) % sessions_.size()];
    if (!s.runnable()) continue;
    turn_ = (turn_ + i + 1) % sessions_.size();
    s.furthest_behind().step();
    return true;
  }
  return busy;
}

// A client that does not take its completions is looked at again by the clock: nobody rings for that.
int Daemon::sleep_ms() const {
  int ms = -1;
  if (!greetings_.empty()) ms = 100;
  for (const auto& s : sessions_) {
    if (s->blocked() || s->delayed()) return 1;
    if (s->opens_peer()) ms = 100;
  }
  return ms;
}

// Not while a client waits for this very CPU.
bool Daemon::may_spin() const {
  bool alone = true;
  for (const auto& s : sessions_) alone = !s->port().shares_cpu() && alone;
  return alone;
}

void Daemon::sleep() {
  bool nothing = true;
  for (const auto& s : sessions_) nothing = s->port().arm() && !s->over() && nothing;
  poll_events(nothing ? sleep_ms() : 0);
  for (const auto& s : sessions_) s->port().disarm();
}

void Daemon::run() {
  const engine::FlushDenormals flush;
  uint64_t active = now_ns(), looked = 0;
  while (!end_) {
    const bool busy = work();
    const uint64_t now = now_ns();
    if (busy) active = now;
    if (!greetings_.empty()) drop_late_greetings();
    if (busy || (now - active < kSpinNs && may_spin())) {
      if (now - looked >= kEventsNs) {
        looked = now;
        poll_events(0);
      } else if (!busy) {
        __builtin_ia32_pause();
      }
      continue;
    }
    sleep();
    active = looked = now_ns();
  }
}

}  // namespace baton::cs3
