#include "tools/baton/decode_engine.hpp"

#include "tools/model/fail.hpp"
#include "tools/model/shard.hpp"

#include <algorithm>
#include <cstring>

namespace baton::runtime {

using model::Constants;
using model::Numbers;
using model::Shard;

Result<std::unique_ptr<DecodeEngine>> DecodeEngine::open(Shelf& shelf, SpanLog& log, const std::string& uri, const model::Model& m,
                                                         const EngineOptions& o, const Shared* shared) {
  std::unique_ptr<DecodeEngine> e(new DecodeEngine(shelf, log));
  BATON_ASSIGN(e->context_, context_of(m.config, o));
  BATON_ASSIGN(Numbers numbers, Numbers::of(m, o.precision));
  BATON_ASSIGN(Shard whole, Shard::make(m.config, 0, 1));
  BATON_ASSIGN(e->device_, shelf.get(uri));
  const Device& d = e->device_->device;
  const DeviceInfo& info = e->device_->info;
  const baton_heap_info heap = info.heap_count ? info.heaps[0] : baton_heap_info{};
  e->vocab_ = m.config.vocab;
  e->stops_ = m.config.eos;
  e->launch_tokens_ = o.launch_tokens;
  if (shared) {
    e->layout_ = shared->layout;
    e->shared_ = shared->kv;
  } else {
    uint64_t block_bytes = kv_layout(m.config, numbers, whole, o.order, o.block_tokens, 1).bytes();
    e->layout_ = kv_layout(m.config, numbers, whole, o.order, o.block_tokens, blocks_of(o, e->context_, block_bytes, heap.bytes_total));
    BATON_TRY(e->layout_.check());
    BATON_ASSIGN(e->kv_, d.alloc(e->layout_.bytes()));
    if (!heap.mappable || !heap.exportable) { BATON_ASSIGN(e->landing_, shelf.stage(e->layout_.bytes())); }
  }
  e->pool_.emplace(e->layout_.blocks, e->layout_.block_tokens);
  BATON_ASSIGN(program::Program p, decode_program(m, numbers, whole, e->layout_, {1, e->context_}));
  BATON_ASSIGN(Constants constants, Constants::gather(m, whole));
  BATON_ASSIGN(e->program_, d.load(program::serialize(p), constants.list()));
  BATON_ASSIGN(e->queue_, d.queue(0));
  return e;
}

DecodeEngine::~DecodeEngine() { queue_.reset(); }

// Memory is written before it is read: a run that stops early leaves the rest of its batch untouched.
Status DecodeEngine::clear(const Buffer& b) {
  BATON_ASSIGN(Timeline t, shelf_.instance().timeline("clear"));
  BATON_TRY(queue_.submit(fill(b, 0, b.bytes() / 4 * 4, 0, 4).signal(t, 1)));
  return t.wait_until(1, deadline_in_ms(10000));
}

Result<std::unique_ptr<DecodeRun::Slot>> DecodeEngine::take_slot(bool logits) {
  std::unique_ptr<DecodeRun::Slot> s;
  if (!slots_.empty()) {
    s = std::move(slots_.back());
    slots_.pop_back();
  } else {
    s = std::make_unique<DecodeRun::Slot>();
    const Device& d = device_->device;
    uint64_t tokens = uint64_t(context_ + 1) * 4, table = uint64_t(pool_->blocks_for(context_)) * 4;
    BATON_ASSIGN(s->tokens, d.alloc(tokens));
    BATON_ASSIGN(s->table, d.alloc(table));
    BATON_ASSIGN(s->tokens_host, shelf_.stage(tokens));
    BATON_ASSIGN(s->table_host, shelf_.stage(table));
    BATON_TRY(clear(s->tokens));
  }
  if (logits && !s->logits) {
    uint64_t bytes = uint64_t(rows()) * vocab_ * 4;
    BATON_ASSIGN(s->logits, device_->device.alloc(bytes));
    BATON_ASSIGN(s->logits_host, shelf_.stage(bytes));
    BATON_TRY(clear(s->logits));
  }
  return s;
}

Result<std::unique_ptr<DecodeRun>> DecodeEngine::start(DecodeJob job) {
  if (uint64_t(job.position) + job.steps > context_)
    return fail(BATON_INVALID_ARGUMENT, "ask for fewer tokens", "{} prompt tokens and {} steps exceed the context of {}", job.position, job.steps, context_);
  std::unique_ptr<DecodeRun> run(new DecodeRun(*this));
  if (Status s = run->prepare(std::move(job)); !s.ok()) {
    run->cancel(s.error());
    return s.error();
  }
  return run;
}

Status DecodeRun::prepare(DecodeJob job) {
  job_ = std::move(job);
  DecodeEngine& e = engine_;
  const Instance& in = e.shelf_.instance();
  tag_ = e.log_.open();
  BATON_ASSIGN(order_, in.timeline("decode"));
  BATON_ASSIGN(marks_, in.timeline("tokens"));
  BATON_ASSIGN(begun_, in.timeline("first token"));
  BATON_ASSIGN(slot_, e.take_slot(job_.logits));
  std::memset(slot_->table_host.data, 0, slot_->table_host.buffer.bytes());
  std::memcpy(slot_->table_host.data, job_.blocks.data(), std::min<uint64_t>(job_.blocks.size() * 4, slot_->table_host.buffer.bytes()));
  return e.queue_.submit(copy(slot_->table_host.buffer, 0, slot_->table, 0, slot_->table.bytes()).signal(order_, ++chain_).tagged(tag_));
}

Status DecodeRun::land(const Timeline& landed, const transport::KvMove& move) {
  DecodeEngine& e = engine_;
  if (!e.copies()) return {};
  std::vector<Op> ops;
  for (uint32_t l = 0; l < e.layout_.layers; ++l)
    for (const transport::KvSegment& s : move.layer(l)) {
      Op op = copy(e.landing_.buffer, s.src, e.kv_, s.dst, s.bytes).wait(landed, l + 1).wait(order_, chain_).tagged(tag_);
      ops.push_back(op.signal(order_, ++chain_));
    }
  return e.queue_.submit(ops);
}

Status DecodeRun::begin(int32_t first, uint64_t modelled_ns, const Timeline* landed, uint32_t layers) {
  DecodeEngine& e = engine_;
  begun_flag_ = true;
  std::memcpy(slot_->tokens_host.data, &first, 4);
  begun_.signal(1, modelled_ns);
  Op op = copy(slot_->tokens_host.buffer, 0, slot_->tokens, 0, 4).wait(begun_, 1).wait(order_, chain_).tagged(tag_);
  BATON_TRY(e.queue_.submit(op.signal(order_, chain_ + 1)));
  ++chain_;
  if (landed) {
    BATON_TRY(e.queue_.submit(nop().wait(*landed, layers).wait(order_, chain_).signal(order_, chain_ + 1).tagged(tag_)));
    ++chain_;
  }
  stopped_ = job_.stop && std::find(e.stops_.begin(), e.stops_.end(), first) != e.stops_.end();
  return {};
}

Status DecodeRun::submit_batch() {
  DecodeEngine& e = engine_;
  uint32_t limit = e.launch_tokens_ ? e.launch_tokens_ : e.context_;
  batch_ = std::min({e.launch_tokens_ ? next_batch_ : limit, limit, job_.steps - done_});
  next_batch_ = std::min(next_batch_ * 2, limit);
  uint64_t at = uint64_t(done_) * 4, row = uint64_t(e.vocab_) * 4;
  std::vector<baton_binding> bindings = {bind("tokens", slot_->tokens, at, uint64_t(batch_ + 1) * 4), bind("table", slot_->table), bind("cache", e.kv())};
  if (job_.logits) bindings.push_back(bind("logits", slot_->logits, 0, batch_ * row));
  int64_t args[] = {int64_t(job_.position) + done_, int64_t(batch_), float_arg(job_.sampling.temperature), float_arg(job_.sampling.top_p),
                    int64_t(job_.sampling.seed), job_.stop ? 1 : 0};
  Op op = launch(e.program_, bindings, args).progress(marks_, done_).wait(order_, chain_).signal(order_, chain_ + 1).tagged(tag_);
  BATON_TRY(e.queue_.submit(op));
  ++chain_;
  Op back = copy(slot_->tokens, at + 4, slot_->tokens_host.buffer, at + 4, uint64_t(batch_) * 4).wait(order_, chain_).signal(order_, chain_ + 1).tagged(tag_);
  BATON_TRY(e.queue_.submit(back));
  ++chain_;
  if (!job_.logits) return {};
  Op rows = copy(slot_->logits, 0, slot_->logits_host.buffer, 0, batch_ * row).wait(order_, chain_).signal(order_, chain_ + 1).tagged(tag_);
  BATON_TRY(e.queue_.submit(rows));
  ++chain_;
  return {};
}

// Takes the tokens of the batch that is back, with the times of their marks.
Status DecodeRun::harvest() {
  DecodeEngine& e = engine_;
  const std::vector<Span>& spans = e.log_.spans(tag_);
  std::vector<Token> times;
  for (; spans_seen_ < spans.size(); ++spans_seen_)
    if (spans[spans_seen_].what == "mark") times.push_back({0, spans[spans_seen_].wall_end, spans[spans_seen_].modelled_end});
  uint64_t now = now_ns(), modelled = order_.modelled_ns(chain_);
  uint32_t taken = 0;
  for (; taken < batch_ && !stopped_; ++taken) {
    Token t{0, now, modelled};
    if (taken < times.size()) t = times[taken];
    std::memcpy(&t.id, slot_->tokens_host.data + uint64_t(done_ + taken + 1) * 4, 4);
    if (t.id < 0 || uint32_t(t.id) >= e.vocab_)
      return fail(BATON_FAILED, "report this: the device returned what is no token", "step {} of {} gave token {}, the vocabulary has {}", done_ + taken + 1, job_.steps, t.id, e.vocab_);
    tokens_.push_back(t);
    stopped_ = job_.stop && std::find(e.stops_.begin(), e.stops_.end(), t.id) != e.stops_.end();
  }
  if (job_.logits) {
    auto* rows = reinterpret_cast<const float*>(slot_->logits_host.data);
    logits_.insert(logits_.end(), rows, rows + uint64_t(taken) * e.vocab_);
  }
  done_ += batch_;
  batch_ = 0;
  return {};
}

Status DecodeRun::alive() const {
  auto v = order_.value();
  return v ? Status() : Status(v.error());
}

RunState DecodeRun::step() {
  if (state_ != RunState::running) return state_;
  auto v = order_.value();
  if (!v) {
    cancel(v.error());
    return state_;
  }
  if (!begun_flag_ || *v < chain_) return state_;
  if (!ready_wall_ns_) ready_wall_ns_ = now_ns();
  Status s;
  if (batch_) s = harvest();
  if (s.ok() && (stopped_ || done_ >= job_.steps)) return state_ = RunState::done;
  if (s.ok()) s = submit_batch();
  if (!s.ok()) cancel(s.error());
  return state_;
}

void DecodeRun::cancel(const Error& cause) {
  if (state_ != RunState::running) return;
  error_ = cause;
  state_ = RunState::failed;
  if (order_) order_.poison(cause);
  if (marks_) marks_.poison(cause);
  fence_.start(engine_.shelf_.instance(), engine_.queue_);
}

bool DecodeRun::drained() {
  if (state_ == RunState::running) return false;
  return state_ == RunState::done || fence_.passed();
}

DecodeRun::~DecodeRun() {
  if (state_ == RunState::running) cancel(Error(BATON_CANCELLED, "the request was dropped"));
  // Blocks and buffers are used again after this: nothing may still write them.
  uint64_t deadline = deadline_in_ms(5000);
  while (!drained() && now_ns() < deadline) engine_.shelf_.instance().poll_wait(deadline_in_ms(10));
  if (slot_) engine_.slots_.push_back(std::move(slot_));
  engine_.log_.close(tag_);
}

}  // namespace baton::runtime
