// aead.hpp: chunks of bulk data, each encrypted and authenticated as a whole, for connections that the session's own encryption does not cover.
//
// AES-256-GCM where the processor computes it, else ChaCha20-Poly1305 (IETF); both by OpenSSL, 2.4 times as fast as libsodium's here; a tag of 16 bytes. A stream is one direction of one
// connection. Its key is BLAKE2b of the session's key of that direction, a number that the receiver chose for the connection (and told over the
// session: a recorded stream opens nowhere else), the algorithm, and a salt of the sealer's (so that no two streams share a key, whatever the number).
// The nonce is the count of chunks. On a connection that keeps order it does not travel: a chunk that is lost, repeated, moved, or another's does not
// open, and after it nothing does. Where order is not kept the count travels beside the chunk (open_at): each opens once, in any order within a window.
// The label is authenticated and travels as the caller likes.
//
// Owner    moves; the expanded key is in OpenSSL's memory, and wiped when it is freed.   Threads  one at a time each.
// Cost     nothing allocated after create(); baton-bench --only crypto measures GB/s a core.
// Errors   create: UNSUPPORTED (no AES here), CORRUPT (header), CAPACITY. seal: false when the chunk is over kMaxChunkBytes, `dst` is too small, or the counter is
//          used up (never a nonce twice). open: false when it does not authenticate; end the session.
//
//     BATON_ASSIGN(auto sealer, ChunkSealer::create(best_aead(), session.bulk_tx(), number));       send(sealer.header());
//     sealer.seal(dst, src, {generation, source, layer, chunk, uint32_t(src.size())});              // dst: src.size() + kTagBytes
//     BATON_ASSIGN(auto opener, ChunkOpener::create(session.bulk_rx(), number, header));            opener.open(dst, sealed, label)
#pragma once

#include "transport/session.hpp"

#include <memory>
#include <span>

namespace baton::transport {

enum class Aead : uint8_t { aes256gcm = 1, chacha20poly1305 = 2 };
const char* aead_name(Aead); // "AES-256-GCM"
bool aead_here(Aead);        // can this machine compute it?
Aead best_aead();            // of this machine; a sealer must use what its opener can: ask both sides

// What a chunk is. All of it is authenticated.
struct ChunkLabel {
  uint64_t generation = 0;
  uint32_t source = 0, layer = 0, chunk = 0, bytes = 0; // bytes: of the plain text
};
static_assert(sizeof(ChunkLabel) == 24);

inline constexpr size_t kTagBytes = 16;
inline constexpr size_t kMaxChunkBytes = 1u << 30;
inline constexpr uint64_t kMaxChunks = 1ull << 48; // of a stream; far below what either algorithm allows
using ChunkHeader = std::array<uint8_t, 24>; // begins a stream: u8 algorithm, 7 zeros, salt[16]

struct ChunkKey; // the expanded key, one way

class ChunkSealer {
 public:
  static Result<ChunkSealer> create(Aead, const Key& session, uint64_t number);
  ChunkSealer(ChunkSealer&&) noexcept;
  ~ChunkSealer();
  const ChunkHeader& header() const { return header_; }
  // `dst` may begin where `src` does; else they do not overlap. label.bytes is src.size().
  [[nodiscard]] bool seal(std::span<uint8_t> dst, std::span<const uint8_t> src, const ChunkLabel&);
  uint64_t chunks() const { return count_; }

 private:
  ChunkSealer(const ChunkHeader&, std::unique_ptr<ChunkKey>);
  friend struct AeadTest;
  ChunkHeader header_;
  std::unique_ptr<ChunkKey> key_;
  uint64_t count_ = 0;
};

class ChunkOpener {
 public:
  static Result<ChunkOpener> create(const Key& session, uint64_t number, std::span<const uint8_t, 24> header);
  ChunkOpener(ChunkOpener&&) noexcept;
  ~ChunkOpener();
  Aead algorithm() const;
  // `dst`: label.bytes; `src`: those and the tag. In place as in seal. What does not authenticate is not left in `dst`.
  [[nodiscard]] bool open(std::span<uint8_t> dst, std::span<const uint8_t> src, const ChunkLabel&);
  // Without order: `count` is what the sealer's chunks() said before it sealed this one. One that was opened, or is kWindow or more behind the newest,
  // does not open. A stream is opened by one of the two alone.
  [[nodiscard]] bool open_at(uint64_t count, std::span<uint8_t> dst, std::span<const uint8_t> src, const ChunkLabel&);
  static constexpr uint64_t kWindow = 1024;
  uint64_t chunks() const { return count_; } // by open_at: the newest and one

 private:
  explicit ChunkOpener(std::unique_ptr<ChunkKey>);
  bool decrypt(uint64_t count, std::span<uint8_t> dst, std::span<const uint8_t> src, const ChunkLabel&);
  friend struct AeadTest;
  std::unique_ptr<ChunkKey> key_;
  uint64_t count_ = 0;
  bool broken_ = false, ordered_ = false, unordered_ = false;
  std::array<uint64_t, kWindow / 64> opened_{}; // bit count % kWindow, of those in the window
};

}  // namespace baton::transport
