// machine_data.hpp: a machine as data (machines/*.json): its chips and what surrounds them. The same file holds the constants of its
// timing model (emulators/timing), and what it says becomes libnrt's topology, the hwloc XML and the sysfs tree (sysfs_tree.hpp).
//
// A file has one kind of chip and every machine that is built of it. Every object with figures says where they are from, or "guess".
//
// Owner    plain values.   Threads  any.   Cost  load: some files of 20 KB are read and parsed.
// Errors   NOT_FOUND with the names that there are; CORRUPT naming file and member; VERSION.
//
//     BATON_ASSIGN(MachineData m, load_machine("trn2.48xlarge"));   // "FOLDER/NAME": from the JSON files of another folder
//     m.devices[0].links  // {12, 1, 3, 4}
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace baton::neuron_emu {

inline constexpr uint32_t kMaxChips = 64;  // driver neuron_device.h
inline constexpr uint32_t kMaxCoresPerChip = 8;
inline constexpr uint32_t kMaxStacksPerChip = 8;

struct ChipData {
  std::string model;                // "Trainium2"
  uint32_t cores = 0;               // physical
  uint32_t lnc = 1, max_lnc = 1;    // physical cores of a logical one: default and most
  std::string arch_type, core_arch_type, instance_type, device_name, revision;  // as sysfs and nrt_get_instance_info name them
  uint16_t pci_vendor = 0, pci_device = 0, pci_class = 0, efa_device = 0;
  uint64_t hbm_bytes = 0;           // of a stack
  std::vector<uint64_t> hbm_at;     // physical address of each stack
  uint32_t tensor_rows = 0, tensor_columns = 0, row_groups = 0;  // TensorE's array of multipliers
  uint64_t tensor_hz = 0;
  uint32_t stacks() const { return uint32_t(hbm_at.size()); }
};

struct DeviceData {
  std::string bdf;                  // "0000:cc:00.0"
  uint32_t numa = 0;
  std::vector<uint32_t> links;      // neighbours on NeuronLink, in the driver's order
  std::vector<std::string> efa;     // BDFs of the NICs that are paired with it
};

struct MachineData {
  std::string name;                 // "trn2.48xlarge"
  std::string file;                 // where it was read, which is also its timing model
  ChipData chip;
  uint32_t family = 0, size = 0;    // nrt instance family and size
  uint32_t vcpus = 0, numa_nodes = 0;
  uint64_t host_bytes = 0;
  std::vector<std::string> host_efa;  // NICs that are paired with no chip
  std::vector<DeviceData> devices;
};

Result<MachineData> load_machine(std::string_view name);
// Every machine of a JSON text. `where` is named in errors.
Result<std::vector<MachineData>> parse_machines(std::string_view json, const std::string& where);

}  // namespace baton::neuron_emu
