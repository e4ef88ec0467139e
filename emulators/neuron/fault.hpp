// fault.hpp: a fault plan: which calls of the runtime go wrong, and how. Data, from BATON_EMU_NEURON_FAULTS: JSON, or the path of a file of it.
//
//     {"seed": 7, "rules": [
//       {"call": "nrt_execute", "core": 1, "nth": 3, "action": "fail", "status": "NRT_EXEC_HW_ERR_NC_UE"},
//       {"call": ["nrt_tensor_read", "nrt_tensor_write"], "probability": 0.1, "action": "delay", "delay_ms": 5},
//       {"call": "nrt_execute", "every": 4, "times": 2, "action": "ecc", "ecc": "mem_ecc_corrected"},
//       {"call": "*", "nth": 50, "action": "kill"}]}
//
// call    names of ABI functions, or "*": any that reaches a core, and nrt_init
// which   core (process-relative); of those nth (from 1), every k-th, or by probability; all if none is given. times: at most so often
// action  fail (status, by name or number)   delay (delay_ms: slow DMA, also in the modelled cost)   kill (this process, SIGKILL)
//         hang (until NEURON_RT_EXEC_TIMEOUT, nrt_close, or a launch's cancel word; then NRT_TIMEOUT)
//         lose_core (this and every later call on it: NRT_EXEC_UNIT_UNRECOVERABLE, until nrt_init takes it again)
//         lose_device (its chip, for every process: NRT_HW_ERROR, until nrt_init)
//         ecc (ecc: a row of stats/hardware; a corrected one lets the call go on, an uncorrected one takes the core)
// The layer `fault` of hal/layers has the same words for Baton's own calls; this one is for whoever calls libnrt.
//
// Owner    the Machine.   Threads  any: match() has a mutex.   Cost  none without a plan.
// Errors   CORRUPT (not JSON), INVALID_ARGUMENT with the rule and what is allowed.
#pragma once

#include "emulators/neuron/counters.hpp"
#include "hal/baton.hpp"

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace baton::neuron_emu {

struct Fault {
  enum class Action : uint8_t { fail, delay, kill, hang, lose_core, lose_device, ecc };
  uint32_t rule = 0;  // its index, for the text
  Action action = Action::fail;
  int32_t status = 1;
  uint64_t delay_ns = 0;
  Ecc ecc{};
};

class FaultPlan {
 public:
  static Result<FaultPlan> parse(std::string_view json);
  // The environment's value: "" is no plan.
  static Result<FaultPlan> read(const std::string& value);
  FaultPlan() = default;
  FaultPlan(FaultPlan&& o) noexcept : rules_(std::move(o.rules_)), random_(o.random_) {}
  FaultPlan& operator=(FaultPlan&& o) noexcept {
    rules_ = std::move(o.rules_);
    random_ = o.random_;
    return *this;
  }
  bool empty() const { return rules_.empty(); }
  // What this call meets. vnc -1: it is about no core.
  std::optional<Fault> match(std::string_view call, int64_t vnc);

 private:
  struct Rule {
    std::vector<std::string> calls;  // empty: any
    std::optional<int64_t> core;
    uint64_t nth = 0, every = 0, times = UINT64_MAX;
    std::optional<double> probability;
    Fault fault;
    uint64_t seen = 0, fired = 0;
  };
  struct Reader;
  std::mutex mutex_;
  std::vector<Rule> rules_;
  uint64_t random_ = 0;
};

}  // namespace baton::neuron_emu
