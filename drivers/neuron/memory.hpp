// memory.hpp: a buffer on the device: one runtime tensor, its mapped address, and the slices of it that launches bind.
//
// Owner    the core, by handle; a Memory that ops still use when it is freed lives on until they end (release()).
// Threads  made, freed and sliced under the core's device lock; a queue's thread only uses tensor().
// Cost     allocation is the runtime's; a slice is made once for each (offset, bytes) and kept.
// Errors   CAPACITY with the heap's numbers; UNSUPPORTED where the runtime has no mapped address or no export.
//
//     BATON_ASSIGN(auto m, Memory::allocate(port, vnc, heap, bytes));
//     BATON_ASSIGN(nrt::Tensor* t, m->range(offset, bytes));   // borrowed
#pragma once

#include "drivers/neuron/port.hpp"

#include <atomic>
#include <map>
#include <memory>

namespace baton::neuron {

struct Export {
  int fd;
  uint64_t offset;
};

class Memory {
 public:
  static Result<std::unique_ptr<Memory>> allocate(const Port&, int32_t vnc, uint32_t heap, uint64_t bytes);
  // Host memory that the descriptor names, attached as a tensor: good for copies and as an input; it stays in host memory.
  static Result<std::unique_ptr<Memory>> import(const Port&, int fd, uint64_t offset, uint64_t bytes);
  ~Memory();
  Memory(const Memory&) = delete;

  nrt::Tensor* tensor() const { return tensor_; }  // null after drop()
  uint64_t bytes() const { return bytes_; }
  int32_t vnc() const { return vnc_; }  // the core that it was allocated on, -1: imported host memory
  uint32_t heap() const { return heap_; }
  void* address() const { return address_; }  // null: not mapped
  Result<nrt::Tensor*> range(uint64_t offset, uint64_t bytes);
  Result<Export> export_range();
  // What others have written there through an export is visible. Any thread, also while the memory is dropped.
  Status fence(uint64_t offset, uint64_t bytes) const;

  void acquire() { ++users_; }
  // An op is over with it; true if the core has freed it and this was the last use: delete it.
  bool release() { return --users_ == 0 && orphan_; }
  // The core frees it; true if nothing uses it: delete it.
  bool orphan() { return orphan_ = true, users_ == 0; }
  // Gives the runtime's memory back (reset); the handle stays until the core frees it.
  void drop();

 private:
  Memory(const Port& port, uint64_t bytes) : port_(port), bytes_(bytes) {}
  const Port& port_;
  nrt::Tensor* tensor_ = nullptr;
  void* address_ = nullptr;
  uint64_t bytes_;
  int32_t vnc_ = -1;
  uint32_t heap_ = UINT32_MAX;
  uint32_t users_ = 0;
  bool orphan_ = false;
  std::atomic<const uint8_t*> exported_{nullptr};  // address_, while an export may exist
  void* mapping_ = nullptr;  // of an import
  uint64_t mapping_bytes_ = 0;
  std::map<std::pair<uint64_t, uint64_t>, nrt::Tensor*> slices_;
};

}  // namespace baton::neuron
