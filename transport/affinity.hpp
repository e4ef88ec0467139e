// affinity.hpp (internal): which of a host's NICs is near to a piece of memory.
//
// hwloc's tree tells: a NIC that hangs on the same PCI switch as a device (a Trainium and its EFA adapters) is nearest, then one of the same NUMA
// node, then the others; of what the tree does not have (virtual interfaces) nothing is known, and it comes last.
//
// Owner    value, movable.   Threads  one at a time.   Cost  loading: hwloc reads sysfs, some 10 ms; a distance: a walk up the tree.
// Errors   IO if hwloc cannot load a topology.
//
//     BATON_ASSIGN(auto a, Affinity::of_this_machine());
//     std::stable_sort(nics.begin(), nics.end(), [&](auto& x, auto& y) { return a.distance(x.device, place) < a.distance(y.device, place); });
#pragma once

#include "hal/baton.hpp"

#include <memory>
#include <string>

struct hwloc_topology;

namespace baton::transport {

class Affinity {
 public:
  static Result<Affinity> of_this_machine();
  static Result<Affinity> of_xml(const std::string& xml); // another machine's, as lstopo writes it

  struct Place {
    int node = -1;       // NUMA, of the operating system; -1: unknown
    std::string pci = {}; // "0000:10:1e.0": memory of that device
  };
  Place of_memory(const void*, uint64_t bytes) const; // of this process; where it is already touched
  enum Distance : uint32_t { same_switch = 0, same_node = 1, other_node = 2, unknown = 3 };
  // `device`: what the operating system calls it: "eth0", "mlx5_0"; "": none.
  uint32_t distance(const std::string& device, const Place&) const;

 private:
  struct Free {
    void operator()(hwloc_topology*) const;
  };
  explicit Affinity(hwloc_topology* t) : topology_(t) {}
  std::unique_ptr<hwloc_topology, Free> topology_;
};

}  // namespace baton::transport
