// handshake.hpp (internal): how two sides prove themselves and what keys come of it; libsodium's primitives, composed as Noise's XX with an optional
// shared key (noiseprotocol.org, revision 34, 7.5 and 9; not its bytes).
//
//   > hello  e        < hello e, [ box(s) ], mac        > [ box(s) ], mac
//
// Each side makes a fresh X25519 pair (e). The hellos, with the versions, the ways of proof and the epochs of both endpoints, begin the hash h; the
// shared key (or zeros) and DH(e, e) begin the chain. With identities each static key s goes in a box under the chain, and the chain then takes
// DH(s, the other's e); a mac by the chain over h shows that its maker knows all of it. So: a recorded session opens with no key that lives longer
// than it; a hello altered, replayed or of a restarted endpoint verifies nowhere; who watches learns no identity, who connects learns the
// server's public key and, where a shared key is used beside, not even that; the client shows its own only to a server that it knows.
//
// Owner    its session; keys are wiped with it.   Threads  one.   Cost  a side: one pair and 1 (key) or 3 (identities) X25519 operations, ~50 us each (guess).
// Errors   false: the bytes do not verify; the caller has the words.
//
//     server: h.begin(their_hello); h.prove(out); h.verify(in) ; h.finish(keys)      client: begin, verify, prove, finish
#pragma once

#include "transport/crypto.hpp"
#include "transport/own_identity.hpp"

namespace baton::transport {

inline constexpr uint32_t kProtocolVersion = 2;

using Mac = std::array<uint8_t, 32>;
using Epoch = std::array<uint8_t, 16>; // of an endpoint: random at its start
enum class Role : uint8_t { client, server };

// How a side proves itself. Both sides do it the same way, all of it; nothing is negotiated.
enum Ways : uint16_t { kByKey = 1, kByIdentity = 2 };
std::string ways_text(uint16_t); // "identities and a shared key"

struct Hello { // as it travels
  std::array<uint8_t, 8> magic{};
  uint32_t version = 0;
  uint16_t status = 0, ways = 0;
  std::array<uint8_t, 32> e{};
  Epoch epoch{};
};
static_assert(sizeof(Hello) == 64);

struct SessionSecrets {
  Key rx{}, tx{};           // the stream of frames
  Key bulk_rx{}, bulk_tx{}; // of the chunks that go by other connections (aead.hpp)
  ~SessionSecrets();
};
using SessionId = std::array<uint8_t, 16>; // names the session on both sides; not secret

class Handshake {
 public:
  static constexpr size_t kMacBytes = 32, kBoxBytes = 32 + 16;

  Handshake(Role, const Key* shared, const OwnIdentity*, const Epoch&);
  ~Handshake();
  Handshake(const Handshake&) = delete;
  const Hello& hello() const { return mine_; }
  size_t proof_bytes() const { return me_ ? kBoxBytes + kMacBytes : kMacBytes; }
  bool begin(const Hello& theirs);
  void prove(uint8_t* out);                       // proof_bytes(); after begin (server) or verify (client)
  bool verify(std::span<const uint8_t> proof);
  const PublicKey& peer() const { return peer_; } // with identities, once verified: whose key it is
  const Epoch& peer_epoch() const { return theirs_.epoch; }
  // What a client that does not know the server answers in its proof's place: a mac of what both hold after the server's proof.
  Mac refusal() const;
  SessionId finish(SessionSecrets&);

 private:
  void mix(const Key& shared);
  void hash(std::span<const uint8_t>);
  Mac mac(Role) const;

  const Role role_;
  const OwnIdentity* me_;
  bool ok_ = true;
  Hello mine_, theirs_;
  Key secret_{}, chain_{}, box_{}; // of e; the chain; what the next box is sealed by
  Mac h_{};
  PublicKey peer_{};
};

}  // namespace baton::transport
