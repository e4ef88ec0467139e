// run.h: one launch in progress. Internal to the engine: bind.cc checks it, run.cc drives it, ops.cc executes an op, work.cc says what that was.
//
// Owner  Run owns it; it borrows a launch state of the Executable.   Threads  one.   Errors  kept in `error`; a failed run stays failed.
#pragma once

#include "emulators/engine/executable.h"

namespace baton::engine {

struct Run::Impl {
  Executable::Impl& x;
  std::unique_ptr<LaunchState> s; // nullptr: there was no memory for one, and the run has failed
  RunHooks hooks;
  Error error;
  enum class State : uint8_t { ready, running, done, failed } state = State::ready;

  uint32_t tokens = 1;     // rows
  uint32_t position = 0;   // of row 0 of iteration 0
  uint32_t steps = 1;
  double temperature = 0, top_p = 1;
  uint64_t seed = 0;
  bool stop = false;

  uint32_t op = 0, iteration = 0;
  bool stopped = false;    // a stop token was drawn: this iteration is the last
  bool over = false;       // a loop that begins with a stop token: it makes no step
  uint64_t marks = 0;
  double modelled = 0;     // ns

  Impl(Executable::Impl& exe, RunHooks h) : x(exe), hooks(std::move(h)) {}
  ~Impl() {
    if (s) x.idle.push_back(std::move(s));
  }
  uint32_t now() const { return position + iteration; } // position of row 0 of this iteration
};

// Takes bindings and args, checks everything that can be known before the first op, copies the block tables.
Status bind(Run::Impl&, std::span<const Binding>, std::span<const int64_t> args);

// Executes op `r.op`.
Status execute(Run::Impl&);

// What op `r.op` does.
OpWork work_of(const Run::Impl&);

// cos and sin for the rows of this iteration.
void fill_ropes(Run::Impl&);

}  // namespace baton::engine
