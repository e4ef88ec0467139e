#include "transport/mapped.hpp"

#include "transport/kv_wire.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace baton::transport {
namespace {

constexpr uint32_t kMagic = 0x314d4b42; // "BKM1"
constexpr uint32_t kSlots = 64;         // transfers at once over one session into one sink
constexpr uint64_t kRing = 1024;

struct Slot {
  alignas(64) std::atomic<uint64_t> valid;
  alignas(64) std::atomic<uint64_t> writing;
};

// Zeroed memory is a valid start. Ring: the sender writes entry head, then head; the sink reads to head, then stores tail.
struct Control {
  uint32_t magic;
  alignas(64) std::atomic<uint64_t> head;
  alignas(64) std::atomic<uint64_t> tail;
  alignas(64) std::atomic<uint32_t> parked; // the sink found the ring empty and may be asleep
  Slot slots[kSlots];
  Note ring[kRing];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// What goes with the descriptors.
struct Welcome {
  uint32_t magic, slots;
  uint64_t bytes, fd_offset, control_bytes;
};

class Mapping {
 public:
  Mapping() = default;
  Mapping(void* p, size_t n) : p_(p), n_(n) {}
  Mapping(Mapping&& o) noexcept : p_(std::exchange(o.p_, nullptr)), n_(std::exchange(o.n_, 0)) {}
  Mapping& operator=(Mapping&& o) noexcept {
    if (this != &o) {
      reset();
      p_ = std::exchange(o.p_, nullptr);
      n_ = std::exchange(o.n_, 0);
    }
    return *this;
  }
  ~Mapping() { reset(); }
  void reset() {
    if (p_) munmap(std::exchange(p_, nullptr), n_);
  }
  uint8_t* get() const { return static_cast<uint8_t*>(p_); }
  static Result<Mapping> of(int fd, uint64_t offset, uint64_t bytes, bool populate = false) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (populate ? MAP_POPULATE : 0), fd, off_t(offset));
    if (p == MAP_FAILED) return io_error(fmt::format("cannot map {} bytes", bytes), errno);
    return Mapping(p, bytes);
  }

 private:
  void* p_ = nullptr;
  size_t n_ = 0;
};

// Enters the pages that the object has already into this mapping's page table: once, as registering memory does elsewhere, in place of a fault a
// page (0.3 us) in the first transfers. Holes stay holes. Of more than kPopulate bytes (50 ms) the rest is left to the faults.
constexpr uint64_t kPopulate = 4ull << 30;
void populate_backed(uint8_t* at, int fd, uint64_t offset, uint64_t bytes) {
#ifdef MADV_POPULATE_WRITE
  const off_t end = off_t(offset + std::min(bytes, kPopulate));
  for (off_t from = off_t(offset); from < end;) {
    const off_t data = lseek(fd, from, SEEK_DATA);
    if (data < 0 || data >= end) return;
    const off_t hole = std::min(end, lseek(fd, data, SEEK_HOLE));
    if (hole <= data || madvise(at + (data - off_t(offset)), size_t(hole - data), MADV_POPULATE_WRITE)) return;
    from = hole;
  }
#endif
}

// A mapping whose object is cut short ends this process with SIGBUS. Whoever holds the descriptor may add the seal that forbids it, unless
// the object was made without MFD_ALLOW_SEALING. Then its size now must do: the peer is authenticated and has the same user.
Status check_object(int fd, uint64_t need) {
  struct stat st {};
  if (fstat(fd, &st)) return io_error("fstat", errno);
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0) return Error(BATON_UNSUPPORTED, "mapped: the sink's memory is not a memfd", "use the fabric shm or tcp");
  if (!(seals & (F_SEAL_SHRINK | F_SEAL_SEAL)) && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)) return io_error("cannot seal the sink's memory", errno);
  if (st.st_size < 0 || uint64_t(st.st_size) < need)
    return Error(BATON_CORRUPT, fmt::format("mapped: the sink's memory has {} bytes, {} were announced", int64_t(st.st_size), need), "restart the peer");
  return {};
}

class MappedLanding;

// Hands descriptors to whoever brings a token.
class MappedHub final : public Attachment, public Watcher {
 public:
  static constexpr char kKey[] = "mapped";
  explicit MappedHub(Endpoint::Impl& ep) : ep_(ep) {}
  ~MappedHub() override {
    guests_.clear();
    if (listener_) ep_.unwatch(tag_, listener_.get());
  }
  Status start() {
    name_ = "baton-" + random_hex(16);
    BATON_ASSIGN(listener_, unix_listen(name_));
    tag_ = ep_.watch(listener_.get(), EPOLLIN, this);
    return {};
  }
  static Result<MappedHub*> of(Endpoint::Impl& ep) {
    auto& slot = ep.attached[kKey];
    if (!slot) {
      auto hub = std::make_unique<MappedHub>(ep);
      BATON_TRY(hub->start());
      slot = std::move(hub);
    }
    return static_cast<MappedHub*>(slot.get());
  }
  const std::string& name() const { return name_; }
  void expect(const std::string& token, MappedLanding* l) { tokens_[token] = l; }
  void forget(MappedLanding* l) {
    std::erase_if(tokens_, [&](const auto& t) { return t.second == l; });
  }

  void ready(uint32_t) override {
    for (int i = 0; i < 8; ++i) {
      Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!fd) return;
      if (!unix_peer_is_me(fd.get())) continue;
      if (guests_.size() >= kMaxHandshakes) guests_.erase(guests_.begin()); // the oldest has had its time
      auto g = std::make_unique<Guest>();
      g->hub = this;
      g->tag = ep_.watch(fd.get(), EPOLLIN, g.get());
      g->fd = std::move(fd);
      guests_.push_back(std::move(g));
    }
  }

 private:
  struct Guest final : Watcher { // connected, has shown no token yet
    ~Guest() override {
      if (fd) hub->ep_.unwatch(tag, fd.get());
    }
    void ready(uint32_t) override { hub->token_from(this); }
    MappedHub* hub = nullptr;
    Fd fd;
    uint64_t tag = 0;
  };
  void token_from(Guest*);

  Endpoint::Impl& ep_;
  Fd listener_;
  uint64_t tag_ = 0;
  std::string name_;
  std::map<std::string, MappedLanding*> tokens_;
  std::vector<std::unique_ptr<Guest>> guests_;
};

class MappedLanding final : public Landing, public Watcher {
 public:
  MappedLanding(Endpoint::Impl& ep, MappedHub& hub, LandingMemory m) : ep_(ep), hub_(hub), memory_(std::move(m)) {}
  ~MappedLanding() override {
    hub_.forget(this);
    disconnect();
  }
  const char* fabric() const override { return "mapped"; }

  Status start() {
    BATON_TRY(check_object(memory_.fd, memory_.fd_offset + memory_.bytes));
    control_fd_ = Fd(memfd_create("baton-control", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!control_fd_ || ftruncate(control_fd_.get(), sizeof(Control))) return io_error("memfd_create", errno);
    if (fcntl(control_fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) return io_error("cannot seal the control page", errno);
    BATON_ASSIGN(control_map_, Mapping::of(control_fd_.get(), 0, sizeof(Control)));
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

  void welcome(Fd peer) {
    hub_.forget(this); // the token works once
    token_.clear();
    const Welcome w{kMagic, kSlots, memory_.bytes, memory_.fd_offset, sizeof(Control)};
    const int fds[2] = {memory_.fd, control_fd_.get()};
    if (!unix_send(peer.get(), {reinterpret_cast<const uint8_t*>(&w), sizeof w}, fds)) return;
    peer_ = std::move(peer);
    tag_ = ep_.watch(peer_.get(), EPOLLIN | EPOLLRDHUP, this);
  }

  void ready(uint32_t) override { // wake-ups, and the end
    uint8_t buf[64];
    std::array<Fd, 4> none;
    for (;;) {
      const ssize_t n = unix_recv(peer_.get(), buf, none);
      if (n > 0) continue;
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
      gone_ = true;
      return disconnect();
    }
  }

  Result<uint32_t> allow(uint64_t generation) override {
    for (uint32_t i = 0; i < kSlots; ++i) {
      if (busy_[i]) continue;
      busy_[i] = generation;
      control().slots[i].writing.store(0, std::memory_order_relaxed);
      control().slots[i].valid.store(generation, std::memory_order_seq_cst);
      return i;
    }
    return Error(BATON_BUSY, fmt::format("{} transfers are already open over this session", kSlots), "finish some of them");
  }
  void revoke(uint32_t slot) override { control().slots[slot].valid.store(0, std::memory_order_seq_cst); }
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

  bool poll(std::vector<Note>& notes) override {
    Control& c = control();
    const uint64_t head = c.head.load(std::memory_order_acquire);
    if (head == tail_) {
      if (!c.parked.load(std::memory_order_relaxed)) {
        c.parked.store(1, std::memory_order_seq_cst);
        if (c.head.load(std::memory_order_seq_cst) != tail_) return poll(notes);
      }
      return true;
    }
    if (head - tail_ > kRing) return false; // the peer scribbled on the page
    for (; tail_ != head; ++tail_) notes.push_back(c.ring[tail_ % kRing]);
    c.tail.store(tail_, std::memory_order_release);
    return true;
  }

 private:
  Control& control() { return *reinterpret_cast<Control*>(control_map_.get()); }
  void disconnect() {
    if (!peer_) return;
    ep_.unwatch(tag_, peer_.get());
    peer_.reset();
  }

  Endpoint::Impl& ep_;
  MappedHub& hub_;
  LandingMemory memory_;
  Fd control_fd_, peer_;
  Mapping control_map_;
  std::string token_;
  uint64_t tag_ = 0, tail_ = 0;
  bool gone_ = false, lost_ = false;
  uint64_t busy_[kSlots] = {};
};

void MappedHub::token_from(Guest* g) {
  uint8_t buf[65];
  std::array<Fd, 4> none;
  const ssize_t n = unix_recv(g->fd.get(), buf, none);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  MappedLanding* landing = nullptr;
  if (n == 64) {
    const auto it = tokens_.find(std::string(reinterpret_cast<char*>(buf), 64));
    if (it != tokens_.end()) landing = it->second;
  }
  Fd fd = std::move(g->fd);
  ep_.unwatch(g->tag, fd.get());
  if (landing) landing->welcome(std::move(fd));
  std::erase_if(guests_, [&](const auto& x) { return x.get() == g; });
}

class MappedSender final : public Sender, public Watcher {
 public:
  explicit MappedSender(Endpoint::Impl& ep) : ep_(ep) {}
  ~MappedSender() override { disconnect(); }

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
      memory_.reset();
      control_.reset();
      return;
    }
    if (!state_) state_ = attach(n == sizeof w ? w : Welcome{}, fds);
  }

  std::optional<Status> state() override { return state_; }
  Result<void*> local(const void*, uint64_t) override { return nullptr; }

  uint64_t step(Batch& b, uint64_t budget) override {
    if (!memory_.get()) {
      b.error = state_ && !state_->ok() ? state_->error() : Error(BATON_PEER_LOST, "mapped: not attached", "open a new transfer");
      return 0;
    }
    // Slot and layout are what the peer told; the memory is what it gave. Segments are sorted: the last one ends last.
    if (b.slot >= kSlots || (!b.segments.empty() && b.segments.back().dst + b.segments.back().bytes > bytes_)) {
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
    uint64_t done = 0;
    uint8_t* const to = memory_.get() + base_;
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
    if (b.mode == CopyMode::streaming) copy_fence();
    s.writing.store(0, std::memory_order_release);
    return done;
  }

  bool notify(const Note& note) override {
    if (!control_.get()) return true; // the sink is gone: nobody to tell
    Control& c = control();
    const uint64_t head = c.head.load(std::memory_order_relaxed);
    if (head - c.tail.load(std::memory_order_acquire) >= kRing) return false;
    c.ring[head % kRing] = note;
    c.head.store(head + 1, std::memory_order_seq_cst);
    if (c.parked.load(std::memory_order_seq_cst) && c.parked.exchange(0)) {
      const uint8_t wake = 1;
      (void)unix_send(peer_.get(), {&wake, 1}); // full: it has been woken already
    }
    return true;
  }
  uint32_t progress() override { return 0; }
  bool copies() const override { return true; }
  void abandon() override {}

 private:
  Status attach(const Welcome& w, std::array<Fd, 4>& fds) {
    if (w.magic != kMagic || w.slots != kSlots || w.control_bytes != sizeof(Control) || !fds[0] || !fds[1] || w.bytes == 0 || w.bytes > (1ull << 60) ||
        w.fd_offset > (1ull << 60))
      return Error(BATON_CORRUPT, "mapped: the sink's answer makes no sense", "run the same Baton version on both sides");
    BATON_TRY(check_object(fds[0].get(), w.fd_offset + w.bytes));
    BATON_TRY(check_object(fds[1].get(), sizeof(Control)));
    const uint64_t page = uint64_t(sysconf(_SC_PAGESIZE)), down = w.fd_offset / page * page;
    base_ = w.fd_offset - down;
    bytes_ = w.bytes;
    BATON_ASSIGN(memory_, Mapping::of(fds[0].get(), down, base_ + w.bytes));
    populate_backed(memory_.get(), fds[0].get(), down, base_ + w.bytes);
    BATON_ASSIGN(control_, Mapping::of(fds[1].get(), 0, sizeof(Control), true));
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
  uint64_t tag_ = 0, base_ = 0, bytes_ = 0;
  Mapping memory_, control_;
  std::optional<Status> state_;
};

}  // namespace

Result<std::unique_ptr<Landing>> make_mapped_landing(Session::Impl& s, const LandingMemory& m) {
  if (m.fd < 0) return Error(BATON_UNSUPPORTED, "mapped: the sink's memory cannot be exported", "use the fabric shm or tcp");
  BATON_ASSIGN(MappedHub * hub, MappedHub::of(*s.ep));
  auto l = std::make_unique<MappedLanding>(*s.ep, *hub, m);
  BATON_TRY(l->start());
  return std::unique_ptr<Landing>(std::move(l));
}

Result<std::unique_ptr<Sender>> make_mapped_sender(Session::Impl& s, const nlohmann::json& offer) {
  const std::string socket = text_of(offer, "socket").value_or(""), token = text_of(offer, "token").value_or("");
  if (socket.empty() || token.size() != 64) return Error(BATON_CORRUPT, "mapped: the sink offers no way in", "open a new session");
  auto m = std::make_unique<MappedSender>(*s.ep);
  BATON_TRY(m->start(socket, token));
  return std::unique_ptr<Sender>(std::move(m));
}

}  // namespace baton::transport
