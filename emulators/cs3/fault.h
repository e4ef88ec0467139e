// fault.h: a fault plan of an emulated CS-3: what is broken, and which commands go wrong, and how. Data: JSON, or the path of a file of it, from
// the option `faults`; read and replaced while the daemon runs by the wafer link's command `fault`.
//
//     {"seed": 7, "dead_channels": [3], "slow_channels": {"5": 8}, "bad_rows": [17], "slow_ingress": 4,
//      "rules": [
//       {"call": "memcpy_h2d", "nth": 3, "action": "fail", "code": "IO"},
//       {"call": ["launch", "memcpy_d2h"], "probability": 0.1, "action": "delay", "delay_ms": 5},
//       {"call": "launch", "every": 4, "times": 2, "action": "hang"},
//       {"call": "*", "nth": 50, "action": "kill"}]}
//
// dead_channels  of 0 to 15: bandwidth falls, nothing else     slow_ingress  host to wafer takes so many times as long (modelled)
// slow_channels  each takes so many times as long for its share, and a transfer ends with its slowest: modelled, and by what is modelled over that of
//                healthy channels the transfer is held up in wall time too
// bad_rows       rows of PEs: listed by `info`, refused to symbols and copies; programs that come later are laid out around them
// call    names of the link's commands (PROTOCOL.md), or "*": any but info, telemetry, fault, clock and reset
// which   of those nth (from 1), every k-th, or by probability; all if none is given. times: at most so often
// action  fail (code, by name)   delay (a stream command by delay_ms, also in the modelled cost)   kill (the daemon, SIGKILL)
//         hang (a launch that never unblocks the command stream: nothing behind it runs until cancel, stop or reset)
//         drop_link (this client's connection; it may connect again)
//         lose_wafer (this and every later command: DEVICE_LOST, until a reset raises the epoch)
// The words are those of the Neuron emulator's plan (emulators/neuron/fault.hpp) and of the layer `fault`.
//
// Owner    the daemon.   Threads  the event loop's.   Cost  none without rules.
// Errors   CORRUPT (not JSON), INVALID_ARGUMENT with the rule and what is allowed; the plan before stays.
#pragma once

#include "drivers/cs3/link/wire.h"
#include "hal/baton.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace baton::cs3 {

struct Fault {
  enum class Action : uint8_t { fail, delay, kill, hang, drop_link, lose_wafer };
  uint32_t rule = 0;  // its index, for the text
  Action action = Action::fail;
  int32_t code = BATON_FAILED;
  uint64_t delay_ns = 0;
  std::string text() const { return "rule " + std::to_string(rule) + " of the fault plan"; }
};

// What is broken all the time.
struct Conditions {
  std::array<bool, kMaxChannels> dead{};
  std::vector<uint16_t> bad_rows;  // ascending
  double slow_ingress = 1;
  std::array<double, kMaxChannels> slow = filled(1);
  // Of the first `wanted` channels (0: all) those that work.
  uint32_t alive(uint32_t wanted) const;
  // What a transfer over them goes by: those, or, if none works, the first other one that does.
  std::array<bool, kMaxChannels> used(uint32_t wanted) const;
  double slowest(uint32_t wanted) const;  // of those, how many times as long
  uint32_t dead_bits() const;

 private:
  static constexpr std::array<double, kMaxChannels> filled(double x) {
    std::array<double, kMaxChannels> all{};
    all.fill(x);
    return all;
  }
};

class FaultPlan {
 public:
  static Result<FaultPlan> parse(std::string_view json);
  // An option's value: "" is no plan.
  static Result<FaultPlan> read(const std::string& value);
  const Conditions& conditions() const { return conditions_; }
  // What this command meets.
  std::optional<Fault> match(Op);
  // The plan, with "schema", and "seen" and "fired" in each rule: parse() takes it again, and counts from 0.
  std::string report() const;

 private:
  struct Rule {
    std::vector<Op> calls;  // empty: any
    uint64_t nth = 0, every = 0, times = UINT64_MAX;
    std::optional<double> probability;
    Fault fault;
    uint64_t seen = 0, fired = 0;
    std::string text;  // as it was written
  };
  struct Reader;
  Status condition(const std::string& key, const void* json);
  Conditions conditions_;
  std::vector<Rule> rules_;
  uint64_t seed_ = 0, random_ = 0;
};

}  // namespace baton::cs3
