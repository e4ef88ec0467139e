// runtime.hpp: the one Neuron runtime of this process: opened with the first device, closed with the last.
//
// libnrt is process-global: one nrt_init takes the visible cores of all chips for the process, nrt_close gives them back. So devices
// share one open runtime, counted here; this is the driver's only process-wide state, because the vendor's is process-wide.
//
// Owner    each Device holds a Lease; the last Lease to go closes the runtime, unloads the library and restores the environment.
// Threads  any; one mutex, taken at open and close alone.
// Errors   NOT_FOUND (no library, with every path tried), UNSUPPORTED (symbols), BUSY (cores held by another process; or the
//          runtime is open in this process with another library or other settings).
//
//     BATON_ASSIGN(auto lease, Lease::acquire(options));
//     lease.port().tensor_allocate(...);
#pragma once

#include "drivers/neuron/options.hpp"
#include "drivers/neuron/port.hpp"

#include <string>

namespace baton::neuron {

// What the runtime says of the machine.
struct Machine {
  uint32_t family = 0;
  uint32_t total_cores = 0;     // physical
  uint32_t total_logical = 0;   // LNC 2: half of it
  std::vector<uint32_t> cores;  // absolute logical id by process-relative index
  std::string version;          // "2.34.10 <detail>"
  std::string timing;           // the timing model that the runtime names in its version detail ("timing=NAME"), "" on hardware
  bool emulated = false;        // the version detail says "emulator"
  uint32_t lnc() const { return total_logical ? std::max(1u, total_cores / total_logical) : 1; }
};

class Lease {
 public:
  static Result<Lease> acquire(const Options&);
  Lease(Lease&& o) noexcept : held_(std::exchange(o.held_, false)) {}
  Lease& operator=(Lease&&) = delete;
  ~Lease();
  const Port& port() const;
  const Machine& machine() const;
  // nrt_close and nrt_init again, which resets the cores. BUSY if other devices share the runtime.
  Status restart();

 private:
  Lease() : held_(true) {}
  bool held_;
};

// The machine by what may be asked before nrt_init (counts alone); nothing stays open. For enumerate.
Result<Machine> probe();

}  // namespace baton::neuron
