// stage.h: a launch in its slot: alone, or one stage of a pipeline over several wafers. Driven step by step, as its messages allow.
//
// A pipeline's loop goes round: the first stage embeds a token and sends activations on, each stage does its layers, the last one
// samples and sends the token back to the first. While one sequence's token is elsewhere, the wafer works for others.
//
// Owner    The session's slot; it borrows executable, calendar and bound memory, and owns what lies between stages.
// Threads  the event loop's.   Cost  step(): one op of the program, or a copy of one message.
// Errors   kept in error(): the program's own; CANCELLED if the stage before says that it failed; CORRUPT for messages that cannot be.
//
//     Stage s(plan, executable, bindings, args, calendar, cost, tell);
//     while (s.ready(inbox)) if (s.step(inbox) == Stage::Went::over) finish(s.error(), s.now_ns() - start);
#pragma once

#include "drivers/cs3/link/fifo.h"
#include "drivers/cs3/link/wire.h"
#include "emulators/cs3/calendar.h"
#include "emulators/engine/engine.hpp"

#include <functional>
#include <optional>
#include <vector>

namespace baton::cs3 {

struct StageMessage {
  PeerFrame frame{};
  std::vector<uint8_t> payload;
};
using Inbox = Fifo<StageMessage>; // of a slot; launches of one number come before those of the next

class Stage {
 public:
  struct Plan {
    uint64_t number = 0;             // in the slot
    uint16_t slot = 0;
    uint8_t stage = 0, stages = 1;
    uint64_t start_ns = 0;           // modelled: no earlier
    uint64_t launch_ns = 0;          // modelled: from the command to the kernel's start
    bool progress = false;
    std::optional<std::span<uint8_t>> input, output, tokens; // by role; an empty span: of the wafer's own, `own_bytes` long
    uint64_t own_bytes[4] = {};      // by role
  };
  struct Tell {
    std::function<void(StageMessage&&)> send;                    // to the next stage, or from the last to the first
    std::function<void(uint64_t k, uint64_t at_ns)> mark;
  };
  enum class Went : uint8_t { on, over };

  Stage(Plan, const engine::Executable&, std::vector<engine::Binding>, std::span<const int64_t> args, const char* const names[4], Calendar&,
        const engine::CostModel*, Tell);
  ~Stage();
  // Something can be done now. Takes away what is left in the inbox of launches before this one.
  bool ready(Inbox&) const;
  uint64_t ready_ns(Inbox&) const;                  // modelled: since when, if it is ready
  bool between_iterations() const { return begins_; }
  Went step(Inbox&);
  const Error& error() const { return error_; }
  uint64_t now_ns() const { return now_ns_; }       // modelled
  uint64_t busy_ns() const { return seen_ns_; }     // modelled: of the wafer's time
  uint64_t own_bytes() const;

 private:
  bool waits() const;
  bool take(StageMessage&&);  // false: over
  Went fail(const Error&);
  void settle();
  void send(StageSays, std::span<const uint8_t>);
  Went end_iteration(bool last);
  bool first() const { return plan_.stage == 0; }
  bool final() const { return plan_.stage + 1 == plan_.stages; }

  struct Mark {
    uint64_t k, offset_ns;  // from the launch on, as if it had the wafer alone
  };

  Plan plan_;
  Calendar& calendar_;
  const engine::CostModel* cost_;
  Tell tell_;
  std::vector<uint8_t> own_[4];
  std::optional<engine::Run> run_;
  std::vector<Mark> marks_;  // since the wafer's time was last settled
  Error error_;
  uint64_t now_ns_ = 0, seen_ns_ = 0;
  uint32_t iteration_ = 0;
  bool begins_ = true, drains_ = false, told_ = false;
};

}  // namespace baton::cs3
