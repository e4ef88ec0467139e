// endpoint.hpp (internal): what stands behind Endpoint and Session, and how sinks and transfers hook into them.
//
// One epoll descriptor holds every socket and a timer of the endpoint; it is registered with the Instance as a queue of a table, so that
// Instance::poll drives everything. A Service gets the transport's own messages and each poll; a Watcher gets its descriptor's events.
//
// Owner    Endpoint owns its Impl; Session owns its Impl, which outlives neither its Session nor needs its Endpoint to die last.
// Threads  One at a time, the polling thread's calls included.
// Cost     A poll with nothing to do: the services' checks, and at most one epoll_wait each 5 us.
// Errors   A session that fails keeps its first cause; services hear it once.
#pragma once

#include "transport/handshake.hpp"
#include "transport/socket.hpp"

#include <sched.h>

#include <deque>
#include <map>
#include <unordered_map>

namespace baton::transport {

inline constexpr size_t kMaxMessageBytes = 64u << 20;   // a frame's plain text
inline constexpr size_t kMaxQueuedBytes = 256u << 20;   // unsent, or received and not taken
inline constexpr uint64_t kHandshakeNs = 2'000'000'000; // from accept to authenticated
inline constexpr size_t kMaxHandshakes = 64;            // at once; also the backlog of accepted sessions that nobody took

inline constexpr uint64_t kAnswerNs = 500'000;
inline constexpr uint32_t kDriveBudget = 256;

class Watcher {
 public:
  virtual ~Watcher() = default;
  virtual void ready(uint32_t epoll_events) = 0;
};

// A value of a remote timeline: the one message that is hot. It travels as it lies, without JSON.
struct Signal {
  uint64_t to; // the receiver's end
  uint64_t value, modelled_ns;
};

class Service {
 public:
  virtual ~Service() = default;
  virtual bool on_message(Session::Impl&, Message&) { return false; } // true: it was mine
  virtual bool on_signal(Session::Impl&, const Signal&) { return false; }
  virtual bool on_ticket(const std::string& /*ticket*/, const Error&) { return false; } // nobody will bring it; true: it was mine
  virtual void on_lost(Session::Impl&, const Error&) {}
  virtual uint32_t on_poll(uint64_t /*now_ns*/) { return 0; }         // how much it handled
};

// Something that lives as long as a session: connections of fabrics.
struct Attachment {
  virtual ~Attachment() = default;
};

// What a peer tells about itself, inside the encrypted stream.
struct Identity {
  std::string name, host; // host: equal where memory can be shared by descriptor (boot, user, network namespace)
  std::string pids;       // process namespace
  int32_t pid = 0;
  uint64_t lease_ns = 0;
  bool seal_bulk = false;
};
Identity my_identity(const EndpointOptions&);

enum class FrameKind : uint8_t { heartbeat = 0, identity = 1, user = 2, transport = 3, bye = 4, signal = 5, refuse = 6 };

struct Session::Impl final : Watcher {
  enum class State : uint8_t { connecting, hello, proof, /* the peer has proved itself: */ header, identity, up, lost };

  Impl(Endpoint::Impl* owner, Role role, Fd fd, std::string address);
  ~Impl() override;

  // connection.cc: the wire
  void ready(uint32_t events) override;
  void tick(uint64_t now); // heartbeat, lease, handshake time-out
  Status send_frame(FrameKind, const Message&);
  bool send_signal(const Signal&); // allocates nothing once warm; false: too much waits to be sent, or the session is lost
  void lose(Error cause);  // first cause wins; tells the services if the session was up
  Error hop(Error e) const; // names this session in the error
  void drop(const char* why);  // ends it because the peer is not known any more
  // Keys of the chunks that go by other connections; once up.
  uint64_t heard_ns() const { return last_rx_ns_; } // when something last came from the peer
  bool bulk_sealed() const; // either side wishes it
  const Key& bulk_rx() const { return secrets_->keys.bulk_rx; }
  const Key& bulk_tx() const { return secrets_->keys.bulk_tx; }

  Endpoint::Impl* ep;
  uint64_t tag = 0;
  const Role role;
  State state;
  Fd fd;
  std::string address;
  Identity peer;
  bool same_host = false;
  SessionId id{};
  std::string peer_epoch;
  std::optional<PeerIdentity> known; // with identities, from the moment that it has proved its key
  ConnectOptions expected;
  std::optional<Error> cause;
  std::deque<Message> inbox;
  size_t inbox_bytes = 0;
  std::map<std::string, std::unique_ptr<Attachment>> attached;

 private:
  void read_some();
  void flush();
  void put(std::span<const uint8_t>);
  void seal(std::span<const uint8_t> plain);
  bool step(); // consumes one unit of input; false: needs more, or lost
  // admission.cc: from the first byte to the proofs
  void say_hello();
  bool take_client_hello();
  bool take_server_hello();
  bool take_client_proof();
  bool take_server_proof();
  bool take_header();
  bool same_magic();
  std::optional<Error> not_admitted(const char*& why); // the peer, that has proved its key
  std::string name_peer() const;
  void take_refusal(const nlohmann::json&);
  bool take_frame();
  void take_identity(const Message&);
  void become_up();
  void want(uint32_t events);
  std::span<const uint8_t> input() const { return {in_.data() + in_at_, in_end_ - in_at_}; }

  struct Secrets {
    Secrets(Role r, const Key* shared, const OwnIdentity* me, const Epoch& e) : handshake(r, shared, me, e) {}
    Handshake handshake;
    SessionSecrets keys;
    Sealer sealer;
    Opener opener;
  };
  Secret<Secrets> secrets_;
  bool sealed_ = false; // frames may be sent
  std::vector<uint8_t> in_, out_, plain_; // in_: what was read is [in_at_, in_end_); plain_: the frame that is being taken
  size_t in_at_ = 0, in_end_ = 0, out_at_ = 0;
  uint32_t events_ = 0;
  uint64_t started_ns_, last_rx_ns_, last_tx_ns_;
  uint64_t beat_ns_ = 0;
};

struct Endpoint::Impl final : Watcher {
  Impl(const Instance& in, EndpointOptions o) : instance(in.get()), options(std::move(o)) {}
  ~Impl() override;
  Status start(const Instance&);

  uint32_t poll(uint32_t budget);
  void ready(uint32_t events) override; // the listener
  // A connection as its Session; of the endpoint's own it is accept() or connect() that gives it.
  static std::unique_ptr<Session> wrap(std::unique_ptr<Session::Impl> s) { return std::unique_ptr<Session>(new Session(std::move(s))); }

  uint64_t watch(int fd, uint32_t events, Watcher*);
  // Whoever sleeps on the instance's descriptor is woken to poll once more, after that long at the latest; the ticks go on from there.
  void look_again(uint64_t ns) { set_timer(ns); }
  void rewatch(uint64_t tag, int fd, uint32_t events) { epoll_change(epoll.get(), fd, events, tag); }
  void unwatch(uint64_t tag, int fd);
  void add(Service* s) { services.push_back(s); }
  void remove(Service*);
  // Polls the instance until `done` or the deadline; false: the deadline. A peer that polls answers within a few hundred microseconds, and waking a thread that
  // sleeps takes a tenth of that: so it spins for so long, and yields to a peer that shares its core, then sleeps.
  template <class F>
  bool drive(uint64_t deadline_ns, F done) {
    const uint64_t spin_until = now_ns() + kAnswerNs;
    while (!done()) {
      const uint64_t now = now_ns();
      if (now >= deadline_ns) return false;
      if (now >= spin_until) baton_poll_wait(instance, std::min(deadline_ns, now + 10'000'000));
      else if (!baton_poll(instance, kDriveBudget)) sched_yield();
    }
    return true;
  }

  // From sessions
  void authenticated(Session::Impl*);
  void failed(Session::Impl*, const Error&);      // a handshake
  bool dispatch(Session::Impl&, Message&);        // a transport message
  void dispatch(Session::Impl&, const Signal&);
  void announce_lost(Session::Impl&, const Error&);
  void enlist(Session::Impl*);
  void forget(Session::Impl*);

  baton_instance* instance;
  EndpointOptions options;
  std::string address;
  uint64_t rejected = 0;
  std::optional<Error> last_rejection;
  std::optional<Secret<Key>> shared;              // options.key has moved here
  std::optional<OwnIdentity> identity;
  std::optional<KnownPeers> known;
  Epoch epoch{};
  const Key* shared_key() const { return shared ? &**shared : nullptr; }
  const OwnIdentity* own_identity() const { return identity ? &*identity : nullptr; }
  uint32_t drop_unknown_peers();
  Fd epoll, timer, listener;
  std::vector<Service*> services;                 // nullptr: removed while iterating
  std::map<std::string, std::unique_ptr<Attachment>> attached; // domains of fabrics; dropped after the sessions

 private:
  void arm_timer();
  void set_timer(uint64_t first_ns); // then every tick
  void reap();
  void tick(uint64_t now);

  uint64_t next_tag_ = 1, listener_tag_ = 0, timer_tag_ = 0;
  Status take_credentials();

  uint64_t last_wait_ns_ = 0, next_tick_ns_ = UINT64_MAX, tick_ns_ = 0, next_recheck_ns_ = 0;
  bool iterating_ = false, put_off_ = false; // put_off_: the last poll did not look at the descriptors
  std::unordered_map<uint64_t, Watcher*> watchers_;
  std::vector<Session::Impl*> live_;              // all with a socket
  std::vector<std::unique_ptr<Session::Impl>> handshakes_; // incoming, not yet authenticated
  std::vector<std::unique_ptr<Session::Impl>> dead_;       // to be freed outside of their own calls
  std::deque<std::unique_ptr<Session>> accepted_;
  baton_driver table_{};
  Queue queue_;
  friend class Endpoint;
};

}  // namespace baton::transport
