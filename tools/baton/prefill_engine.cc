#include "tools/baton/prefill_engine.hpp"

#include "tools/model/fail.hpp"
#include "tools/model/shard.hpp"

#include <algorithm>
#include <cstring>

namespace baton::runtime {

using model::Constants;
using model::Model;
using model::Numbers;
using model::Shard;

Status PrefillEngine::open_rank(const Model& m, const EngineOptions& o, uint32_t r) {
  BATON_ASSIGN(Numbers numbers, Numbers::of(m, o.precision));
  BATON_ASSIGN(Shard shard, Shard::make(m.config, r, o.tp));
  Rank rank;
  rank.layout = kv_layout(m.config, numbers, shard, o.order, o.block_tokens, pool_->total());
  BATON_TRY(rank.layout.check());
  BATON_ASSIGN(program::Program p, prefill_program(m, numbers, shard, {rank.layout}, {chunk_, context_}));
  BATON_ASSIGN(Constants constants, Constants::gather(m, shard));
  const Device& d = device_->device;
  uint32_t heap = std::min(r, std::max(1u, device_->info.heap_count) - 1); // a lane's home heap has its number
  BATON_ASSIGN(rank.kv, d.alloc(rank.layout.bytes(), heap));
  BATON_ASSIGN(rank.ids, d.alloc(uint64_t(context_) * 4, heap));
  BATON_ASSIGN(rank.table, d.alloc(uint64_t(pool_->blocks_for(context_)) * 4, heap));
  BATON_ASSIGN(rank.token, d.alloc(4, heap));
  BATON_ASSIGN(rank.logits, d.alloc(uint64_t(vocab_) * 4, heap));
  BATON_ASSIGN(rank.program, d.load(program::serialize(p), constants.list(), r, r, o.tp));
  BATON_ASSIGN(rank.queue, d.queue(r));
  ranks_.push_back(std::move(rank));
  return {};
}

Result<std::unique_ptr<PrefillEngine>> PrefillEngine::open(Shelf& shelf, SpanLog& log, const std::string& uri, const Model& m, const EngineOptions& o) {
  std::unique_ptr<PrefillEngine> e(new PrefillEngine(shelf, log));
  BATON_ASSIGN(e->context_, context_of(m.config, o));
  BATON_ASSIGN(Shard first, Shard::make(m.config, 0, o.tp)); // refuses before anything is opened
  BATON_ASSIGN(Numbers numbers, Numbers::of(m, o.precision));
  BATON_ASSIGN(e->device_, shelf.get(uri));
  const DeviceInfo& info = e->device_->info;
  if (o.tp > info.lanes || (o.tp > 1 && !info.collectives))
    return fail(BATON_UNSUPPORTED, "lower --tp or choose another device", "--tp {} on {}: it has {} lane{}{}", o.tp, info.uri, info.lanes, info.lanes == 1 ? "" : "s",
                info.collectives ? "" : " and no collectives");
  e->chunk_ = std::clamp(o.chunk, 1u, e->context_);
  e->vocab_ = m.config.vocab;
  e->layers_ = m.config.layers;
  uint64_t block_bytes = kv_layout(m.config, numbers, first, o.order, o.block_tokens, 1).bytes();
  e->pool_.emplace(blocks_of(o, e->context_, room_in(info, block_bytes)), o.block_tokens);
  BATON_ASSIGN(e->ids_, shelf.stage(uint64_t(e->context_) * 4));
  BATON_ASSIGN(e->table_, shelf.stage(uint64_t(e->pool_->blocks_for(e->context_)) * 4));
  BATON_ASSIGN(e->token_, shelf.stage(4));
  BATON_ASSIGN(e->logits_, shelf.stage(uint64_t(e->vocab_) * 4));
  for (uint32_t r = 0; r < o.tp; ++r) BATON_TRY(e->open_rank(m, o, r));
  return e;
}

PrefillEngine::~PrefillEngine() {
  for (Rank& r : ranks_) r.queue.reset(); // waits for what runs before programs and memory go
}

Result<std::unique_ptr<PrefillRun>> PrefillEngine::start(const PrefillJob& job) {
  if (busy_) return fail(BATON_BUSY, "wait for it to end", "{} is prefilling another prompt", device_->info.uri);
  if (job.ids.empty()) return fail(BATON_INVALID_ARGUMENT, "give a prompt", "the prompt has no tokens");
  if (job.ids.size() > context_)
    return fail(BATON_INVALID_ARGUMENT, "shorten the prompt", "the prompt has {} tokens, the context is {}", job.ids.size(), context_);
  if (job.blocks.size() < pool_->blocks_for(job.ids.size()))
    return fail(BATON_INVALID_ARGUMENT, "take more blocks", "{} KV blocks for a prompt of {} tokens", job.blocks.size(), job.ids.size());
  std::unique_ptr<PrefillRun> run(new PrefillRun(*this));
  busy_ = true;
  if (Status s = run->submit(job); !s.ok()) {
    run->cancel(s.error());
    while (!run->drained()) instance_.poll_wait(deadline_in_ms(10));
    return s.error();
  }
  return run;
}

Status PrefillRun::submit(const PrefillJob& job) {
  PrefillEngine& e = engine_;
  wants_logits_ = job.logits;
  tag_ = e.log_.open();
  std::memcpy(e.ids_.data, job.ids.data(), job.ids.size_bytes());
  std::memset(e.table_.data, 0, e.table_.buffer.bytes());
  std::memcpy(e.table_.data, job.blocks.data(), std::min<uint64_t>(job.blocks.size_bytes(), e.table_.buffer.bytes()));
  BATON_ASSIGN(start_, e.instance_.timeline("request"));
  for (uint32_t r = 0; r < e.ranks(); ++r) {
    Rank rank;
    BATON_ASSIGN(rank.order, e.instance_.timeline("prefill rank " + std::to_string(r)));
    BATON_ASSIGN(rank.made, e.instance_.timeline("made rank " + std::to_string(r)));
    ranks_.push_back(std::move(rank));
  }
  for (uint32_t r = 0; r < e.ranks(); ++r) BATON_TRY(submit_rank(job, r));
  start_.signal(1, job.modelled_start_ns);
  return {};
}

// Inputs to the device, one launch a chunk, and on rank 0 the token back.
Status PrefillRun::submit_rank(const PrefillJob& job, uint32_t r) {
  PrefillEngine& e = engine_;
  PrefillEngine::Rank& dev = e.ranks_[r];
  Rank& rank = ranks_[r];
  uint64_t n = 0, tokens = job.ids.size();
  auto chain = [&](Op op) {
    if (n == 0) op.wait(start_, 1);
    else op.wait(rank.order, n);
    return op.signal(rank.order, ++n).tagged(tag_);
  };
  std::vector<Op> ops;
  ops.push_back(chain(copy(e.ids_.buffer, 0, dev.ids, 0, tokens * 4)));
  ops.push_back(chain(copy(e.table_.buffer, 0, dev.table, 0, e.table_.buffer.bytes())));
  BATON_TRY(dev.queue.submit(ops));
  for (uint64_t at = 0; at < tokens; at += e.chunk_) {
    uint64_t rows = std::min<uint64_t>(e.chunk_, tokens - at);
    bool last = at + rows == tokens;
    std::vector<baton_binding> bindings = {bind("ids", dev.ids, at * 4, rows * 4), bind("table", dev.table), bind("cache", dev.kv), bind("token", dev.token)};
    if (last && job.logits && r == 0) bindings.push_back(bind("logits", dev.logits));
    int64_t args[] = {int64_t(rows), int64_t(at), float_arg(job.sampling.temperature), float_arg(job.sampling.top_p), int64_t(job.sampling.seed)};
    Op op = chain(launch(dev.program, bindings, args));
    if (last) op.progress(rank.made); // a layer may travel once the whole prompt is in it
    BATON_TRY(dev.queue.submit(op));
  }
  launched_ = n;
  if (r != 0) return {};
  BATON_TRY(dev.queue.submit(chain(copy(dev.token, 0, e.token_.buffer, 0, 4))));
  if (job.logits) BATON_TRY(dev.queue.submit(chain(copy(dev.logits, 0, e.logits_.buffer, 0, uint64_t(e.vocab_) * 4))));
  last_ = n;
  return {};
}

RunState PrefillRun::step() {
  if (state_ != RunState::running) return state_;
  bool all = true;
  for (uint32_t r = 0; r < ranks_.size(); ++r) {
    auto v = ranks_[r].order.value();
    if (!v) {
      cancel(v.error());
      return state_;
    }
    all &= *v >= (r == 0 ? last_ : launched_);
  }
  if (!all) return state_;
  std::memcpy(&token_, engine_.token_.data, 4);
  token_wall_ns_ = now_ns();
  token_modelled_ns_ = ranks_[0].order.modelled_ns(last_);
  release();
  return state_ = RunState::done;
}

void PrefillRun::cancel(const Error& cause) {
  if (state_ != RunState::running) return;
  error_ = cause;
  state_ = RunState::failed;
  for (uint32_t r = 0; r < ranks_.size(); ++r) {
    ranks_[r].order.poison(cause);
    ranks_[r].made.poison(cause);
    ranks_[r].fence.start(engine_.instance_, engine_.ranks_[r].queue);
  }
}

bool PrefillRun::drained() {
  if (state_ == RunState::running) return false;
  if (state_ == RunState::done) return true;
  for (Rank& r : ranks_)
    if (!r.fence.passed()) return false;
  release();
  return true;
}

void PrefillRun::release() {
  if (std::exchange(holds_, false)) engine_.busy_ = false;
}

std::span<const float> PrefillRun::logits() const {
  if (!wants_logits_ || state_ != RunState::done) return {};
  return {reinterpret_cast<const float*>(engine_.logits_.data), engine_.vocab_};
}

PrefillRun::~PrefillRun() {
  if (state_ == RunState::running) cancel(Error(BATON_CANCELLED, "the prefill was dropped"));
  // Blocks go back to the pool after this: nothing may still write them.
  uint64_t deadline = deadline_in_ms(5000);
  while (!drained() && now_ns() < deadline) engine_.instance_.poll_wait(deadline_in_ms(10));
  engine_.log_.close(tag_);
}

}  // namespace baton::runtime
