#include "tools/baton/one_device.hpp"

#include "tools/model/fail.hpp"

#include <algorithm>

namespace baton::runtime {

namespace {

// Steps a run until it is over, the deadline has passed or the user has had enough.
template <class Run, class Step>
Status drive(const Instance& in, Run& run, uint64_t deadline_ns, const volatile int* stop, Step each) {
  for (;;) {
    RunState s = run.step();
    each();
    if (s == RunState::done) return {};
    if (s == RunState::failed) return run.error();
    if (stop && *stop) run.cancel(Error(BATON_CANCELLED, "interrupted", "the request was cancelled"));
    else if (now_ns() >= deadline_ns) run.cancel(Error(BATON_DEADLINE, "the request took longer than --timeout", "raise --timeout"));
    else in.poll_wait(std::min(deadline_ns, deadline_in_ms(20)));
  }
}

}  // namespace

Result<std::unique_ptr<OneDevice>> OneDevice::open(Shelf& shelf, SpanLog& log, const std::string& uri, const model::Model& m, EngineOptions o) {
  std::unique_ptr<OneDevice> one(new OneDevice(shelf, log));
  o.tp = 1;
  one->vocab_ = m.config.vocab;
  BATON_ASSIGN(one->prefill_, PrefillEngine::open(shelf, log, uri, m, o));
  DecodeEngine::Shared shared{&one->prefill_->kv(0), one->prefill_->layout(0)};
  BATON_ASSIGN(one->decode_, DecodeEngine::open(shelf, log, uri, m, o, &shared));
  return one;
}

Status OneDevice::prefill(std::span<const int32_t> ids, const Params& p, const Blocks& blocks, Answer& a, uint64_t deadline_ns, const volatile int* stop) {
  a.began = {now_ns(), log_.clock_ns()};
  BATON_ASSIGN(auto run, prefill_->start({ids, blocks.ids(), p.sampling, p.logits, a.began.modelled}));
  BATON_TRY(drive(shelf_.instance(), *run, deadline_ns, stop, [] {}));
  a.tokens.push_back({run->token(), run->token_wall_ns(), run->token_modelled_ns()});
  a.logits.assign(run->logits().begin(), run->logits().end());
  a.prefill.spans = log_.spans(run->tag());
  return {};
}

Result<Answer> OneDevice::generate(std::span<const int32_t> ids, const Params& p, const std::function<void(const Token&)>& on_token, uint64_t deadline_ns,
                                   const volatile int* stop) {
  if (ids.size() > context())
    return fail(BATON_INVALID_ARGUMENT, "shorten the prompt", "the prompt has {} tokens, the context is {}", ids.size(), context());
  Answer a;
  a.prompt_tokens = uint32_t(ids.size());
  a.vocab = vocab_;
  uint32_t wanted = p.max_tokens ? p.max_tokens - 1 : 0;
  uint32_t steps = std::min(wanted, context() - a.prompt_tokens);
  const OpenDevice& d = prefill_->device();
  a.prefill = {"prefill", d.given, d.title(), d.info.timing, 1, {}};
  a.decode = {"decode", d.given, d.title(), d.info.timing, 1, {}};
  BATON_ASSIGN(Blocks blocks, prefill_->pool().take(prefill_->pool().blocks_for(uint64_t(a.prompt_tokens) + steps)));
  BATON_TRY(prefill(ids, p, blocks, a, deadline_ns, stop));
  if (on_token) on_token(a.tokens[0]);
  BATON_ASSIGN(auto run, decode_->start({{blocks.ids().begin(), blocks.ids().end()}, a.prompt_tokens, steps, p.sampling, !p.ignore_eos, p.logits}));
  BATON_TRY(run->begin(a.tokens[0].id, a.tokens[0].modelled_ns, nullptr, 0));
  size_t told = 0;
  BATON_TRY(drive(shelf_.instance(), *run, deadline_ns, stop, [&] {
    for (; told < run->tokens().size(); ++told) {
      a.tokens.push_back(run->tokens()[told]);
      if (on_token) on_token(a.tokens.back());
    }
  }));
  a.logits.insert(a.logits.end(), run->logits().begin(), run->logits().end());
  a.finish = run->stopped() ? "stop" : "length";
  a.context_full = steps < wanted && !run->stopped();
  a.decode.spans = log_.spans(run->tag());
  return a;
}

}  // namespace baton::runtime
