// nics.h: the RDMA devices of a machine as its kernel shows them in sysfs: EFA, RoCE, InfiniBand. No device is opened.
//
// Names and contents: Documentation/ABI/stable/sysfs-class-infiniband of the Linux kernel; hw_counters of EFA: drivers/infiniband/hw/efa.
//
// Owner    plain data.   Threads  any.   Cost  a few us a file, some 40 files a port.
// Errors   none: a machine without RDMA has no NICs, a file that is missing is an empty text.
//
//     for (auto& n : read_nics("/sys")) printf("%s %s\n", n.name.c_str(), n.ports.at(0).state.c_str());
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace baton::devctl {

struct NicPort {
  uint32_t number = 1;
  std::string state, physical;  // "ACTIVE", "LinkUp"
  std::string link_layer;       // "Ethernet", "InfiniBand", "Unspecified" (EFA)
  std::string rate;             // "100 Gb/sec (4X EDR)"
  std::string netdev;           // "eth1", "" if it has none
  std::map<std::string, uint64_t> counters;  // of counters/ and hw_counters/; port_*_data in bytes
};

struct Nic {
  std::string name;      // "mlx5_0"
  std::string kind;      // "EFA", "RoCE", "InfiniBand", "iWARP"
  std::string driver;    // "mlx5_core", "rdma_rxe"; "" if it does not say
  std::string firmware, board, guid;
  std::string location;  // PCI address, "" for software
  int numa_node = -1;    // -1: unknown
  std::vector<NicPort> ports;
};

std::vector<Nic> read_nics(const std::string& sysfs_root);
nlohmann::ordered_json nic_json(const Nic&);
// What the counters of a port say is wrong, whoever wrote them: "symbol_error", ... (health)
const std::vector<const char*>& nic_error_counters();

}  // namespace baton::devctl
