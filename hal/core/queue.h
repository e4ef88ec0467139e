// queue.h: where ops are submitted: a lane of a device, a link between two devices, or a table (a session's link).
//
// Owner    the caller, of the handle; links own two inner lane queues. A lane may have several queues (links open their own on lane 0).
// Threads  everything under the instance's lock.
// Cost     at most 262,144 incomplete ops a queue (CAPACITY): about 0.7 KB each, recycled.
// Errors   see baton.h.
#pragma once

#include "hal/core/device.h"

#include <atomic>
#include <memory>
#include <string>

namespace baton::core {
struct Link;
inline constexpr uint32_t kMaxOps = 1u << 18;
enum class QueueKind : uint8_t { lane, link, table };
}  // namespace baton::core

struct baton_queue {
  baton_queue();
  ~baton_queue();
  baton_instance* instance = nullptr;
  baton_device* device = nullptr;  // lane queues
  const baton_driver* driver = nullptr;
  baton_driver table{};     // a table queue's copy
  void* device_handle = nullptr;
  void* handle = nullptr;
  int fd = -1;
  baton::core::QueueKind kind = baton::core::QueueKind::lane;
  uint32_t lane = 0;
  uint64_t epoch = 0;
  std::string name;  // "neuron://0 lane 2": spans
  std::string hop;   // "neuron://0": errors
  baton::core::Op *head = nullptr, *tail = nullptr;  // all incomplete ops, in submit order
  baton::core::ReadyList ready;
  uint64_t sequence = 0;
  std::atomic<uint64_t> accepted{0}, finished{0};  // ops, ever; `finished` is written inside alone
  uint32_t inflight = 0;  // issued
  bool dirty = false;     // in instance->dirty
  bool blocked = false;   // the driver was full, or its device busy: try again after a poll
  // Asked by a submit, after it has reserved room: not 0 is not simply open (submit.cc).
  std::atomic<uint8_t> door{0};
  static constexpr uint8_t kClosing = 1, kValidated = 2;
  bool closing() const { return door.load(std::memory_order_seq_cst) & kClosing; }
  bool dead = false;      // closed inside a poll
  baton_stats_row* stats = nullptr;  // never NULL once registered
  uint64_t end_ns = 0;    // modelled end of the latest op
  uint64_t wall_end = 0;  // of the latest op, for spans
  std::unique_ptr<baton::core::Link> link;
  baton_queue* owner = nullptr;  // of a link's inner queue: the link
};

namespace baton::core {

int32_t open_lane(baton_device*, uint32_t lane, baton_queue** out, baton_error*);
// Fails, waits (at most 5 s), closes, frees. Instance lock not held, or held once by an outer call on this thread.
void close_queue(baton_queue*, const baton_error& cause);
void free_dead_queues(baton_instance*);

}  // namespace baton::core
