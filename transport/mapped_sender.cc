// The sender of the fabric `mapped`: copies into the sink's memory, alone or together with the sink.
#include "transport/kv_pieces.hpp"
#include "transport/kv_wire.hpp"
#include "transport/mapped.hpp"
#include "transport/mapped_wire.hpp"

#include <fmt/format.h>

#include <sys/epoll.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport {

using namespace mapped;

namespace {

class MappedSender final : public Sender, public Watcher {
 public:
  explicit MappedSender(Endpoint::Impl& ep) : ep_(ep) { all(ep).push_back(this); }
  ~MappedSender() override {
    std::erase(all(ep_), this);
    disconnect();
  }
  // The endpoint's: each knows source buffers.
  static std::vector<MappedSender*>& all(Endpoint::Impl& ep) {
    struct List final : Attachment {
      std::vector<MappedSender*> senders;
    };
    auto& slot = ep.attached["mapped-senders"];
    if (!slot) slot = std::make_unique<List>();
    return static_cast<List*>(slot.get())->senders;
  }

  Status start(const std::string& socket, const std::string& token) {
    BATON_ASSIGN(peer_, unix_connect(socket));
    if (!unix_peer_is_me(peer_.get())) return Error(BATON_PERMISSION, "mapped: the sink's socket belongs to another user", "run both sides as one user, or use the fabric tcp");
    if (!unix_send(peer_.get(), {reinterpret_cast<const uint8_t*>(token.data()), token.size()})) return io_error("cannot show the token", errno);
    tag_ = ep_.watch(peer_.get(), EPOLLIN | EPOLLRDHUP, this);
    return {};
  }

  void ready(uint32_t) override {
    Welcome w{};
    std::array<Fd, 4> fds;
    const ssize_t n = unix_recv(peer_.get(), {reinterpret_cast<uint8_t*>(&w), sizeof w}, fds);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) { // the sink closed, or its process is gone: give the memory back
      state_ = Error(BATON_PEER_LOST, "mapped: the sink has gone", "open a new transfer");
      disconnect();
      drop_jobs();
      memory_.reset();
      control_.reset();
      return;
    }
    if (!state_) state_ = attach(n == sizeof w ? w : Welcome{}, fds);
  }

  std::optional<Status> state() override { return state_; }

  // The sink maps the buffer as well, so that it can copy a part. A handle is an index + 1; none where that cannot be.
  Result<void*> local(const SourceMemory& m) override {
    struct stat st {};
    if (m.fd < 0 || m.bytes < kSharedBytes || !peer_ || fstat(m.fd, &st)) return nullptr;
    const Shared want{m.base, m.bytes, m.fd_offset, st.st_dev, st.st_ino};
    uint32_t i = 0, empty = kRegions;
    for (; i < kRegions && !(regions_[i] == want); ++i) // an address that belongs to another object by now is that one's
      if (regions_[i].base == m.base || (!regions_[i].base && empty == kRegions)) empty = i;
    if (i == kRegions) {
      if ((i = empty) == kRegions || !tell({kMagic, i, ++serial_, m.bytes, m.fd_offset}, m.fd)) return nullptr;
      regions_[i] = want;
      serials_[i] = uint32_t(serial_);
    }
    return reinterpret_cast<void*>(uintptr_t(i) + 1);
  }
  void forget(const void* base) {
    for (uint32_t i = 0; i < kRegions; ++i)
      if (regions_[i].base == base && tell({kMagic, i, ++serial_, 0, 0}, -1)) regions_[i] = Shared();
  }

  uint64_t step(Batch& b, uint64_t budget) override {
    if (!memory_.get()) {
      b.error = state_ && !state_->ok() ? state_->error() : Error(BATON_PEER_LOST, "mapped: not attached", "open a new transfer");
      return 0;
    }
    // Slot and layout are what the peer told; the memory is what it gave. Segments are sorted: the last one ends last.
    if (b.slot >= kSlots || b.reach() > bytes_) {
      b.error = Error(BATON_CORRUPT, fmt::format("mapped: slot {} of {}, or a layout that leaves the sink's {} bytes", b.slot, kSlots, bytes_),
                      "run the same Baton version on both sides");
      return 0;
    }
    Slot& s = control().slots[b.slot];
    s.writing.store(b.generation, std::memory_order_seq_cst);
    if (s.valid.load(std::memory_order_seq_cst) != b.generation) {
      s.writing.store(0, std::memory_order_release);
      b.error = Error(BATON_CANCELLED, "the sink takes no more for this ticket", "ask the decode side for a new ticket");
      return 0;
    }
    const uint64_t done = b.units ? b.units.step(memory_.get(), b.src, b.next, budget, b.mode, b.sum, &unit_) : b.job || open_job(b) ? share(b, budget) : alone(b, budget);
    if (b.mode == CopyMode::streaming) copy_fence();
    s.writing.store(0, std::memory_order_release);
    return done;
  }

  void stop(Batch& b) override {
    if (b.job) close_job(b.job - 1);
  }

  bool notify(const Note& note) override {
    if (!control_.get()) return true; // the sink is gone: nobody to tell
    Control& c = control();
    const uint64_t head = c.head.load(std::memory_order_relaxed);
    if (head - c.tail.load(std::memory_order_acquire) >= kRing) return false;
    c.ring[head % kRing] = note;
    c.head.store(head + 1, std::memory_order_seq_cst);
    wake();
    return true;
  }
  uint32_t progress() override {
    uint32_t n = 0;
    for (uint32_t i = 0; control_.get() && i < kJobs; ++i) n += jobs_[i].batch && settle(i);
    return n;
  }
  bool copies() const override { return true; }
  bool converts() const override { return true; }
  void abandon() override { drop_jobs(); }

 private:
  uint64_t alone(Batch& b, uint64_t budget) {
    uint64_t done = 0;
    uint8_t* const to = memory_.get();
    while (done < budget && !b.posted()) {
      const KvSegment& g = b.segments[b.next];
      if (b.offset || g.bytes > budget - done) { // a part of a large segment
        const uint64_t n = std::min(g.bytes - b.offset, budget - done);
        copy_bytes(to + g.dst + b.offset, b.src + g.src + b.offset, n, b.mode);
        b.offset += n;
        done += n;
        if (b.offset == g.bytes) ++b.next, b.offset = 0;
        continue;
      }
      size_t last = b.next;
      uint64_t run = 0;
      while (last < b.segments.size() && run + b.segments[last].bytes <= budget - done) run += b.segments[last++].bytes;
      copy_segments(to, b.src, b.segments.subspan(b.next, last - b.next), b.mode);
      b.next = last;
      done += run;
    }
    return done;
  }

  // Whether the batch is now one that the sink may copy a part of.
  bool open_job(Batch& b) {
    if (b.bytes < kSharedBytes || b.next || b.offset || !b.local) return false;
    const uint32_t region = uint32_t(reinterpret_cast<uintptr_t>(b.local) - 1);
    Control& c = control();
    if (region >= kRegions || c.regions[region].load(std::memory_order_acquire) != serials_[region]) return false;
    uint32_t i = 0;
    while (i < kJobs && jobs_[i].batch) ++i;
    if (i == kJobs) return false;
    Mine& mine = jobs_[i];
    mine.batch = &b;
    mine.pieces = KvPieces(b.segments, b.bytes);
    b.job = i + 1;
    b.outstanding = 1; // until every piece that was claimed is copied
    Job& j = c.jobs[i];
    j.generation = b.generation;
    j.slot = b.slot, j.source = b.source, j.part = b.part, j.layer = b.layer, j.region = region, j.serial = serials_[region], j.mode = b.mode == CopyMode::streaming;
    j.done.store(0, std::memory_order_relaxed);
    j.claim.store(uint64_t(++mine.seq) << 32, std::memory_order_release);
    c.open_jobs.fetch_or(1u << i, std::memory_order_seq_cst);
    wake(); // the sink's core is worth a system call here
    return true;
  }

  uint64_t share(Batch& b, uint64_t budget) {
    const uint32_t i = b.job - 1;
    Mine& mine = jobs_[i];
    Job& j = control().jobs[i];
    uint64_t done = 0, claim = j.claim.load(std::memory_order_acquire);
    while (done < budget && uint32_t(claim) < mine.pieces.count()) {
      if (!j.claim.compare_exchange_weak(claim, claim + 1, std::memory_order_acq_rel)) continue;
      done += mine.pieces.copy(uint32_t(claim), memory_.get(), b.src, b.mode);
      copy_fence();
      j.done.fetch_add(1, std::memory_order_release);
      ++claim;
    }
    settle(i);
    return done;
  }

  // No piece of it is claimed after this.
  void close_job(uint32_t i) {
    if (!control_.get()) return;
    Job& j = control().jobs[i];
    uint64_t claim = j.claim.load(std::memory_order_relaxed);
    while (uint32_t(claim) != kClosed && !j.claim.compare_exchange_weak(claim, claim | kClosed, std::memory_order_acq_rel)) {
    }
    if (uint32_t(claim) != kClosed) jobs_[i].claimed = std::min(uint32_t(claim), jobs_[i].pieces.count());
    settle(i);
  }

  // True: the job is over, and its batch knows.
  bool settle(uint32_t i) {
    Mine& mine = jobs_[i];
    Job& j = control().jobs[i];
    const uint64_t claim = j.claim.load(std::memory_order_acquire);
    const bool closed = uint32_t(claim) == kClosed;
    if (!closed && uint32_t(claim) < mine.pieces.count()) return false;
    if (j.done.load(std::memory_order_acquire) != (closed ? mine.claimed : mine.pieces.count())) return false;
    control().open_jobs.fetch_and(~(1u << i), std::memory_order_relaxed);
    j.claim.store(uint64_t(mine.seq) << 32 | kClosed, std::memory_order_release);
    if (!closed) mine.batch->next = mine.batch->segments.size();
    mine.batch->outstanding = 0;
    mine.batch->job = 0;
    mine.batch = nullptr;
    return true;
  }

  // The sink is gone, or nobody may look at the batches again.
  void drop_jobs() {
    for (uint32_t i = 0; i < kJobs; ++i)
      if (Batch* b = std::exchange(jobs_[i].batch, nullptr)) {
        if (control_.get()) control().jobs[i].claim.fetch_or(kClosed, std::memory_order_acq_rel);
        b->outstanding = 0;
        b->job = 0;
      }
    if (control_.get()) control().open_jobs.store(0, std::memory_order_relaxed);
  }

  void wake() {
    Control& c = control();
    if (!c.parked.load(std::memory_order_seq_cst) || !c.parked.exchange(0)) return;
    const uint8_t byte = 1;
    (void)unix_send(peer_.get(), {&byte, 1}); // full: it has been woken already
  }
  bool tell(const Region& r, int fd) {
    const std::span<const int> fds(&fd, fd >= 0 ? 1 : 0);
    return unix_send(peer_.get(), {reinterpret_cast<const uint8_t*>(&r), sizeof r}, fds);
  }

  Status attach(const Welcome& w, std::array<Fd, 4>& fds) {
    if (w.magic != kMagic || w.slots != kSlots || w.control_bytes != sizeof(Control) || !fds[0] || !fds[1] || w.bytes == 0 || w.bytes > (1ull << 60) ||
        w.fd_offset > (1ull << 60))
      return Error(BATON_CORRUPT, "mapped: the sink's answer makes no sense", "run the same Baton version on both sides");
    BATON_TRY(check_object(fds[0].get(), w.fd_offset + w.bytes));
    BATON_TRY(check_object(fds[1].get(), sizeof(Control)));
    bytes_ = w.bytes;
    BATON_ASSIGN(memory_, Mapping::of(fds[0].get(), w.fd_offset, w.bytes, Mapping::Use::write));
    BATON_ASSIGN(control_, Mapping::of(fds[1].get(), 0, sizeof(Control), Mapping::Use::write));
    return {};
  }
  Control& control() { return *reinterpret_cast<Control*>(control_.get()); }
  void disconnect() {
    if (!peer_) return;
    if (tag_) ep_.unwatch(tag_, peer_.get());
    peer_.reset();
  }

  Endpoint::Impl& ep_;
  Fd peer_;
  uint64_t tag_ = 0, bytes_ = 0;
  Mapping memory_, control_;
  struct Shared { // a source buffer that the sink was told of
    const void* base = nullptr;
    uint64_t bytes = 0, fd_offset = 0;
    dev_t device = 0;
    ino_t inode = 0; // of the object: an address may belong to another one by now
    bool operator==(const Shared&) const = default;
  };
  Shared regions_[kRegions];
  uint32_t serials_[kRegions] = {};
  uint64_t serial_ = 0;
  struct Mine {
    Batch* batch = nullptr;
    KvPieces pieces;
    uint32_t seq = 0, claimed = 0;
  };
  Mine jobs_[kJobs];
  std::optional<Status> state_;
  std::vector<uint8_t> unit_; // converted, on its way
};

}  // namespace

Result<std::unique_ptr<Sender>> make_mapped_sender(Session::Impl& s, const nlohmann::json& offer) {
  const std::string socket = text_of(offer, "socket").value_or(""), token = text_of(offer, "token").value_or("");
  if (socket.empty() || token.size() != 64) return Error(BATON_CORRUPT, "mapped: the sink offers no way in", "open a new session");
  auto m = std::make_unique<MappedSender>(*s.ep);
  BATON_TRY(m->start(socket, token));
  return std::unique_ptr<Sender>(std::move(m));
}

void mapped_forget_source(Endpoint::Impl& ep, const void* base) {
  if (!ep.attached.contains("mapped-senders")) return;
  for (MappedSender* s : MappedSender::all(ep)) s->forget(base);
}

}  // namespace baton::transport
