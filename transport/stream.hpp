// stream.hpp (internal): a layer of many small segments, or one that is converted or sealed, over a fabric of remote writes: packed into pieces, written
// into a stage of the sink, unpacked there. What it needs of the fabric is StreamPort: libfabric and verbs have one.
//
// A fabric that takes a microsecond or two for each write makes 16384 blocks of 4 KiB three times as slow as one of 64 MiB. So the sender packs
// (kv_pack.hpp) into pieces of 256 KiB that are still in the cache when they are sent, one write each; when a piece is complete a Note says
// which bytes it is, with their checksum; the sink knows from the plan where they go, unpacks them, and returns pieces over the session: libfabric's shm has been seen to crash, and can hang, in
// sending to a peer that is gone, which a sink then need not do.
// Sealed (EndpointOptions::seal_bulk), each piece is encrypted and authenticated (aead.hpp), every layer goes this way, and the sink's memory is not
// disclosed. Nothing assumes order: a piece waits until it is the next one of its layer, and a layer's own note until all of its pieces are unpacked.
//
//   free > packed > posted > written > (noted) lent to the sink > free
//
// Owner    a sender and a landing, one each.   Threads  as the Instance; the far side is not trusted: what a Note says is checked.
// Cost     A pass through the cache on both sides, 16 pieces of 256 KiB a side, allocated at the first use.   Errors  CORRUPT, IO.
#pragma once

#include "transport/aead.hpp"
#include "transport/fabric.hpp"

#include <sys/uio.h>

#include <map>

namespace baton::transport {

inline constexpr uint64_t kStreamPieceBytes = 256u << 10;
inline constexpr uint32_t kStreamPieces = 16;
inline constexpr int kStreamBunch = 4; // pieces that are returned together while others wait

// Memory of one side's pieces: anonymous, populated when it is made.
class Stage {
 public:
  Status make();
  uint8_t* at(uint32_t piece) const { return static_cast<uint8_t*>(p_) + piece * kStreamPieceBytes; }
  std::span<uint8_t> piece(uint32_t i, uint64_t bytes) const { return {at(i), bytes}; }
  explicit operator bool() const { return p_; }
  static constexpr uint64_t kBytes = kStreamPieces * kStreamPieceBytes;
  Stage() = default;
  Stage(const Stage&) = delete;
  ~Stage();

 private:
  void* p_ = nullptr;
};

// A write of a piece: told when it is complete, or failed. Complete: a note that is sent now is not seen before its bytes.
struct StreamPosted {
  virtual ~StreamPosted() = default;
  virtual void written(const Error*) = 0;
};

class StreamPort {
 public:
  virtual ~StreamPort() = default;
  virtual Status open_stage(void* base, uint64_t bytes) = 0; // what write() will read
  virtual void close_stage(void* base) = 0;
  // False: the queue is full, try again. An error: this write has failed, and nobody else is told.
  virtual Result<bool> write(const void* from, uint64_t bytes, uint64_t remote, uint64_t key, StreamPosted*) = 0;
  virtual bool notify(const Note&) = 0; // false: try again; another failure shows in the fabric's own state
};

class StreamSender {
 public:
  explicit StreamSender(StreamPort& p) : port_(p) {}
  ~StreamSender();
  // What the landing offered; averages below that are streamed (0: for their size none). In `cipher` what the sink needs to open the pieces, if they are sealed.
  Status start(const nlohmann::json& stage, uint64_t small_segment, const Session::Impl&, bool sealed, std::optional<ChunkHeader>& cipher);
  bool suits(const Batch& b) const { return sealer_ || b.units || (small_ && b.segments.size() > 4 && b.bytes / b.segments.size() < small_); }
  uint64_t step(Batch&, uint64_t budget); // as Sender::step
  void stop(Batch&);
  void credit(uint32_t pieces);           // those of these bits came back
  void flush();                           // posts what is packed, notes what is written

 private:
  enum class State : uint8_t { free, packed, posted, written, lent };
  struct Piece final : StreamPosted {
    void written(const Error*) override;
    State state = State::free;
    Batch* batch = nullptr; // up to `written`, or until the piece is used
    bool sealed = false;
    uint64_t wire_bytes = 0;
    Note note{};
  };
  bool post(Piece&, uint32_t index);
  Status make_room();

  StreamPort& port_;
  uint64_t small_ = 0, base_ = 0, key_ = 0;
  Stage stage_;
  bool open_ = false; // the stage, at the port
  std::optional<ChunkSealer> sealer_;
  Piece pieces_[kStreamPieces];
};

// What of each layer has been unpacked, whichever rail's stage it came by.
class StreamFlows {
 public:
  explicit StreamFlows(const LandingMemory& m) : memory_(m) {}
  void allow(uint64_t generation, uint32_t slot, const KvMoves* moves);
  void revoke(uint32_t slot);
  bool fits(const Note&, uint64_t most); // what the note names exists, is not more than that, nor more than `most` bytes
  enum class Turn : uint8_t { now, later, never };
  Turn turn(const Note&);
  void unpack(const Note&, std::span<const uint8_t>); // whose turn it is
  size_t place(const Note&, std::span<iovec>); // whose turn it is, of a plan that does not convert: where its bytes, or the first of them, go
  void placed(const Note&, uint64_t bytes);    // so many of them are there
  bool complete(const Note&); // of a layer: all of its pieces are unpacked

 private:
  struct Flow { // one (source, part, layer) on its way
    uint32_t source, part, layer;
    uint64_t at = 0;
    Unpacker to;
    size_t next = 0;     // segment, of what is placed
    uint64_t offset = 0; // in it
  };
  struct Request {
    uint64_t generation = 0; // 0: none
    const KvMoves* moves = nullptr;
    std::vector<Flow> flows;
    std::map<std::pair<uint32_t, uint32_t>, uint64_t> unpacked; // (source, layer held): bytes
  };
  Request* find(uint64_t generation);
  Flow& flow(Request&, const Note&);

  const LandingMemory& memory_;
  std::vector<Request> requests_; // by slot
};

class StreamLanding {
 public:
  StreamLanding(StreamFlows& f, const Session::Impl& s, bool sealed) : flows_(f), session_(s), sealed_(sealed) {}
  Status cipher(std::span<const uint8_t> header); // the sender's
  void restart(); // another sender comes: what the one before has sent and not noted for a layer is void
  // The stage, to be registered for the peer to write into before the offer; registrations outlive neither it nor this.
  Result<std::span<uint8_t>> stage();
  nlohmann::json offer(uint64_t base, uint64_t key); // of the stage, as the peer writes to it
  // Takes what the port received; appends to `out` the layers that are complete. False: the peer's notes make no sense.
  bool take(std::vector<Note>& in, std::vector<Note>& out, uint32_t& worked);
  uint32_t give_back(); // pieces to return to the sender now, as bits; 0: none, or too few to be worth a message
  const char* broken() const { return broken_; }

 private:
  bool unpack(const Note&, bool& done);
  bool open_sealed(const Note&);

  StreamFlows& flows_;
  const Session::Impl& session_; // while the landing's port is open
  const bool sealed_;
  Stage stage_;
  uint64_t number_ = 0;            // of the stream, ours to choose
  std::optional<ChunkOpener> opener_;
  std::vector<Note> shut_;         // sealed pieces that came before the cipher
  std::vector<Note> pieces_, layers_; // held
  uint32_t credits_ = 0;           // bits: pieces to give back
  bool busy_ = false;              // take() got on
  const char* broken_ = nullptr;
};

}  // namespace baton::transport
