// Connections before they are sessions: accept, hello, welcome or refusal.
#include "drivers/cs3/link/connect.h"
#include "emulators/cs3/daemon.h"
#include "emulators/cs3/shm_port.h"
#include "emulators/cs3/tcp_port.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace baton::cs3 {
namespace {

constexpr uint64_t kHelloNs = 5'000'000'000;  // for a connection to say hello

// A refusal fits into any fresh socket buffer: one try, no waiting.
void refuse(int fd, Welcome w, const Error& e) {
  w.code = e.code;
  Error::put(w.text, std::string(e.what) + "\n" + e.next);
  send_with_fds(fd, &w, sizeof w, {});
}

}  // namespace

void Daemon::accept_all(Fd& listener, bool local) {
  for (;;) {
    Fd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // Out of descriptors: the connection stays in the backlog; do not spin on it.
      if (errno == EMFILE || errno == ENFILE) ::usleep(1000);
      return;
    }
    if (greetings_.size() >= kMaxSessions) continue;  // closed: somebody floods
    if (!local) set_nodelay(fd.get());
    const uint64_t id = next_id_++;
    if (!watch(fd.get(), id).ok()) continue;
    greetings_.push_back({id, std::move(fd), local, now_ns() + kHelloNs});
  }
}

void Daemon::drop_late_greetings() {
  const uint64_t now = now_ns();
  std::erase_if(greetings_, [&](const Greeting& g) { return now >= g.deadline_ns; });
}

bool Daemon::read_hello(Greeting& g) {
  while (g.got < sizeof g.hello) {
    const ssize_t n = ::recv(g.fd.get(), reinterpret_cast<char*>(&g.hello) + g.got, sizeof g.hello - g.got, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return true;
    if (n < 0) return false;
    g.got += size_t(n);
    if (g.got >= sizeof kMagic && std::memcmp(g.hello.magic, kMagic, sizeof kMagic) != 0) return true;  // not for us: no answer
  }
  Welcome w = make_welcome(g);
  if (g.hello.major != kVersionMajor) {
    refuse(g.fd.get(), w, Error(BATON_VERSION, version_skew("the client", g.hello.major, g.hello.minor) + " (the daemon)",
                                "install baton-emu-cs3 and the driver from one release"));
    return true;
  }
  if (!check(g.hello) && g.hello.carrier == uint8_t(CarrierKind::stage)) {
    begin_peer(g);
    return true;
  }
  if (check(g.hello) || (g.hello.carrier == uint8_t(CarrierKind::shm)) != g.local) return true;
  if (g.hello.wafer >= wafers_.size()) {
    refuse(g.fd.get(), w, Error(BATON_NOT_FOUND, "wafer " + std::to_string(g.hello.wafer) + ": this daemon has " + std::to_string(wafers_.size()), "start it with a larger --wafers"));
    return true;
  }
  if (sessions_.size() >= kMaxSessions) {
    refuse(g.fd.get(), w, Error(BATON_BUSY, std::to_string(kMaxSessions) + " clients are connected, which is the most", "close one of them"));
    return true;
  }
  begin_session(g, w);
  return true;
}

Welcome Daemon::make_welcome(const Greeting& g) const {
  static constexpr uint8_t kUnknown[16] = {};
  Welcome w{};
  std::memcpy(w.magic, kMagic, sizeof kMagic);
  w.major = kVersionMajor;
  w.minor = kVersionMinor;
  w.capabilities = kCapShm | kCapRegions | kCapProgress | kCapRectangles | kCapPorts | kCapFaults | kCapSlots | kCapClock;
  std::memcpy(w.boot_id, boot_id_, sizeof boot_id_);
  w.instance = instance_;
  w.epoch = wafers_[g.hello.wafer < wafers_.size() ? g.hello.wafer : 0].epoch();
  w.wafers = uint8_t(wafers_.size());
  w.pid = uint32_t(::getpid());
  w.same_host = std::memcmp(g.hello.boot_id, boot_id_, sizeof boot_id_) == 0 && std::memcmp(boot_id_, kUnknown, sizeof kUnknown) != 0;
  w.emulated = 1;
  Error::put(w.unix_name, unix_name_);
  return w;
}

void Daemon::begin_session(Greeting& g, Welcome w) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, g.fd.get(), nullptr);
  const uint64_t id = next_id_++;
  std::unique_ptr<Port> port;
  bool sent = false;
  if (g.local) {
    auto shm = ShmPort::create(std::move(g.fd));
    if (!shm) return;  // out of descriptors or memory: the client sees the connection end
    w.segment_bytes = sizeof(SegmentLayout);
    sent = send_with_fds((*shm)->socket(), &w, sizeof w, (*shm)->descriptors());
    port = std::move(*shm);
  } else {
    sent = send_with_fds(g.fd.get(), &w, sizeof w, {});
    port = std::make_unique<TcpPort>(std::move(g.fd));
  }
  if (!sent || !port->watch(epoll_.get(), id).ok()) return;
  if (options_.verbose)
    std::fprintf(stderr, "session %llu by %s: pid %u, %s\n", static_cast<unsigned long long>(id), port->name(), g.hello.pid, g.hello.program);
  sessions_.push_back(std::make_unique<Session>(id, hosts_[g.hello.wafer], std::move(port), g.hello.minor));
  sessions_.back()->on_wafer(g.hello.wafer);
}

// A stage of another daemon, for a session that is here. To one that is not, the connection says so by its end.
void Daemon::begin_peer(Greeting& g) {
  SessionKey key;
  std::copy(std::begin(g.hello.key), std::end(g.hello.key), key.begin());
  const Session* to = find(key);
  if (!to || peers_.size() >= kMaxSessions) return;
  peers_.emplace_back(g.id, std::move(g.fd), to->id());
}

bool Daemon::read_peer(PeerIn& p) {
  const bool on = p.read([&](StageMessage&& m) {
    Session* to = find(p.session());
    return to && to->deliver(std::move(m));
  });
  if (on) return false;
  if (Session* to = find(p.session())) to->lose_peer(p.why());
  return true;
}

}  // namespace baton::cs3
