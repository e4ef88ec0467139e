// machine.h: the machine around the devices, as hwloc sees it; its RDMA devices are in nics.h.
//
// Owner  value type.   Threads  one.   Cost  some 10 ms: hwloc reads sysfs.   Errors  IO if hwloc cannot load a topology.
//
//     BATON_ASSIGN(MachineInfo m, probe_machine());
//     for (auto& p : m.pci) printf("%s %s\n", p.bdf.c_str(), p.what.c_str());
#pragma once

#include "hal/baton.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace baton::devctl {

struct CacheInfo {
  std::string name;  // "L2"
  uint64_t bytes = 0;
  uint32_t count = 0;  // caches of this name and size
};

struct PciFunction {
  std::string bdf;   // "0000:00:1e.0"
  std::string what;  // "Trainium2", "EFA"
  uint16_t vendor = 0, device = 0;
  int numa_node = -1;  // -1: unknown
};

struct NumaNode {
  uint32_t index = 0;
  uint64_t memory_bytes = 0;
  std::string cores;  // "0-1"
};

struct MachineInfo {
  std::string cpu, kernel;
  uint32_t packages = 0, cores = 0, threads = 0;
  uint64_t memory_bytes = 0;
  std::vector<CacheInfo> caches;  // data caches and unified ones, nearest first
  std::vector<NumaNode> numa;
  std::vector<PciFunction> pci;  // Neuron, EFA and network controllers
};
Result<MachineInfo> probe_machine();
nlohmann::ordered_json machine_json(const MachineInfo&);

// The machine as a document's text shows it, a line each, without the RDMA devices.
class Table;
void machine_rows(Table&, const nlohmann::ordered_json& machine);

// What a PCI function is to Baton: "Trainium2", "EFA", ...; "" if it is nothing of interest.
std::string pci_name(uint16_t vendor, uint16_t device);

}  // namespace baton::devctl
