// machine.hpp: what exists between nrt_init and nrt_close: chips, cores, HBM stacks, and the handles that callers hold.
//
// libnrt is process-global, so there is one current Machine in a process (process.hpp). Handles are looked up, never trusted: a
// stale or foreign pointer gives INVALID_HANDLE, not a crash.
//
// Owner    process.hpp holds it; a call in progress holds it too, so nrt_close never frees memory under an execution.
// Threads  any. A core's `busy` is held by the one execution on it.
// Errors   BUSY: a core is held by another process of the shared machine; IO: memory files, lock files.
#pragma once

#include "drivers/neuron/nrt_abi.hpp"
#include "emulators/neuron/collective.hpp"
#include "emulators/neuron/fault.hpp"
#include "emulators/neuron/hbm.hpp"
#include "emulators/neuron/machine_page.hpp"
#include "emulators/neuron/options.hpp"
#include "emulators/neuron/shared_group.hpp"
#include "emulators/neuron/site.hpp"
#include "emulators/neuron/sysfs_tree.hpp"
#include "emulators/neuron/timing.hpp"

#include <atomic>
#include <map>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace baton::neuron_emu {

struct Core {
  Core(HeldCore h, const Options&, const MachinePage&, uint32_t vnc);
  ~Core();
  HeldCore held;
  uint32_t vnc = 0;      // process-relative
  uint32_t logical = 0;  // of the machine
  uint32_t chip = 0;
  uint32_t hbm_index = 0;  // of the chip: with LNC 2 core i has stack i; with LNC 1 cores 2i and 2i+1 share it
  std::shared_ptr<Hbm> hbm;
  CoreCounters* counters = nullptr;  // of its first physical core
  ChipCounters* chip_counters = nullptr;
  uint64_t resets = 0;  // of the chip, when the core was taken
  std::mutex busy;
};

// Memory behind tensors: HBM, host, or a caller's buffer. Slices share their parent's.
struct Storage {
  Core* core = nullptr;  // nullptr: host memory
  std::shared_ptr<Hbm> hbm;
  uint64_t hbm_offset = 0;
  uint8_t* data = nullptr;
  uint64_t bytes = 0;
  Memory* host = nullptr;  // its row of host memory, if it is the runtime's own
  // What nrt_tensor_get_va gives for data + offset.
  uint8_t* address(uint64_t offset) const { return hbm ? hbm->window() + hbm_offset + offset : data + offset; }
  // Around the device's own use of the memory: what others wrote may become visible, what the device wrote is theirs to read.
  void exchange() const {
    if (hbm) hbm->exchange();
  }
  Storage() = default;
  Storage(const Storage&) = delete;
  ~Storage();
};

struct TensorSet {
  std::mutex mutex;
  std::unordered_map<std::string, std::pair<nrt::Tensor*, std::shared_ptr<nrt::Tensor>>> tensors;
  std::shared_ptr<nrt::Tensor> find(const std::string& name);
};

// Live handles of one kind.
template <class T>
class Handles {
 public:
  T* add(std::shared_ptr<T> object) {
    std::lock_guard lock(mutex_);
    T* handle = object.get();
    live_.emplace(handle, std::move(object));
    return handle;
  }
  std::shared_ptr<T> find(const void* handle) const {
    std::lock_guard lock(mutex_);
    auto it = live_.find(handle);
    return it == live_.end() ? nullptr : it->second;
  }
  std::shared_ptr<T> take(const void* handle) {
    std::lock_guard lock(mutex_);
    auto it = live_.find(handle);
    if (it == live_.end()) return nullptr;
    std::shared_ptr<T> object = std::move(it->second);
    live_.erase(it);
    return object;
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<const void*, std::shared_ptr<T>> live_;
};

class Machine {
 public:
  static Result<std::shared_ptr<Machine>> create(Options);

  Options options;
  Site site;
  MachinePage page;                                  // before the cores, which count in it
  FaultPlan faults;
  std::vector<std::unique_ptr<Core>> cores;          // by vnc
  std::vector<std::shared_ptr<Hbm>> stacks;          // chip * chip.stacks() + index; null where no core is visible
  std::unique_ptr<Cost> cost;
  std::unique_ptr<SysfsTree> sysfs;                  // null: a private machine
  Groups groups;                                     // ranks that are threads of this process
  HostRounds host_rounds;
  std::mutex host_groups_mutex;
  std::map<std::pair<uint32_t, uint32_t>, std::shared_ptr<SharedGroup>> host_groups;  // (rank, ranks): across processes
  std::mutex outputs_mutex;
  std::condition_variable outputs_written;           // an execution counted its output tensors
  std::atomic<bool> closing{false};                  // ends executions between two ops
  // After what they refer to: destroyed first.
  Handles<nrt::Tensor> tensors;
  Handles<TensorSet> sets;
  Handles<nrt::Model> models;

  Machine(Site s, MachinePage p) : site(std::move(s)), page(std::move(p)) {}
  // Ranks may be of other processes of the machine.
  bool ranks_meet() const { return !site.folder().empty() && !options.root_comm.empty(); }
  uint64_t exec_timeout_ns() const { return options.exec_timeout_s * 1'000'000'000; }
  Core* core(int64_t vnc) { return vnc >= 0 && uint64_t(vnc) < cores.size() ? cores[size_t(vnc)].get() : nullptr; }
};

}  // namespace baton::neuron_emu

namespace baton::nrt {

struct Tensor {
  std::shared_ptr<neuron_emu::Storage> storage;  // null: empty, nothing attached yet
  uint64_t offset = 0, bytes = 0;                // into storage
  std::string name;
  std::atomic<uint64_t> completions{0};          // executions that it was an output of
  uint8_t* data() const { return storage->data + offset; }
};

}  // namespace baton::nrt
