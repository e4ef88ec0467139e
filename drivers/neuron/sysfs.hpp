// sysfs.hpp: what the Neuron kernel driver publishes of a machine: which chips there are, their health, and their reset. No runtime, no
// core is taken.
//
// Paths: driver neuron_sysfs_metrics.c, neuron_cdev.c; SDK neuron-sysfs-user-guide.rst. Names that differ between releases are tried in
// the order of quirks.hpp's table.
//
// Owner    plain value: a path.   Threads  any.   Cost  a few us a file; health() reads some 100 of them.
// Errors   chips(): none, no tree is no chips. reset(): PERMISSION by the kernel's own modes, DEVICE_LOST, DEADLINE.
//
//     for (const SysfsChip& c : Sysfs("/sys").chips()) printf("neuron%u %s\n", c.index, c.device.c_str());
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace baton::neuron {

struct SysfsChip {
  uint32_t index;
  uint32_t cores;               // physical
  std::string device;           // "Trainium2"
  std::vector<uint32_t> links;  // neighbours on NeuronLink
};

// Counted since the kernel driver was loaded or somebody cleared it.
struct Health {
  bool has_ecc = false, has_power = false;  // whether this release shows them
  uint64_t ecc_corrected = 0, ecc_uncorrected = 0;
  uint64_t executed = 0;        // executions that succeeded
  uint64_t failed = 0;          // executions that did not, whatever the reason
  uint64_t hw_errors = 0;       // those of them that the hardware is to blame for
  uint64_t memory_bytes = 0;    // device memory in use, by every process
  double power_percent = 0;     // of the most it may draw, average of the last minute
  std::string unhealthy;        // components that call themselves so, "" for none
};

// What went wrong between two readings, as an error tells it: "2 uncorrectable ECC errors, 1 hardware error"; "" if nothing did.
std::string troubles(const Health& before, const Health& now);

class Sysfs {
 public:
  explicit Sysfs(std::string root) : root_(std::move(root)) {}
  std::vector<SysfsChip> chips() const;  // by index
  std::optional<Health> health(uint32_t chip) const;
  std::string driver_version() const;  // of the kernel module, "" if it does not say
  // Asks for a reset and waits until the chip is ready. Nobody may have it open: the kernel driver refuses else.
  Status reset(uint32_t chip) const;

 private:
  std::string device(uint32_t chip) const;
  std::optional<std::string> text(const std::string& path) const;
  uint64_t number(const std::string& path) const;
  uint64_t status(const std::string& core, const char* name) const;
  std::string root_;
};

// "2.30.2.0" and the like: the first two numbers, or nothing.
std::optional<std::pair<uint32_t, uint32_t>> release_of(const std::string& version);

}  // namespace baton::neuron
