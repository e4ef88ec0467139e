// options.hpp: everything the neuron driver can be told: the URI, and the documented variables that say which cores are ours.
//
//   neuron://CHIP?libnrt=PATH&sysfs=PATH&artifacts=FOLDER&env.NAME=VALUE
//     libnrt     the runtime library; default: libnrt.so.1 on the loader path, then /opt/aws/neuron/lib
//     sysfs      where the kernel driver's tree is; default: BATON_SYSFS_ROOT, then /sys
//     artifacts  a folder of compiled programs (loaded_model.hpp); default: BATON_NEURON_ARTIFACTS
//     env.NAME   exported to the runtime before nrt_init (env.NEURON_RT_LOG_LEVEL=INFO): the runtime's settings are environment
//                variables, and this is the one place where they can be set for a device. Restored when the last device closes.
//                setenv is not for programs whose other threads read the environment at that moment: open devices first.
//
// Owner    plain values.   Threads  parse and visible_cores are called under the core's lock.
// Errors   INVALID_ARGUMENT with the known options listed.
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace baton::neuron {

struct Options {
  uint32_t chip = 0;
  std::string libnrt;                      // empty: search
  std::string sysfs;                       // empty: sysfs_root()
  std::string artifacts;                   // empty: artifacts_folder()
  std::map<std::string, std::string> env;  // exported before nrt_init
};
std::string artifacts_folder();  // BATON_NEURON_ARTIFACTS, "" where it is not set
std::string sysfs_root();  // BATON_SYSFS_ROOT, or /sys
Result<Options> parse_uri(std::string_view uri);

// "3-5,6" -> {3,4,5,6}: logical core ids as NEURON_RT_VISIBLE_CORES lists them.
Result<std::vector<uint32_t>> parse_cores(std::string_view list);

// Absolute logical core ids by process-relative index, for `count` visible cores: from NEURON_RT_VISIBLE_CORES where set, else 0..count-1.
// (With NEURON_RT_NUM_CORES alone the runtime picks cores and does not say which; the first ones are assumed.)
Result<std::vector<uint32_t>> visible_cores(uint32_t count);

// The same before a runtime was asked, of `total` logical cores: NEURON_RT_VISIBLE_CORES, else the first NEURON_RT_NUM_CORES, else all.
Result<std::vector<uint32_t>> chosen_cores(uint32_t total);

// NEURON_LOGICAL_NC_CONFIG, `fallback` where it is not set.
uint32_t logical_config(uint32_t fallback);

// Sets variables for the runtime; undo() (or destruction) puts the previous values back.
class Environment {
 public:
  Environment() = default;
  ~Environment() { undo(); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  void apply(const std::map<std::string, std::string>& variables);
  void undo();

 private:
  struct Saved {
    std::string name, value;
    bool was_set;
  };
  std::vector<Saved> saved_;
};

}  // namespace baton::neuron
