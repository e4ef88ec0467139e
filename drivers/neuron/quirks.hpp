// quirks.hpp: what differs between Neuron generations and between releases of the runtime, in one table each.
//
// Owner    none: static data and pure functions.   Threads  any.   Cost  a scan of a few rows.   Errors  none.
//
//     const Family& f = family(info.family);   // "Trainium2", 8 cores, 4 HBM stacks
//     StatusInfo s = status_info(1201);        // DEVICE_LOST, fatal
#pragma once

#include "hal/baton.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace baton::neuron {

// One accelerator family. Sources: SDK about-neuron/arch/neuron-hardware/{trainium,inferentia2,trainium2,trainium3}.rst.
struct Family {
  uint32_t id;              // nrt instance family
  const char* model;        // as telemetry and devctl print it
  uint32_t physical_cores;  // of one chip
  uint32_t hbm_stacks;      // of one chip
  uint64_t hbm_bytes;       // of one stack
  uint32_t lnc;             // physical cores of a logical one, unless NEURON_LOGICAL_NC_CONFIG says otherwise
};
const Family& family(uint32_t id);  // an unknown id is taken for Trainium2, with model "Neuron"
const Family& family_of(std::string_view model);

// PCI ids: driver neuron_device.h; Trainium3: NIXL libfabric_topology.cpp. Inferentia1 (0x7064..) has another runtime interface.
inline constexpr uint16_t kPciVendor = 0x1d0f;
struct PciId {
  uint16_t device;
  uint32_t family;
};
inline constexpr PciId kPciIds[] = {{0x7164, 2}, {0x7264, 4}, {0x7364, 5}, {0x7564, 14}, {0x7565, 14}};

// The kernel driver's sysfs names: what code says first, what documentation says.
inline constexpr const char* kSysfsDeviceNames[] = {"device_name", "device_type"};
struct SysfsAlias {
  const char *now, *before;
};
inline constexpr SysfsAlias kSysfsStatusAliases[] = {{"execute_completed_with_error", "infer_completed_with_error"},
                                                     {"execute_completed_with_num_error", "infer_completed_with_num_error"},
                                                     {"execute_failed_to_queue", "infer_failed_to_queue"}};
// Ways for an execution to fail; `hardware`: the device is to blame. `failure` counts every one of them (guess).
struct SysfsStatus {
  const char* name;
  bool hardware;
};
inline constexpr SysfsStatus kSysfsStatuses[] = {
    {"timeout", false}, {"exec_bad_input", false}, {"hw_error", true}, {"execute_completed_with_error", false}, {"execute_completed_with_num_error", false},
    {"generic_error", false}, {"resource_error", false}, {"resource_nc_error", false}, {"execute_failed_to_queue", false}, {"invalid_error", false},
    {"unsupported_neff_version", false}, {"oob_error", false}, {"hw_collectives_error", true}, {"hw_hbm_ue_error", true}, {"hw_nc_ue_error", true},
    {"hw_dma_abort_error", true}, {"hw_repairable_hbm_ue_error", true}};

// Memory errors by stats/hardware name; a release has some of them: those that were corrected are of SDK 2.32.
struct SysfsEcc {
  const char* name;
  bool corrected;
};
inline constexpr SysfsEcc kSysfsEcc[] = {{"sram_ecc_uncorrected", false}, {"mem_ecc_uncorrected", false}, {"mem_ecc_repairable_uncorrected", false},
                                         {"sram_ecc_corrected", true}, {"mem_ecc_corrected", true}};
// SDK 2.32, release notes; that a healthy chip names none, by an empty file or one of these words, is a guess.
inline constexpr char kSysfsUnhealthy[] = "health_status/unhealthy_components";
inline constexpr const char* kSysfsNobody[] = {"", "0", "none", "None"};

// Which kernel driver and which runtime go together; nrt_init refuses the rest, with a status alone. Release notes 2.30 and 2.31.
struct Pairing {
  uint32_t driver_from, driver_to;    // minor versions of 2.x that the row is about
  uint32_t runtime_from, runtime_to;  // and those of libnrt that they go with
};
inline constexpr Pairing kPairings[] = {{29, UINT32_MAX, 33, UINT32_MAX}, {0, 26, 0, 31}};
// What is wrong with a pair, "" if nothing is known to be.
std::string pairing_problem(uint32_t driver_minor, uint32_t runtime_minor);

// What a status of the runtime means to a caller of Baton.
struct StatusInfo {
  int32_t status;
  int32_t code;      // baton_code
  const char* name;  // the documented name without its NRT_ prefix
  bool fatal;        // the core cannot go on without a reset: DEVICE_LOST for everything in flight
  const char* next;  // what to do, "" if it depends on the call
};
StatusInfo status_info(int32_t status);

// The runtime's own directory is not on the default loader path (SDK src/libnrt/README.md).
inline constexpr char kLibraryName[] = "libnrt.so.1";
inline constexpr char kLibraryFallback[] = "/opt/aws/neuron/lib/libnrt.so.1";

// nrt_tensor_copy refuses some same-core copies between parents of different sizes (LMCache PR 4864, a third-party report), so a
// refused copy is repeated through host memory.
inline constexpr bool kCopyFallsBackToHost = true;
inline constexpr uint64_t kBounceBytes = 1 << 20;  // guess: large enough that a DMA's set-up time does not show

// A dma-buf of the driver admits one importer (driver neuron_dmabuf.c): every export is a fresh descriptor.
// Without nrt_get_dmabuf_fd_v2 only page-aligned memory can be exported (libfabric PR 11907).
inline constexpr uint64_t kPageBytes = 4096;

// How often the queue's descriptor wakes a sleeping poller while a launch with progress runs: marks are stores to device memory, and
// nothing else announces them. A layer of prefill takes some milliseconds on the chip; guess.
inline constexpr uint64_t kProgressTickNs = 200'000;

}  // namespace baton::neuron
