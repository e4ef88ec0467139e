// fabric.hpp (internal): the small interface that each fabric is.
//
// A Landing is the sink's side, one for each (session, sink): it discloses the sink's memory to one authenticated peer and hears that layers
// have landed. A Sender is the source's side of the same. A fabric need not keep writes in order: a note goes out only when all
// writes of its batch are complete and visible at the far side, or, where the fabric says in_order(), behind them.
//
// Owner    The sink owns landings; the session owns senders (as attachments), so that connections and mappings outlive a request.
// Threads  One at a time, as the Instance.
// Cost     step() does at most `budget` bytes of work; nothing here blocks, allocates or logs on the data path.
// Errors   UNSUPPORTED with the reason; PEER_LOST; CANCELLED when the sink has revoked the slot.
//
//     BATON_ASSIGN(auto sender, make_sender("mapped", session, offer));   while (!batch.posted()) sender->step(batch, 1 << 20);
#pragma once

#include "transport/copy_kernel.hpp"
#include "transport/endpoint.hpp"
#include "transport/kv_layout.hpp"
#include "transport/kv_link.hpp"
#include "transport/kv_pack.hpp"
#include "transport/kv_recode.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace baton::transport {

// What a sink lets a peer write into.
struct LandingMemory {
  std::string id;          // random; names the region to caches on the other side
  uint8_t* base = nullptr;
  uint64_t bytes = 0;
  int fd = -1;             // shareable object behind it, -1: none
  uint64_t fd_offset = 0;
};

// Which memory it is, for caches of registrations: another buffer may lie at the address of one that was freed. All zero where no object tells.
struct SourceKey {
  uint64_t device = 0, inode = 0, offset = 0;
  bool operator==(const SourceKey&) const = default;
};
// What a source sends from.
struct SourceMemory {
  const uint8_t* base = nullptr;
  uint64_t bytes = 0;
  int fd = -1;             // shareable object behind it, -1: none
  uint64_t fd_offset = 0;
  std::optional<SourceKey> key{}; // known already: the descriptor may be closed by now
};
SourceKey key_of(const SourceMemory&);
bool is_dmabuf(int fd); // a device's memory

class StreamFlows;
// Which of several NICs of one fabric a landing or a sender is on (rails.hpp). As it comes: the session's own interface.
struct RailPlace {
  std::string host, device;     // numeric local address, of tcp and verbs; RDMA device, of efa
  uint32_t number = 0;          // that messages name the rail by; 0: it has none, being alone
  StreamFlows* flows = nullptr; // of a landing: shared with the other rails', so that a layer's pieces may come over all of them
};

// What one request moves, as both sides compute it: [source][part], each with its layers. A landing that has it can take part in the moving.
struct KvMoves {
  std::vector<std::vector<KvMove>> parts;
  std::vector<uint64_t> bytes; // of each source's buffer
  uint32_t first_layer = 0;    // that the sink holds
  std::vector<std::vector<Recoder>> how; // of the parts that convert
  LayerUnits units(uint32_t source, uint32_t part, uint32_t layer) const {
    const KvMove& m = parts[source][part];
    return m.converts() ? LayerUnits{&how[source][part], &m, layer} : LayerUnits();
  }
};

// 64 bytes: one cache line, one inlined message.
struct Note {
  enum class Kind : uint32_t {
    layer = 0,  // "layers `layer` .. + `part` + 1 of source `source` are complete and visible": of those that the sink holds
    piece = 1,  // of a stream (stream.hpp): `bytes` of the packed layer, as in the model, from `offset`, lie in the stage's piece `slot`
  };
  uint64_t generation; // of the accepted transfer: random, so a late, stale or forged note matches nothing
  uint32_t source, layer;
  uint64_t modelled_ns, bytes;
  uint32_t segments, slot;
  Kind kind;
  uint32_t part;       // piece: of the source's moves; layer: how many layers more
  uint64_t offset;     // layer: how many bytes of them came in pieces
  uint64_t checksum;   // piece: xxh3, or if it is sealed its number in the stream; layer: kv_sum.hpp; 0: none
};
static_assert(sizeof(Note) == 64);

// One (source, layer) on its way.
struct Batch {
  const uint8_t* src = nullptr;
  void* local = nullptr; // the sender's handle for the source memory
  uint32_t source = 0, part = 0, layer = 0; // which of the request's moves this is; the layer as in the model
  std::span<const KvSegment> segments; // empty where there are units: the plan converts
  LayerUnits units;
  Checksum* sum = nullptr; // where one is asked for: whoever packs units adds them (kv_sum.hpp)
  uint64_t bytes = 0;    // of all segments or units
  CopyMode mode = CopyMode::cached;
  uint64_t generation = 0;
  uint32_t slot = 0;
  size_t next = 0;          // segment or unit
  uint64_t offset = 0;      // in it
  uint32_t outstanding = 0; // posted, not complete
  uint32_t job = 0;         // the fabric's own
  std::optional<Packer> pack;            // of a stream
  uint64_t packed = 0, streamed = 0;     // of this part; of all parts
  bool stopped = false;
  bool stripe = false;                   // of several rails: packed if it comes with a packer, and then outstanding until the sink has used the piece
  std::optional<Error> error;
  Packer packer() const { return units ? Packer(src, units) : Packer(src, segments); }
  size_t pieces() const { return units ? units.size() : segments.size(); }
  uint64_t reach() const { return units ? units.how->dst_bytes() : segments.empty() ? 0 : segments.back().dst + segments.back().bytes; } // one past what is written
  bool posted() const { return next == pieces(); }
  bool settled() const { return outstanding == 0 && (posted() || error); }
};

class Sender : public Attachment {
 public:
  // nullopt: still connecting. Otherwise ready, or why it never will be.
  virtual std::optional<Status> state() = 0;
  // Handle for source memory; registered once and kept. nullptr where the fabric needs none.
  virtual Result<void*> local(const SourceMemory&) = 0;
  // Moves or posts up to `budget` bytes; returns how many. 0 with the batch not posted: try again later.
  virtual uint64_t step(Batch&, uint64_t budget) = 0;
  virtual bool streams(const Batch&) const { return false; } // step() would pack it into pieces
  virtual void heard(const Message&) {} // from the landing: what it told
  virtual void stop(Batch&) {}          // the batch has failed: nothing more of it begins; `outstanding` goes to 0 by progress()
  virtual bool notify(const Note&) = 0; // false: try again later
  virtual uint32_t progress() = 0;      // collects completions
  virtual bool unsettled() const { return false; } // though all is sent and noted: progress() until close(), or a note may not come
  virtual int fd() const { return -1; } // readable when progress() may find something
  virtual bool converts() const { return false; } // step() takes units as well as segments
  virtual bool copies() const = 0;      // step() itself moves the bytes: worth calling again at once
  virtual bool in_order() const { return false; } // a note posted behind a batch arrives behind it: it need not wait for the batch's completion
  virtual void close(uint64_t /*generation*/, bool /*complete*/) {} // its transfer is about to say that it ends
  virtual void rails(uint64_t /*generation*/, std::vector<RailUse>&) const {} // what each has carried of it
  // Nothing posted touches the sources' memory any more after this; the batches' counters are void. For good.
  virtual void abandon() = 0;
  uint32_t users = 0; // transfers that hold it
};

// The slots of a landing: one is free again once its request has ended here and the peer writes no more, in whichever order.
class LandingSlots {
 public:
  uint32_t open() {
    const auto i = uint32_t(std::find(all_.begin(), all_.end(), Slot()) - all_.begin());
    if (i == all_.size()) all_.emplace_back();
    all_[i] = {true, true};
    return i;
  }
  void revoke(uint32_t slot) { all_[slot].wanted = false; }
  void stopped(uint32_t slot) { all_[slot].written = false; }
  bool wanted(uint32_t slot) const { return all_[slot].wanted; }
  bool free(uint32_t slot) const { return all_[slot] == Slot(); }
  uint32_t size() const { return uint32_t(all_.size()); }

 private:
  struct Slot {
    bool wanted = false, written = false;
    bool operator==(const Slot&) const = default;
  };
  std::vector<Slot> all_;
};

class Landing : public Attachment {
 public:
  virtual const char* fabric() const = 0;
  virtual bool wants_moves() const { return false; }
  virtual Result<nlohmann::json> offer() = 0;        // what the peer needs to reach the memory
  // A slot. `moves`, if known, stay valid until revoke(); they may be filled in after this.
  virtual Result<uint32_t> allow(uint64_t generation, const KvMoves* moves) = 0;
  virtual void revoke(uint32_t slot) = 0;            // no new writes; see quiet()
  virtual void stopped(uint32_t slot) = 0;           // the peer says that it has nothing in flight
  virtual void session_lost() = 0;
  virtual bool quiet(uint32_t slot) = 0;             // nothing can write any more: the slot is free again once true
  virtual bool poll(std::vector<Note>& notes, uint32_t& worked) = 0; // appends; counts what it did besides; false: the landing is broken
  // What the sender says beside the data: the cipher of a sealed stream, a rail that broke. Notes that come this way are appended.
  virtual Status heard(const Message& m, std::vector<Note>&) {
    return Error(BATON_CORRUPT, fmt::format("{} for a fabric that has no use for it", m.type), "run the same Baton version on both sides");
  }
  virtual void tell(std::vector<Message>&) {}         // what the sender should hear: pieces (bits) of a stream that it may write again
  virtual const char* broken() const { return nullptr; } // why poll() said so, if the peer is to blame
  virtual std::optional<Error> cause() const { return std::nullopt; } // why it is, if it knows
  virtual uint64_t tick_ns() const { return 0; }     // how often it must be polled though no descriptor says so
};

Result<std::unique_ptr<Landing>> make_landing(const std::string& fabric, Session::Impl&, const LandingMemory&, const RailPlace& = {});
// `near`: where the bytes lie, for the choice of NICs.
Result<std::unique_ptr<Sender>> make_sender(const std::string& fabric, Session::Impl&, const nlohmann::json& offer, const RailPlace& = {}, const SourceMemory& near = {});
// Why this side cannot use `fabric` with that peer; nullopt: it can.
std::optional<std::string> fabric_unusable(const std::string& fabric, const Session::Impl&);

// What "auto" asks for, best first: on one host shared memory; else the RDMA that this side has at the session's address; tcp. The sink takes the first
// that it has too. One that could not connect is not asked for again in this session.
std::vector<std::string> auto_fabrics(Session::Impl&);
void not_again(Session::Impl&, const std::string& fabric);

// A registration that is about to dangle.
void forget_source(Endpoint::Impl&, const void* base);

}  // namespace baton::transport
