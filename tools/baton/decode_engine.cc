#include "tools/baton/decode_engine.hpp"

#include "tools/model/fail.hpp"
#include "tools/model/shard.hpp"
#include "tools/model/wafers.hpp"

#include <algorithm>
#include <cstring>

namespace baton::runtime {

using model::Constants;
using model::Numbers;
using model::Shard;

// Blocks that the placement leaves, less what four requests have beside their KV: logits, tokens, tables, scratch.
uint64_t DecodeEngine::room_on(const cs3::Placement& p, const EngineOptions& o) const {
  constexpr uint64_t kRequests = 4, kGranule = 4096; // a table and tokens are a granule each, or little more
  uint64_t tokens = UINT64_MAX;
  for (size_t i = 0; i < p.wafers.size(); ++i) {
    const cs3::WaferUse& w = p.wafers[i];
    uint64_t beside = kRequests * (2 * kGranule + uint64_t(context_) * 8) + (kRequests - 1) * w.scratch;
    if (i + 1 == p.wafers.size()) beside += kRequests * (uint64_t(rows()) * vocab_ * 4 + kGranule);
    tokens = std::min(tokens, w.kv_tokens - std::min(w.kv_tokens, beside / std::max<uint64_t>(1, w.kv_token)));
  }
  return tokens / o.block_tokens;
}

// Over how many wafers, how many blocks each keeps, and where the KV of each layer is.
Status DecodeEngine::place(const EngineOptions& o, const model::Model& m, const Numbers& numbers, const Shard& whole) {
  const DeviceInfo& info = device_->info;
  const model::ModelConfig& c = m.config;
  const uint32_t one = (context_ + o.block_tokens - 1) / o.block_tokens; // blocks of a context
  uint32_t blocks = 0;
  std::optional<cs3::Placement> on;
  if (model::has_wafers(info)) {
    BATON_ASSIGN(const cs3::Shape shape, model::decode_shape(m, numbers, whole));
    BATON_ASSIGN(on, model::place_on(info, shape, {.wafers = o.stages, .context = uint64_t(o.blocks ? o.blocks : one) * o.block_tokens}));
    blocks = blocks_of(o, context_, room_on(*on, o));
  } else if (o.stages > 1) {
    return fail(BATON_INVALID_ARGUMENT, "leave out --stages", "{} stages; {} has no wafers", o.stages, device_->given);
  } else {
    blocks = blocks_of(o, context_, room_in(info, kv_layout(c, numbers, whole, o.order, o.block_tokens, 1).bytes()));
  }
  layout_ = kv_layout(c, numbers, whole, o.order, o.block_tokens, blocks);
  BATON_TRY(layout_.check());
  const transport::KvLayout here = layout_; // on the device
  if (o.spill_bytes) {
    BATON_ASSIGN(layout_.blocks, blocks_with_spill(here, o.spill_bytes));
    spill_.emplace(here.blocks, here.block_tokens);
  }
  const bool reached = info.heap_count && info.heaps[0].mappable && info.heaps[0].exportable;
  if (!reached || spills() || (on && on->wafers.size() > 1)) { BATON_ASSIGN(landing_, shelf_.stage(layout_.bytes())); }
  const model::Layouts layouts = on ? model::cut_layers(here, *on) : model::Layouts{here};
  for (const transport::KvLayout& l : layouts) {
    Stage s{.layout = l, .kv = {}, .ingress = {}, .egress = {}, .queue = {}};
    BATON_ASSIGN(s.kv, device_->device.alloc(l.bytes(), uint32_t(stages_.size())));
    if (copies()) {
      BATON_ASSIGN(s.ingress, transport::KvPlan::compile(layout_, l));
      if (spills()) { BATON_ASSIGN(s.egress, transport::KvPlan::compile(l, layout_)); }
      BATON_ASSIGN(s.queue, device_->device.queue(uint32_t(stages_.size())));
    }
    stages_.push_back(std::move(s));
  }
  return {};
}

Result<std::unique_ptr<DecodeEngine>> DecodeEngine::open(Shelf& shelf, SpanLog& log, const std::string& uri, const model::Model& m,
                                                         const EngineOptions& o, const Shared* shared) {
  std::unique_ptr<DecodeEngine> e(new DecodeEngine(shelf, log));
  BATON_ASSIGN(e->context_, context_of(m.config, o));
  BATON_ASSIGN(Numbers numbers, Numbers::of(m, o.precision));
  BATON_ASSIGN(Shard whole, Shard::make(m.config, 0, 1));
  BATON_ASSIGN(e->device_, shelf.get(uri));
  const Device& d = e->device_->device;
  e->vocab_ = m.config.vocab;
  e->stops_ = m.config.eos;
  e->launch_tokens_ = o.launch_tokens;
  BATON_ASSIGN(Constants constants, Constants::gather(m, whole));
  if (shared && o.spill_bytes)
    return fail(BATON_INVALID_ARGUMENT, "leave out --spill-bytes, or serve with 'baton worker --role decode'", "--spill-bytes {}: one device that takes one request after the other has nothing to spill", o.spill_bytes);
  if (shared) {
    e->layout_ = shared->layout;
    e->shared_ = shared->kv;
    e->stages_.push_back({.layout = shared->layout, .kv = {}, .ingress = {}, .egress = {}, .queue = {}});
  } else {
    BATON_TRY(e->place(o, m, numbers, whole));
  }
  e->pool_.emplace(e->layout_.blocks, e->layout_.block_tokens);
  model::Layouts layouts;
  for (const Stage& s : e->stages_) layouts.push_back(s.layout);
  BATON_ASSIGN(program::Program p, decode_program(m, numbers, whole, layouts, {1, e->context_}));
  BATON_ASSIGN(e->program_, d.load(program::serialize(p), constants.list()));
  BATON_ASSIGN(e->queue_, d.queue(0));
  BATON_ASSIGN(e->read_back_, d.queue(0));
  return e;
}

DecodeEngine::~DecodeEngine() { queue_.reset(); }

// Memory is written before it is read: a run that stops early leaves the rest of its logits untouched.
Status DecodeEngine::clear(const Buffer& b, const Queue& q) {
  BATON_ASSIGN(Timeline t, shelf_.instance().timeline("clear"));
  BATON_TRY(q.submit(fill(b, 0, b.bytes() / 4 * 4, 0, 4).signal(t, 1)));
  return t.wait_until(1, deadline_in_ms(10000));
}

Result<std::unique_ptr<DecodeRun::Slot>> DecodeEngine::take_slot(bool logits) {
  std::unique_ptr<DecodeRun::Slot> s;
  const Device& d = device_->device;
  if (!slots_.empty()) {
    s = std::move(slots_.back());
    slots_.pop_back();
  } else {
    s = std::make_unique<DecodeRun::Slot>();
    uint64_t tokens = uint64_t(context_ + 1) * 4, table = uint64_t(pool_->blocks_for(context_)) * 4;
    BATON_ASSIGN(s->tokens, d.alloc(tokens));
    for (uint32_t i = 0; i < stages(); ++i) {
      BATON_ASSIGN(Buffer b, d.alloc(table, i));
      s->tables.push_back(std::move(b));
    }
    BATON_ASSIGN(s->tokens_host, shelf_.stage(tokens));
    BATON_ASSIGN(s->table_host, shelf_.stage(table));
    if (stages() > 1) { BATON_ASSIGN(s->queue, d.queue(0)); }
    BATON_TRY(clear(s->tokens, queue_));
  }
  if (logits && !s->logits) {
    uint64_t bytes = uint64_t(rows()) * vocab_ * 4;
    BATON_ASSIGN(s->logits, d.alloc(bytes, stages() - 1)); // where the last layers are
    BATON_ASSIGN(s->logits_host, shelf_.stage(bytes));
    BATON_TRY(clear(s->logits, queue_));
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

const Queue& DecodeRun::queue() const { return slot_ && slot_->queue ? slot_->queue : engine_.queue_; }

std::vector<Timeline*> DecodeRun::timelines() {
  std::vector<Timeline*> all{&order_, &launched_, &read_, &marks_};
  for (Timeline& t : ingress_) all.push_back(&t);
  std::erase_if(all, [](Timeline* t) { return !*t; });
  return all;
}

Status DecodeRun::prepare(DecodeJob job) {
  job_ = std::move(job);
  DecodeEngine& e = engine_;
  const Instance& in = e.shelf_.instance();
  tag_ = e.log_.open();
  BATON_ASSIGN(order_, in.timeline("decode"));
  BATON_ASSIGN(launched_, in.timeline("launches"));
  BATON_ASSIGN(read_, in.timeline("read back"));
  BATON_ASSIGN(marks_, in.timeline("tokens"));
  BATON_ASSIGN(begun_, in.timeline("first token"));
  BATON_ASSIGN(slot_, e.take_slot(job_.logits));
  if (!e.spills()) return put_tables(job_.blocks);
  if (job_.blocks.size() > e.device_blocks())
    return fail(BATON_INVALID_ARGUMENT, "raise --blocks or shorten the request", "the request needs {} KV blocks, the device keeps {}", job_.blocks.size(), e.device_blocks());
  kept_ = job_.position;
  return {};
}

// Where its KV is on the device.
Status DecodeRun::put_tables(std::span<const int32_t> blocks) {
  std::memset(slot_->table_host.data, 0, slot_->table_host.buffer.bytes());
  std::memcpy(slot_->table_host.data, blocks.data(), std::min<uint64_t>(blocks.size_bytes(), slot_->table_host.buffer.bytes()));
  for (const Buffer& table : slot_->tables) {
    Op op = copy(slot_->table_host.buffer, 0, table, 0, table.bytes()).tagged(tag_);
    if (chain_) op = op.wait(order_, chain_);
    BATON_TRY(queue().submit(op.signal(order_, chain_ + 1)));
    ++chain_;
  }
  return {};
}

Status DecodeRun::wait_for(const Timeline& t, uint64_t value) {
  Op op = nop().wait(t, value).tagged(tag_);
  if (chain_) op = op.wait(order_, chain_);
  BATON_TRY(queue().submit(op.signal(order_, chain_ + 1)));
  ++chain_;
  return {};
}

Status DecodeRun::move(Way way, std::span<const int32_t> host, std::span<const int32_t> device, uint64_t from, uint64_t to, const Timeline* landed) {
  DecodeEngine& e = engine_;
  const uint64_t behind = chain_;
  for (const DecodeEngine::Stage& stage : e.stages_) {
    BATON_ASSIGN(transport::KvMove move, way == Way::in ? stage.ingress->instantiate(host, device, from, to) : stage.egress->instantiate(device, host, from, to));
    BATON_ASSIGN(Timeline there, e.shelf_.instance().timeline(way == Way::in ? "ingress" : "egress"));
    std::vector<Op> ops;
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < e.layout_.layers; ++l)
      for (const transport::KvSegment& s : move.layer(l)) {
        Op op = (way == Way::in ? copy(e.landing_.buffer, s.src, stage.kv, s.dst, s.bytes) : copy(stage.kv, s.src, e.landing_.buffer, s.dst, s.bytes)).tagged(tag_);
        if (landed) op = op.wait(*landed, l + 1);
        if (!ops.empty()) op = op.wait(there, ops.size());
        else if (behind && !landed) op = op.wait(order_, behind);
        if (way == Way::out && ops.empty()) op = op.wait(launched_, launches_);
        ops.push_back(op.signal(there, ops.size() + 1));
        bytes += s.bytes;
      }
    if (ops.empty()) continue; // of this stage
    BATON_TRY(stage.queue.submit(ops));
    ingress_.push_back(std::move(there));
    // Nothing runs before all stages have all of it.
    BATON_TRY(wait_for(ingress_.back(), ops.size()));
    if (e.spills() && !landed) (way == Way::in ? e.spill_->stats.bytes_in : e.spill_->stats.bytes_out) += bytes;
  }
  return {};
}

Status DecodeRun::land(const Timeline& landed, std::span<const int32_t> blocks, uint32_t tokens) {
  DecodeEngine& e = engine_;
  if (!e.copies()) return {};
  if (!e.spills()) return move(Way::in, blocks, blocks, 0, tokens, &landed);
  // With room it comes layer by layer; else it is in this host's memory until there is some. One that has not begun takes no place in the line.
  if (e.spill_->waiting.empty() && job_.blocks.size() <= e.spill_->room.free()) return come(&landed);
  return wait_for(landed, e.layout_.layers);
}

Status DecodeRun::begin(int32_t first, uint64_t modelled_ns, const Timeline* landed, uint32_t layers) {
  begun_flag_ = true;
  std::memcpy(slot_->tokens_host.data, &first, 4);
  begun_.signal(1, modelled_ns);
  Op op = copy(slot_->tokens_host.buffer, 0, slot_->tokens, 0, 4).wait(begun_, 1).tagged(tag_);
  if (chain_) op = op.wait(order_, chain_);
  BATON_TRY(queue().submit(op.signal(order_, chain_ + 1)));
  ++chain_;
  if (landed) {
    BATON_TRY(wait_for(*landed, layers));
  }
  stopped_ = job_.stop && std::find(engine_.stops_.begin(), engine_.stops_.end(), first) != engine_.stops_.end();
  return {};
}

// The next launch goes to the queue behind the one that runs: it begins with the token that that one ends with.
Status DecodeRun::submit_batch() {
  DecodeEngine& e = engine_;
  const uint32_t limit = e.launch_tokens_ ? e.launch_tokens_ : e.context_, at = submitted_;
  const uint32_t n = std::min({e.launch_tokens_ ? next_batch_ : limit, limit, job_.steps - at});
  next_batch_ = std::min(next_batch_ * 2, limit);
  uint64_t from = uint64_t(at) * 4, row = uint64_t(e.vocab_) * 4;
  std::vector<std::string> names; // outlive the bindings
  for (uint32_t i = 0; i < e.stages(); ++i)
    for (const char* what : {"table", "cache"}) names.push_back(model::binding_name(what, i, e.stages()));
  std::vector<baton_binding> bindings = {bind("tokens", slot_->tokens, from, uint64_t(n + 1) * 4)};
  for (uint32_t i = 0; i < e.stages(); ++i) {
    bindings.push_back(bind(names[2 * i].c_str(), slot_->tables[i]));
    bindings.push_back(bind(names[2 * i + 1].c_str(), e.kv(i)));
  }
  if (job_.logits) bindings.push_back(bind("logits", slot_->logits, 0, n * row));
  int64_t args[] = {int64_t(job_.position) + at, int64_t(n), float_arg(job_.sampling.temperature), float_arg(job_.sampling.top_p),
                    int64_t(job_.sampling.seed), job_.stop ? 1 : 0};
  Op op = launch(e.program_, bindings, args).progress(marks_, at).wait(order_, chain_).signal(launched_, launches_ + 1).tagged(tag_);
  // Handed over once the batch before the last one is back: two are in flight. One with logits waits for those before it to be read.
  const uint64_t back = job_.logits ? launches_ : launches_ ? launches_ - 1 : 0;
  if (back) op = op.wait(read_, back);
  BATON_TRY(queue().submit(op));
  ++launches_;
  batches_.push_back({at, n});
  submitted_ += n;
  Op tokens = copy(slot_->tokens, from + 4, slot_->tokens_host.buffer, from + 4, uint64_t(n) * 4).wait(launched_, launches_).tagged(tag_);
  if (launches_ > 1) tokens = tokens.wait(read_, launches_ - 1);
  if (!job_.logits) return e.read_back_.submit(tokens.signal(read_, launches_));
  Op rows = copy(slot_->logits, 0, slot_->logits_host.buffer, 0, n * row).wait(launched_, launches_).tagged(tag_);
  BATON_TRY(e.read_back_.submit(rows.signal(order_, chain_ + 1)));
  ++chain_;
  return e.read_back_.submit(tokens.wait(order_, chain_).signal(read_, launches_));
}

// Takes the tokens of the first batch, which is back, with the times of their marks.
Status DecodeRun::harvest() {
  DecodeEngine& e = engine_;
  const Batch b = batches_.front();
  batches_.pop_front();
  ++harvested_;
  if (stopped_) return {}; // it made nothing
  const std::vector<Span>& spans = e.log_.spans(tag_);
  for (; spans_seen_ < spans.size(); ++spans_seen_)
    if (spans[spans_seen_].what == "mark") times_.push_back({0, spans[spans_seen_].wall_end, spans[spans_seen_].modelled_end});
  uint64_t now = now_ns(), modelled = launched_.modelled_ns(harvested_);
  uint32_t taken = 0;
  for (; taken < b.tokens && !stopped_; ++taken) {
    Token t{0, now, modelled};
    if (!times_.empty()) {
      t = times_.front();
      times_.pop_front();
    }
    std::memcpy(&t.id, slot_->tokens_host.data + uint64_t(b.at + taken + 1) * 4, 4);
    if (t.id < 0 || uint32_t(t.id) >= e.vocab_)
      return fail(BATON_FAILED, "report this: the device returned what is no token", "step {} of {} gave token {}, the vocabulary has {}", b.at + taken + 1, job_.steps, t.id, e.vocab_);
    tokens_.push_back(t);
    stopped_ = job_.stop && std::find(e.stops_.begin(), e.stops_.end(), t.id) != e.stops_.end();
  }
  if (job_.logits) {
    auto* rows = reinterpret_cast<const float*>(slot_->logits_host.data);
    logits_.insert(logits_.end(), rows, rows + uint64_t(taken) * e.vocab_);
  }
  return {};
}

Status DecodeRun::alive() const {
  auto v = order_.value();
  return v ? Status() : Status(v.error());
}

RunState DecodeRun::step() {
  if (state_ != RunState::running) return state_;
  auto order = order_.value(), launched = launched_.value(), read = read_.value();
  for (const auto* v : {&order, &launched, &read}) {
    if (*v) continue;
    cancel(v->error());
    return state_;
  }
  if (!begun_flag_ || (launches_ == 0 && *order < chain_)) return state_;
  Status s;
  while (s.ok() && harvested_ < *read) s = harvest();
  // What is queued behind a stop token is over as soon as it begins; its memory is not given away before.
  if (s.ok() && batches_.empty() && (stopped_ || submitted_ >= job_.steps)) {
    leave_room();
    return state_ = RunState::done;
  }
  bool here = s.ok();
  if (s.ok() && engine_.spills()) {
    auto on = seated(*order);
    if (on) here = *on;
    else s = on.error();
  }
  if (here && !ready_wall_ns_) ready_wall_ns_ = now_ns();
  const size_t ahead = job_.logits ? 1 : 2;
  while (s.ok() && here && !yields() && !stopped_ && submitted_ < job_.steps && batches_.size() < ahead) s = submit_batch();
  if (!s.ok()) cancel(s.error());
  return state_;
}

void DecodeRun::cancel(const Error& cause) {
  if (state_ != RunState::running) return;
  error_ = cause;
  state_ = RunState::failed;
  for (Timeline* t : timelines()) t->poison(cause);
  const auto fence = [&](const Queue& q) {
    fences_.emplace_back();
    fences_.back().start(engine_.shelf_.instance(), q);
  };
  fence(queue());
  fence(engine_.read_back_);
  for (const DecodeEngine::Stage& s : engine_.stages_)
    if (s.queue) fence(s.queue);
  if (engine_.spills() && std::erase(engine_.spill_->waiting, this)) engine_.give_room();
}

bool DecodeRun::drained() {
  if (state_ == RunState::running) return false;
  return state_ == RunState::done || std::all_of(fences_.begin(), fences_.end(), [](const Fence& f) { return f.passed(); });
}

DecodeRun::~DecodeRun() {
  if (state_ == RunState::running) cancel(Error(BATON_CANCELLED, "the request was dropped"));
  // Blocks and buffers are used again after this: nothing may still write them.
  uint64_t deadline = deadline_in_ms(5000);
  while (!drained() && now_ns() < deadline) engine_.shelf_.instance().poll_wait(deadline_in_ms(10));
  leave_room();
  if (slot_) engine_.slots_.push_back(std::move(slot_));
  engine_.log_.close(tag_);
}

}  // namespace baton::runtime
