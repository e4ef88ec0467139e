// session.hpp: an Endpoint listens and connects; a Session is one authenticated peer.
//
// A session is a TCP connection on which both sides prove themselves before anything is disclosed: that they hold the same key (a key file), that
// each is a peer that the other knows (identity.hpp), or both. Then it is an encrypted stream (handshake.hpp says how). It carries small control
// messages, and it is the liveness of the peer: end of stream, a reset, or silence for longer than the lease loses it, and everything that depends
// on it (timelines, transfers) is poisoned with PEER_LOST and the hop. Bulk bytes go by a fabric (kv_link.hpp).
// Every endpoint has an epoch, random at its start, which the handshake authenticates: a peer that was restarted is not the one of before.
//
// Owner    The caller owns Endpoint and Sessions; both register with the Instance and are driven by its poll.
// Threads  As the Instance: one at a time.
// Cost     A message is one frame of JSON plus bytes; microseconds. Never on the data path.
// Errors   PERMISSION (wrong key, unknown or removed peer; both sides say so), PEER_LOST, DEADLINE, VERSION, BUSY (port in use), IO.
//
//     BATON_ASSIGN(auto ep, Endpoint::open(in, {.listen = "127.0.0.1:0", .key = key}));
//     BATON_ASSIGN(auto s, ep.connect("127.0.0.1:7000", deadline_in_ms(2000)));
//     BATON_TRY(s->send({"hello", {{"model", hash}}}));
#pragma once

#include "hal/baton.hpp"

#include <nlohmann/json.hpp>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace baton::transport {

struct Key : std::array<uint8_t, 32> { // wiped when it goes
  ~Key();
};
// A key file holds 64 hex digits. Refused with PERMISSION if others may read it (mode & 077).
Result<Key> read_key_file(const std::string& path);
Status write_key_file(const std::string& path); // a new random key, mode 0600, never overwrites
Key random_key();                               // for two endpoints in one process

struct Message {
  std::string type;
  nlohmann::json body = nlohmann::json::object();
  std::vector<uint8_t> bytes;
};

struct EndpointOptions {
  std::string listen = {};      // "HOST:PORT" (port 0: any), "" to only connect
  Key key{};                    // shared with every peer; all zero: none, identities alone
  std::string name = {};        // shown to the peer and in errors: "prefill neuron://0"
  uint64_t lease_ns = 1'500'000'000; // a silent peer is lost after this; heartbeats every third of it
  // Identities (identity.hpp), "": none. A peer must be in known_peers; with a key beside, it must hold that too.
  std::string identity = {}, known_peers = {};
  std::vector<std::string> accept_roles = {}; // who connects must have one of these, if its line names roles; empty: any
  uint64_t recheck_peers_ns = 0; // how often the sessions of peers that are no longer known are dropped; 0: when drop_unknown_peers() is called
  // KV that leaves this host, or comes to it, is encrypted and authenticated piece by piece (AES-256-GCM where both sides compute it); a peer is
  // then given the way to a stage, never to the memory itself. Either side's wish is enough.
  bool seal_bulk = false;
  // The NICs that KV goes by at once, over tcp, verbs, ofi-verbs and efa, if the peer names some too: names of interfaces or RDMA devices, or addresses, with
  // commas between, or "all"; "": one, the session's. The k-th here goes with the k-th there, those of one network first. One that fails is
  // left out until a cooldown is over, which doubles up to 60 times. One that completes nothing for so long, while the peer is alive, has failed.
  std::string rails = {};
  uint64_t rail_silence_ns = 0; // 0: half of the lease
  uint64_t rail_cooldown_ns = 1'000'000'000;
};

using PublicKey = std::array<uint8_t, 32>;
// Who a peer is by this side's known-peers file, at the time of the handshake.
struct PeerIdentity {
  std::string name, fingerprint;
  PublicKey key{};
  std::vector<std::string> roles;
};

// What connect() asks of the peer beside being known; empty: nothing. Without identities neither can be known: INVALID_ARGUMENT.
struct ConnectOptions {
  std::string peer; // its name in the known-peers file
  std::string role; // one of its roles, if its line names any
};

class Session {
 public:
  ~Session();
  Status send(const Message&);
  std::optional<Message> receive(); // next message of the caller's (transport's own are handled inside), if any
  Status alive() const;             // the first cause if lost
  const std::string& peer_name() const; // as the peer told, authenticated
  const std::string& peer_address() const;
  bool same_host() const;           // by boot id: memory can be mapped
  const std::string& peer_epoch() const;   // 32 hex digits: another after the peer's restart
  const PeerIdentity* peer_identity() const; // nullptr: the session stands on a shared key alone
  struct Impl;
  Impl& impl() const { return *impl_; }

 private:
  friend class Endpoint;
  explicit Session(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

class Endpoint {
 public:
  static Result<Endpoint> open(const Instance&, EndpointOptions);
  Endpoint(Endpoint&&) noexcept;
  Endpoint& operator=(Endpoint&&) noexcept;
  ~Endpoint();
  const std::string& address() const; // "127.0.0.1:41873", "" if not listening
  std::string epoch() const;          // 32 hex digits, random at open
  std::string fingerprint() const;    // of this side's public key, "" without an identity
  // Polls the instance until the handshake is through.
  Result<std::unique_ptr<Session>> connect(const std::string& address, uint64_t deadline_ns, const ConnectOptions& = {});
  // The next authenticated incoming session, if any. Failed handshakes are dropped and counted.
  std::unique_ptr<Session> accept();
  uint64_t rejected() const;
  std::optional<Error> last_rejection() const; // why the latest of them was dropped
  // Reads the known peers again and ends, with PERMISSION on both sides, the sessions of those that are gone from it. Returns how many. A file that
  // cannot be read knows nobody.
  uint32_t drop_unknown_peers();
  struct Impl;
  Impl& impl() const { return *impl_; }

 private:
  explicit Endpoint(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::transport
