#include "hal/core/validate_points.h"

#include "hal/core/queue.h"
#include "hal/core/timeline.h"
#include "hal/core/trace.h"

#include <algorithm>
#include <unordered_set>

namespace baton::core {
namespace {

using Point = std::pair<baton_timeline*, uint64_t>;

bool open(const Point& p) { return p.first && !p.first->poisoned() && p.first->value() < p.second; }

std::string text(const Point& p) { return std::to_string(p.second) + " on timeline '" + p.first->name + "'"; }

template <class Map, class Value>
void erase_pair(Map& map, const typename Map::key_type& key, const Value& value) {
  auto [it, end] = map.equal_range(key);
  it = std::find_if(it, end, [&](const auto& entry) { return entry.second == value; });
  if (it != end) map.erase(it);
}

}  // namespace

std::string describe(const Op* op) {
  return std::string(opcode_name(op->opcode)) + " (tag " + std::to_string(op->tag) + ") on '" + op->queue->name + "'";
}

void Points::submitted(const Op* op) {
  Record& r = ops_[op];
  r.op = op;
  for (int i = 0; i < 2; ++i) {
    r.wait[i] = {op->wait[i].timeline, op->wait[i].value};
    r.signal[i] = {op->signal[i], op->signal_value[i]};
    if (r.wait[i].first) waits_.emplace(r.wait[i], &r);
  }
  if (op->opcode == BATON_OP_LAUNCH && op->progress) progress_.emplace(op->progress, op);
  check_signals(r);
  check_cycle(r);
}

// Adds the op's promises, too.
void Points::check_signals(Record& r) {
  for (const Point& p : r.signal) {
    if (!p.first || !p.second) continue;  // 0 is where a timeline begins
    auto other = promises_.find(p);
    if (other != promises_.end()) {
      r.doubled = other->second->doubled = true;
      const bool itself = other->second == &r;
      findings_.report(rule::double_signal,
                       describe(r.op) + " signals " + text(p) + (itself ? " twice" : ", and so does " + describe(other->second->op)));
    } else if (!p.first->poisoned() && !open(p)) {
      r.doubled = true;
      findings_.report(rule::double_signal,
                       describe(r.op) + " signals " + text(p) + ", which is at " + std::to_string(p.first->value()) + " already");
    }
    promises_.emplace(p, &r);
  }
}

// "A waits for 1 on timeline 't', which B signals; B waits for 1 on timeline 'u', which A signals"
std::string Points::path(const std::vector<Step>& steps, size_t end) const {
  std::vector<const Record*> chain;  // first waits for what second signals, ...
  for (size_t i = end; i != kNobody; i = steps[i].from) chain.push_back(steps[i].record);
  std::reverse(chain.begin(), chain.end());
  std::string s;
  for (size_t i = 0; i + 1 < chain.size(); ++i)
    for (const Point& w : chain[i]->wait) {
      bool maybe = false;
      if (!open(w) || promised(w, maybe) != chain[i + 1]) continue;
      s += (s.empty() ? "" : "; ") + describe(chain[i]->op) + " waits for " + text(w) + ", which " + describe(chain[i + 1]->op) + " signals";
      break;
    }
  return s;
}

// Only exact values count here: a value in between may come from the host.
void Points::check_cycle(const Record& r) {
  const bool awaited = std::any_of(std::begin(r.signal), std::end(r.signal), [&](const Point& p) { return open(p) && waits_.count(p); });
  if (!awaited) return;
  std::vector<Step> steps{{&r, kNobody}};
  std::unordered_set<const Record*> seen;
  for (size_t i = 0; i < steps.size() && i < kMaxSteps; ++i) {
    for (const Point& w : steps[i].record->wait) {
      if (!open(w)) continue;
      auto p = promises_.find(w);
      if (p == promises_.end() || !seen.insert(p->second).second) continue;
      steps.push_back({p->second, i});
      if (p->second == &r) return findings_.report(rule::wait_cycle, "these ops wait for each other: " + path(steps, steps.size() - 1));
    }
  }
}

void Points::ended(const Op* op, bool failed) {
  auto it = ops_.find(op);
  if (it == ops_.end()) return;  // a part of a link's copy
  Record& r = it->second;
  for (int i = 0; i < 2; ++i) {
    if (r.wait[i].first) erase_pair(waits_, r.wait[i], &r);
    const Point p = r.signal[i];
    if (!p.first) continue;
    erase_pair(promises_, p, &r);
    if (failed || p.first->state == TimelineState::destroyed) continue;
    uint64_t& raised = raised_[p.first];
    if (p.second && !r.doubled && !p.first->poisoned() && !open(p))
      findings_.report(rule::late_signal, describe(op) + " signals " + text(p) + ", which " + (p.first->value() > raised ? "the host" : "another op") +
                                              " has raised to " + std::to_string(p.first->value()) + " before it was complete");
    raised = std::max(raised, p.second);
  }
  if (op->opcode == BATON_OP_LAUNCH && op->progress) erase_pair(progress_, op->progress, op);
  ops_.erase(it);
}

void Points::progressed(baton_timeline* t, uint64_t value) {
  uint64_t& raised = raised_[t];
  raised = std::max(raised, value);
}

void Points::forget(const baton_timeline* t) {
  raised_.erase(t);
  told_.erase(t);
}

// The op whose signal would end a wait on `p`: the one with the least value that is enough. `maybe`: somebody else might.
const Points::Record* Points::promised(const Point& p, bool& maybe) const {
  auto it = promises_.lower_bound(p);
  if (it != promises_.end() && it->first.first == p.first) return it->second;
  auto raised = raised_.find(p.first);
  if (p.first->value() > (raised == raised_.end() ? 0 : raised->second)) maybe = true;  // by the host
  auto [begin, end] = progress_.equal_range(p.first);
  for (; begin != end; ++begin) {
    if (begin->second->progress_base >= p.second) continue;
    auto r = ops_.find(begin->second);
    if (r != ops_.end()) return &r->second;
  }
  return nullptr;
}

bool Points::search(std::vector<Point> start, const std::string& who) {
  std::vector<Step> steps;
  std::unordered_set<const Record*> seen;
  bool somebody_runs = false;
  auto say = [&](const Rule& rule, const std::string& what) {
    std::string& told = told_[start[0].first];
    if (std::exchange(told, what) != what) findings_.report(rule, what);
    return true;
  };
  // Follows one open wait. True if it is an orphan.
  auto follow = [&](const Point& w, size_t from) {
    bool maybe = false;
    const Record* r = promised(w, maybe);
    somebody_runs |= maybe;
    if (r && seen.insert(r).second) steps.push_back({r, from});
    if (r || maybe) return false;
    std::string chain = from == kNobody ? "" : path(steps, from);
    if (from != kNobody) chain += (chain.empty() ? "" : "; ") + describe(steps[from].record->op) + " waits for " + text(w);
    return say(rule::orphan_wait, who + (chain.empty() ? "" : ": " + chain) + ": no submitted op signals " + text(w) + ", which is at " +
                                      std::to_string(w.first->value()));
  };
  for (const Point& w : start)
    if (open(w) && follow(w, kNobody)) return true;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (i == kMaxSteps) return false;
    bool blocked = false;
    for (const Point& w : steps[i].record->wait) {
      if (!open(w)) continue;
      blocked = true;
      if (follow(w, i)) return true;
    }
    somebody_runs |= !blocked;
  }
  if (somebody_runs || steps.empty()) return false;
  return say(rule::wait_cycle, who + ": every op that could end it waits for another of them: " + path(steps, steps.size() - 1));
}

bool Points::explain(baton_timeline* t, uint64_t value, const std::string& who) {
  return search({{t, value}}, who + " for " + text({t, value}));
}

bool Points::explain(const Op* op, const std::string& how) {
  auto it = ops_.find(op);
  if (it == ops_.end()) return false;
  std::vector<Point> waits;
  std::string who = describe(op);
  for (const Point& w : it->second.wait)
    if (open(w)) {
      who += (waits.empty() ? " waits for " : " and for ") + text(w);
      waits.push_back(w);
    }
  return !waits.empty() && search(waits, who + how);
}

}  // namespace baton::core
