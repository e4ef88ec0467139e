// hwloc_xml.hpp: a machine as an hwloc topology, for HWLOC_XMLFILE: packages, NUMA nodes, cores, and the chips and NICs on PCI.
//
// Owner    a text.   Threads  any.   Cost  a line a vCPU.   Errors  none.
//
//     write_file(folder + "/hwloc.xml", hwloc_xml(machine, chips));   // HWLOC_XMLFILE=FOLDER/hwloc.xml HWLOC_THISSYSTEM=0
#pragma once

#include "emulators/neuron/machine_data.hpp"

#include <string>

namespace baton::neuron_emu {

// Of its first `chips` chips. A core is two vCPUs (guess), a package one NUMA node (guess).
std::string hwloc_xml(const MachineData&, uint32_t chips);

}  // namespace baton::neuron_emu
