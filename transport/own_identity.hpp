// own_identity.hpp (internal): the secret half of this side's identity: it computes with the key and never hands it out.
//
// Owner    moves.   Threads  any.   Cost  100 us a Diffie-Hellman (guess).   Errors  as identity.hpp; dh: false for a point of low order.
//
//     BATON_ASSIGN(auto me, OwnIdentity::read("me.id"));   if (!me.dh(shared, peer_key)) ...
#pragma once

#include "transport/identity.hpp"
#include "transport/secret.hpp"

namespace baton::transport {

class OwnIdentity {
 public:
  static Result<OwnIdentity> read(const std::string& path);
  const PublicKey& public_key() const { return pk_; }
  bool dh(Key& shared, const PublicKey& theirs) const;

 private:
  Secret<Key> sk_;
  PublicKey pk_{};
};

}  // namespace baton::transport
