#include "transport/handshake.hpp"

namespace baton::transport {
namespace {

constexpr std::array<uint8_t, 8> kMagic = {'B', 'A', 'T', 'O', 'N', 'S', 'E', 'S'};
constexpr uint8_t kNonce[crypto_aead_chacha20poly1305_IETF_NPUBBYTES] = {}; // each box key seals one box
static_assert(Handshake::kBoxBytes == 32 + crypto_aead_chacha20poly1305_IETF_ABYTES);

// H(key; label || parts...)
template <size_t N>
void keyed_hash(std::array<uint8_t, N>& out, const Key& key, std::string_view label, std::initializer_list<std::span<const uint8_t>> parts) {
  crypto_generichash_state s;
  crypto_generichash_init(&s, key.data(), key.size(), N);
  crypto_generichash_update(&s, reinterpret_cast<const uint8_t*>(label.data()), label.size());
  for (auto p : parts) crypto_generichash_update(&s, p.data(), p.size());
  crypto_generichash_final(&s, out.data(), N);
  sodium_memzero(&s, sizeof s);
}

std::span<const uint8_t> bytes(const Hello& h) { return {reinterpret_cast<const uint8_t*>(&h), sizeof h}; }

}  // namespace

std::string ways_text(uint16_t w) {
  return w == (kByKey | kByIdentity) ? "identities and a shared key" : w == kByIdentity ? "identities" : w == kByKey ? "a shared key" : "nothing that this version knows";
}

SessionSecrets::~SessionSecrets() { sodium_memzero(this, sizeof *this); }

Handshake::Handshake(Role r, const Key* shared, const OwnIdentity* me, const Epoch& epoch) : role_(r), me_(me) {
  mine_ = {kMagic, kProtocolVersion, 0, uint16_t((shared ? kByKey : 0) | (me ? kByIdentity : 0)), {}, epoch};
  crypto_box_keypair(mine_.e.data(), secret_.data());
  if (shared) chain_ = *shared;
}

Handshake::~Handshake() {
  for (Key* k : {&secret_, &chain_, &box_}) sodium_memzero(k->data(), k->size());
}

void Handshake::hash(std::span<const uint8_t> more) { crypto_generichash(h_.data(), h_.size(), more.data(), more.size(), h_.data(), h_.size()); }

void Handshake::mix(const Key& shared) {
  Key chain;
  keyed_hash(chain, chain_, "chain", {shared});
  keyed_hash(box_, chain_, "box", {shared});
  chain_ = chain;
}

bool Handshake::begin(const Hello& theirs) {
  theirs_ = theirs;
  const bool client = role_ == Role::client;
  Key label{}, shared;
  keyed_hash(h_, label, "baton/2", {bytes(client ? mine_ : theirs_), bytes(client ? theirs_ : mine_)});
  Key first;
  keyed_hash(first, chain_, "key", {h_});
  chain_ = first;
  if (crypto_scalarmult(shared.data(), secret_.data(), theirs_.e.data())) return ok_ = false;
  mix(shared);
  return true;
}

Mac Handshake::mac(Role by) const {
  Mac m;
  keyed_hash(m, chain_, by == Role::client ? "client" : "server", {h_});
  return m;
}

Mac Handshake::refusal() const {
  Mac m;
  keyed_hash(m, chain_, "unknown", {h_});
  return m;
}

void Handshake::prove(uint8_t* out) {
  if (me_) {
    crypto_aead_chacha20poly1305_ietf_encrypt(out, nullptr, me_->public_key().data(), 32, h_.data(), h_.size(), nullptr, kNonce, box_.data());
    hash({out, kBoxBytes});
    Key shared;
    ok_ = me_->dh(shared, theirs_.e) && ok_;
    mix(shared);
    out += kBoxBytes;
  }
  const Mac m = mac(role_);
  std::memcpy(out, m.data(), m.size());
  hash(m);
}

bool Handshake::verify(std::span<const uint8_t> proof) {
  if (!ok_ || proof.size() != proof_bytes()) return ok_ = false;
  if (me_) {
    const auto box = proof.first(kBoxBytes);
    if (crypto_aead_chacha20poly1305_ietf_decrypt(peer_.data(), nullptr, nullptr, box.data(), box.size(), h_.data(), h_.size(), kNonce, box_.data())) return ok_ = false;
    hash(box);
    Key shared;
    if (crypto_scalarmult(shared.data(), secret_.data(), peer_.data())) return ok_ = false;
    mix(shared);
    proof = proof.subspan(kBoxBytes);
  }
  if (!same_mac(proof, mac(role_ == Role::client ? Role::server : Role::client))) return ok_ = false;
  hash(proof);
  return true;
}

SessionId Handshake::finish(SessionSecrets& s) {
  const bool client = role_ == Role::client;
  keyed_hash(s.tx, chain_, client ? "frames >" : "frames <", {h_});
  keyed_hash(s.rx, chain_, client ? "frames <" : "frames >", {h_});
  keyed_hash(s.bulk_tx, chain_, client ? "bulk >" : "bulk <", {h_});
  keyed_hash(s.bulk_rx, chain_, client ? "bulk <" : "bulk >", {h_});
  SessionId id;
  keyed_hash(id, chain_, "id", {h_});
  for (Key* k : {&secret_, &chain_, &box_}) sodium_memzero(k->data(), k->size());
  sodium_stackzero(4096); // what the primitives left of them below this frame
  return id;
}

}  // namespace baton::transport
