// quirks.hpp: what differs between Neuron generations and between releases of the runtime, in one table each.
//
// Owner    none: static data and pure functions.   Threads  any.   Cost  a scan of a few rows.   Errors  none.
//
//     const Family& f = family(info.family);   // "Trainium2", 8 cores, 4 HBM stacks
//     StatusInfo s = status_info(1201);        // DEVICE_LOST, fatal
#pragma once

#include "hal/baton.h"

#include <cstdint>

namespace baton::neuron {

// One accelerator family. Sources: SDK about-neuron/arch/neuron-hardware/{trainium,inferentia2,trainium2,trainium3}.rst.
struct Family {
  uint32_t id;              // nrt instance family
  const char* model;        // as telemetry and devctl print it
  uint32_t physical_cores;  // of one chip
  uint32_t hbm_stacks;      // of one chip
  uint64_t hbm_bytes;       // of one stack
};
const Family& family(uint32_t id);  // an unknown id is taken for Trainium2, with model "Neuron"

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
