// operate.hpp: what an operator asks of a wafer daemon, beside its clients: what it has done by channel, its fault plan, its clock.
//
// A connection of its own, on which no command stream is opened: its commands are control commands, answered between two steps of whatever runs.
// A bridge to a real system has one client at a time, and refuses with BUSY while it has one.
//
// Owner    the caller; movable.   Threads  one at a time.
// Cost     connect: two round trips. A call: one, as long as the longest step of what runs.
// Errors   NOT_FOUND (nothing listens), BUSY, VERSION, DEADLINE with what was waited for; UNSUPPORTED for what the daemon is too old for, or has as no
//          emulator; what the daemon says of a plan or a clock.
//
//     BATON_ASSIGN(auto w, cs3::WaferOperator::connect("10.0.0.5:9000", 0, deadline_in_ms(500)));
//     BATON_ASSIGN(cs3::WaferState s, w.state());
//     for (auto& c : s.channels) printf("%u: %llu bytes/s\n", c.number, (unsigned long long)c.rate);
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace baton::cs3 {

// A channel between host and wafer. Bytes are counted; times and rates are of the daemon's timing model, or measured where it has none.
struct WaferChannel {
  uint32_t number = 0;
  bool dead = false;
  uint64_t bytes = 0;
  uint64_t busy_ns = 0;  // how long it carried them
  uint64_t rate = 0;     // bytes/s in the last transfer; 0: not known
};

struct WaferState {
  uint32_t wafers = 1;    // of the daemon
  bool emulated = false;
  bool modelled = false;  // its times are a model's
  bool lost = false;      // until a reset
  uint32_t pid = 0;       // of the daemon
  uint32_t sessions = 0;  // clients, this one too
  uint64_t epoch = 0;
  std::string model{}, timing{};
  uint64_t sram_bytes = 0, sram_used = 0;
  uint64_t transactions = 0, ops_done = 0, ops_failed = 0;
  uint64_t waited_ns = 0;  // how much longer transfers took for their slowest channel
  uint32_t bad_rows = 0;   // of PEs
  std::vector<WaferChannel> channels{};  // none: the daemon does not say
};

class WaferOperator {
 public:
  // `address`: HOST:PORT, or cs3://HOST:PORT. The deadline is that of every call that follows too.
  static Result<WaferOperator> connect(std::string_view address, uint32_t wafer, uint64_t deadline_ns);
  WaferOperator(WaferOperator&&) noexcept;
  WaferOperator& operator=(WaferOperator&&) noexcept;
  ~WaferOperator();
  Result<WaferState> state();
  Result<std::string> faults();              // an emulator's plan, as JSON
  Status set_faults(std::string_view json);  // "": none
  Result<uint64_t> clock_hz();               // of an emulator's timing model
  Status set_clock_hz(uint64_t hz);
  // Ends what every client has on this wafer, and raises its epoch.
  Status reset();

 private:
  struct Impl;
  explicit WaferOperator(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::cs3
