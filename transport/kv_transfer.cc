// The prefill side: agrees with the sink, then moves each (source, layer) as one op of a queue of its own.
//
// A poll does a bounded amount of work (kPollBytes), so that launches and other queues are driven between two pieces of a layer. Ops of the
// queue may be in flight together; each completes, and its note goes out, when its own writes are visible at the sink.
#include "transport/fabric.hpp"
#include "transport/kv_kept.hpp"
#include "transport/kv_link.hpp"
#include "transport/kv_sum.hpp"
#include "transport/kv_wire.hpp"

#include <fmt/format.h>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>

namespace baton::transport {
namespace {

constexpr uint64_t kPollBytes = 2u << 20;      // about 0.2 ms of copying
constexpr uint64_t kDrainNs = 1'000'000'000;   // for writes in flight when a transfer is destroyed
constexpr uint64_t kConnectLookNs = 500'000;
constexpr long kTickNs = 50'000;               // looks for completions where there is no descriptor to wait on

} // namespace

struct KvTransfer::Impl final : Service {
  struct Step { // one (source, layer)
    enum class State : uint8_t { idle, queued, done };
    State state = State::idle;
    void* cookie = nullptr;
    uint64_t start_ns = 0; // modelled
    size_t part = 0;       // of the source's moves
    bool moved = false;
    Batch batch;
  };

  Impl(const Instance& in, Session::Impl& s) : instance(in.get()), session(&s), ep(s.ep), host(baton_queue_host(in.get())) {}
  ~Impl() override;

  Status begin(const std::string& ticket, std::vector<KvSource>, uint64_t tokens, const TransferOptions&, uint64_t deadline_ns);
  std::optional<Status> opened();
  void fail(Error);
  void tell_abort();
  Status seal(const Message&, uint64_t deadline_ns);
  size_t left() const { return left_; }

  bool on_message(Session::Impl&, Message&) override;
  void on_lost(Session::Impl&, const Error&) override;
  uint32_t on_poll(uint64_t now) override;

  int32_t submit(const baton_driver_op*, uint32_t count, uint32_t* taken);
  uint32_t poll();

 private:
  Status check(const std::vector<KvSource>&, uint64_t tokens);
  Status ask(const std::string& ticket);
  Status accept();
  Status attach(const std::string& fabric, const nlohmann::json& offer);
  Status settle();
  Status make_descriptors();
  Status make_queue();
  bool advance(Step&, size_t index, uint64_t& bytes); // true: settled, remove it
  void finish(Step&, size_t index, const Error*);
  bool next_part(Step&, size_t index);
  bool note(size_t index); // of the step, or in bulk of all of its source's; false: try again
  std::pair<size_t, size_t> together(size_t index) const { // the steps that go out with it
    const size_t first = source_of(index) * layers;
    return stats.bulk ? std::pair(first, first + layers) : std::pair(index, index + 1);
  }
  template <class F>
  bool all_together(size_t index, F f) const {
    const auto [first, end] = together(index);
    return std::all_of(steps_.begin() + ptrdiff_t(first), steps_.begin() + ptrdiff_t(end), f);
  }
  uint32_t in_flight() const;
  void arm();
  size_t source_of(size_t index) const { return index / layers; }
  uint32_t layer_of(size_t index) const { return first_layer_ + uint32_t(index % layers); } // of the model
  bool sends(size_t index) const;

 public:
  baton_instance* instance;
  Session::Impl* session; // nullptr: lost or closed
  Endpoint::Impl* ep;
  const baton_driver_host* host;
  Queue queue;
  Stats stats;
  std::optional<Error> failure;
  bool sealed = false, told = false; // told: the sink knows that this ended, or cannot be told
  size_t sources = 0, layers = 0;

 private:
  uint64_t id_ = random_u64(), generation_ = 0;
  std::vector<LayerSum> sums_; // by step, where checksums are asked for
  uint32_t slot_ = 0, first_layer_ = 0; // that the sink holds
  bool open_sent_ = false, has_timer_ = false, has_more_ = false;
  LinkModel model_;
  std::vector<std::string> fabrics_; // asked for, best first
  std::vector<KvLayout> layouts_;
  std::vector<SourceMemory> memory_;
  std::vector<KvTagged> tagged_; // the sources' blocks
  std::vector<Fd> fds_; // of memory_, while the sender looks at it
  Shares shares_;
  std::vector<std::vector<KvMove>> moves_; // by source
  std::vector<std::vector<Recoder>> recoders_; // of the moves, where plans convert
  std::vector<Step> steps_;
  std::vector<uint32_t> pending_;
  std::vector<uint8_t> noted_; // by step; in bulk by the first of its source
  uint64_t bulk_end_ns_ = 0;   // modelled
  size_t left_ = 0; // steps not done
  std::optional<Message> answer_;
  struct Opening { // from begin() until it is open
    std::vector<KvSource> all;
    uint64_t tokens;
    TransferOptions options;
    uint64_t deadline_ns;
    uint64_t held = 0;      // from here on as the sink answered
    KvLayout sink{};
    std::vector<int32_t> blocks{};
  };
  std::optional<Opening> opening_;
  Sender* sender_ = nullptr;
  baton_driver table_{};
  Fd epoll_, more_, timer_;
};

// ---- opening ----

Status KvTransfer::Impl::check(const std::vector<KvSource>& all, uint64_t tokens) {
  if (all.empty() || all.size() > kMaxSources) return Error(BATON_INVALID_ARGUMENT, fmt::format("{} sources", all.size()), fmt::format("1 to {}, one for each rank", kMaxSources));
  for (size_t i = 0; i < all.size(); ++i) {
    const KvSource& s = all[i];
    if (!s.memory && !s.host.base) return Error(BATON_INVALID_ARGUMENT, fmt::format("source {} has no memory", i), "give the rank's KV buffer");
    BATON_TRY(s.layout.check());
    const uint64_t has = s.memory ? s.memory->bytes() : s.host.bytes;
    if (has < s.layout.bytes())
      return Error(BATON_INVALID_ARGUMENT, fmt::format("source {} has {} bytes, its layout needs {}", i, has, s.layout.bytes()), "allocate KvLayout::bytes()");
    const uint64_t need = (tokens + s.layout.block_tokens - 1) / s.layout.block_tokens;
    if (s.blocks.size() < need) return Error(BATON_INVALID_ARGUMENT, fmt::format("source {} has {} blocks, {} tokens need {}", i, s.blocks.size(), tokens, need), "give every block");
    void* base = s.host.base;
    if (s.memory) {
      BATON_ASSIGN(base, s.memory->map());
    }
    SourceMemory& m = memory_.emplace_back();
    m.base = static_cast<const uint8_t*>(base);
    m.bytes = s.layout.bytes();
    if (!s.memory) {
      m.fd = s.host.fd;
      m.fd_offset = s.host.fd_offset;
    } else if (auto x = s.memory->export_fd(); x.ok()) {
      fds_.emplace_back(x->fd);
      m.fd = x->fd;
      m.fd_offset = x->offset;
    }
    layouts_.push_back(s.layout);
    tagged_.push_back(s.tagged);
  }
  return {};
}

Status KvTransfer::Impl::ask(const std::string& ticket) {
  const TransferOptions& o = opening_->options;
  fabrics_ = {o.fabric};
  if (o.fabric == "auto") fabrics_ = auto_fabrics(*session);
  for (const auto& f : fabrics_)
    if (auto why = fabric_unusable(f, *session); why && fabrics_.size() == 1) return session->hop(Error(BATON_UNSUPPORTED, *why, "choose another fabric; 'devctl topo' lists them"));
  nlohmann::json list = nlohmann::json::array();
  std::vector<uint8_t> blocks;
  for (size_t i = 0; i < layouts_.size(); ++i) {
    list.push_back(to_json(layouts_[i]));
    put_blocks(blocks, opening_->all[i].blocks);
  }
  nlohmann::json ask{{"id", id_}, {"ticket", ticket}, {"model", o.model}, {"tokens", opening_->tokens}, {"fabrics", fabrics_}, {"sources", list}, {"checksum", o.checksum}};
  if (!ep->options.rails.empty()) ask["rails"] = true;
  BATON_TRY(send_transport(*session, "kv.open", std::move(ask), std::move(blocks)));
  open_sent_ = true;
  BATON_TRY(make_descriptors()); // while the other side reads it
  return {};
}

Status KvTransfer::Impl::accept() {
  const nlohmann::json& b = answer_->body;
  if (answer_->type == "kv.refuse") {
    told = true;
    return session->hop(error_from(b));
  }
  const auto generation = u64_of(b, "generation"), slot = u64_of(b, "slot"), plan = u64_of(b, "plan"), held = u64_of(b, "held");
  const auto fabric = text_of(b, "fabric");
  std::span<const uint8_t> bytes(answer_->bytes);
  auto blocks = take_blocks(bytes);
  if (!generation || !slot || *slot > UINT32_MAX || !plan || !held || *held >= opening_->tokens || !fabric || !blocks || !b.contains("layout") || !b.contains("offer"))
    return session->hop(Error(BATON_CORRUPT, "the decode side's answer has missing or malformed fields", "run the same Baton version on both sides"));
  if (std::find(fabrics_.begin(), fabrics_.end(), *fabric) == fabrics_.end())
    return session->hop(Error(BATON_MISMATCH, fmt::format("the decode side chose the fabric '{}', which was not offered", fabric->substr(0, 40)), "run the same Baton version on both sides"));
  BATON_ASSIGN(KvLayout sink, layout_from(b["layout"]));
  BATON_ASSIGN(shares_, KvKept::of(*ep).shares(layouts_, sink));
  if (shares_.hash != *plan)
    return session->hop(Error(BATON_MISMATCH, fmt::format("plans differ: prefill {:016x}, decode {:016x}", shares_.hash, *plan), "run the same Baton version on both sides"));
  generation_ = *generation;
  slot_ = uint32_t(*slot);
  stats.fabric = *fabric;
  opening_->held = *held;
  opening_->sink = std::move(sink);
  opening_->blocks = std::move(*blocks);
  Status s = attach(*fabric, b["offer"]);
  if (!s.ok() && session) not_again(*session, *fabric);
  return s;
}

// The fabric is connected: everything that the first op needs.
Status KvTransfer::Impl::settle() {
  const std::vector<KvSource>& all = opening_->all;
  const TransferOptions& o = opening_->options;
  const KvLayout& sink = opening_->sink;
  if (!sender_->state()->ok()) {
    not_again(*session, stats.fabric);
    return session->hop(sender_->state()->error());
  }
  if (shares_.converts && !sender_->converts())
    return session->hop(Error(BATON_UNSUPPORTED, fmt::format("the fabric {} does not convert KV", stats.fabric), "use the same dtype and scales on both sides, or another fabric"));
  moves_.resize(all.size());
  recoders_.resize(all.size());
  std::vector<void*> local(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    for (const KvPlan& p : shares_.plans[i]) {
      BATON_TRY(p.instantiate(all[i].blocks, opening_->blocks, opening_->held, opening_->tokens, moves_[i].emplace_back(KvKept::of(*ep).move())));
      recoders_[i].push_back(p.converts() ? Recoder(p) : Recoder());
    }
    if (moves_[i].empty()) continue;
    BATON_ASSIGN(local[i], sender_->local(memory_[i]));
    if (o.checksum && sender_->copies()) local[i] = nullptr; // the sink does not copy a share: the sum would find it cold, and the sink has its own to do
  }
  fds_.clear();
  sources = all.size();
  layers = sink.layers_held();
  first_layer_ = sink.layer_begin;
  left_ = sources * layers;
  steps_.resize(left_);
  noted_.resize(left_);
  pending_.reserve(left_);
  if (o.checksum) sums_.resize(left_);
  uint64_t bytes_in_all = 0, segments_in_all = 0;
  for (const auto& parts : moves_)
    for (const KvMove& m : parts) bytes_in_all += m.total_bytes(), segments_in_all += m.total_segments();
  stats.bulk = o.bulk == TransferOptions::Bulk::always ||
               (o.bulk == TransferOptions::Bulk::model && model_.cost_ns(bytes_in_all, segments_in_all) <= 2 * model_.base_ns);
  stats.spans.resize(left_);
  for (size_t i = 0; i < left_; ++i) {
    Batch& batch = steps_[i].batch;
    batch.src = memory_[source_of(i)].base;
    batch.source = uint32_t(source_of(i));
    batch.layer = layer_of(i);
    batch.local = local[source_of(i)];
    batch.generation = generation_;
    batch.slot = slot_;
    if (!sums_.empty()) batch.sum = sums_[i].units();
  }
  return make_queue();
}

Status KvTransfer::Impl::attach(const std::string& fabric, const nlohmann::json& offer) {
  auto& slot = session->attached[sender_key(fabric, text_of(offer, "sink").value_or(""))];
  if (slot) {
    const auto state = static_cast<Sender*>(slot.get())->state();
    if (state && !state->ok()) { // others may still hold it: it goes with the session
      session->attached["dead:" + random_hex(8)] = std::move(slot);
      slot.reset();
    }
  }
  if (!slot) {
    auto made = make_sender(fabric, *session, offer, {}, memory_[0]);
    if (!made.ok()) return session->hop(made.error());
    slot = std::move(*made);
  }
  sender_ = static_cast<Sender*>(slot.get());
  ++sender_->users;
  return {};
}

Status KvTransfer::Impl::make_descriptors() {
  BATON_ASSIGN(epoll_, epoll_new());
  more_ = Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  timer_ = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!more_ || !timer_) return io_error("eventfd or timerfd", errno);
  epoll_add(epoll_.get(), more_.get(), EPOLLIN, 0);
  epoll_add(epoll_.get(), timer_.get(), EPOLLIN, 0);
  return {};
}

Status KvTransfer::Impl::make_queue() {
  if (sender_->fd() >= 0) epoll_add(epoll_.get(), sender_->fd(), EPOLLIN, 0);
  table_.struct_size = sizeof table_;
  table_.abi_version = BATON_ABI_VERSION;
  table_.scheme = "kv";
  table_.description = "a KV transfer";
  table_.submit = [](void* self, void*, const baton_driver_op* ops, uint32_t n, uint32_t* taken, baton_error*) { return static_cast<Impl*>(self)->submit(ops, n, taken); };
  table_.poll = [](void* self, void*, uint32_t) { return static_cast<Impl*>(self)->poll(); };
  const std::string name = fmt::format("link {} > {} ({})", ep->options.name.empty() ? "prefill" : ep->options.name, session->peer.name.empty() ? session->address : session->peer.name, stats.fabric);
  Error e;
  baton_queue* q = nullptr;
  if (baton_queue_from_table(instance, name.c_str(), &table_, this, epoll_.get(), &q, &e)) return e;
  queue = Queue(q);
  return {};
}

Status KvTransfer::Impl::begin(const std::string& ticket, std::vector<KvSource> all, uint64_t tokens, const TransferOptions& o, uint64_t deadline_ns) {
  if (session->cause) return *session->cause;
  BATON_TRY(check(all, tokens));
  BATON_ASSIGN(model_, link_model(o.link_model));
  ep->add(this);
  opening_.emplace(Opening{std::move(all), tokens, o, deadline_ns});
  return ask(ticket);
}

// Not from within a poll: the queue is registered here.
std::optional<Status> KvTransfer::Impl::opened() {
  if (failure) return *failure;
  if (!opening_) return Status();
  Status ok;
  if (answer_ && !sender_) ok = accept();
  const bool ready = ok.ok() && sender_ && sender_->state();
  if (ready) {
    ok = settle();
  } else if (ok.ok()) {
    if (now_ns() < opening_->deadline_ns) return std::nullopt;
    if (sender_) not_again(*session, stats.fabric);
    ok = session->hop(sender_ ? Error(BATON_DEADLINE, fmt::format("the {} fabric did not connect before the deadline", stats.fabric), "check that the decode side polls")
                              : Error(BATON_DEADLINE, "the decode side did not answer before the deadline", "check that it polls"));
  }
  if (!ok.ok()) fail(ok.error());
  opening_.reset();
  answer_.reset();
  return ok;
}

// A fabric that connects may have no descriptor yet.
uint32_t KvTransfer::Impl::on_poll(uint64_t) {
  if (opening_ && sender_ && !failure && !sender_->state()) ep->look_again(kConnectLookNs);
  return 0;
}

// ---- ending ----

KvTransfer::Impl::~Impl() {
  if (!sealed && !failure) fail(Error(BATON_CANCELLED, "the prefill side dropped the transfer before sealing it", "see the prefill side's own error"));
  queue.reset(); // polls until what was in flight has settled
  const uint64_t until = now_ns() + kDrainNs;
  while (sender_ && session && in_flight() && now_ns() < until) {
    sender_->progress();
    baton_poll_wait(instance, now_ns() + 200'000);
  }
  if (sender_ && in_flight()) sender_->abandon();
  if (!sealed) tell_abort();
  if (sender_ && session) --sender_->users;
  if (!ep) return;
  ep->remove(this);
  KvKept::of(*ep).keep(moves_);
}

uint32_t KvTransfer::Impl::in_flight() const {
  uint32_t n = 0;
  for (const Step& s : steps_) n += s.batch.outstanding;
  return n;
}

void KvTransfer::Impl::fail(Error why) {
  if (failure) return;
  failure = session ? session->hop(std::move(why)) : std::move(why);
  if (!in_flight()) tell_abort();
  arm();
}

// Only when nothing is in flight: it is also what lifts the sink's quarantine.
void KvTransfer::Impl::tell_abort() {
  if (told || !session || !open_sent_) return;
  told = true;
  if (sender_) sender_->rails(generation_, stats.rails), sender_->close(generation_, false);
  if (!session) return;
  const Error why = failure ? *failure : Error(BATON_CANCELLED, "the transfer was dropped", "see the prefill side");
  (void)send_transport(*session, "kv.abort", {{"id", id_}, {"error", to_json(why)}});
}

bool KvTransfer::Impl::on_message(Session::Impl& s, Message& m) {
  if (&s != session || u64_of(m.body, "id").value_or(0) != id_) return false;
  if (m.type == "kv.accept" || m.type == "kv.refuse") {
    answer_ = std::move(m);
    return true;
  }
  if (m.type != "kv.cancel") return false;
  if (failure) return true;
  failure = s.hop(error_from(m.body));
  if (!in_flight()) tell_abort();
  arm();
  return true;
}

void KvTransfer::Impl::on_lost(Session::Impl& s, const Error& why) {
  if (&s != session) return;
  fail(why);
  told = true;
  if (sender_) {
    sender_->abandon();
    for (Step& st : steps_) st.batch.outstanding = 0;
    --sender_->users;
  }
  sender_ = nullptr; // it goes with the session
  session = nullptr;
  arm();
}

Status KvTransfer::Impl::seal(const Message& m, uint64_t deadline_ns) {
  if (sealed) return Error(BATON_INVALID_ARGUMENT, "the transfer is sealed already", "seal once");
  if (!ep->drive(deadline_ns, [&] { return failure || left_ == 0; }))
    return Error(BATON_DEADLINE, fmt::format("{} of {} layers of {} sources are not sent", left_, sources * layers, sources), "submit a copy for each source and layer, and see why their waits are not met");
  if (!failure) sender_->rails(generation_, stats.rails), sender_->close(generation_, true);
  if (failure) return *failure;
  BATON_TRY(send_transport(*session, "kv.seal", {{"id", id_}, {"type", m.type}, {"body", m.body}}, m.bytes));
  sealed = told = true;
  return {};
}

// ---- the queue ----

int32_t KvTransfer::Impl::submit(const baton_driver_op* ops, uint32_t count, uint32_t* taken) {
  *taken = count;
  for (uint32_t i = 0; i < count; ++i) {
    const baton_driver_op& op = ops[i];
    if (op.opcode == BATON_OP_NOP) {
      host->complete(op.cookie, 0, nullptr);
      continue;
    }
    const uint64_t index = op.u.plan.step;
    if (op.opcode != BATON_OP_COPY || op.u.plan.plan != this || index >= steps_.size() || steps_[index].state != Step::State::idle) {
      const Error e(BATON_INVALID_ARGUMENT, "this queue takes each of KvTransfer::copy(source, layer) once, and NOP", "submit other copies to a link of the devices");
      host->complete(op.cookie, 0, &e);
      continue;
    }
    Step& s = steps_[index];
    s.state = Step::State::queued;
    s.cookie = op.cookie;
    s.start_ns = op.start_ns;
    stats.spans[index].begin_ns = now_ns();
    next_part(s, index);
    pending_.push_back(uint32_t(index));
  }
  arm();
  return BATON_OK;
}

bool KvTransfer::Impl::sends(size_t index) const {
  return std::any_of(shares_.plans[source_of(index)].begin(), shares_.plans[source_of(index)].end(), [&](const KvPlan& p) { return p.has_layer(layer_of(index)); });
}

// Points the batch at the next of the source's moves; false: there is none.
bool KvTransfer::Impl::next_part(Step& s, size_t index) {
  const auto& moves = moves_[source_of(index)];
  while (s.part < moves.size() && !moves[s.part].pieces(layer_of(index))) ++s.part;
  if (s.part >= moves.size()) return false;
  if (!sums_.empty()) sums_[index].next_part();
  Batch& b = s.batch;
  b.part = uint32_t(s.part++);
  const KvMove& m = moves[b.part];
  b.segments = m.layer(b.layer);
  b.units = m.converts() ? LayerUnits{&recoders_[b.source][b.part], &m, b.layer} : LayerUnits();
  b.bytes = m.bytes(b.layer);
  b.next = 0;
  b.offset = 0;
  b.mode = pick_copy(b.bytes, b.segments.size());
  return true;
}

void KvTransfer::Impl::finish(Step& s, size_t index, const Error* error) {
  s.state = Step::State::done;
  --left_;
  uint64_t bytes = 0, segments = 0;
  for (const KvMove& m : moves_[source_of(index)]) {
    bytes += m.bytes(layer_of(index));
    segments += m.pieces(layer_of(index));
  }
  if (!error) {
    stats.bytes += bytes;
    stats.segments += segments;
    stats.spans[index].end_ns = now_ns();
  }
  uint64_t took = error ? 0 : uint64_t(std::llround(model_.cost_ns(bytes, segments)));
  if (!error && stats.bulk && bytes) took = bulk_end_ns_ - std::min(bulk_end_ns_, s.start_ns);
  host->complete(s.cookie, took, error);
}

bool KvTransfer::Impl::advance(Step& s, size_t index, uint64_t& bytes) {
  Batch& b = s.batch;
  if (!failure && !b.error && sender_ && !s.moved) {
    if (stats.bulk && !all_together(index, [](const Step& x) { return x.state != Step::State::idle; })) return false; // the last is not submitted yet
    while (bytes) {
      if (b.posted() && !next_part(s, index)) break;
      const uint64_t n = sender_->step(b, sums_.empty() || !sender_->copies() ? bytes : std::min(bytes, kSumBytes));
      if (!sums_.empty()) sums_[index].follow(b);
      bytes -= std::min(n, bytes);
      if (!n) break;
    }
  }
  if (b.error) fail(*b.error); // of a step, or of a completion since
  if (failure && b.outstanding && sender_) sender_->stop(b);
  if (b.outstanding && (failure || !sender_ || !sender_->in_order())) return false;
  if (failure) {
    finish(s, index, &*failure);
    return true;
  }
  if (!b.posted() || s.part < moves_[source_of(index)].size()) return false;
  s.moved = true;
  if (KvTagged& tagged = tagged_[source_of(index)]; tagged.stale() >= 0) { // before the note, and when all is complete: a device reads on its own
    fail(tagged.intact(fmt::format("source {}", source_of(index))).error());
    return advance(s, index, bytes);
  }
  if (!all_together(index, [](const Step& x) { return x.moved; })) return false;
  const size_t first = together(index).first;
  if (!noted_[first] && !(noted_[first] = note(index))) return false;
  if (b.outstanding) return false;
  for (size_t i = first; i < index; ++i) // in the order of layers, as their signals are
    if (steps_[i].state != Step::State::done) return false;
  finish(s, index, nullptr);
  return true;
}

bool KvTransfer::Impl::note(size_t index) {
  const auto [first, end] = together(index);
  size_t last = end;
  while (last > first && !sends(last - 1)) --last; // layers that others send: the sink does not wait for them
  size_t begin = first;
  while (begin < last && !sends(begin)) ++begin;
  if (begin == last) return true;
  Note note{};
  note.generation = generation_;
  note.source = uint32_t(source_of(index));
  note.layer = layer_of(begin) - first_layer_;
  note.part = uint32_t(last - begin - 1);
  note.slot = slot_;
  uint64_t start_ns = 0;
  std::vector<uint64_t> sums;
  for (size_t i = begin; i < last; ++i) {
    start_ns = std::max(start_ns, steps_[i].start_ns);
    note.offset += steps_[i].batch.streamed;
    for (size_t part = 0; part < moves_[note.source].size(); ++part) {
      const KvMove& m = moves_[note.source][part];
      note.bytes += m.bytes(layer_of(i));
      note.segments += uint32_t(m.pieces(layer_of(i)));
    }
    if (!sums_.empty()) sums.push_back(sums_[i].value());
  }
  if (!sums.empty()) note.checksum = sum_of(sums);
  note.modelled_ns = start_ns + uint64_t(std::llround(model_.cost_ns(note.bytes, note.segments)));
  if (!sender_->notify(note)) return false;
  if (stats.bulk) bulk_end_ns_ = std::max(bulk_end_ns_, note.modelled_ns);
  return true;
}

uint32_t KvTransfer::Impl::poll() {
  if (pending_.empty() && told == bool(failure)) return 0;
  uint32_t handled = sender_ ? sender_->progress() : 0;
  uint64_t bytes = kPollBytes;
  for (bool again = true; std::exchange(again, false);) {
    size_t kept = 0;
    for (size_t i = 0; i < pending_.size(); ++i) { // submit() may append meanwhile
      const uint32_t index = pending_[i];
      if (advance(steps_[index], index, bytes)) ++handled, again = stats.bulk; // those that waited for it
      else pending_[kept++] = index;
    }
    pending_.resize(kept);
  }
  if (failure && !in_flight()) tell_abort();
  if (bytes != kPollBytes) ++handled;
  arm();
  return handled;
}

// Keeps the descriptor readable exactly while a poll can get on.
void KvTransfer::Impl::arm() {
  if (!more_) return;
  const bool pending = !pending_.empty();
  const bool more = pending && (failure || !sender_ || sender_->copies()), tick = pending && !more;
  if (more != has_more_) {
    has_more_ = more;
    uint64_t v = 1;
    if (more) (void)!write(more_.get(), &v, sizeof v);
    else (void)!read(more_.get(), &v, sizeof v);
  }
  if (tick || tick != has_timer_) {
    uint64_t fired;
    (void)!read(timer_.get(), &fired, sizeof fired);
  }
  if (tick != has_timer_) {
    has_timer_ = tick;
    itimerspec t{};
    t.it_interval.tv_nsec = t.it_value.tv_nsec = tick ? kTickNs : 0;
    timerfd_settime(timer_.get(), 0, &t, nullptr);
  }
}

// ---- the public face ----

KvTransfer::KvTransfer(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
KvTransfer::KvTransfer(KvTransfer&&) noexcept = default;
KvTransfer::~KvTransfer() = default;

Result<KvTransfer> KvTransfer::open(const Instance& in, Session& s, const std::string& ticket, std::vector<KvSource> sources, uint64_t tokens, const TransferOptions& o,
                                    uint64_t deadline_ns) {
  BATON_ASSIGN(KvTransfer t, begin(in, s, ticket, std::move(sources), tokens, o, deadline_ns));
  std::optional<Status> opened;
  t.impl_->ep->drive(BATON_NO_DEADLINE, [&] { return (opened = t.opened()).has_value(); });
  if (!opened->ok()) return opened->error();
  return t;
}
Result<KvTransfer> KvTransfer::begin(const Instance& in, Session& s, const std::string& ticket, std::vector<KvSource> sources, uint64_t tokens, const TransferOptions& o,
                                     uint64_t deadline_ns) {
  return begin(in, s.impl(), ticket, std::move(sources), tokens, o, deadline_ns);
}
Result<KvTransfer> KvTransfer::begin(const Instance& in, Session::Impl& s, const std::string& ticket, std::vector<KvSource> sources, uint64_t tokens, const TransferOptions& o,
                                     uint64_t deadline_ns) {
  auto impl = std::make_unique<Impl>(in, s);
  BATON_TRY(impl->begin(ticket, std::move(sources), tokens, o, deadline_ns));
  return KvTransfer(std::move(impl));
}

std::optional<Status> KvTransfer::opened() { return impl_->opened(); }
const Queue& KvTransfer::queue() const { return impl_->queue; }
uint32_t KvTransfer::layers() const { return uint32_t(impl_->layers); }
const KvTransfer::Stats& KvTransfer::stats() const { return impl_->stats; }
Status KvTransfer::seal(const Message& m, uint64_t deadline_ns) { return impl_->seal(m, deadline_ns); }
Status KvTransfer::alive() const {
  if (impl_->failure) return *impl_->failure;
  return {};
}
bool KvTransfer::sent() const { return !impl_->failure && impl_->stats.spans.size() && impl_->left() == 0; }
void KvTransfer::abort(const Error& cause) { impl_->fail(cause); }

Op KvTransfer::copy(uint32_t source, uint32_t layer) const {
  Op o;
  o.opcode = BATON_OP_COPY;
  o.plan_op = 1;
  o.u.plan.plan = impl_.get();
  o.u.plan.step = uint64_t(source) * impl_->layers + layer;
  if (source >= impl_->sources || layer >= impl_->layers) o.u.plan.step = UINT64_MAX; // refused by the queue
  return o;
}

void forget_memory(Endpoint& ep, const Buffer& b) {
  if (auto base = b.map(); base.ok()) forget_source(ep.impl(), *base);
}
void forget_memory(Endpoint& ep, const HostMemory& m) { forget_source(ep.impl(), m.base); }

}  // namespace baton::transport
