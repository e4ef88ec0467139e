// trigger.h: where each rule of a plan stands: how often it matched, whether it has fired. Counted for each device address, in the order
// in which that device is called, so that a plan does the same at every run.
//
// Owner    the fault layer.   Threads  any: one lock, held for the decision alone.
// Cost     a walk over the rules.   Errors  none.
//
//     Trigger::Decision d = trigger.decide(uri, kCopy, tag, lane);   if (d.rule) ...
//     trigger.undo(d);   // the op was not taken: it will be decided again
#pragma once

#include "hal/layers/fault/plan.h"

#include <map>
#include <mutex>

namespace baton::layers {

class Trigger {
 public:
  explicit Trigger(Plan plan) : plan_(std::move(plan)) {}
  struct State {
    uint64_t matches = 0, fired = 0, random = 0;
  };
  struct Decision {
    const Rule* rule = nullptr;  // NULL: nothing happens
    size_t number = 0;           // of the rule, from 1
    uint64_t match = 0;          // which match it was, from 1
    uint64_t random = 0;         // for what the action draws
    uint32_t point = 0;
    std::vector<std::pair<State*, State>> before;  // to be undone
  };
  // Rules that match advance; the first one in the plan that fires is the decision.
  Decision decide(const std::string& uri, uint32_t point, uint32_t tag, uint32_t lane);
  void undo(const Decision&);
  // The points that any rule matches on that device: all others pass untouched.
  uint32_t points(const std::string& uri) const;
  // "fault plan rule 2 "second copy fails": COPY, match 2", with the rule's code and text.
  static Error error(const Decision&);

 private:
  std::vector<State>& states(const std::string& uri);
  const Plan plan_;
  std::mutex mu_;
  std::map<std::string, std::vector<State>> states_;
};

}  // namespace baton::layers
