#include "transport/mapped.hpp"

#include "transport/kv_pieces.hpp"
#include "transport/doze.hpp"
#include "transport/kv_wire.hpp"
#include "transport/mapped_hub.hpp"
#include "transport/mapped_wire.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cerrno>

namespace baton::transport {

using namespace mapped;

namespace {

class MappedLanding final : public Landing, public Watcher, public MappedHost {
 public:
  MappedLanding(Endpoint::Impl& ep, MappedHub& hub, LandingMemory m) : ep_(ep), hub_(hub), memory_(std::move(m)) {}
  ~MappedLanding() override {
    hub_.forget(this);
    disconnect();
  }
  const char* fabric() const override { return "mapped"; }
  bool wants_moves() const override { return true; }

  Status start() {
    BATON_TRY(check_object(memory_.fd, memory_.fd_offset + memory_.bytes));
    control_fd_ = Fd(memfd_create("baton-control", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!control_fd_ || ftruncate(control_fd_.get(), sizeof(Control))) return io_error("memfd_create", errno);
    if (fcntl(control_fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) return io_error("cannot seal the control page", errno);
    BATON_ASSIGN(control_map_, Mapping::of(control_fd_.get(), 0, sizeof(Control), Mapping::Use::write));
    control().magic = kMagic;
    return {};
  }

  Result<nlohmann::json> offer() override {
    nlohmann::json o{{"sink", memory_.id}};
    if (!peer_ && !gone_) { // not connected yet: disclose the way in
      if (token_.empty()) hub_.expect(token_ = random_hex(32), this);
      o["socket"] = hub_.name();
      o["token"] = token_;
    }
    return o;
  }

  void welcome(Fd peer) override {
    hub_.forget(this); // the token works once
    token_.clear();
    const Welcome w{kMagic, kSlots, memory_.bytes, memory_.fd_offset, sizeof(Control)};
    const int fds[2] = {memory_.fd, control_fd_.get()};
    if (!unix_send(peer.get(), {reinterpret_cast<const uint8_t*>(&w), sizeof w}, fds)) return;
    peer_ = std::move(peer);
    tag_ = ep_.watch(peer_.get(), EPOLLIN | EPOLLRDHUP, this);
  }

  void ready(uint32_t) override { // wake-ups, source buffers, and the end
    Region r{};
    std::array<Fd, 4> fds;
    for (;;) {
      const ssize_t n = unix_recv(peer_.get(), {reinterpret_cast<uint8_t*>(&r), sizeof r}, fds);
      if (n == sizeof r) take(r, fds[0]);
      if (n > 0) continue;
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
      gone_ = true;
      return disconnect();
    }
  }

  Result<uint32_t> allow(uint64_t generation, const KvMoves* moves) override {
    for (uint32_t i = 0; i < kSlots; ++i) {
      if (busy_[i]) continue;
      busy_[i] = generation;
      moves_[i] = moves;
      control().slots[i].writing.store(0, std::memory_order_relaxed);
      control().slots[i].valid.store(generation, std::memory_order_seq_cst);
      return i;
    }
    return Error(BATON_BUSY, fmt::format("{} transfers are already open over this session", kSlots), "finish some of them");
  }
  void revoke(uint32_t slot) override {
    moves_[slot] = nullptr;
    control().slots[slot].valid.store(0, std::memory_order_seq_cst);
  }
  void stopped(uint32_t) override {}
  void session_lost() override { lost_ = true; }
  bool quiet(uint32_t slot) override {
    if (!busy_[slot]) return true;
    Slot& s = control().slots[slot];
    if (s.valid.load(std::memory_order_seq_cst) != 0) return false;
    // A peer that lost the session before it connected has nothing mapped.
    const bool absent = gone_ || (!peer_ && lost_);
    if (!absent && s.writing.load(std::memory_order_seq_cst) != 0) return false;
    busy_[slot] = 0;
    return true;
  }

  bool poll(std::vector<Note>& notes, uint32_t& worked) override {
    Control& c = control();
    doze_.look(now_ns());
    if (uint32_t open = c.open_jobs.load(std::memory_order_relaxed)) {
      uint64_t left = kPollBytes;
      for (; open && left; open &= open - 1) {
        const uint64_t n = std::min(left, share(uint32_t(std::countr_zero(open)), left));
        left -= n;
        worked += n != 0;
      }
    }
    const uint64_t head = c.head.load(std::memory_order_acquire);
    if (head == tail_) {
      if (!worked && !c.parked.load(std::memory_order_relaxed) && doze_.may_park(ep_)) {
        c.parked.store(1, std::memory_order_seq_cst);
        if (c.head.load(std::memory_order_seq_cst) != tail_ || c.open_jobs.load(std::memory_order_seq_cst)) return poll(notes, worked);
      }
      return true;
    }
    if (head - tail_ > kRing) return false; // the peer scribbled on the page
    for (; tail_ != head; ++tail_) notes.push_back(c.ring[tail_ % kRing]);
    c.tail.store(tail_, std::memory_order_release);
    return true;
  }

 private:
  static constexpr uint64_t kPollBytes = 2u << 20; // what a poll copies of the sender's jobs, about 0.2 ms

  Control& control() { return *reinterpret_cast<Control*>(control_map_.get()); }
  void disconnect() {
    if (!peer_) return;
    ep_.unwatch(tag_, peer_.get());
    peer_.reset();
  }

  void take(const Region& r, const Fd& fd) {
    if (r.magic != kMagic || r.index >= kRegions) return;
    control().regions[r.index].store(0, std::memory_order_relaxed);
    regions_[r.index] = Source();
    for (Helping& h : helping_) h.known = false; // may have looked at it
    if (!fd || !r.bytes || r.bytes > (1ull << 60) || r.fd_offset > (1ull << 60) || !check_object(fd.get(), r.fd_offset + r.bytes).ok()) return;
    auto m = Mapping::of(fd.get(), r.fd_offset, r.bytes, Mapping::Use::read);
    if (!m.ok()) return; // the sender copies alone
    regions_[r.index] = {std::move(*m), r.bytes, uint32_t(r.serial)};
    control().regions[r.index].store(uint32_t(r.serial), std::memory_order_release);
  }

  // Copies pieces of a job that are not claimed yet, of up to about `budget` bytes. The sender's fields are copied first, then checked.
  uint64_t share(uint32_t index, uint64_t budget) {
    Job& j = control().jobs[index];
    Helping& h = helping_[index];
    uint64_t claim = j.claim.load(std::memory_order_acquire);
    const uint32_t seq = uint32_t(claim >> 32);
    if (uint32_t(claim) == kClosed) return 0;
    if (h.seq != seq || !h.known) {
      h = Helping();
      h.seq = seq, h.generation = j.generation, h.slot = j.slot;
      const uint32_t source = j.source, part = j.part, layer = j.layer, region = j.region, serial = j.serial, mode = j.mode;
      if (h.slot >= kSlots || busy_[h.slot] != h.generation || !moves_[h.slot]) return 0;
      const KvMoves& m = *moves_[h.slot];
      if (source >= m.parts.size() || part >= m.parts[source].size() || region >= kRegions) return 0;
      const Source& from = regions_[region];
      if (!from.memory.get() || from.serial != serial || from.bytes < m.bytes[source]) return 0;
      const KvMove& move = m.parts[source][part];
      if (j.claim.load(std::memory_order_acquire) >> 32 != seq) return 0; // the fields are another job's
      h.src = from.memory.get();
      h.pieces = KvPieces(move.layer(layer), move.bytes(layer));
      h.mode = mode ? CopyMode::streaming : CopyMode::cached;
      h.known = true;
    }
    if (busy_[h.slot] != h.generation || !moves_[h.slot]) return 0; // its request has ended
    uint64_t done = 0;
    while (done < budget && claim >> 32 == seq && uint32_t(claim) < h.pieces.count()) {
      if (!j.claim.compare_exchange_weak(claim, claim + 1, std::memory_order_acq_rel)) continue;
      done += h.pieces.copy(uint32_t(claim), memory_.base, h.src, h.mode);
      copy_fence();
      j.done.fetch_add(1, std::memory_order_release);
      ++claim;
    }
    return done;
  }

  Endpoint::Impl& ep_;
  MappedHub& hub_;
  LandingMemory memory_;
  Fd control_fd_, peer_;
  Mapping control_map_;
  std::string token_;
  uint64_t tag_ = 0, tail_ = 0;
  bool gone_ = false, lost_ = false;
  Doze doze_;
  uint64_t busy_[kSlots] = {};
  const KvMoves* moves_[kSlots] = {};
  struct Source {
    Mapping memory;
    uint64_t bytes = 0;
    uint32_t serial = 0;
  };
  Source regions_[kRegions];
  struct Helping { // what this side knows of a job
    uint32_t seq = 0;
    bool known = false;
    KvPieces pieces;
    uint64_t generation = 0;
    uint32_t slot = 0;
    const uint8_t* src = nullptr;
    CopyMode mode = CopyMode::cached;
  };
  Helping helping_[kJobs];
};

}  // namespace

Result<std::unique_ptr<Landing>> make_mapped_landing(Session::Impl& s, const LandingMemory& m) {
  if (m.fd < 0) return Error(BATON_UNSUPPORTED, "mapped: the sink's memory cannot be exported", "use the fabric shm or tcp");
  BATON_ASSIGN(MappedHub * hub, MappedHub::of(*s.ep));
  auto l = std::make_unique<MappedLanding>(*s.ep, *hub, m);
  BATON_TRY(l->start());
  return std::unique_ptr<Landing>(std::move(l));
}

}  // namespace baton::transport
