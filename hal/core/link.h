// link.h: a queue between two devices of this process: runs COPY by the planner's path.
//
// Driver hops are child ops on two inner queues, so back-pressure, failure and modelled time are those of any op. memcpy runs in poll,
// 256 KiB a link and poll. Staging is a ring of 8 slots of 1 MiB in one memory object, made when a staged copy first needs it.
//
// Owner    its baton_queue.   Threads  instance lock held.   Cost  nothing is allocated in flight.
// Errors   the failed hop's, with both names in the hop text.
#pragma once

#include "hal/core/schedule.h"

namespace baton::core {

struct Link {
  baton_device *from = nullptr, *to = nullptr;
  baton_queue *from_queue = nullptr, *to_queue = nullptr;  // opened when first needed; one and the same if from == to
  // Staging.
  static constexpr uint32_t kSlots = 8;
  static constexpr uint64_t kSlotBytes = 1 << 20;
  Fd fd;
  uint8_t* base = nullptr;
  uint32_t free_slots = 0;  // bit set: free
  uint64_t slot_ns[kSlots] = {};  // modelled time at which the slot became free
  Op *staged_head = nullptr, *staged_tail = nullptr;  // parents with bytes not yet handed to hop 1
  Op *memcpy_head = nullptr, *memcpy_tail = nullptr;
  ~Link();
};

// Before an op is taken: opens what its path needs. May call drivers.
int32_t prepare_link(baton_queue*, Path, baton_error*);
void issue_on_link(Op*);
void child_done(Op* child, uint64_t end_ns, const baton_error*);
// Whether the driver may stop a child: its copy is over, poisoned, or its link is being closed.
int32_t child_cancelled(const Op* child);
// Goes on with memcpys; returns how many ended.
uint32_t poll_link(baton_queue*);
// Fails the ops of links that touch a lost device.
void fail_links_of(baton_device*, const baton_error& cause);
// The link is being closed: copies that it drives itself (memcpy, chunks not yet handed to a driver) end with `cause`.
void stop_link(baton_queue*, const baton_error& cause);
// A parent is failed from outside (close, loss): forgets it; its children are failed by their own queues.
void forget_parent(Op* parent);

}  // namespace baton::core
