// options.hpp: the environment that this library touches, all of it.
//
// FI_HMEM  set to "system" unless it is set, before libfabric starts: its detection of device memory loads libnrt.so.1 where one is
//          found, and its tcp provider has been seen to crash on it (libfabric 2.6, FI_OFI_RXM_DETECT_HMEM_IFACE). Releases that
//          do not know the variable (1.17) ignore it.
//          One that names a device's (FI_HMEM=neuron) asks for it: it is registered as such where the provider has FI_HMEM.
// FI_OFI_RXM_CM_PROGRESS_INTERVAL  set to kRxmConnectUs unless it is set: how often, in us, ofi_rxm looks for connections while its queue is
//          read. Its own 10,000 would be most of the time to first token.
// FI_OFI_RXM_BUFFER_SIZE  set to kRxmBufferBytes unless it is set: ofi_rxm clears many buffers of this size for each endpoint, that is, for each
//          landing and sender. With its own 16 KiB, 102 tcp transfers took 1.8 s of CPU, with 512 bytes 0.8 s (one run each, on a busy machine);
//          what passes through them here is a Note.
// FI_UNIVERSE_SIZE  set to kUniverse unless it is set: ofi_rxm makes the completion queue of each endpoint for so many peers. Its own 256 is more than
//          soft-RoCE has entries for (65536, rdma_rxe has 32767), and ours have one peer.
// BATON_COPY  read: "memcpy", "avx2" or "avx512" for large copies, in place of the probe's choice; one that this CPU has not is ignored.
// BATON_FABRIC_FAULTS  read: what a sender does wrong, by a seed (fault_sender.hpp). For tests and soaks.
//
// Owner    -   Threads  once, before other threads read the environment.   Cost  nothing after the first.   Errors  none.
#pragma once

#include <string>

namespace baton::transport {

inline constexpr int kRxmConnectUs = 100;
inline constexpr int kRxmBufferBytes = 512;
inline constexpr int kUniverse = 64;

void prepare_libfabric_environment();
bool device_memory_wished(); // FI_HMEM names more than "system"
std::string forced_copy();   // BATON_COPY, "" if unset
std::string fabric_faults(); // BATON_FABRIC_FAULTS

}  // namespace baton::transport
