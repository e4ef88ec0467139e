// session.hpp: an Endpoint listens and connects; a Session is one authenticated peer.
//
// A session is a TCP connection on which both sides prove that they hold the same key before anything is disclosed (fresh X25519
// keys, transcript MAC with the pre-shared key, then an encrypted stream: libsodium). It carries small control messages, and it is
// the liveness of the peer: end of stream, a reset, or silence for longer than the lease loses it, and everything that
// depends on it (timelines, transfers) is poisoned with PEER_LOST and the hop. Bulk bytes go by a fabric (kv_link.hpp).
//
// Owner    The caller owns Endpoint and Sessions; both register with the Instance and are driven by its poll.
// Threads  As the Instance: one at a time.
// Cost     A message is one frame of JSON plus bytes; microseconds. Never on the data path.
// Errors   PERMISSION (wrong key, both sides say so), PEER_LOST, DEADLINE, VERSION, BUSY (port in use), IO.
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

using Key = std::array<uint8_t, 32>;
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
  std::string listen;           // "HOST:PORT" (port 0: any), "" to only connect
  Key key{};
  std::string name;             // shown to the peer and in errors: "prefill neuron://0"
  uint64_t lease_ns = 1'500'000'000; // a silent peer is lost after this; heartbeats every third of it
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
  // Polls the instance until the handshake is through.
  Result<std::unique_ptr<Session>> connect(const std::string& address, uint64_t deadline_ns);
  // The next authenticated incoming session, if any. Failed handshakes are dropped and counted.
  std::unique_ptr<Session> accept();
  uint64_t rejected() const;
  std::optional<Error> last_rejection() const; // why the latest of them was dropped
  struct Impl;
  Impl& impl() const { return *impl_; }

 private:
  explicit Endpoint(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::transport
