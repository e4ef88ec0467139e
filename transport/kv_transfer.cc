// The prefill side: moves each (source, layer) as one op of a queue of its own.
//
// A poll does a bounded amount of work (kPollBytes), so that launches and other queues are driven between two pieces of a layer. Ops of the
// queue may be in flight together; each completes, and its note goes out, when its own writes are visible at the sink.
#include "transport/kv_transfer.hpp"

#include "transport/kv_kept.hpp"

#include <fmt/format.h>

#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace baton::transport {
namespace {

constexpr uint64_t kPollBytes = 2u << 20;      // about 0.2 ms of copying
constexpr uint64_t kDrainNs = 1'000'000'000;   // for writes in flight when a transfer is destroyed
constexpr long kTickNs = 50'000;               // looks for completions where there is no descriptor to wait on

}  // namespace

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
  const bool unsettled = !told && sender_ && sender_->unsettled();
  if (pending_.empty() && !unsettled && told == bool(failure)) return 0;
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
  const bool pending = !pending_.empty() || (!told && sender_ && sender_->unsettled());
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
const KvTransfer::Stats& KvTransfer::stats() const {
  impl_->look();
  return impl_->stats;
}
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
