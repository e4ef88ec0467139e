// identity.hpp: who a side is (an X25519 key pair in a file) and whom it knows (a file of names and public keys).
//
// An identity file holds "baton-identity/1" and 64 hex digits, mode 0600; `devctl key new FILE` makes one and prints the public key. A known-peers file
// has a line for each peer:
//
//     # name    public key (64 hex digits, or 43 of base64url)    roles it may have (none: any)    comment
//     decode-1  5f0c...e1                                         roles=decode                     # rack 7
//
// A key stands there once; a name may have several keys while one is replaced by the next. The file is read again when it has changed, so that a
// line that is gone refuses its peer from the next connect on, and Endpoint::drop_unknown_peers() ends what is open.
//
// An endpoint knows its own key without a line.
//
// Owner    values.   Threads  any, one at a time each.   Cost  a few system calls a look; 50 us a Diffie-Hellman.
// Errors   PERMISSION (others may read the identity, or write the known peers), NOT_FOUND, CORRUPT with file and line, BUSY (never overwritten).
//
//     BATON_ASSIGN(PublicKey pk, write_identity_file("me.id"));
//     BATON_ASSIGN(auto ep, Endpoint::open(in, {.listen = "0.0.0.0:7001", .name = "decode", .identity = "me.id", .known_peers = "known_peers"}));
#pragma once

#include "transport/session.hpp"

#include <string_view>

namespace baton::transport {

std::string public_key_text(const PublicKey&);            // 64 hex digits
std::optional<PublicKey> parse_public_key(std::string_view); // hex, or base64 of either alphabet, with or without padding
// "3f2a-9c01-...": 16 bytes of BLAKE2b of the public key, to compare by eye.
std::string fingerprint(const PublicKey&);

Result<PublicKey> write_identity_file(const std::string& path); // a new pair, mode 0600, never overwrites; returns the public half
Result<PublicKey> identity_public_key(const std::string& path);

struct KnownPeer {
  std::string name; // 1 to 64 of letters, digits and . _ - : @
  PublicKey key{};
  std::vector<std::string> roles;
  uint32_t line = 0;
};
// The lines of a known-peers file; `path` is for the errors.
Result<std::vector<KnownPeer>> parse_known_peers(std::string_view text, const std::string& path);

class KnownPeers {
 public:
  static Result<KnownPeers> open(const std::string& path);
  Status refresh(); // reads the file again if it may have changed; what cannot be read knows nobody
  const KnownPeer* find(const PublicKey&) const;
  const std::vector<KnownPeer>& all() const { return peers_; }
  const std::string& path() const { return path_; }

 private:
  struct Stamp {
    uint64_t inode = 0, bytes = 0;
    int64_t modified_ns = 0, changed_ns = 0;
    bool operator==(const Stamp&) const = default;
  };
  std::string path_;
  std::vector<KnownPeer> peers_; // by key
  Stamp stamp_;
  bool settled_ = false; // the stamp was old enough, when it was taken, that a later change shows in it
};

}  // namespace baton::transport
