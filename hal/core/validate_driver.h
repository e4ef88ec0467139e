// validate_driver.h: what drivers and tables may not do: complete an op twice or one that they did not take, go back in progress, call
// from outside of submit and poll.
//
// An instance that validates gives them other services (services.h), which ask here first and then do the same. A completion that comes
// late because the core has failed the op (a reset, a loss, a close) is no finding.
//
// Owner    the Validator.   Threads  the instance's lock.   Cost  a hash table entry an op of the pool.   Errors  findings.
#pragma once

#include "hal/core/finding.h"
#include "hal/core/op.h"

#include <string>
#include <unordered_map>

namespace baton::core {

class DriverWatch {
 public:
  explicit DriverWatch(Findings& findings) : findings_(findings) {}

  // A driver calls complete or progress. `inside`: from the core's own call.
  void completes(void* cookie, bool inside);
  void progresses(void* cookie, uint64_t k, bool inside);
  // An op has ended, by the driver's call or by the core's.
  void ended(Op*);
  // submit has said that it did not take this op.
  void not_taken(void* cookie);

 private:
  struct State {
    uint16_t generation = 0;  // of the cookie that this is about
    uint64_t mark = 0;        // latest, of the op in flight
    bool by_driver = false;   // it was the driver that ended it
    std::string what;         // once ended
  };
  void check_call(const Op*, const char* call, bool inside);

  Findings& findings_;
  std::unordered_map<const Op*, State> states_;  // one an op of the pool
  const Op* completing_ = nullptr;
};

// Services that ask the instance's Validator.
baton_driver_host make_validating_services();

}  // namespace baton::core
