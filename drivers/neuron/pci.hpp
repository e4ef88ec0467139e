// pci.hpp: Neuron chips as PCI functions, by hwloc: which there are and to which NUMA node they belong, with no kernel driver at all.
//
// HWLOC_XMLFILE names another machine's topology, as for every user of hwloc.
//
// Owner    plain values.   Threads  any.   Cost  some 10 ms: hwloc reads sysfs.   Errors  none: no topology is no chips.
//
//     for (const PciChip& c : pci_chips()) printf("%s\n", c.bdf.c_str());
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace baton::neuron {

struct PciChip {
  std::string bdf;     // "0000:cc:00.0"
  uint32_t family;     // nrt instance family
  uint32_t numa_node;  // UINT32_MAX: unknown
};
std::vector<PciChip> pci_chips();  // by address

}  // namespace baton::neuron
