// launch.h: a program on this device, and one launch of it, by the engine.
//
// Owner    Program: the core, by the driver's handle. Launch: the queue that runs it.   Threads  the polling thread.
// Cost     load packs the weights. run_until() executes whole ops of the program, so it may overrun by one.
// Errors   the engine's; CANCELLED when the core asks to stop at a mark.
#pragma once

#include "emulators/engine/engine.hpp"

namespace baton::host_driver {

struct Program {
  engine::Executable executable;
  uint32_t rank;
};
Result<Program*> load_program(const void* program, uint64_t bytes, const baton_constant* constants, uint32_t count,
                              const engine::Options&);

class Launch {
 public:
  Launch(const baton_driver_op&, const baton_driver_host* core);
  engine::Step run_until(uint64_t end_ns);  // CLOCK_MONOTONIC; at least one op
  const Error& error() const { return run_.error(); }

 private:
  engine::Run run_;
};

}  // namespace baton::host_driver
