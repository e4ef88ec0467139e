// device.h: a device as the fault layer sees it, and its queues.
//
// An op that a rule fails or drops is not executed. One that is delayed, duplicated or corrupted is, and its completion is treated. A loss
// first lets the device below come to rest (at most 5 s), so that memory which the core then frees is not written any more.
//
// Owner    the core, by attach and detach.   Threads  as the device's slots.
// Cost     ops that no rule is about are handed on in one batch, each with a cookie of its own; the others one by one.
// Errors   the plan's, named. A corruption that is out of reach fails the op with UNSUPPORTED: a fault is never skipped silently.
#pragma once

#include "hal/layers/cookies.h"
#include "hal/layers/fault/trigger.h"
#include "hal/layers/held.h"

#include <memory>

namespace baton::layers {

struct FaultQueue;

// An op that is below, and what is to become of its completion.
struct FaultOp : Cookied<FaultOp> {
  FaultQueue* queue = nullptr;
  void* up = nullptr;  // the cookie given to us
  Trigger::Decision decision;
  uint8_t* reachable = nullptr;  // corrupt: the destination's first byte
  uint64_t bytes = 0;
  std::vector<uint8_t> forged;  // corrupt: the source in place of the caller's, where the destination is out of reach
};

struct FaultDevice : baton_layered {
  FaultDevice(Trigger& trigger, const baton_driver_host* up, const char* uri);
  int32_t gate(uint32_t point, baton_error* e, bool* drop = nullptr);  // a call: OK, or what the plan says; `drop`: OK, but not to be made
  int32_t reset(baton_error* e);
  int32_t open_queue(uint32_t lane, void** out, int* fd, baton_error* e);
  void close_queue(FaultQueue*);

  Trigger& trigger;
  const baton_driver_host* up;
  baton_driver_host services;  // for what is below
  std::string uri;
  uint32_t points;  // that rules are about
  Cookies<FaultOp> ops;
  std::vector<std::unique_ptr<FaultQueue>> queues;
  std::vector<baton_driver_op> batch;
  bool losing = false;
  void lose(const Trigger::Decision&);
};

struct FaultQueue {
  FaultQueue(FaultDevice& d, uint32_t l) : device(d), lane(l) {}
  int32_t submit(const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e);
  uint32_t poll(uint32_t budget);

  FaultDevice& device;
  uint32_t lane;
  void* below = nullptr;
  Held held;

 private:
  int32_t pass(const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e);
  int32_t pass_treated(const baton_driver_op& op, Trigger::Decision& d, uint32_t* taken, baton_error* e);
  bool aim(baton_driver_op& op, FaultOp& f);
};

}  // namespace baton::layers
