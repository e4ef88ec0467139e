// crypto.hpp: how a session hides its bytes: thin words over libsodium. Who may have a session, and by what keys: handshake.hpp.
//
// Frames are XChaCha20-Poly1305 (crypto_secretstream): no reordering, replay or cut unnoticed. States are wiped when they go.
//
// Owner    values.   Threads  any.   Cost  a frame: 1-2 GB/s (guess).   Errors  false: it does not open.
#pragma once

#include "transport/session.hpp"

#include <sodium.h>

#include <span>

namespace baton::transport {

Status crypto_ready(); // libsodium's own start-up; cheap after the first call

bool same_mac(std::span<const uint8_t> a, std::span<const uint8_t> b); // constant time

// One direction of a session each.
class Sealer {
 public:
  ~Sealer() { sodium_memzero(&s_, sizeof s_); }
  static constexpr size_t kHeaderBytes = crypto_secretstream_xchacha20poly1305_HEADERBYTES; // 24
  static constexpr size_t kExtraBytes = crypto_secretstream_xchacha20poly1305_ABYTES;       // 17
  std::array<uint8_t, kHeaderBytes> start(const Key& tx);
  void seal(std::span<const uint8_t> plain, std::span<const uint8_t> ad, uint8_t* out); // out: plain + kExtraBytes

 private:
  crypto_secretstream_xchacha20poly1305_state s_{};
};
class Opener {
 public:
  ~Opener() { sodium_memzero(&s_, sizeof s_); }
  bool start(const Key& rx, std::span<const uint8_t, Sealer::kHeaderBytes> header);
  bool open(std::span<const uint8_t> sealed, std::span<const uint8_t> ad, uint8_t* out); // out: sealed - kExtraBytes

 private:
  crypto_secretstream_xchacha20poly1305_state s_{};
};

std::string hex(std::span<const uint8_t>);
std::string random_hex(size_t bytes);
uint64_t random_u64(); // never 0

}  // namespace baton::transport
