// crypto.hpp: how a session proves its key and hides its bytes: thin words over libsodium.
//
// Each side makes a fresh X25519 pair. The two public keys, with the hellos that carry them, are the transcript. Session keys come from the
// key exchange, mixed (keyed BLAKE2b) with the pre-shared key and the transcript; each side proves itself by a MAC over the
// same. So: without the key nothing verifies, a recorded session cannot be opened with the key later (the pairs are gone), and a hello
// cannot be altered in flight. Frames are XChaCha20-Poly1305 (crypto_secretstream): no reordering, replay or cut unnoticed.
//
// Owner    values.   Threads  any.   Cost  a handshake ~0.2 ms (guess); a frame: 1-2 GB/s (guess).   Errors  PERMISSION, CORRUPT.
#pragma once

#include "transport/session.hpp"

#include <sodium.h>

#include <span>

namespace baton::transport {

Status crypto_ready(); // libsodium's own start-up; cheap after the first call

using Mac = std::array<uint8_t, 32>;
enum class Role : uint8_t { client, server };

struct KeyPair {
  KeyPair();
  ~KeyPair(); // wipes the secret
  KeyPair(const KeyPair&) = delete;
  std::array<uint8_t, 32> pk{}, sk{};
};

struct SessionSecrets {
  Key rx{}, tx{};
  Mac client_mac{}, server_mac{};
  std::array<uint8_t, 16> id{}; // names the session on both sides; not secret
  ~SessionSecrets();
};
Result<SessionSecrets> derive(Role, const KeyPair& mine, std::span<const uint8_t, 32> peer_pk, const Key& psk, std::span<const uint8_t> transcript);
bool same_mac(std::span<const uint8_t> a, const Mac& b); // constant time

// One direction of a session each.
class Sealer {
 public:
  static constexpr size_t kHeaderBytes = crypto_secretstream_xchacha20poly1305_HEADERBYTES; // 24
  static constexpr size_t kExtraBytes = crypto_secretstream_xchacha20poly1305_ABYTES;       // 17
  std::array<uint8_t, kHeaderBytes> start(const Key& tx);
  void seal(std::span<const uint8_t> plain, std::span<const uint8_t> ad, uint8_t* out); // out: plain + kExtraBytes

 private:
  crypto_secretstream_xchacha20poly1305_state s_{};
};
class Opener {
 public:
  bool start(const Key& rx, std::span<const uint8_t, Sealer::kHeaderBytes> header);
  bool open(std::span<const uint8_t> sealed, std::span<const uint8_t> ad, uint8_t* out); // out: sealed - kExtraBytes

 private:
  crypto_secretstream_xchacha20poly1305_state s_{};
};

std::string hex(std::span<const uint8_t>);
std::string random_hex(size_t bytes);
uint64_t random_u64(); // never 0

}  // namespace baton::transport
