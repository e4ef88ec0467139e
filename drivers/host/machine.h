// machine.h: what this machine says about itself, for info().
//
// Owner    value type.   Threads  any.   Cost  a few files of /proc and /sys.   Errors  none: what cannot be read is empty.
#pragma once

#include <cstdint>
#include <string>

namespace baton::host_driver {

struct Machine {
  std::string cpu;       // "model name" of /proc/cpuinfo
  std::string kernel;    // "Linux 6.1.0"
  std::string hostname;
  uint64_t memory_bytes = 0;          // MemTotal of /proc/meminfo
  uint32_t numa_node = UINT32_MAX;    // 0 on a machine with one node, else unknown: memory is placed by first touch
};
Machine read_machine();

}  // namespace baton::host_driver
