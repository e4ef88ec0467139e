#include "hal/core/queue.h"

#include "hal/core/link.h"
#include "hal/core/poller.h"
#include "hal/core/schedule.h"
#include "hal/core/validate.h"

#include <algorithm>
#include <cstring>

baton_queue::baton_queue() = default;
baton_queue::~baton_queue() = default;

namespace baton::core {
namespace {

int32_t register_queue(std::unique_ptr<baton_queue> q, baton_queue** out, baton_error* error) {
  baton_instance* in = q->instance;
  if (in->validator) q->door.store(baton_queue::kValidated, std::memory_order_relaxed);
  if (Status s = in->waker.add(q->fd); !s) return fail(error, s.error());
  constexpr baton_stats_kind kKinds[] = {BATON_STATS_LANE, BATON_STATS_LINK, BATON_STATS_TABLE};  // QueueKind
  q->stats = in->stats.take(kKinds[size_t(q->kind)], q->name, q->device ? q->device->stats : nullptr);
  Hold hold(in);
  in->queues.push_back(q.get());
  *out = q.release();
  in->waker.kick_sleepers();  // a sleeper's nap may now be too long
  return BATON_OK;
}

// Until the driver has given back what it runs, and whoever was submitting has seen that the queue is closed.
void wait_idle(baton_queue* q) {
  (void)poll_until(q->instance, q->fd, [q] {
    const uint64_t left = q->accepted.load(std::memory_order_seq_cst) - q->finished.load(std::memory_order_relaxed);
    return left == (calling_from() == q ? 1u : 0u);  // a HOST op may close its own queue
  });
}

void close_driver_queue(baton_queue* q) {
  q->instance->waker.remove(q->fd);
  if (!q->driver || !q->driver->queue_close) return;
  if (q->device) {
    DriverCall call(q->device);
    q->driver->queue_close(q->device_handle, q->handle);
  } else {
    q->driver->queue_close(q->device_handle, q->handle);
  }
}

void unregister(baton_queue* q) {
  baton_instance* in = q->instance;
  std::replace(in->queues.begin(), in->queues.end(), q, static_cast<baton_queue*>(nullptr));
  std::erase(in->dirty, q);
  q->dead = true;
  // A poll or drain further up this thread's stack may be looking at it.
  if (in->in_driver || in->draining) in->graveyard.push_back(q);
  else dispose(in, q);
}

}  // namespace

void free_dead_queues(baton_instance* in) {
  for (baton_queue* q : in->graveyard) dispose(in, q);
  in->graveyard.clear();
}

int32_t open_lane(baton_device* d, uint32_t lane, baton_queue** out, baton_error* error) {
  const char* uri = d->uri.c_str();
  if (!d->driver->queue_open || !d->driver->submit)
    return fail(error, make_error(BATON_UNSUPPORTED, uri, "", "%s has no queues", d->shown.c_str()));
  if (lane >= d->info.lanes)
    return fail(error, make_error(BATON_INVALID_ARGUMENT, uri, "lanes count from 0", "lane %u of %s: it has %u", lane, d->shown.c_str(),
                                  d->info.lanes));
  auto q = std::make_unique<baton_queue>();
  q->instance = d->instance;
  q->device = d;
  q->driver = d->driver;
  q->device_handle = d->handle;
  q->lane = lane;
  q->epoch = d->epoch;
  q->name = d->shown + " lane " + std::to_string(lane);
  q->hop = d->shown;
  if (int32_t code = check_epoch(d, q->epoch, "device", error)) return code;
  baton_error e = blank_error();
  int32_t code;
  {
    DriverCall call(d);
    code = d->driver->queue_open(d->handle, lane, &q->handle, &q->fd, &e);
  }
  if (code != BATON_OK) {
    complete_error(e, code, uri, q->epoch, "queue_open");
    return fail(error, e);
  }
  void* handle = q->handle;
  if ((code = register_queue(std::move(q), out, error))) {
    DriverCall call(d);
    if (d->driver->queue_close) d->driver->queue_close(d->handle, handle);
    return code;
  }
  ++d->children;
  return BATON_OK;
}

void close_queue(baton_queue* q, const baton_error& cause) {
  baton_instance* in = q->instance;
  const bool inside = in->inside.owned();
  {
    Hold hold(in);
    if (q->dead) return;
    if (in->validator && !q->owner) in->validator->about_to_close(q);
    q->door.fetch_or(baton_queue::kClosing, std::memory_order_seq_cst);  // progress() now tells what runs to stop
    fail_all(q, cause, false);
    if (q->link) stop_link(q, cause);
    drain(in);
  }
  if (!inside) wait_idle(q);
  std::unique_ptr<Link> link;
  {
    Hold hold(in);
    fail_all(q, cause, true);
    if (q->link)
      for (baton_queue** inner : {&q->link->from_queue, &q->link->to_queue})
        if (*inner) close_queue(*inner, cause);
    link = std::move(q->link);
    close_driver_queue(q);
    in->stats.give(q->stats);  // while its device has a row
    if (q->device) drop_child(q->device);
    unregister(q);
    drain(in);
  }
  if (!link) return;
  Hold hold(in);
  drop_child(link->from);
  drop_child(link->to);
}

}  // namespace baton::core

using namespace baton::core;

int32_t baton_queue_open(baton_device* d, uint32_t lane, baton_queue** out, baton_error* error) {
  if (!d || !out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_queue_open: device or out is NULL"));
  if (int32_t code = check_alive(d, "baton_queue_open", error)) return code;
  int32_t code = open_lane(d, lane, out, error);
  return code == BATON_OK ? ok(error) : code;
}

int32_t baton_link_open(baton_device* from, baton_device* to, baton_queue** out, baton_error* error) {
  if (!from || !to || !out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_link_open: a device or out is NULL"));
  for (baton_device* d : {from, to})
    if (int32_t code = check_alive(d, "baton_link_open", error)) return code;
  if (int32_t code = baton_plan_copy(from, to, nullptr, 0, error)) return code;
  for (baton_device* d : {from, to})
    if (int32_t code = check_epoch(d, d->epoch, "device", error)) return code;
  auto q = std::make_unique<baton_queue>();
  q->instance = from->instance;
  q->kind = QueueKind::link;
  q->name = q->hop = "link " + from->shown + " -> " + to->shown;
  q->link = std::make_unique<Link>();
  q->link->from = from;
  q->link->to = to;
  if (int32_t code = register_queue(std::move(q), out, error)) return code;
  ++from->children;
  ++to->children;
  return ok(error);
}

int32_t baton_queue_from_table(baton_instance* in, const char* name, const baton_driver* table, void* ctx, int fd, baton_queue** out,
                               baton_error* error) {
  if (!in || !table || !out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_queue_from_table: an argument is NULL"));
  auto q = std::make_unique<baton_queue>();
  std::memcpy(&q->table, table, table->struct_size ? std::min<size_t>(table->struct_size, sizeof q->table) : sizeof q->table);
  if (!q->table.submit || !q->table.poll)
    return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "fill both slots", "table queue '%s' has no submit or no poll", name ? name : ""));
  q->instance = in;
  q->kind = QueueKind::table;
  q->driver = &q->table;
  q->device_handle = q->handle = ctx;
  q->fd = fd;
  q->name = q->hop = name ? name : "table";
  int32_t code = register_queue(std::move(q), out, error);
  return code == BATON_OK ? ok(error) : code;
}

const baton_driver_host* baton_queue_host(baton_instance* in) { return in ? &in->services : nullptr; }

void baton_queue_close(baton_queue* q) {
  if (!q || check_alive(q, "baton_queue_close", nullptr)) return;
  close_queue(q, make_error(BATON_CANCELLED, q->device ? q->device->uri.c_str() : "", "", "queue '%s' was closed", q->name.c_str()));
}
