// plan.h: a fault plan: which calls and ops fail, and how. Data, from JSON; parse_plan takes bytes that nobody has checked.
//
//     {"seed": 7, "rules": [
//       {"name": "second copy fails", "op": "COPY", "device": "cs3://*", "tag": 7, "nth": 2, "action": "fail", "code": "IO"},
//       {"op": ["alloc", "load"], "every": 3, "times": 2, "action": "delay", "delay": "2ms"},
//       {"op": "*", "probability": 0.01, "sticky": true, "action": "lose"}]}
//
// op      a call (open telemetry reset alloc map export import load queue_open fence) or an op (NOP COPY LAUNCH FILL); a list of them; "*": any op
// which   device ('*' stands for anything), tag and lane of ops; of those nth (from 1), every k-th, by probability; all if none is given.
//         times: at most so often. sticky: once, then always.
// action  fail (code, text), delay (delay), lose (the device), kill (this process), and for ops drop (never completes until cancelled),
//         duplicate (completes twice), corrupt (bits flipped in the destination of a COPY or FILL). A fence that is dropped says OK and has done nothing;
//         it cannot lose the device: it is called at any time.
//
// Owner    value types.   Threads  any.   Cost  once.
// Errors   CORRUPT with line and column, INVALID_ARGUMENT with the rule and what is allowed.
#pragma once

#include "hal/baton.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace baton::layers {

// What a rule may match, as bits.
enum Point : uint32_t {
  kOpen = 1u << 0, kTelemetry = 1u << 1, kReset = 1u << 2, kAlloc = 1u << 3, kMap = 1u << 4, kExport = 1u << 5, kImport = 1u << 6,
  kLoad = 1u << 7, kQueueOpen = 1u << 8, kNop = 1u << 9, kCopy = 1u << 10, kLaunch = 1u << 11, kFill = 1u << 12, kFence = 1u << 13,
};
inline constexpr uint32_t kOps = kNop | kCopy | kLaunch | kFill;
const char* point_name(uint32_t point);
inline uint32_t point_of_opcode(uint8_t opcode) { return opcode <= BATON_OP_FILL ? kNop << opcode : 0; }

enum class Action : uint8_t { fail, delay, drop, duplicate, corrupt, lose, kill };

struct Rule {
  std::string name;    // "": none
  uint32_t points = 0;
  std::string device = "*";
  std::optional<uint32_t> tag, lane;
  uint64_t nth = 0, every = 0;  // 0: not given
  std::optional<double> probability;
  uint64_t times = UINT64_MAX;
  bool sticky = false;
  Action action = Action::fail;
  int32_t code = BATON_FAILED;
  std::string text;
  uint64_t delay_ns = 0;
  uint32_t bits = 1;
};

struct Plan {
  uint64_t seed = 0;
  std::vector<Rule> rules;
};
Result<Plan> parse_plan(std::string_view bytes);

}  // namespace baton::layers
