#include "hal/core/schedule.h"

#include "hal/core/buffer.h"
#include "hal/core/link.h"
#include "hal/core/poller.h"
#include "hal/core/program.h"
#include "hal/core/trace.h"
#include "hal/core/validate.h"

#include <algorithm>
#include <utility>

namespace baton::core {
namespace {

// The queue whose HOST op this thread is calling.
thread_local const baton_queue* t_calling_from = nullptr;

constexpr uint32_t kBatch = 64;  // ops handed to a driver in one call

void drop_node(WaitNode& node) {
  release(node.timeline);
  node.timeline = nullptr;
}

void release_handles(Op* op) {
  for (baton_timeline*& t : op->signal)
    if (t) release(std::exchange(t, nullptr));
  if (op->uses) {
    for (baton_buffer*& b : op->buffer)
      if (b) release(std::exchange(b, nullptr));
    op->bytes = 0;
    op->uses = false;
  }
  if (op->opcode != BATON_OP_LAUNCH) return;
  if (op->progress) release(op->progress);
  for (baton_buffer* b : op->bound) release(b);
  op->bound.clear();
  if (op->program) release(op->program);
  op->progress = nullptr;
  op->program = nullptr;
}

void recycle(Op* op) {
  op->state = OpState::free;
  if (++op->generation == 0) op->generation = 1;
  release_handles(op);
  op->queue = nullptr;
  op->wait_ns = op->start_ns = 0;
  op->hop = 0;
  op->path = Path::none;
  op->waits_left = 0;
  op->waits = false;
  op->instance->ops.give(op);
}

void push_host(Op* op) {
  baton_instance* in = op->instance;
  op->ready_next = nullptr;
  (in->host_tail ? in->host_tail->ready_next : in->host_head) = op;
  in->host_tail = op;
  in->more.store(true, std::memory_order_seq_cst);
}

void remove_host(Op* op) {
  baton_instance* in = op->instance;
  Op* before = nullptr;
  for (Op* o = in->host_head; o; before = o, o = o->ready_next) {
    if (o != op) continue;
    (before ? before->ready_next : in->host_head) = op->ready_next;
    if (in->host_tail == op) in->host_tail = before;
    op->ready_next = nullptr;
    return;
  }
}

void make_ready(Op* op) {
  op->state = OpState::ready;
  if (op->opcode == BATON_OP_HOST) return push_host(op);
  op->queue->ready.insert(op);
  mark_dirty(op->queue);
}

// A wait is over: takes its modelled time. False: the timeline is poisoned.
bool take_wait(Op* op, WaitNode& node) {
  if (node.timeline->poisoned()) return false;
  op->wait_ns = std::max(op->wait_ns, node.timeline->modelled(node.value));
  return true;
}

void fail_by(Op* op, baton_timeline* poisoned) {
  baton_error e = poisoned->cause();
  complete_at(op, 0, &e);
}

// Goes through the ops whose wait on `t` is over.
void wake_ops(baton_timeline* t) {
  retain(t);  // the last op may be its last user
  while (WaitNode* node = t->take_due()) {
    Op* op = node->op;
    --op->waits_left;
    const bool met = take_wait(op, *node);
    drop_node(*node);
    if (!met) fail_by(op, t);
    else if (!op->waits_left) make_ready(op);
  }
  release(t);
}

// Takes up what signals and poisons have changed for waiting ops. True if there was anything.
bool take_changed(baton_instance* in) {
  if (!in->changed.load(std::memory_order_relaxed)) return false;
  baton_timeline* stack = in->changed.exchange(nullptr, std::memory_order_acquire);
  baton_timeline* list = nullptr;  // in the order in which they changed
  for (baton_timeline* next; stack; stack = next) {
    next = stack->next;
    stack->next = list;
    list = stack;
  }
  for (baton_timeline* next; list; list = next) {
    next = list->next;
    list->off_stack();
    wake_ops(list);
  }
  return true;
}

void signal_all(Op* op, uint64_t end_ns, const baton_error* error) {
  for (int i = 0; i < 2; ++i) {
    baton_timeline* t = op->signal[i];
    if (!t) continue;
    if (error ? t->poison(*error) : t->signal(op->signal_value[i], end_ns)) after_change(*t, error ? UINT64_MAX : op->signal_value[i]);
  }
  if (error && op->progress && op->progress->poison(*error)) after_change(*op->progress, UINT64_MAX);
}

// Takes the op out of whichever list it is in.
void detach(Op* op) {
  baton_queue* q = op->queue;
  switch (op->state) {
    case OpState::waiting:
      for (WaitNode& node : op->wait)
        if (node.timeline) {
          node.timeline->unlisten(node);
          drop_node(node);
        }
      break;
    case OpState::ready:
      if (op->opcode == BATON_OP_HOST) remove_host(op);
      else q->ready.remove(op);
      break;
    case OpState::issued:
      --q->inflight;
      if (q->kind == QueueKind::link && op->opcode != BATON_OP_HOST) forget_parent(op);
      break;
    case OpState::free: break;
  }
  (op->prev ? op->prev->next : q->head) = op->next;
  (op->next ? op->next->prev : q->tail) = op->prev;
  op->prev = op->next = nullptr;
  q->finished.store(q->finished.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

// A handle that was good at submit may have gone stale while the op waited.
const baton_device* stale_device(const Op* op) {
  if (!op->uses) return nullptr;
  for (const baton_buffer* b : op->buffer)
    if (b && b->epoch != b->device->epoch.load(std::memory_order_relaxed)) return b->device;
  return nullptr;
}

baton_error stale_error(const baton_device* d) {
  return d->gone ? d->cause : make_error(BATON_DEVICE_LOST, d->uri.c_str(), "allocate anew on the reset device",
                                         "a buffer of %s is of an epoch before its reset", d->shown.c_str());
}

bool fail_if_stale(Op* op) {
  const baton_device* d = stale_device(op);
  if (!d) return false;
  const baton_error e = stale_error(d);
  complete_at(op, 0, &e);
  return true;
}

// An op is handed to its queue: the time for its span, 0 if nobody asked for one.
uint64_t watch_issue(Op* op) {
  baton_instance* in = op->instance;
  if (in->validator) in->validator->issued(op);
  return in->span ? now_ns() : 0;
}

// An op ends, and still has everything.
void watch_end(Op* op, uint64_t end_ns, const baton_error* error) {
  baton_instance* in = op->instance;
  if (in->span && !op->hop) trace_op(op, end_ns, error);
  if (in->validator) in->validator->ended(op, error);
}

// For whoever looks from outside (stats.h).
void count_end(const Op* op, uint64_t end_ns, const baton_error* error) {
  baton_stats_row& row = *op->queue->stats;
  count(row.done);
  if (error) count(row.failed);
  else if (op->bytes) count(row.bytes, op->bytes);
  if (end_ns) put(row.modelled_ns, end_ns);
  put(row.changed_ns, coarse_ns());
}

// Moves ready ops to the batch; they count as issued from here on, since a driver may complete them inside submit.
uint32_t fill_batch(baton_queue* q) {
  baton_instance* in = q->instance;
  const bool watched = in->watched;
  uint32_t n = 0;
  while (n < kBatch) {
    Op* op = q->ready.front();
    if (!op) break;
    if (fail_if_stale(op)) continue;
    q->ready.remove(op);
    op->state = OpState::issued;
    ++q->inflight;
    op->wall_start = watched ? watch_issue(op) : 0;
    baton_driver_op& to = in->batch[n++];
    to.opcode = op->runs_as;
    to.reserved[0] = op->planned;  // tells a plan from a contiguous COPY
    to.tag = op->tag;
    to.cookie = op->cookie();
    to.start_ns = begin_ns(op);
    if (op->runs_as != BATON_OP_NOP) to.u = op->u;
  }
  return n;
}

// Ops that the driver did not take go back to the front of the ready list.
void take_back(baton_queue* q, uint32_t from, uint32_t count) {
  for (uint32_t i = count; i-- > from;) {
    Op* op = op_of_cookie(q->instance->batch[i].cookie);
    if (!op) {  // it has ended in submit
      if (q->instance->validator) q->instance->validator->driver.not_taken(q->instance->batch[i].cookie);
      continue;
    }
    op->state = OpState::ready;
    --q->inflight;
    q->ready.push_front(op);
  }
}

// One round of ready ops to the driver. False: it takes no more for now.
bool issue_batch(baton_queue* q) {
  baton_instance* in = q->instance;
  uint32_t count = fill_batch(q);
  if (!count) return false;
  uint32_t taken = 0;
  baton_error e;
  e.code = 0;
  e.struct_size = sizeof e;
  e.epoch = 0;
  e.device[0] = e.hop[0] = e.what[0] = e.next[0] = 0;
  ++in->in_driver;
  int32_t code = q->driver->submit(q->device_handle, q->handle, in->batch.data(), count, &taken, &e);
  --in->in_driver;
  taken = std::min(taken, count);
  if (code != BATON_OK && taken < count) {
    complete_error(e, code, q->device ? q->device->uri.c_str() : q->name.c_str(), q->epoch, "submit");
    if (Op* op = op_of_cookie(in->batch[taken].cookie)) complete_at(op, 0, &e);
    take_back(q, taken + 1, count);
    return true;
  }
  take_back(q, taken, count);
  q->blocked = taken < count;
  return !q->blocked;
}

bool usable(const baton_queue* q) {
  return !q->dead && (!q->device || (!q->device->gone && q->device->epoch == q->epoch));
}

void issue(baton_queue* q) {
  if (!usable(q) || q->ready.empty()) return;
  if (q->kind == QueueKind::link) {
    while (Op* op = q->ready.front()) {
      if (fail_if_stale(op)) continue;
      q->ready.remove(op);
      op->state = OpState::issued;
      ++q->inflight;
      op->wall_start = q->instance->watched ? watch_issue(op) : 0;
      issue_on_link(op);
    }
    return;
  }
  if (q->device && !try_call(q->device)) {
    q->blocked = true;
    return;
  }
  while (usable(q) && issue_batch(q)) {
  }
  if (q->device) q->device->call.unlock();
}

}  // namespace

uint64_t begin_ns(const Op* op) { return std::max(op->wait_ns, op->queue->end_ns); }

void mark_dirty(baton_queue* q) {
  if (q->dirty) return;
  q->dirty = true;
  q->instance->dirty.push_back(q);
}

void enqueue(Op* op, const baton_error* refused) {
  baton_queue* q = op->queue;
  op->state = OpState::waiting;
  op->sequence = ++q->sequence;
  put(q->stats->submitted, q->sequence);
  if (!q->head) put(q->stats->changed_ns, coarse_ns());
  op->prev = q->tail;
  op->next = nullptr;
  (q->tail ? q->tail->next : q->head) = op;
  q->tail = op;
  if (refused) {
    for (WaitNode& node : op->wait)
      if (node.timeline) drop_node(node);
    return complete_at(op, 0, refused);
  }
  baton_timeline* poisoned = nullptr;
  for (WaitNode& node : op->wait) {
    if (!op->waits || !node.timeline) continue;
    if (!poisoned && node.timeline->listen(node)) {
      ++op->waits_left;
    } else if (!poisoned && !take_wait(op, node)) {
      poisoned = node.timeline;
      node.timeline = nullptr;
    } else {
      drop_node(node);
    }
  }
  if (poisoned) {
    fail_by(op, poisoned);
    release(poisoned);
  } else if (!op->waits_left) {
    make_ready(op);
  }
}

void drain(baton_instance* in) {
  if (in->draining || in->in_driver) return;
  in->draining = true;
  for (;;) {
    Hold::take_posted(in);
    bool woke = take_changed(in);
    if (in->dirty.empty()) {
      if (woke) continue;
      break;
    }
    std::swap(in->dirty, in->dirty_now);
    for (baton_queue* q : in->dirty_now) {
      q->dirty = false;
      issue(q);
    }
    in->dirty_now.clear();
  }
  if (!in->dead_buffers.empty()) free_dead_buffers(in);
  if (!in->dead_programs.empty()) free_dead_programs(in);
  if (!in->dead_devices.empty()) free_dead_devices(in);
  in->draining = false;
}

void complete_at(Op* op, uint64_t end_ns, const baton_error* error) {
  baton_queue* q = op->queue;
  q->instance->count_event();
  baton_error e;
  if (error) {
    e = *error;
    complete_error(e, BATON_OK, q->device ? q->device->uri.c_str() : q->name.c_str(), q->epoch, "the op");
    add_hop(e, q->hop.c_str());
    error = &e;
  }
  if (q->instance->watched) watch_end(op, end_ns, error);
  count_end(op, end_ns, error);
  detach(op);
  signal_all(op, end_ns, error);
  if (op->hop) child_done(op, end_ns, error);
  recycle(op);
}

namespace {

// A COPY that another device's driver has written into memory of its own kind: complete for the writer is not visible for the reader.
int32_t fence_destination(const Op* op, baton_error* error) {
  baton_buffer* b = op->opcode == BATON_OP_COPY && op->uses ? op->buffer[1] : nullptr;
  if (!b || b->device == op->queue->device || !b->device->driver->fence || !b->address || op->u.copy.dst.mem) return BATON_OK;
  return fence(b, uint64_t(static_cast<uint8_t*>(op->u.copy.dst.ptr) - static_cast<uint8_t*>(b->address)), op->bytes, error);
}

}  // namespace

void complete(Op* op, uint64_t cost_ns, const baton_error* error) {
  op->start_ns = begin_ns(op);
  uint64_t end = op->start_ns + cost_ns;
  op->queue->end_ns = end;
  // Memory of another device that was lost under the op: its driver may have seen nothing, and what it moved is nobody's.
  if (const baton_device* d = error ? nullptr : stale_device(op)) {
    const baton_error e = stale_error(d);
    return complete_at(op, end, &e);
  }
  baton_error e;
  if (!error && fence_destination(op, &e)) error = &e;
  complete_at(op, end, error);
}

int32_t progress(Op* op, uint64_t k, uint64_t offset_ns) {
  if (k) {  // 0 only asks
    uint64_t at = begin_ns(op) + offset_ns;
    op->instance->count_event();
    if (op->instance->span) trace_mark(op, at);
    if (op->progress && op->progress->signal(op->progress_base + k, at)) after_change(*op->progress, op->progress_base + k);
  }
  if (op->hop) return child_cancelled(op);
  if (op->queue->closing() || (op->progress && op->progress->poisoned())) return 1;
  for (baton_timeline* t : op->signal)
    if (t && t->poisoned()) return 1;
  return 0;
}

void fail_all(baton_queue* q, const baton_error& cause, bool issued_too) {
  // Children of a link complete their parents, which may be in the list: start anew after each.
  for (Op* op = q->head; op;) {
    if (op->state == OpState::issued && !issued_too) {
      op = op->next;
      continue;
    }
    complete_at(op, 0, &cause);
    op = q->head;
    while (op && op->state == OpState::issued && !issued_too) op = op->next;
  }
}

const baton_queue* calling_from() { return t_calling_from; }

uint32_t run_host_ops(baton_instance* in, uint32_t budget) {
  uint32_t n = 0;
  for (Op* last = in->host_tail; n < budget && in->host_head;) {
    Op* op = in->host_head;
    in->host_head = op->ready_next;
    if (!in->host_head) in->host_tail = nullptr;
    op->ready_next = nullptr;
    op->state = OpState::issued;
    ++op->queue->inflight;
    op->wall_start = in->watched ? watch_issue(op) : 0;
    void* cookie = op->cookie();
    bool was_last = op == last;
    baton_host_fn fn = op->host_fn;
    void* user = op->host_user;
    const baton_queue* outer = std::exchange(t_calling_from, op->queue);
    Hold::leave(in);
    fn(user);
    Hold::enter(in);
    t_calling_from = outer;
    if (Op* still = op_of_cookie(cookie)) complete_at(still, still->wait_ns, nullptr);
    ++n;
    if (was_last) break;  // what the callbacks submitted is for the next poll
  }
  return n;
}

}  // namespace baton::core
