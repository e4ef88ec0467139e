// chips.h: the Neuron chips of a machine as the kernel driver's sysfs shows them: health counters of each, without the runtime and without
// taking a core. Names: the kernel driver's neuron_sysfs_metrics.c and AWS's Neuron sysfs guide; releases differ, so what is there is read.
//
// Owner    plain data.   Threads  any.   Cost  some 10 us a file: about 1 ms a chip of 8 cores.   Errors  none: what is missing is 0 or "".
//
//     for (auto& c : read_chips("/sys")) printf("neuron%u %s\n", c.index, c.model.c_str());
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace baton::devctl {

struct Chip {
  uint32_t index = 0;
  std::string model, serial, instance;       // "Trainium2"
  uint32_t cores = 0;                        // physical
  int state = 1;                             // device_state: 0 in reset, 1 ready, 2 invalid
  std::map<std::string, uint64_t> hardware;  // stats/hardware: "sram_ecc_uncorrected", ...
  std::map<std::string, uint64_t> status;    // executions by outcome, of all cores: "success", "hw_error", ...
  uint64_t memory_bytes = 0;                 // device memory in use, by every process
  uint64_t resets = 0, resets_failed = 0;
  double power_percent = -1;                 // of the most it may draw, average of the last minute; -1: it does not say
};

std::vector<Chip> read_chips(const std::string& sysfs_root);  // by index
nlohmann::ordered_json chip_json(const Chip&);
std::string neuron_driver_version(const std::string& sysfs_root);  // of the kernel module; "": it is not loaded

}  // namespace baton::devctl
