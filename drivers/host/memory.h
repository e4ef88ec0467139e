// memory.h: the heap "dram": each allocation is a memory file of its own, mapped.
//
// One file each, so that exporting one buffer discloses no other. It costs a descriptor an allocation (ulimit -n).
//
// Owner    the core, by the driver's handle.   Threads  calls on one device are serialized by the core.
// Cost     allocate: three system calls; pages come zeroed when first touched.   Errors  CAPACITY, IO, INVALID_ARGUMENT.
//
//     BATON_ASSIGN(Memory* m, Memory::allocate(1 << 20));   m->data();
#pragma once

#include "hal/baton.hpp"

namespace baton::host_driver {

class Memory {
 public:
  static Result<Memory*> allocate(uint64_t bytes);
  // `fd` is duplicated. The range must lie within the object, or the first access would be a SIGBUS.
  static Result<Memory*> import(int fd, uint64_t offset, uint64_t bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  uint8_t* data() const { return base_ + skip_; }
  uint64_t bytes() const { return bytes_; }
  bool imported() const { return imported_; }
  uint64_t fd_offset() const { return fd_offset_; }
  Result<int> duplicate() const;  // a descriptor that the caller closes

  uint32_t resets = 0;  // of the device before it was allocated

 private:
  Memory() = default;
  Status map(uint64_t offset, uint64_t bytes);
  uint8_t* base_ = nullptr;
  uint64_t mapped_ = 0;     // bytes, from base_
  uint64_t skip_ = 0;       // from the page that holds the first byte to that byte
  uint64_t bytes_ = 0;
  uint64_t fd_offset_ = 0;  // of data() in fd_
  int fd_ = -1;
  bool imported_ = false;
};

}  // namespace baton::host_driver
