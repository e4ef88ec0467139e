#include "transport/aead.hpp"

#include "transport/crypto.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>

namespace baton::transport {
namespace {

using Nonce = std::array<uint8_t, 12>;

Nonce nonce_of(uint64_t count) {
  Nonce n{};
  std::memcpy(&n[4], &count, 8);
  return n;
}

const uint8_t* bytes_of(const ChunkLabel& l) { return reinterpret_cast<const uint8_t*>(&l); }

Error no_context(Aead a) { return Error(BATON_CAPACITY, fmt::format("OpenSSL has no memory for {}", aead_name(a)), "free memory"); }

// In a library context of its own: the host's openssl.cnf is neither read nor changes what this computes. For as long as the process lives.
const EVP_CIPHER* cipher_of(Aead a) {
  static OSSL_LIB_CTX* const library = OSSL_LIB_CTX_new();
  static EVP_CIPHER* const aes = EVP_CIPHER_fetch(library, "AES-256-GCM", nullptr);
  static EVP_CIPHER* const chacha = EVP_CIPHER_fetch(library, "ChaCha20-Poly1305", nullptr);
  return a == Aead::aes256gcm ? aes : a == Aead::chacha20poly1305 ? chacha : nullptr;
}

Key stream_key(const Key& session, uint64_t number, const ChunkHeader& header) {
  constexpr std::string_view label = "baton/2 chunks";
  Key key;
  crypto_generichash_state s;
  crypto_generichash_init(&s, session.data(), session.size(), key.size());
  crypto_generichash_update(&s, reinterpret_cast<const uint8_t*>(label.data()), label.size());
  crypto_generichash_update(&s, reinterpret_cast<const uint8_t*>(&number), sizeof number);
  crypto_generichash_update(&s, header.data(), header.size());
  crypto_generichash_final(&s, key.data(), key.size());
  sodium_memzero(&s, sizeof s);
  return key;
}

}  // namespace

struct ChunkKey {
  ChunkKey(Aead a, bool seals, const Key& session, uint64_t number, const ChunkHeader& header) : algorithm(a), context(EVP_CIPHER_CTX_new()) {
    Key key = stream_key(session, number, header);
    if (!context || EVP_CipherInit_ex2(context, cipher_of(a), key.data(), nullptr, seals, nullptr) != 1) {
      EVP_CIPHER_CTX_free(context);
      context = nullptr;
    }
    sodium_memzero(key.data(), key.size());
  }
  ChunkKey(const ChunkKey&) = delete;
  ~ChunkKey() { EVP_CIPHER_CTX_free(context); } // wipes
  // All of a chunk but its tag.
  bool run(uint64_t count, uint8_t* dst, const uint8_t* src, size_t n, const ChunkLabel& label) {
    const Nonce nonce = nonce_of(count);
    int made = 0;
    return EVP_CipherInit_ex2(context, nullptr, nullptr, nonce.data(), -1, nullptr) == 1 && EVP_CipherUpdate(context, nullptr, &made, bytes_of(label), sizeof label) == 1 &&
           (!n || EVP_CipherUpdate(context, dst, &made, src, int(n)) == 1);
  }
  const Aead algorithm;
  EVP_CIPHER_CTX* context; // nullptr: OpenSSL could not make one
};

const char* aead_name(Aead a) { return a == Aead::aes256gcm ? "AES-256-GCM" : "ChaCha20-Poly1305"; }
bool aead_here(Aead a) {
  if (!crypto_ready().ok()) return false;
  return cipher_of(a) && (a == Aead::chacha20poly1305 || crypto_aead_aes256gcm_is_available()); // by tables it would be slow, and tell of the key by its time
}
Aead best_aead() { return aead_here(Aead::aes256gcm) ? Aead::aes256gcm : Aead::chacha20poly1305; }

ChunkSealer::ChunkSealer(const ChunkHeader& h, std::unique_ptr<ChunkKey> k) : header_(h), key_(std::move(k)) {}
ChunkSealer::ChunkSealer(ChunkSealer&&) noexcept = default;
ChunkSealer::~ChunkSealer() = default;

Result<ChunkSealer> ChunkSealer::create(Aead a, const Key& session, uint64_t number) {
  BATON_TRY(crypto_ready());
  if (!aead_here(a)) return Error(BATON_UNSUPPORTED, fmt::format("this processor does not compute {}", aead_name(a)), "use best_aead()");
  ChunkHeader h{uint8_t(a)};
  randombytes_buf(&h[8], 16);
  auto key = std::make_unique<ChunkKey>(a, true, session, number, h);
  if (!key->context) return no_context(a);
  return ChunkSealer(h, std::move(key));
}

bool ChunkSealer::seal(std::span<uint8_t> dst, std::span<const uint8_t> src, const ChunkLabel& label) {
  if (src.size() > kMaxChunkBytes || label.bytes != src.size() || dst.size() < src.size() + kTagBytes || count_ >= kMaxChunks) return false;
  int none = 0;
  return key_->run(count_++, dst.data(), src.data(), src.size(), label) && EVP_CipherFinal_ex(key_->context, dst.data() + src.size(), &none) == 1 &&
         EVP_CIPHER_CTX_ctrl(key_->context, EVP_CTRL_AEAD_GET_TAG, kTagBytes, dst.data() + src.size()) == 1;
}

ChunkOpener::ChunkOpener(std::unique_ptr<ChunkKey> k) : key_(std::move(k)) {}
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
  auto key = std::make_unique<ChunkKey>(a, false, session, number, h);
  if (!key->context) return no_context(a);
  return ChunkOpener(std::move(key));
}

bool ChunkOpener::decrypt(uint64_t count, std::span<uint8_t> dst, std::span<const uint8_t> src, const ChunkLabel& label) {
  if (broken_ || src.size() != label.bytes + kTagBytes || label.bytes > kMaxChunkBytes || dst.size() < label.bytes || count >= kMaxChunks) return false;
  std::array<uint8_t, kTagBytes> tag;
  std::copy_n(src.data() + label.bytes, kTagBytes, tag.data());
  int none = 0;
  if (key_->run(count, dst.data(), src.data(), label.bytes, label) && EVP_CIPHER_CTX_ctrl(key_->context, EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag.data()) == 1 &&
      EVP_CipherFinal_ex(key_->context, dst.data() + label.bytes, &none) == 1)
    return true;
  sodium_memzero(dst.data(), label.bytes); // it is decrypted before it is known to be right
  return false;
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
