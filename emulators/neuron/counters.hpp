// counters.hpp: what a machine counts, in memory that every process of the machine shares and that outlives each of them.
//
// With a machine folder the page is a file in it (machine_page.hpp): a process that is killed leaves its counts, and whoever takes its
// core goes on from them. A private machine has the same page in anonymous memory. Cores are physical, as sysfs numbers them; a
// logical core of LNC 2 counts on its first one. Names and their meaning: driver neuron_sysfs_metrics.c, SDK neuron-sysfs-user-guide.rst.
//
// Owner    the machine; written by the runtime (libnrt) alone, except that a reader may clear a counter by storing 0.
// Threads  any, any process: relaxed atomics.   Cost  one atomic add.   Errors  none.
//
//     page->core(chip, core).status[size_t(CoreStatus::success)].add(1);
//     page->core(chip, core).device[size_t(DeviceMemory::tensors)].change(+bytes);
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>

namespace baton::neuron_emu {

using Word = std::atomic<uint64_t>;
static_assert(Word::is_always_lock_free && sizeof(Word) == 8, "shared between processes");

// A sysfs counter: total/ and present/ (the latest addition).
struct Count {
  Word total, present;
  void add(uint64_t n) {
    total.fetch_add(n, std::memory_order_relaxed);
    present.store(n, std::memory_order_relaxed);
  }
};

// A sysfs memory category: total/ (bytes in use now), present/ (the latest change, two's complement), peak/ (the most there were).
struct Memory {
  Word total, present, peak;
  void change(int64_t bytes) {
    uint64_t now = total.fetch_add(uint64_t(bytes), std::memory_order_relaxed) + uint64_t(bytes);
    present.store(uint64_t(bytes), std::memory_order_relaxed);
    uint64_t most = peak.load(std::memory_order_relaxed);
    while (now > most && !peak.compare_exchange_weak(most, now, std::memory_order_relaxed)) {
    }
  }
};

// Rows of neuron_core<k>/stats/status/.
enum class CoreStatus : uint32_t {
  success, failure, timeout, exec_bad_input, hw_error, execute_completed_with_error, execute_completed_with_num_error, generic_error,
  resource_error, resource_nc_error, execute_failed_to_queue, invalid_error, unsupported_neff_version, oob_error, hw_collectives_error,
  hw_hbm_ue_error, hw_nc_ue_error, hw_dma_abort_error, execute_sw_nq_overflow, execute_sw_semaphore_error, execute_sw_event_error,
  execute_sw_psum_collision, execute_sw_sequencer_fatal, hw_repairable_hbm_ue_error, count
};
inline constexpr const char* kCoreStatusNames[] = {
    "success", "failure", "timeout", "exec_bad_input", "hw_error", "execute_completed_with_error", "execute_completed_with_num_error", "generic_error",
    "resource_error", "resource_nc_error", "execute_failed_to_queue", "invalid_error", "unsupported_neff_version", "oob_error", "hw_collectives_error",
    "hw_hbm_ue_error", "hw_nc_ue_error", "hw_dma_abort_error", "execute_sw_nq_overflow", "execute_sw_semaphore_error", "execute_sw_event_error",
    "execute_sw_psum_collision", "execute_sw_sequencer_fatal", "hw_repairable_hbm_ue_error"};

// Rows of neuron_core<k>/stats/memory_usage/device_mem/.
enum class DeviceMemory : uint32_t {
  model_code, tensors, constants, model_shared_scratchpad, runtime_memory, driver_memory, collectives, nonshared_scratchpad, notifications,
  dma_rings, uncategorized, count
};
inline constexpr const char* kDeviceMemoryNames[] = {
    "model_code", "tensors", "constants", "model_shared_scratchpad", "runtime_memory", "driver_memory", "collectives", "nonshared_scratchpad",
    "notifications", "dma_rings", "uncategorized"};

// Rows of stats/memory_usage/host_mem/ of a chip.
enum class HostMemory : uint32_t {
  dma_buffers, tensors, constants, application_memory, driver_memory, notifications, dma_rings, uncategorized, count
};
inline constexpr const char* kHostMemoryNames[] = {"dma_buffers",   "tensors",       "constants", "application_memory",
                                                   "driver_memory", "notifications", "dma_rings", "uncategorized"};

// Rows of neuron_core<k>/stats/other_info/. flop_count is 2 x MAC; nc_time_in_use is in us.
enum class OtherInfo : uint32_t { model_load_count, reset_req_count, reset_fail_count, inference_count, flop_count, nc_time_in_use, count };
inline constexpr const char* kOtherInfoNames[] = {"model_load_count", "reset_req_count", "reset_fail_count", "inference_count", "flop_count", "nc_time_in_use"};

// Rows of stats/hardware/ of a chip; the corrected ones since SDK 2.32.
enum class Ecc : uint32_t { sram_uncorrected, mem_uncorrected, mem_repairable_uncorrected, sram_corrected, mem_corrected, count };
inline constexpr const char* kEccNames[] = {"sram_ecc_uncorrected", "mem_ecc_uncorrected", "mem_ecc_repairable_uncorrected", "sram_ecc_corrected",
                                            "mem_ecc_corrected"};

static_assert(std::size(kCoreStatusNames) == size_t(CoreStatus::count) && std::size(kDeviceMemoryNames) == size_t(DeviceMemory::count) &&
              std::size(kHostMemoryNames) == size_t(HostMemory::count) && std::size(kOtherInfoNames) == size_t(OtherInfo::count) &&
              std::size(kEccNames) == size_t(Ecc::count));

struct CoreCounters {
  Count status[size_t(CoreStatus::count)];
  Memory host, device_total;
  Memory device[size_t(DeviceMemory::count)];
  Count other[size_t(OtherInfo::count)];
  Word holder;         // pid of the process that holds the core, 0: none. The lock file decides; this is for readers (neuron-ls)
  Word lost;           // 1: an uncorrectable error or a fault plan took the core; it refuses work until a reset
  Word busy_since_ns;  // CLOCK_MONOTONIC of the execution in progress, 0: idle

  void use(DeviceMemory row, int64_t bytes) {
    device[size_t(row)].change(bytes);
    device_total.change(bytes);
  }
  Count& of(CoreStatus s) { return status[size_t(s)]; }
  Count& of(OtherInfo o) { return other[size_t(o)]; }
  // The core changes hands: what the last process had is gone, also if it was killed. Peaks and counts stay.
  void release_memory() {
    for (Memory* m : {&host, &device_total}) m->total.store(0, std::memory_order_relaxed);
    for (Memory& m : device) m.total.store(0, std::memory_order_relaxed);
  }
};

struct ChipCounters {
  Word ecc[size_t(Ecc::count)];
  Memory host[size_t(HostMemory::count)];
  Word reset_requests;  // +1 by whoever resets the chip (sysfs reset): libnrt clears `lost` of its cores and fails what ran before
  Word lost;            // 1: the whole chip is gone (fault plan): every call that touches it gives HW_ERROR
};

}  // namespace baton::neuron_emu
