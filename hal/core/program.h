// program.h: a program as loaded onto one lane of a device.
//
// Owner    the caller, of the handle; a LAUNCH in flight keeps it loaded.   Threads  references: the instance's lock.
// Cost     load packs the weights: seconds for a large model; other devices are polled meanwhile.   Errors  the driver's.
#pragma once

#include "hal/core/device.h"

struct baton_program {
  baton_device* device = nullptr;
  void* handle = nullptr;  // the driver's
  uint32_t lane = 0;
  uint64_t epoch = 0;
  uint32_t references = 0;
  bool unloaded = false;
  baton_program *prev = nullptr, *next = nullptr;
};

namespace baton::core {

inline void retain(baton_program* p) { ++p->references; }
void release(baton_program*);  // instance lock held
void free_dead_programs(baton_instance*);

}  // namespace baton::core
