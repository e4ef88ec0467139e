#include "transport/aead.hpp"

#include "transport/crypto.hpp"

#include <fmt/format.h>

namespace baton::transport {

static_assert(kTagBytes == crypto_aead_aes256gcm_ABYTES && kTagBytes == crypto_aead_chacha20poly1305_IETF_ABYTES);

namespace {

using Nonce = std::array<uint8_t, 12>;
static_assert(sizeof(Nonce) == crypto_aead_aes256gcm_NPUBBYTES && sizeof(Nonce) == crypto_aead_chacha20poly1305_IETF_NPUBBYTES);

Nonce nonce_of(uint64_t count) {
  Nonce n{};
  std::memcpy(&n[4], &count, 8);
  return n;
}

const uint8_t* bytes_of(const ChunkLabel& l) { return reinterpret_cast<const uint8_t*>(&l); }

}  // namespace

struct ChunkKey {
  ChunkKey(Aead a, const Key& session, uint64_t number, const ChunkHeader& header) : algorithm(a) {
    constexpr std::string_view label = "baton/2 chunks";
    crypto_generichash_state s;
    crypto_generichash_init(&s, session.data(), session.size(), key.size());
    crypto_generichash_update(&s, reinterpret_cast<const uint8_t*>(label.data()), label.size());
    crypto_generichash_update(&s, reinterpret_cast<const uint8_t*>(&number), sizeof number);
    crypto_generichash_update(&s, header.data(), header.size());
    crypto_generichash_final(&s, key.data(), key.size());
    sodium_memzero(&s, sizeof s);
    if (a == Aead::aes256gcm) crypto_aead_aes256gcm_beforenm(&aes, key.data());
  }
  crypto_aead_aes256gcm_state aes;
  Key key;
  Aead algorithm;
};

const char* aead_name(Aead a) { return a == Aead::aes256gcm ? "AES-256-GCM" : "ChaCha20-Poly1305"; }
bool aead_here(Aead a) {
  if (!crypto_ready().ok()) return false;
  return a == Aead::chacha20poly1305 || (a == Aead::aes256gcm && crypto_aead_aes256gcm_is_available());
}
Aead best_aead() { return aead_here(Aead::aes256gcm) ? Aead::aes256gcm : Aead::chacha20poly1305; }

ChunkSealer::ChunkSealer(Aead a, const Key& k, uint64_t number, const ChunkHeader& h) : header_(h), key_(a, k, number, h) {}
ChunkSealer::ChunkSealer(ChunkSealer&&) noexcept = default;
ChunkSealer::~ChunkSealer() = default;

Result<ChunkSealer> ChunkSealer::create(Aead a, const Key& session, uint64_t number) {
  BATON_TRY(crypto_ready());
  if (!aead_here(a)) return Error(BATON_UNSUPPORTED, fmt::format("this processor does not compute {}", aead_name(a)), "use best_aead()");
  ChunkHeader h{uint8_t(a)};
  randombytes_buf(&h[8], 16);
  return ChunkSealer(a, session, number, h);
}

bool ChunkSealer::seal(std::span<uint8_t> dst, std::span<const uint8_t> src, const ChunkLabel& label) {
  if (src.size() > kMaxChunkBytes || label.bytes != src.size() || dst.size() < src.size() + kTagBytes || count_ >= kMaxChunks) return false;
  const Nonce n = nonce_of(count_++);
  const ChunkKey& k = *key_;
  if (k.algorithm == Aead::aes256gcm)
    crypto_aead_aes256gcm_encrypt_afternm(dst.data(), nullptr, src.data(), src.size(), bytes_of(label), sizeof label, nullptr, n.data(), &k.aes);
  else
    crypto_aead_chacha20poly1305_ietf_encrypt(dst.data(), nullptr, src.data(), src.size(), bytes_of(label), sizeof label, nullptr, n.data(), k.key.data());
  return true;
}

ChunkOpener::ChunkOpener(Aead a, const Key& k, uint64_t number, const ChunkHeader& h) : key_(a, k, number, h) {}
ChunkOpener::ChunkOpener(ChunkOpener&&) noexcept = default;
ChunkOpener::~ChunkOpener() = default;
Aead ChunkOpener::algorithm() const { return key_->algorithm; }

Result<ChunkOpener> ChunkOpener::create(const Key& session, uint64_t number, std::span<const uint8_t, 24> header) {
  BATON_TRY(crypto_ready());
  ChunkHeader h;
  std::copy(header.begin(), header.end(), h.begin());
  const Aead a = Aead(h[0]);
  if ((a != Aead::aes256gcm && a != Aead::chacha20poly1305) || !sodium_is_zero(&h[1], 7))
    return Error(BATON_CORRUPT, "a stream of chunks begins with another header than this version knows", "run the same Baton version on both sides");
  if (!aead_here(a)) return Error(BATON_UNSUPPORTED, fmt::format("the peer seals by {}, which this processor does not compute", aead_name(a)), "agree on the algorithm before the stream");
  return ChunkOpener(a, session, number, h);
}

bool ChunkOpener::decrypt(uint64_t count, std::span<uint8_t> dst, std::span<const uint8_t> src, const ChunkLabel& label) {
  if (broken_ || src.size() != label.bytes + kTagBytes || label.bytes > kMaxChunkBytes || dst.size() < label.bytes || count >= kMaxChunks) return false;
  const Nonce n = nonce_of(count);
  const ChunkKey& k = *key_;
  return (k.algorithm == Aead::aes256gcm
              ? crypto_aead_aes256gcm_decrypt_afternm(dst.data(), nullptr, nullptr, src.data(), src.size(), bytes_of(label), sizeof label, n.data(), &k.aes)
              : crypto_aead_chacha20poly1305_ietf_decrypt(dst.data(), nullptr, nullptr, src.data(), src.size(), bytes_of(label), sizeof label, n.data(), k.key.data())) == 0;
}

bool ChunkOpener::open(std::span<uint8_t> dst, std::span<const uint8_t> src, const ChunkLabel& label) {
  ordered_ = true;
  if (unordered_ || !decrypt(count_, dst, src, label)) {
    broken_ = true;
    return false;
  }
  ++count_;
  return true;
}

bool ChunkOpener::open_at(uint64_t count, std::span<uint8_t> dst, std::span<const uint8_t> src, const ChunkLabel& label) {
  unordered_ = true;
  const auto bit = [](uint64_t c) { return 1ull << (c % 64); };
  const auto word = [&](uint64_t c) -> uint64_t& { return opened_[c % kWindow / 64]; };
  const bool old = count < count_ && (count_ - count > kWindow || (word(count) & bit(count)));
  if (ordered_ || old || !decrypt(count, dst, src, label)) {
    broken_ = true;
    return false;
  }
  // Those between the newest and this one are not open yet: their bits are of counts that leave the window.
  if (count >= count_) {
    if (count - count_ >= kWindow) opened_.fill(0);
    else
      for (uint64_t c = count_; c < count; ++c) word(c) &= ~bit(c);
    count_ = count + 1;
  }
  word(count) |= bit(count);
  return true;
}

}  // namespace baton::transport
