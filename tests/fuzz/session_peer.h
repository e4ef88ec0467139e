// session_peer.h: the far end of a session under test, in the same process: speaks the handshake with the right key, then seals what it is given.
//
// Owner    the target.   Threads  one.   Cost  a handshake is four X25519 operations.   Errors  FUZZ_CHECK: with the right key it succeeds.
//
//     Peer peer(pair.far, key);
//     peer.hello();  session.ready(EPOLLIN);  peer.prove();  session.ready(EPOLLIN);
//     peer.frame(kind, json, bytes);  session.ready(EPOLLIN);
#pragma once

#include "tests/fuzz/fuzz.h"
#include "transport/endpoint.hpp"

#include <fcntl.h>

#include <optional>
#include <vector>

namespace baton::fuzz {

class Peer {  // the client of the handshake
 public:
  Peer(int fd, const transport::Key& key) : fd_(fd), key_(key) {}
  ~Peer() { ::close(fd_); }
  void send(std::span<const uint8_t> bytes) { (void)!::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT); }
  void hello() { send({reinterpret_cast<const uint8_t*>(&hand_.hello()), sizeof(transport::Hello)}); }
  void prove() {
    transport::Hello theirs;
    const std::vector<uint8_t> answer = receive(sizeof theirs + hand_.proof_bytes());
    std::memcpy(&theirs, answer.data(), sizeof theirs);
    FUZZ_CHECK(hand_.begin(theirs) && hand_.verify(std::span<const uint8_t>(answer).subspan(sizeof theirs)));
    std::vector<uint8_t> proof(1 + hand_.proof_bytes());
    hand_.prove(&proof[1]);
    hand_.finish(secrets_);
    const auto header = sealer_.start(secrets_.tx);
    proof.insert(proof.end(), header.begin(), header.end());
    send(proof);
  }
  void frame(uint8_t kind, std::string_view json, std::span<const uint8_t> bytes) {
    std::vector<uint8_t> plain(5);
    plain[0] = kind;
    const uint32_t n = uint32_t(json.size());
    std::memcpy(&plain[1], &n, 4);
    plain.insert(plain.end(), json.begin(), json.end());
    plain.insert(plain.end(), bytes.begin(), bytes.end());
    sealed(plain);
  }
  void sealed(std::span<const uint8_t> plain) {
    const uint32_t length = uint32_t(plain.size() + transport::Sealer::kExtraBytes);
    std::vector<uint8_t> out(4 + length);
    std::memcpy(out.data(), &length, 4);
    const std::vector<uint8_t> ad(out.begin(), out.begin() + 4);
    sealer_.seal(plain, ad, out.data() + 4);
    send(out);
  }
  // The JSON of the next frame that the session has sent; nullopt: none yet.
  std::optional<std::string> next_json() {
    if (!opened_) {
      const std::vector<uint8_t> header = receive(transport::Sealer::kHeaderBytes);
      FUZZ_CHECK(opener_.start(secrets_.rx, std::span<const uint8_t, transport::Sealer::kHeaderBytes>(header.data(), header.size())));
      opened_ = true;
    }
    if (!fill(4)) return std::nullopt;
    uint32_t length;
    std::memcpy(&length, in_.data(), 4);
    if (!fill(4 + length)) return std::nullopt;
    std::vector<uint8_t> plain(length - transport::Sealer::kExtraBytes);
    FUZZ_CHECK(opener_.open(std::span<const uint8_t>(in_).subspan(4, length), std::span<const uint8_t>(in_).first(4), plain.data()));
    in_.erase(in_.begin(), in_.begin() + ptrdiff_t(4 + length));
    uint32_t n;
    std::memcpy(&n, &plain[1], 4);
    FUZZ_CHECK(n <= plain.size() - 5);
    return std::string(plain.begin() + 5, plain.begin() + 5 + n);
  }

 private:
  bool fill(size_t n) {
    uint8_t buffer[4096];
    for (ssize_t got; in_.size() < n && (got = ::recv(fd_, buffer, sizeof buffer, MSG_DONTWAIT)) > 0;) in_.insert(in_.end(), buffer, buffer + got);
    return in_.size() >= n;
  }
  std::vector<uint8_t> receive(size_t n) {
    FUZZ_CHECK(fill(n));
    const std::vector<uint8_t> out(in_.begin(), in_.begin() + ptrdiff_t(n));
    in_.erase(in_.begin(), in_.begin() + ptrdiff_t(n));
    return out;
  }

  int fd_;
  transport::Key key_;
  transport::Handshake hand_{transport::Role::client, &key_, nullptr, {}};
  std::vector<uint8_t> in_;
  transport::SessionSecrets secrets_;
  transport::Sealer sealer_;
  transport::Opener opener_;
  bool opened_ = false;
};

}  // namespace baton::fuzz
