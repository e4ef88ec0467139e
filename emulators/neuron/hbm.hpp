// hbm.hpp: one HBM stack as shareable memory: a sparse memory file of the stack's size, mapped once, with a page allocator inside.
//
// Only touched pages cost host memory; freed ranges are given back. The mapping is not inherited by fork and not in core dumps, as the
// kernel driver's is (driver neuron_mmap.c: VM_DONTCOPY, VM_DONTDUMP). A descriptor of the file plus an offset is what a dma-buf is.
//
// Owner    Machine; tensors share it, so memory outlives nrt_close for as long as an execution still uses it.
// Threads  any; one mutex.   Cost  O(log ranges); first touch of a page faults.
// Errors   IO (memory file), CAPACITY as nullopt from allocate and false from reserve: a full stack is an ordinary outcome.
//
//     BATON_ASSIGN(auto hbm, Hbm::create("hbm0", 24ull << 30));
//     std::optional<uint64_t> offset = hbm->allocate(4096);
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace baton::neuron_emu {

inline constexpr uint64_t kPage = 4096;  // allocation granularity: driver neuron_mempool.c

class Hbm {
 public:
  static Result<std::unique_ptr<Hbm>> create(const std::string& name, uint64_t bytes);
  ~Hbm();
  Hbm(const Hbm&) = delete;

  std::optional<uint64_t> allocate(uint64_t bytes);  // offset of a page-aligned range
  void release(uint64_t offset);
  // Charges memory that lives elsewhere (a loaded model's packed weights) against the stack's capacity.
  bool reserve(uint64_t bytes);
  void unreserve(uint64_t bytes);

  uint8_t* base() const { return base_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t used() const;
  // Offset of `va` if [va, va + bytes) lies within one live allocation.
  std::optional<uint64_t> find(const void* va, uint64_t bytes) const;
  // A new descriptor of the whole stack; -1 with errno.
  int duplicate() const;

 private:
  Hbm(int fd, uint8_t* base, uint64_t bytes);
  int fd_;
  uint8_t* base_;
  uint64_t bytes_;
  mutable std::mutex mutex_;
  uint64_t used_ = 0;
  std::map<uint64_t, uint64_t> free_;  // offset -> bytes, coalesced
  std::map<uint64_t, uint64_t> live_;
};

}  // namespace baton::neuron_emu
