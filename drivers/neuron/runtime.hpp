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
#include "drivers/neuron/pci.hpp"
#include "drivers/neuron/port.hpp"
#include "drivers/neuron/sysfs.hpp"

#include <string>

namespace baton::neuron {

// What the runtime says of the machine, or sysfs and PCI where it was not asked.
struct Machine {
  uint32_t family = 0;
  uint32_t total_cores = 0;     // physical
  uint32_t total_logical = 0;   // LNC 2: half of it
  std::vector<uint32_t> cores;  // absolute logical id by process-relative index
  std::string version;          // "2.34.10 <detail>"
  std::string timing;           // the timing model that the runtime names in its version detail ("timing=NAME"), "" on hardware
  bool emulated = false;        // the version detail says "emulator"
  std::vector<PciChip> pci;     // by chip; empty unless it is known which chip is which function
  uint32_t lnc() const { return total_logical ? std::max(1u, total_cores / total_logical) : 1; }
};

uint32_t chip_count(const Machine&);

class Lease {
 public:
  static Result<Lease> acquire(const Options&);
  Lease(Lease&& o) noexcept : held_(std::exchange(o.held_, false)) {}
  Lease& operator=(Lease&&) = delete;
  ~Lease();
  const Port& port() const;
  const Machine& machine() const;
  // nrt_close, a reset of the chip by sysfs where this process may, and nrt_init, which resets the cores. BUSY if other devices share
  // the runtime.
  Status restart(const Sysfs&, uint32_t chip);

 private:
  Lease() : held_(true) {}
  bool held_;
};

// The machine without taking a core: by sysfs, else by PCI, else by the counts that a runtime gives before nrt_init. The runtime, if there
// is one, is asked for its version alone. For enumerate.
Result<Machine> probe();

}  // namespace baton::neuron
