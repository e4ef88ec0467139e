// The two sides of a loan. Agreeing, over the session:
//   kv.lend     lender > borrower   id, name, model, layout
//   kv.borrow   <                   id: it fits, show the way
//   kv.decline  <                   id, error
//   kv.way      >                   id, socket, token: descriptors for whoever brings the token (mapped_hub.hpp)
#include "transport/kv_lend.hpp"

#include "transport/doze.hpp"
#include "transport/kv_lend_page.hpp"
#include "transport/kv_wire.hpp"
#include "transport/mapped_hub.hpp"
#include "transport/mapped_wire.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport {

using mapped::Mapping;
using namespace lend;

namespace {

constexpr uint64_t kAskAgainNs = 20'000'000; // the other side has no borrower yet

// What a reader in place cannot bridge, beyond the model.
Status same_place(const KvLayout& lent, const KvLayout& read) {
  BATON_TRY(same_kv_model(lent, read));
  auto differ = [](const char* what, std::string a, std::string b) {
    return Error(BATON_MISMATCH, fmt::format("KV layouts differ in {}: lender {}, borrower {}", what, a, b), "use one layout on both sides, or a transfer, which converts");
  };
  auto range = [](uint32_t begin, uint32_t n) { return fmt::format("[{},{})", begin, begin + n); };
  if (lent.dtype != read.dtype) return differ("dtype", program::dtype_name(lent.dtype), program::dtype_name(read.dtype));
  if (lent.scales != read.scales) return differ("scales", scales_name(lent.scales), scales_name(read.scales));
  if (lent.order != read.order) return differ("order", order_name(lent.order), order_name(read.order));
  if (lent.pairing != read.pairing) return differ("pairing", pairing_name(lent.pairing), pairing_name(read.pairing));
  if (lent.block_tokens != read.block_tokens) return differ("block_tokens", std::to_string(lent.block_tokens), std::to_string(read.block_tokens));
  if (lent.head_begin != read.head_begin || lent.head_count != read.head_count)
    return differ("heads held", range(lent.head_begin, lent.head_count), range(read.head_begin, read.head_count));
  if (lent.layer_begin != read.layer_begin || lent.layers_held() != read.layers_held())
    return differ("layers held", range(lent.layer_begin, lent.layers_held()), range(read.layer_begin, read.layers_held()));
  if (read.blocks && lent.blocks != read.blocks) return differ("blocks", std::to_string(lent.blocks), std::to_string(read.blocks));
  return {};
}

void wake(std::atomic<uint32_t>& parked, const Fd& peer) {
  if (!peer || !parked.load(std::memory_order_seq_cst) || !parked.exchange(0)) return;
  const uint8_t byte = 1;
  (void)unix_send(peer.get(), {&byte, 1}); // full: it has been woken already
}

// Reads a wake-up, of which there is hardly ever more than one; false: the other end is closed.
bool drain(const Fd& peer) {
  uint8_t buf[64];
  std::array<Fd, 4> none;
  const ssize_t n = unix_recv(peer.get(), buf, none);
  return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

}  // namespace

// ---- the lender ----

struct KvLender::Impl final : Service, Watcher, MappedHost {
  Impl(Session::Impl& s, const KvLayout& l) : session(&s), ep(s.ep), layout(l) {}
  ~Impl() override;
  Status begin(const HostMemory& pool, LendOptions, uint64_t deadline_ns);
  std::optional<Status> opened();
  Result<uint64_t> lend(std::span<const int32_t> blocks, const KvLoanTerms&);
  void returned(std::vector<uint64_t>& loans);
  void recall(uint64_t loan);

  bool on_message(Session::Impl&, Message&) override;
  void on_lost(Session::Impl&, const Error&) override;
  uint32_t on_poll(uint64_t now) override;
  void welcome(Fd) override;
  void ready(uint32_t) override;

  Session::Impl* session; // nullptr: lost
  Endpoint::Impl* ep;
  KvLayout layout;
  std::optional<Error> cause;
  size_t out = 0;

 private:
  struct Slot {
    uint64_t loan = 0;    // 0: free
    bool recalled = false;
  };
  Page& page() { return *reinterpret_cast<Page*>(page_.get()); }
  std::optional<uint32_t> room(uint32_t count);
  void taken(uint64_t loans);
  void none_stands();
  void lose(const Error&);
  Status ask();
  Status on_answer(const Message&);

  LendOptions options_;
  enum class Stage : uint8_t { asked, later, shown, open } stage_ = Stage::asked; // later: asks again at again_ns_. shown: the way to the memory
  uint64_t deadline_ns_ = 0, again_ns_ = 0;
  std::optional<Error> declined_; // for the time being
  uint64_t id_ = random_u64(), tag_ = 0, next_ = 1, head_ = 0, freed_ = 0, back_tail_ = 0;
  uint64_t ids_head_ = 0, ids_tail_ = 0; // count ids for ever; a place is their remainder
  std::vector<uint64_t> back_seen_ = std::vector<uint64_t>(kLoans); // by place
  Fd pool_fd_, page_fd_, peer_;
  uint64_t pool_offset_ = 0;
  Mapping page_;
  Doze doze_;
  MappedHub* hub_ = nullptr;
  std::optional<Message> answer_;
  std::vector<Slot> slots_ = std::vector<Slot>(kLoans);
  std::vector<uint64_t> ends_ = std::vector<uint64_t>(kLoans); // by ring entry: ids_head_ after it
  std::vector<uint64_t> back_;
};

KvLender::Impl::~Impl() {
  none_stands();
  if (hub_) hub_->forget(this);
  if (tag_) ep->unwatch(tag_, peer_.get());
  if (ep) ep->remove(this);
}

Status KvLender::Impl::begin(const HostMemory& pool, LendOptions o, uint64_t deadline_ns) {
  if (session->cause) return *session->cause;
  BATON_TRY(layout.check());
  if (pool.bytes < layout.bytes())
    return Error(BATON_INVALID_ARGUMENT, fmt::format("the pool has {} bytes, its layout needs {}", pool.bytes, layout.bytes()), "allocate KvLayout::bytes()");
  if (!session->same_host)
    return session->hop(Error(BATON_UNSUPPORTED, "lending needs both processes on one host, under one user and network namespace", "use a transfer (kv_link.hpp)"));
  pool_fd_ = Fd(fcntl(pool.fd, F_DUPFD_CLOEXEC, 0));
  if (!pool_fd_) return Error(BATON_UNSUPPORTED, "the pool is no memory that another process can map", "use a memfd or an exportable buffer, or a transfer (kv_link.hpp)");
  pool_offset_ = pool.fd_offset;
  BATON_TRY(mapped::check_object(pool_fd_.get(), pool_offset_ + layout.bytes()));
  page_fd_ = Fd(memfd_create("baton-loans", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!page_fd_ || ftruncate(page_fd_.get(), sizeof(Page))) return io_error("memfd_create", errno);
  (void)posix_fallocate(page_fd_.get(), 0, sizeof(Page)); // 4 MiB, entered by both mappings now rather than in the first loans
  if (fcntl(page_fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) return io_error("cannot seal the page of loans", errno);
  BATON_ASSIGN(page_, Mapping::of(page_fd_.get(), 0, sizeof(Page), Mapping::Use::write));
  page().magic = lend::kMagic;
  BATON_ASSIGN(hub_, MappedHub::of(*ep));
  ep->add(this);
  options_ = std::move(o);
  deadline_ns_ = deadline_ns;
  return ask();
}

Status KvLender::Impl::ask() {
  stage_ = Stage::asked;
  return send_transport(*session, "kv.lend", {{"id", id_}, {"name", options_.name}, {"model", options_.model}, {"layout", to_json(layout)}});
}

Status KvLender::Impl::on_answer(const Message& m) {
  if (m.type != "kv.borrow") {
    const Error no = session->hop(error_from(m.body));
    const bool later = no.code == BATON_NOT_FOUND || no.code == BATON_BUSY; // no borrower yet, or one that is about to go
    again_ns_ = now_ns() + kAskAgainNs;
    if (stage_ != Stage::asked || !later || again_ns_ > deadline_ns_) return no;
    stage_ = Stage::later;
    declined_ = no;
    return {};
  }
  if (stage_ == Stage::shown) {
    stage_ = Stage::open;
    return {};
  }
  // Only now is the way to the memory told.
  stage_ = Stage::shown;
  const std::string token = random_hex(32);
  hub_->expect(token, this);
  return send_transport(*session, "kv.way", {{"id", id_}, {"socket", hub_->name()}, {"token", token}});
}

std::optional<Status> KvLender::Impl::opened() {
  Status ok;
  if (cause) return *cause;
  if (stage_ == Stage::later && now_ns() >= again_ns_) ok = ask();
  if (answer_) ok = on_answer(*std::exchange(answer_, std::nullopt));
  if (ok.ok() && stage_ == Stage::open) return Status();
  if (ok.ok() && now_ns() < deadline_ns_) return std::nullopt;
  if (ok.ok() && declined_ && stage_ != Stage::shown) ok = *declined_; // more than that nobody came in time
  if (ok.ok())
    ok = session->hop(Error(BATON_DEADLINE, stage_ == Stage::shown ? "the decode side did not map the pool before the deadline" : "the decode side did not answer before the deadline",
                            "check that it polls"));
  lose(ok.error());
  return ok;
}

void KvLender::Impl::welcome(Fd peer) {
  hub_->forget(this);
  const Welcome w{lend::kMagic, 0, layout.bytes(), pool_offset_, sizeof(Page)};
  const int fds[2] = {pool_fd_.get(), page_fd_.get()};
  if (!unix_send(peer.get(), {reinterpret_cast<const uint8_t*>(&w), sizeof w}, fds)) return;
  peer_ = std::move(peer);
  tag_ = ep->watch(peer_.get(), EPOLLIN | EPOLLRDHUP, this);
}

void KvLender::Impl::ready(uint32_t) {
  if (drain(peer_)) return;
  lose(Error(BATON_PEER_LOST, "the borrower has gone", "open a new session"));
}

bool KvLender::Impl::on_message(Session::Impl& s, Message& m) {
  if (&s != session || u64_of(m.body, "id").value_or(0) != id_ || (m.type != "kv.borrow" && m.type != "kv.decline")) return false;
  answer_ = std::move(m);
  return true;
}

void KvLender::Impl::on_lost(Session::Impl& s, const Error& why) {
  if (&s != session) return;
  session = nullptr;
  lose(why);
}

// First every loan is marked, then the blocks are the lender's: a borrower that is only slow finds the mark when it checks.
void KvLender::Impl::lose(const Error& why) {
  if (!cause) cause = session ? session->hop(why) : why;
  none_stands();
  for (Slot& s : slots_) {
    if (s.loan && !s.recalled) back_.push_back(s.loan);
    s = Slot();
  }
  out = 0;
  if (tag_) ep->unwatch(std::exchange(tag_, 0), peer_.get());
  peer_.reset();
}

void KvLender::Impl::none_stands() {
  if (!page_.get()) return;
  for (Entry& e : page().ring) e.stands.store(0, std::memory_order_seq_cst);
}

// The borrower has copied what so many loans say.
void KvLender::Impl::taken(uint64_t loans) {
  if (loans <= freed_ || loans > head_) return;
  freed_ = loans;
  ids_tail_ = ends_[(loans - 1) % kLoans];
}

// A place for as many ids in a row; the borrower's tail says what it has copied.
std::optional<uint32_t> KvLender::Impl::room(uint32_t count) {
  if (count <= kNear) { // the entry has them
    ends_[head_ % kLoans] = ids_head_;
    return 0;
  }
  if (freed_ != head_) taken(page().tail.load(std::memory_order_acquire));
  uint64_t at = ids_head_;
  if (freed_ == head_ && at % kIds) ids_tail_ = at += kIds - at % kIds; // everything was taken: the front is in the cache
  if (at % kIds + count > kIds) at += kIds - at % kIds;
  if (at + count - ids_tail_ > kIds) return std::nullopt;
  ids_head_ = at + count;
  ends_[head_ % kLoans] = ids_head_;
  return uint32_t(at % kIds);
}

Result<uint64_t> KvLender::Impl::lend(std::span<const int32_t> blocks, const KvLoanTerms& t) {
  if (cause) return *cause;
  if (stage_ != Stage::open) return Error(BATON_BUSY, "the borrower has not mapped the pool yet", "poll until opened() says so");
  const uint64_t need = (t.tokens + layout.block_tokens - 1) / layout.block_tokens;
  if (!t.tokens || blocks.size() < need || blocks.size() > kIds)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{} blocks for {} tokens, which need {} of {}", blocks.size(), t.tokens, need, layout.block_tokens), "give every block, at most 2^20");
  int32_t low = 0, high = 0;
  for (int32_t b : blocks) low = std::min(low, b), high = std::max(high, b);
  if (low < 0 || uint32_t(high) >= layout.blocks)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("block {}: the pool has 0..{}", low < 0 ? low : high, layout.blocks - 1), "pass this pool's blocks");
  Slot& slot = slots_[next_ % kLoans];
  if (slot.loan) on_poll(now_ns());
  const auto at = slot.loan ? std::nullopt : room(uint32_t(blocks.size()));
  if (!at) return Error(BATON_BUSY, fmt::format("{} loans are out", out), "poll until some come back");
  Page& p = page();
  Entry& e = p.ring[head_ % kLoans];
  std::copy(blocks.begin(), blocks.end(), blocks.size() <= kNear ? e.near : p.ids + *at);
  e.tokens = t.tokens, e.tag = t.tag, e.modelled_ns = t.modelled_ns;
  e.count = uint32_t(blocks.size()), e.at = *at;
  e.stands.store(next_, std::memory_order_relaxed);
  ++head_;
  e.id.store(next_, std::memory_order_seq_cst);
  wake(p.borrower_parked, peer_);
  slot = {next_, false};
  ++out;
  return next_++;
}

// What came back, into back_.
uint32_t KvLender::Impl::on_poll(uint64_t now) {
  if (!page_.get() || cause) return 0;
  if (stage_ != Stage::open) {
    if (stage_ == Stage::later) ep->look_again(again_ns_ > now ? again_ns_ - now : 1); // for whoever sleeps before opened() is asked again
    return 0;
  }
  Page& p = page();
  doze_.look(now);
  uint32_t n = 0;
  for (;;) {
    uint64_t loan = 0;
    for (; n < kLoans && (loan = p.back[back_tail_ % kLoans].load(std::memory_order_acquire)) != back_seen_[back_tail_ % kLoans]; ++n) {
      back_seen_[back_tail_++ % kLoans] = loan;
      Slot& s = slots_[loan % kLoans];
      if (!loan || s.loan != loan) continue; // not one that is out
      p.ring[(loan - 1) % kLoans].stands.store(0, std::memory_order_relaxed);
      taken(loan);
      if (!s.recalled) back_.push_back(loan), --out;
      s = Slot();
    }
    if (n) p.back_tail.store(back_tail_, std::memory_order_release);
    if (n || p.lender_parked.load(std::memory_order_relaxed) || !doze_.may_park(*ep)) return n;
    p.lender_parked.store(1, std::memory_order_seq_cst);
    if (p.back[back_tail_ % kLoans].load(std::memory_order_seq_cst) == back_seen_[back_tail_ % kLoans]) return n;
  }
}

void KvLender::Impl::returned(std::vector<uint64_t>& loans) {
  on_poll(now_ns());
  loans.insert(loans.end(), back_.begin(), back_.end());
  back_.clear();
}

void KvLender::Impl::recall(uint64_t loan) {
  Slot& s = slots_[loan % kLoans];
  if (!loan || s.loan != loan || s.recalled) return;
  page().ring[(loan - 1) % kLoans].stands.store(0, std::memory_order_seq_cst);
  s.recalled = true; // its slot is free when the borrower has given it back
  --out;
}

// ---- the borrower ----

struct KvBorrower::Impl final : Service, Watcher {
  Impl(Session::Impl& s, const Device* d, const KvLayout& l, LendOptions o) : session(&s), ep(s.ep), device(d), layout(l), options(std::move(o)) { ep->add(this); }
  ~Impl() override {
    if (tag_) ep->unwatch(tag_, peer_.get());
    if (ep) ep->remove(this);
  }
  bool take(KvLoan&);
  Status check(const KvLoan&) const;
  void give_back(const KvLoan&);

  bool on_message(Session::Impl&, Message&) override;
  void on_lost(Session::Impl& s, const Error& why) override {
    if (&s != session) return;
    cause = why;
    session = nullptr;
  }
  uint32_t on_poll(uint64_t now) override;
  void ready(uint32_t) override;

  Session::Impl* session;
  Endpoint::Impl* ep;
  const Device* device; // nullptr: mapped
  KvLayout layout;
  LendOptions options;
  std::optional<Error> cause;
  Buffer memory;
  Mapping mapped;

 private:
  Status agree(const Message&);
  Status attach(const Welcome&, std::array<Fd, 4>&);
  void decline(const Error&);
  Page& page() const { return *reinterpret_cast<Page*>(page_.get()); }

  // The loan after `after` is there.
  bool lent(uint64_t after, std::memory_order order) const { return page().ring[after % kLoans].id.load(order) == after + 1; }

  uint64_t lender_ = 0, tag_ = 0, tail_ = 0, seen_ = 0; // loans taken, and told of by on_poll()
  uint64_t back_ = 0, back_room_ = kLoans;              // loans given back; how many may be
  Fd peer_;
  Mapping page_;
  Doze doze_;
};

void KvBorrower::Impl::decline(const Error& why) {
  if (session) (void)send_transport(*session, "kv.decline", {{"id", lender_}, {"error", to_json(why)}});
}

Status KvBorrower::Impl::agree(const Message& m) {
  const std::string model = text_of(m.body, "model").value_or("");
  if (page_.get() || peer_) return Error(BATON_BUSY, fmt::format("the borrower '{}' has a lender already", options.name), "open a borrower for each lender");
  if (model != options.model)
    return Error(BATON_MISMATCH, fmt::format("models differ: prefill has {}, decode has {}", model.substr(0, 64), options.model.substr(0, 64)), "load the same model on both sides");
  if (!m.body.contains("layout")) return Error(BATON_CORRUPT, "a kv.lend without a layout", "run the same Baton version on both sides");
  BATON_ASSIGN(KvLayout theirs, layout_from(m.body["layout"]));
  BATON_TRY(same_place(theirs, layout));
  layout = theirs;
  return {};
}

bool KvBorrower::Impl::on_message(Session::Impl& s, Message& m) {
  if (&s != session) return false;
  const uint64_t id = u64_of(m.body, "id").value_or(0);
  if (m.type == "kv.lend" && text_of(m.body, "name").value_or("") == options.name) {
    const uint64_t had = std::exchange(lender_, id);
    if (Status ok = agree(m); !ok.ok()) {
      decline(ok.error());
      lender_ = had;
    } else {
      (void)send_transport(s, "kv.borrow", {{"id", id}});
    }
    return true;
  }
  if (m.type != "kv.way" || id != lender_ || peer_) return false;
  auto fd = unix_connect(text_of(m.body, "socket").value_or(""));
  const std::string token = text_of(m.body, "token").value_or("");
  if (!fd.ok() || !unix_peer_is_me(fd->get()) || !unix_send(fd->get(), {reinterpret_cast<const uint8_t*>(token.data()), token.size()})) {
    decline(fd.ok() ? Error(BATON_PERMISSION, "the lender's socket belongs to another user, or is closed", "run both sides as one user") : fd.error());
    return true;
  }
  peer_ = std::move(*fd);
  tag_ = ep->watch(peer_.get(), EPOLLIN | EPOLLRDHUP, this);
  return true;
}

Status KvBorrower::Impl::attach(const Welcome& w, std::array<Fd, 4>& fds) {
  if (w.magic != lend::kMagic || w.page_bytes != sizeof(Page) || !fds[0] || !fds[1] || w.bytes < layout.bytes() || w.bytes > (1ull << 60) || w.fd_offset > (1ull << 60))
    return Error(BATON_CORRUPT, "the lender's answer makes no sense", "run the same Baton version on both sides");
  BATON_TRY(mapped::check_object(fds[0].get(), w.fd_offset + w.bytes));
  BATON_TRY(mapped::check_object(fds[1].get(), sizeof(Page)));
  if (device) {
    BATON_ASSIGN(memory, device->import_fd(fds[0].get(), w.fd_offset, w.bytes));
  } else {
    BATON_ASSIGN(mapped, Mapping::of(fds[0].get(), w.fd_offset, w.bytes, Mapping::Use::read));
  }
  BATON_ASSIGN(page_, Mapping::of(fds[1].get(), 0, sizeof(Page), Mapping::Use::write));
  return {};
}

void KvBorrower::Impl::ready(uint32_t) {
  if (!page_.get()) {
    Welcome w{};
    std::array<Fd, 4> fds;
    const ssize_t n = unix_recv(peer_.get(), {reinterpret_cast<uint8_t*>(&w), sizeof w}, fds);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n > 0) {
      if (Status ok = attach(n == sizeof w ? w : Welcome{}, fds); !ok.ok()) decline(ok.error());
      else if (session) (void)send_transport(*session, "kv.borrow", {{"id", lender_}});
      return;
    }
  } else if (drain(peer_)) {
    return;
  }
  ep->unwatch(std::exchange(tag_, 0), peer_.get()); // the lender has gone; its loans stand until it says otherwise
  peer_.reset();
}

uint32_t KvBorrower::Impl::on_poll(uint64_t now) {
  if (!page_.get() || !tag_) return 0;
  Page& p = page();
  doze_.look(now);
  const uint64_t before = seen_ = std::max(seen_, tail_);
  while (seen_ - tail_ < kLoans && lent(seen_, std::memory_order_acquire)) ++seen_;
  if (seen_ != before) return 1; // for take(); once, so that who does not take can sleep
  if (p.borrower_parked.load(std::memory_order_relaxed) || !doze_.may_park(*ep)) return 0;
  p.borrower_parked.store(1, std::memory_order_seq_cst);
  return lent(seen_, std::memory_order_seq_cst);
}

bool KvBorrower::Impl::take(KvLoan& into) {
  if (!page_.get()) return false;
  Page& p = page();
  while (lent(tail_, std::memory_order_acquire)) {
    const Entry& e = p.ring[tail_ % kLoans];
    const uint32_t count = e.count, at = e.at;
    const KvLoanTerms terms{e.tokens, e.tag, e.modelled_ns};
    // Entries that contradict themselves are passed over: who lends so is broken, and nothing of its is decoded.
    const bool sound = count <= kIds && at <= kIds - count && terms.tokens && (terms.tokens - 1) / layout.block_tokens < count;
    bool within = sound;
    if (sound) {
      const int32_t* ids = count <= kNear ? e.near : p.ids + at;
      into.blocks.assign(ids, ids + count);
      uint32_t high = 0;
      for (int32_t b : into.blocks) high = std::max(high, uint32_t(b));
      within = high < layout.blocks;
    }
    p.tail.store(++tail_, std::memory_order_release);
    if (!within) continue;
    into.id = tail_;
    into.terms = terms;
    return true;
  }
  return false;
}

Status KvBorrower::Impl::check(const KvLoan& l) const {
  std::atomic_thread_fence(std::memory_order_seq_cst); // what was read of the blocks was read before this
  if (page_.get() && l.id && page().ring[(l.id - 1) % kLoans].stands.load(std::memory_order_seq_cst) == l.id) return {};
  return Error(BATON_CANCELLED, fmt::format("loan {} was taken back: what was read of it may be another request's", l.id), "drop it, and ask the prefill side again");
}

void KvBorrower::Impl::give_back(const KvLoan& l) {
  if (!page_.get() || !l.id) return;
  Page& p = page();
  if (back_ >= back_room_) { // asked now and then: the lender's line is another core's
    back_room_ = p.back_tail.load(std::memory_order_acquire) + kLoans;
    if (back_ >= back_room_) return; // more than were lent: the lender is broken
  }
  p.back[back_++ % kLoans].store(l.id, std::memory_order_seq_cst);
  wake(p.lender_parked, peer_);
}

// ---- the public faces ----

KvLender::KvLender(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
KvLender::KvLender(KvLender&&) noexcept = default;
KvLender::~KvLender() = default;
Result<KvLender> KvLender::open(const Instance&, Session& s, const Buffer& pool, const KvLayout& l, LendOptions o, uint64_t deadline_ns) {
  auto x = pool.export_fd();
  if (!x.ok()) return x.error();
  const Fd fd(x->fd);
  BATON_ASSIGN(KvLender lender, begin(s, HostMemory{nullptr, pool.bytes(), fd.get(), x->offset}, l, std::move(o), deadline_ns));
  std::optional<Status> opened;
  s.impl().ep->drive(BATON_NO_DEADLINE, [&] { return (opened = lender.opened()).has_value(); });
  if (!opened->ok()) return opened->error();
  return lender;
}
Result<KvLender> KvLender::begin(Session& s, const HostMemory& pool, const KvLayout& l, LendOptions o, uint64_t deadline_ns) {
  auto impl = std::make_unique<Impl>(s.impl(), l);
  BATON_TRY(impl->begin(pool, std::move(o), deadline_ns));
  return KvLender(std::move(impl));
}
std::optional<Status> KvLender::opened() { return impl_->opened(); }
Result<uint64_t> KvLender::lend(std::span<const int32_t> blocks, const KvLoanTerms& t) { return impl_->lend(blocks, t); }
void KvLender::returned(std::vector<uint64_t>& loans) { impl_->returned(loans); }
void KvLender::recall(uint64_t loan) { impl_->recall(loan); }
size_t KvLender::out() const { return impl_->out; }
Status KvLender::alive() const { return impl_->cause ? Status(*impl_->cause) : Status(); }

KvBorrower::KvBorrower(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
KvBorrower::KvBorrower(KvBorrower&&) noexcept = default;
KvBorrower::~KvBorrower() = default;
Result<KvBorrower> KvBorrower::make(Session& s, const Device* device, const KvLayout& l, LendOptions o) {
  if (s.impl().cause) return *s.impl().cause;
  KvLayout any = l;
  any.blocks = std::max(any.blocks, 1u);
  BATON_TRY(any.check());
  return KvBorrower(std::make_unique<Impl>(s.impl(), device, l, std::move(o)));
}
Result<KvBorrower> KvBorrower::create(const Instance&, Session& s, const Device& device, const KvLayout& l, LendOptions o) { return make(s, &device, l, std::move(o)); }
Result<KvBorrower> KvBorrower::create(Session& s, const KvLayout& l, LendOptions o) { return make(s, nullptr, l, std::move(o)); }
bool KvBorrower::ready() const { return impl_->memory || impl_->mapped.get(); }
const void* KvBorrower::base() const { return impl_->mapped.get(); }
const Buffer& KvBorrower::memory() const { return impl_->memory; }
const KvLayout& KvBorrower::layout() const { return impl_->layout; }
bool KvBorrower::take(KvLoan& into) { return impl_->take(into); }
Status KvBorrower::check(const KvLoan& l) const { return impl_->check(l); }
void KvBorrower::give_back(const KvLoan& l) { impl_->give_back(l); }

}  // namespace baton::transport
