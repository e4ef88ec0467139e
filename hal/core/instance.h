// instance.h: what one instance holds: handles, the scheduler's lists, the registry.
//
// Owner    the caller. Destroying closes what is still open, in the order queues, programs, buffers, devices, timelines, emulators.
// Threads  `inside` guards everything but the inbox and the stack of changed timelines (lock-free), the waker and the registry (their own
//          locks).
// Cost     -   Errors  create: IO.
#pragma once

#include "hal/core/inbox.h"
#include "hal/core/layers.h"
#include "hal/core/list.h"
#include "hal/core/lock.h"
#include "hal/core/op.h"
#include "hal/core/registry.h"
#include "hal/core/stats.h"
#include "hal/core/timeline.h"
#include "hal/core/waker.h"

#include <atomic>
#include <memory>
#include <vector>

namespace baton::core {
class Validator;
}

struct baton_instance {
  explicit baton_instance(baton::core::Options options);
  ~baton_instance();

  void count_event() { events.store(events.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }
  uint64_t happened() const { return events.load(std::memory_order_relaxed) + outside.load(std::memory_order_seq_cst); }

  baton::core::OwnedLock inside;  // entered by hold.h
  baton::core::Inbox inbox;
  baton::core::Batch* taken = nullptr;  // from the inbox, and not yet let in
  bool took_posted = false;             // let in, and not yet run
  baton::core::Waker waker;
  baton::core::Registry registry;
  baton::core::StatsPage stats;
  baton::core::Layers layers;
  baton::core::OpPool ops{this};

  std::vector<baton_queue*> queues;  // polled in turn; a closed one leaves NULL until the poll is over
  uint32_t next_queue = 0;           // where the next poll starts
  std::vector<baton_queue*> dirty;   // have ready ops
  std::vector<baton_queue*> dirty_now;
  std::vector<baton_queue*> graveyard;  // closed inside a poll: freed after it
  baton::core::List<baton_device> devices;
  baton::core::TimelinePool timelines{this};
  std::atomic<baton_timeline*> changed{nullptr};  // stack, pushed by any thread: a value that an op waits for, or a poison
  baton::core::Op *host_head = nullptr, *host_tail = nullptr;  // HOST ops to call
  std::atomic<bool> lost_pending{false};  // a driver reported a loss outside of submit and poll
  std::vector<baton_buffer*> dead_buffers;    // freed by the caller while ops used them, and now unused
  std::vector<baton_program*> dead_programs;  // (a driver's free may not run inside its own poll, where ops complete)
  std::vector<baton_device*> dead_devices;
  std::atomic<uint64_t> events{0};   // completions and marks, ever; written inside alone, so without a locked instruction
  std::atomic<uint64_t> outside{0};  // timelines changed by users' threads, ever
  std::atomic<uint64_t> seen{0};     // happened() when poll_wait last returned
  uint32_t in_driver = 0;                 // depth of driver, table and span calls: no new ones from inside
  bool draining = false;
  uint32_t copying = 0;  // links with a memcpy to go on with
  std::atomic<bool> more{false};             // a poll has work to do at once: nobody may go to sleep
  std::atomic<uint64_t> nap_ns{UINT64_MAX};  // how long a poller may sleep: short while a queue without a descriptor has work

  std::atomic<uintptr_t> driver_thread{0};  // the waiting thread that polls for all; 0: none

  bool watched = false;  // a span callback is set or the instance validates: an op's issue and end look further
  baton_span_fn span = nullptr;
  void* span_user = nullptr;
  baton_driver_host services{};  // for table queues
  std::vector<baton_driver_op> batch;  // scratch of schedule.cc
  std::unique_ptr<baton::core::Validator> validator;  // only with the layer "validate"; goes before the timelines
};
