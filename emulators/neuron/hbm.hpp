// hbm.hpp: one HBM stack as shareable memory: a sparse memory file of the stack's size, mapped once, with a page allocator inside.
//
// Only touched pages cost host memory; freed ranges are given back. The mapping is not inherited by fork and not in core dumps, as the
// kernel driver's is (driver neuron_mmap.c: VM_DONTCOPY, VM_DONTDUMP). A descriptor of the file plus an offset is what a dma-buf is.
// Two modes, each free when off: strict (strict.hpp: callers get a window that faults) and visibility (mirror.hpp: descriptors name
// another object than the device works on).
//
// Owner    Machine; tensors share it, so memory outlives nrt_close for as long as an execution still uses it.
// Threads  any; one mutex.   Cost  O(log ranges); first touch of a page faults.
// Errors   IO (memory file), CAPACITY as nullopt from allocate and false from reserve: a full stack is an ordinary outcome.
//
//     BATON_ASSIGN(auto hbm, Hbm::create("hbm0", 24ull << 30));
//     std::optional<uint64_t> offset = hbm->allocate(4096, "weights");
#pragma once

#include "emulators/neuron/mirror.hpp"
#include "emulators/neuron/strict.hpp"
#include "hal/baton.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace baton::neuron_emu {

inline constexpr uint64_t kPage = 4096;  // allocation granularity: driver neuron_mempool.c

struct HbmModes {
  bool strict = false;
  std::optional<uint64_t> visibility;  // the seed
};

class Hbm {
 public:
  static Result<std::unique_ptr<Hbm>> create(const std::string& name, uint64_t bytes, HbmModes modes = {});
  ~Hbm();
  Hbm(const Hbm&) = delete;

  std::optional<uint64_t> allocate(uint64_t bytes, std::string name = "");  // offset of a page-aligned range
  uint64_t release(uint64_t offset);                                       // how many bytes it had, 0: no such range
  uint64_t allocated(uint64_t offset) const;                               // of the range that begins there
  // Charges memory that lives elsewhere (a loaded model's packed weights) against the stack's capacity.
  bool reserve(uint64_t bytes);
  void unreserve(uint64_t bytes);

  uint8_t* base() const { return base_; }      // the emulator's own
  uint8_t* window() const { return window_; }  // what callers are told; base() unless strict
  uint64_t bytes() const { return bytes_; }
  uint64_t used() const;  // of the stack, by whomever
  // What other processes of the machine use of the stack, asked whenever something is to be taken. They do not wait for each other: two that
  // take the last bytes at one moment may both get them.
  void share(std::function<uint64_t()> elsewhere) { elsewhere_ = std::move(elsewhere); }
  // Offset of `va`, in the window, if [va, va + bytes) lies within one live allocation.
  std::optional<uint64_t> find(const void* va, uint64_t bytes) const;
  // "byte 12 of tensor 'weights', 4096 bytes of hbm0": without allocating.
  void describe(const void* va, char* out, size_t bytes) const;
  // A new descriptor of the whole stack, for the allocation around `offset`; its own open file, at kSingleImport. -1 with errno.
  int export_at(uint64_t offset);
  void exchange();                               // mirror.hpp; nothing without a seed
  void fence(uint64_t offset, uint64_t bytes);

 private:
  struct Live {
    uint64_t bytes;
    std::string name;
  };
  Hbm(std::string name, int fd, uint8_t* base, uint64_t bytes);
  std::map<uint64_t, Live>::const_iterator around(uint64_t offset) const;  // under the mutex
  uint64_t taken() const { return std::min(bytes_, used_ + (elsewhere_ ? elsewhere_() : 0)); }
  std::string name_;
  int fd_;
  uint8_t *base_, *window_;
  uint64_t bytes_;
  std::optional<StrictWindow> strict_;
  std::unique_ptr<Mirror> mirror_;
  mutable std::mutex mutex_;
  uint64_t used_ = 0;  // by this process
  std::function<uint64_t()> elsewhere_;
  std::map<uint64_t, uint64_t> free_;  // offset -> bytes, coalesced
  std::map<uint64_t, Live> live_;
};

}  // namespace baton::neuron_emu
