// daemon.h: the wafer daemon: one thread, one loop over listeners, greetings, sessions and its wafers.
//
// The loop takes what came from every session, then makes one step for the next session that has work, round robin (of a
// pipeline over several wafers: for that whose step is first in modelled time). With work it
// looks at the descriptors every 20 us; idle, it spins for 50 us, then asks all clients to ring and sleeps in epoll.
//
// Owner    main.   Threads  the caller's only (the engine's pool fans out below a step).
// Cost     idle: nothing. At most kMaxSessions sessions and as many greetings at a time.
// Errors   start(): BUSY for a port in use. run() returns when asked to end (signal, stdin); a client can never end it.
//
//     BATON_ASSIGN(auto d, Daemon::start(options, cost));
//     std::puts(d->uri().c_str()); d->run();
#pragma once

#include "emulators/cs3/options.h"
#include "emulators/cs3/session.h"

#include <memory>
#include <string>
#include <vector>

namespace baton::cs3 {

inline constexpr size_t kMaxSessions = 64;

class Daemon {
 public:
  static Result<std::unique_ptr<Daemon>> start(const DaemonOptions&, timing::WaferModel* cost);
  std::string uri() const;  // "cs3://127.0.0.1:41234"
  void run();

 private:
  struct Greeting {  // a connection that has not said hello yet
    uint64_t id;
    Fd fd;
    bool local;  // came by the unix socket
    uint64_t deadline_ns;
    size_t got = 0;
    Hello hello{};
  };

  Daemon(const DaemonOptions& o, std::vector<Wafer> wafers);
  Status listen();
  Status watch(int fd, uint64_t id);
  void poll_events(int timeout_ms);
  void accept_all(Fd& listener, bool local);
  void drop_late_greetings();
  bool read_hello(Greeting&);  // true: the greeting is over, one way or the other
  Welcome make_welcome(const Greeting&) const;
  void begin_session(Greeting&, Welcome);
  Result<std::unique_ptr<PeerOut>> open_peer(const HostPort&, const SessionKey&);
  void begin_peer(Greeting&);
  bool read_peer(PeerIn&);  // true: it is over
  Session* find(const SessionKey&);
  Session* find(uint64_t session);
  void reset_wafer(size_t wafer, uint64_t by_session);
  void drop_dead_sessions();
  bool work();
  int sleep_ms() const;
  bool may_spin() const;
  void sleep();

  DaemonOptions options_;
  std::vector<Wafer> wafers_;
  std::vector<Host> hosts_;  // by wafer
  Fd epoll_, tcp_, unix_, signals_;
  uint16_t port_ = 0;
  std::string unix_name_;
  uint64_t instance_ = 0;
  uint8_t boot_id_[16] = {};
  std::vector<std::unique_ptr<Session>> sessions_;
  std::vector<Greeting> greetings_;
  std::vector<PeerIn> peers_;  // from stages on other daemons
  uint64_t next_id_ = 16;  // below: the daemon's own descriptors
  size_t turn_ = 0;
  bool end_ = false;
};

}  // namespace baton::cs3
