// buffer.h: memory of one device, with what other devices need to reach it: host address, descriptor.
//
// Owner    the caller, of the handle; an op in flight keeps the memory. The address and the descriptor are asked for once an allocation
//          and cached (registering and exporting once, always with the offset).
// Threads  references and lists: the instance's lock. Cached views: the device's call lock.
// Cost     views: a driver call the first time.   Errors  UNSUPPORTED (not mappable), DEVICE_LOST, the driver's.
#pragma once

#include "hal/core/device.h"

struct baton_buffer {
  baton_device* device = nullptr;
  void* memory = nullptr;  // the driver's
  uint64_t bytes = 0;
  uint64_t epoch = 0;
  uint32_t heap = UINT32_MAX;  // UINT32_MAX: imported
  uint32_t references = 0;
  bool freed = false;
  bool mapped = false;      // host_address has been asked for
  bool exported = false;    // export_fd has been asked for
  void* address = nullptr;  // NULL: not mappable
  int fd = -1;
  uint64_t fd_offset = 0;
  baton_buffer *prev = nullptr, *next = nullptr;
};

namespace baton::core {

// The host address of the buffer, NULL if it has none (then `why`, if given, says what the driver said).
void* host_address(baton_buffer*, baton_error* why);
// Fills fd and fd_offset if the memory can be exported.
void find_descriptor(baton_buffer*);
// baton_fence without its checks; takes no lock (hal/baton.h: the driver's slot may be called at any time).
int32_t fence(baton_buffer*, uint64_t offset, uint64_t bytes, baton_error*);
inline void retain(baton_buffer* b) { ++b->references; }
void release(baton_buffer*);  // instance lock held
void free_dead_buffers(baton_instance*);

}  // namespace baton::core
