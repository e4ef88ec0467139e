#include "emulators/cs3/stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace baton::cs3 {

Stage::Stage(Plan plan, const engine::Executable& exe, std::vector<engine::Binding> bindings, std::span<const int64_t> args, const char* const names[4],
             Calendar& calendar, const engine::CostModel* cost, Tell tell)
    : plan_(plan), calendar_(calendar), cost_(cost), tell_(std::move(tell)) {
  std::optional<std::span<uint8_t>>* const places[4] = {nullptr, &plan_.input, &plan_.output, &plan_.tokens};
  for (size_t role = 1; role < 4; ++role) {
    auto& place = *places[role];
    if (!place || !place->empty()) continue;
    own_[role].resize(plan_.own_bytes[role]);
    place = std::span(own_[role]);
    bindings.push_back({names[role], *place});
  }
  now_ns_ = plan_.start_ns + plan_.launch_ns;
  seen_ns_ = cost_ ? uint64_t(std::llround(cost_->launch_ns())) : 0;
  engine::RunHooks hooks;
  if (plan_.progress)
    hooks.on_mark = [this](uint64_t k, uint64_t offset_ns) {
      marks_.push_back({k, offset_ns});
      return true;  // a cancel ends the launch between two steps
    };
  run_.emplace(exe, bindings, args, std::move(hooks));
}

// Those who wait for this stage hear of its end, whatever ended it.
Stage::~Stage() {
  if (plan_.stages > 1 && !told_) send(StageSays::failed, {});
}

uint64_t Stage::own_bytes() const {
  uint64_t n = 0;
  for (const auto& o : own_) n += o.size();
  return n;
}

bool Stage::waits() const {
  if (plan_.stages == 1) return false;
  if (!first()) return begins_;
  return drains_ || (begins_ && iteration_ > 0 && plan_.tokens);
}

bool Stage::ready(Inbox& inbox) const {
  while (!inbox.empty() && inbox.front().frame.number < plan_.number) inbox.take();
  return !waits() || (!inbox.empty() && inbox.front().frame.number == plan_.number);
}

uint64_t Stage::ready_ns(Inbox& inbox) const {
  return waits() && !inbox.empty() ? std::max(now_ns_, inbox.front().frame.time_ns) : now_ns_;
}

void Stage::send(StageSays what, std::span<const uint8_t> payload) {
  StageMessage m;
  m.frame = {plan_.number, now_ns_ + (cost_ ? uint64_t(std::llround(cost_->hop_ns(payload.size()))) : 0), iteration_, uint32_t(payload.size()), plan_.slot,
             uint8_t(what), {}};
  m.payload.assign(payload.begin(), payload.end());
  told_ = what == StageSays::end || what == StageSays::failed;
  tell_.send(std::move(m));
}

Stage::Went Stage::fail(const Error& e) {
  error_ = e;
  return Went::over;
}

// What was waited for: activations, a token, or the end.
bool Stage::take(StageMessage&& m) {
  const auto says = StageSays(m.frame.kind);
  now_ns_ = std::max(now_ns_, m.frame.time_ns);
  if (says == StageSays::failed) return fail(Error(BATON_CANCELLED, "another stage of the pipeline failed", "see the failure of that stage")), false;
  if (says == StageSays::end) {
    if (!final()) send(StageSays::end, {});
    told_ = true;
    return false;
  }
  const uint32_t awaited = first() ? iteration_ - 1 : iteration_;
  std::span<uint8_t> to = first() ? plan_.tokens->subspan(0) : plan_.input ? *plan_.input : std::span<uint8_t>();
  const uint64_t at = first() ? uint64_t(iteration_) * sizeof(int32_t) : 0;
  if (m.frame.iteration != awaited || (first() ? m.payload.size() != sizeof(int32_t) : m.payload.size() > to.size()) || at + m.payload.size() > to.size())
    return fail(Error(BATON_CORRUPT, fmt::format("{} bytes of iteration {} came where iteration {} was due", m.payload.size(), m.frame.iteration, awaited),
                      "the client's bug: launch the stages of one program together, each with its own number")), false;
  std::memcpy(to.data() + at, m.payload.data(), m.payload.size());
  if (!first() || says != StageSays::last) return true;
  // A stop token: the stages between have begun to wait for more.
  for (uint64_t i = at + sizeof(int32_t); i + sizeof(int32_t) <= to.size(); i += sizeof(int32_t)) std::memset(to.data() + i, 0xff, sizeof(int32_t));
  if (!drains_) send(StageSays::end, {});
  told_ = true;
  return false;
}

// What has run since then had the wafer to itself. When that was is known only now that it is known how long it took.
void Stage::settle() {
  const uint64_t cost = run_->modelled_ns();
  if (cost > seen_ns_) now_ns_ = calendar_.take(now_ns_, cost - seen_ns_);
  seen_ns_ = std::max(seen_ns_, cost);
  for (const Mark& m : marks_) tell_.mark(m.k, now_ns_ - (seen_ns_ - std::min(m.offset_ns, seen_ns_)));
  marks_.clear();
}

Stage::Went Stage::end_iteration(bool last) {
  if (plan_.stages > 1) {
    if (!final()) send(StageSays::data, *plan_.output);
    else if (plan_.tokens) send(last ? StageSays::last : StageSays::data, plan_.tokens->subspan(size_t(iteration_ + 1) * sizeof(int32_t), sizeof(int32_t)));
  }
  ++iteration_;
  begins_ = true;
  if (!last) return Went::on;
  if (first() && plan_.stages > 1 && plan_.tokens) {
    drains_ = true;
    return Went::on;
  }
  told_ = true;
  return Went::over;
}

Stage::Went Stage::step(Inbox& inbox) {
  if (waits()) {
    if (!take(inbox.take())) return Went::over;
    if (drains_) {
      told_ = true;
      return Went::over;
    }
  }
  begins_ = false;
  const uint32_t done = run_->steps_done();
  const engine::Step went = run_->step();
  const bool iterated = run_->steps_done() > done;
  if (went == engine::Step::more && !iterated && marks_.empty()) return Went::on;  // a mark says when it was reached
  settle();
  if (went == engine::Step::failed) return fail(run_->error());
  if (iterated) return end_iteration(went == engine::Step::done);
  if (went == engine::Step::more) return Went::on;
  if (!final()) send(StageSays::end, {});  // a loop that had nothing to do
  told_ = true;
  return Went::over;
}

}  // namespace baton::cs3
