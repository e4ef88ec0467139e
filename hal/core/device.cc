#include "hal/core/device.h"

#include "hal/core/buffer.h"
#include "hal/core/link.h"
#include "hal/core/poller.h"
#include "hal/core/program.h"
#include "hal/core/queue.h"
#include "hal/core/schedule.h"
#include "hal/core/services.h"
#include "hal/core/trace.h"
#include "hal/core/validate.h"

#include <algorithm>
#include <cstring>

namespace baton::core {
namespace {

void destroy_device(baton_device* d) {
  d->instance->devices.erase(d);
  d->instance->stats.give(d->stats);
  {
    DriverCall call(d);
    if (d->driver->close) d->driver->close(d->handle);
  }
  dispose(d->instance, d);
}

// What a driver says about itself, in this version's struct.
int32_t read_info(baton_device* d, baton_device_info& info, baton_error* error) {
  info = {};
  info.struct_size = sizeof info;
  baton_error e = blank_error();
  int32_t code = BATON_OK;
  if (d->driver->info) {
    DriverCall call(d);
    code = d->driver->info(d->handle, &info, &e);
  } else {
    info.lanes = 1;  // a driver that says nothing of itself may still take ops
    info.numa_node = UINT32_MAX;
  }
  if (code != BATON_OK) {
    complete_error(e, code, d->uri.c_str(), d->epoch, "info");
    return fail(error, e);
  }
  if (info.heap_count > BATON_MAX_HEAPS) info.heap_count = BATON_MAX_HEAPS;
  return BATON_OK;
}

}  // namespace

bool try_call(baton_device* d) {
  if (d->call.try_lock()) return true;
  // Announced, then tried again: whoever holds it looks at the announcement after letting go.
  d->skipped.store(true);
  return d->call.try_lock();
}

int32_t check_epoch(const baton_device* d, uint64_t epoch, const char* what, baton_error* error) {
  const uint64_t now = d->epoch;
  if (d->gone) {
    Hold hold(d->instance);
    if (d->gone) return fail(error, d->cause);
  }
  if (epoch == now) return BATON_OK;
  baton_error e = make_error(BATON_DEVICE_LOST, d->uri.c_str(), "make it anew: handles do not survive a reset",
                             "a %s of epoch %llu; %s is at epoch %llu", what, static_cast<unsigned long long>(epoch), d->shown.c_str(),
                             static_cast<unsigned long long>(now));
  e.epoch = now;
  return fail(error, e);
}

void drop_child(baton_device* d) {
  if (--d->children || !d->closed) return;
  if (d->instance->in_driver) d->instance->dead_devices.push_back(d);  // not under the driver's own feet
  else destroy_device(d);
}

void free_dead_devices(baton_instance* in) {
  while (!in->dead_devices.empty()) {
    baton_device* d = in->dead_devices.back();
    in->dead_devices.pop_back();
    if (!d->children) destroy_device(d);
  }
}

void lose_device(baton_device* d, const baton_error& cause) {
  baton_instance* in = d->instance;
  d->cause = cause;
  complete_error(d->cause, BATON_OK, d->uri.c_str(), d->epoch, "the device");
  d->gone = true;
  ++d->epoch;
  d->cause.epoch = d->epoch;
  put(d->stats->epoch, d->epoch);
  put(d->stats->lost, 1);
  for (baton_queue* q : in->queues) {
    if (!q || q->device != d || q->epoch == d->epoch) continue;
    in->waker.remove(q->fd);  // a dead descriptor is readable for ever
    q->fd = -1;
    fail_all(q, d->cause, true);
  }
  fail_links_of(d, d->cause);
  in->registry.reap();
  in->waker.kick();
}

void take_pending_losses(baton_instance* in) {
  if (!in->lost_pending.exchange(false)) return;
  for (baton_device* d = in->devices.head(); d; d = d->next) {
    if (!try_call(d)) {
      in->lost_pending = true;
      continue;
    }
    bool lost = std::exchange(d->has_pending_loss, false);
    baton_error cause = d->pending_loss;
    d->call.unlock();
    if (lost) lose_device(d, cause);
  }
}

}  // namespace baton::core

using namespace baton::core;
using baton::Error;

int32_t baton_open(baton_instance* in, const char* text, baton_device** out, baton_error* error) {
  if (!in || !text || !out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_open: instance, uri or out is NULL"));
  auto with_uri = [&](Error e) {
    if (!e.device[0]) Error::put(e.device, text);
    return fail(error, e);
  };
  auto address = in->registry.resolve(text);
  if (!address) return with_uri(address.error());
  auto uri = parse_uri(*address);
  if (!uri) return with_uri(uri.error());
  auto driver = in->registry.driver(uri->scheme);
  if (!driver) return with_uri(driver.error());
  if (!(*driver)->open) return with_uri(Error(BATON_UNSUPPORTED, "the driver for '" + uri->scheme + "' cannot open devices"));

  auto d = std::make_unique<baton_device>();
  d->instance = in;
  d->driver = *driver;
  d->uri = *address;
  d->shown = short_uri(*address);
  d->services = in->services;
  d->services.core_device = d.get();
  baton_error e = blank_error();
  int32_t code = in->layers.empty() ? d->driver->open(&d->services, d->uri.c_str(), &d->handle, &e)
                                    : in->layers.open(d->driver, &d->services, d->uri.c_str(), d->layers, &e);
  if (code != BATON_OK) {
    complete_error(e, code, d->uri.c_str(), 0, "open");
    return fail(error, e);
  }
  if (!in->layers.empty()) {
    d->driver = d->layers.table();
    d->handle = d->layers.device();
  }
  if ((code = read_info(d.get(), d->info, error))) {
    if (d->driver->close) d->driver->close(d->handle);
    return code;
  }
  if (d->info.epoch) d->epoch = d->info.epoch;
  d->stats = in->stats.take(BATON_STATS_DEVICE, d->shown);
  put(d->stats->epoch, d->epoch);
  Hold hold(in);
  in->devices.insert(d.get());
  *out = d.release();
  return ok(error);
}

void baton_close(baton_device* d) {
  if (!d || check_alive(d, "baton_close", nullptr)) return;
  Hold hold(d->instance);
  d->closed = true;
  if (!d->children) destroy_device(d);
}

int32_t baton_info(baton_device* d, baton_device_info* out, baton_error* error) {
  if (!d || !out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_info: device or out is NULL"));
  if (int32_t code = check_alive(d, "baton_info", error)) return code;
  if (int32_t code = check_epoch(d, d->epoch, "device", error)) return code;
  baton_device_info info;
  if (int32_t code = read_info(d, info, error)) return code;
  info.epoch = d->epoch;
  if (!info.uri[0]) Error::put(info.uri, d->uri);
  if (!info.driver[0]) Error::put(info.driver, d->driver->scheme);
  copy_out(out, out->struct_size, &info, sizeof info);
  return ok(error);
}

int32_t baton_telemetry_read(baton_device* d, baton_telemetry* out, baton_error* error) {
  if (!d || !out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_telemetry_read: device or out is NULL"));
  if (int32_t code = check_alive(d, "baton_telemetry_read", error)) return code;
  if (!d->driver->telemetry)
    return fail(error, make_error(BATON_UNSUPPORTED, d->uri.c_str(), "", "%s reports no telemetry", d->shown.c_str()));
  if (int32_t code = check_epoch(d, d->epoch, "device", error)) return code;
  baton_telemetry t{};
  t.struct_size = sizeof t;
  baton_error e = blank_error();
  int32_t code;
  {
    DriverCall call(d);
    code = d->driver->telemetry(d->handle, &t, &e);
  }
  if (code != BATON_OK) {
    complete_error(e, code, d->uri.c_str(), d->epoch, "telemetry");
    return fail(error, e);
  }
  copy_out(out, out->struct_size, &t, sizeof t);
  return ok(error);
}

namespace {

// An op that another device's driver runs on memory of `d`, which is lost. Inside the instance.
const Op* user_elsewhere(const baton_device* d) {
  for (const baton_queue* q : d->instance->queues) {
    if (!q || q->device == d) continue;
    for (const Op* op = q->head; op; op = op->next)
      if (op->state == OpState::issued && op->uses && std::any_of(std::begin(op->buffer), std::end(op->buffer), [d](const baton_buffer* b) { return b && b->device == d; }))
        return op;
  }
  return nullptr;
}

// What a reset gives up may be somebody else's memory next: no other driver may still be at work on it.
int32_t wait_for_users(baton_device* d, baton_error* error) {
  const Op* user = nullptr;
  std::string where;
  const bool over = poll_until(d->instance, -1, [&] {
    if ((user = user_elsewhere(d))) where = std::string(opcode_name(user->opcode)) + " (tag " + std::to_string(user->tag) + ") on " + user->queue->name;
    return !user;
  });
  if (over) return BATON_OK;
  return fail(error, make_error(BATON_BUSY, d->uri.c_str(), "reset or close the other device, then reset this one again",
                                "%s is lost, but %s still works on its memory", d->shown.c_str(), where.c_str()));
}

}  // namespace

int32_t baton_reset(baton_device* d, baton_error* error) {
  if (!d) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_reset: device is NULL"));
  if (int32_t code = check_alive(d, "baton_reset", error)) return code;
  if (!d->driver->reset)
    return fail(error, make_error(BATON_UNSUPPORTED, d->uri.c_str(), "close the device and open it again", "%s cannot be reset",
                                  d->shown.c_str()));
  baton_instance* in = d->instance;
  {
    // First the core lets go of everything in flight, so that the driver resets a device that nobody expects anything from.
    Hold hold(in);
    lose_device(d, make_error(BATON_DEVICE_LOST, d->uri.c_str(), "submit again with handles made after the reset", "%s was reset",
                              d->shown.c_str()));
    drain(in);
  }
  if (int32_t code = wait_for_users(d, error)) return code;
  baton_error e = blank_error();
  int32_t code;
  {
    DriverCall call(d);
    code = d->driver->reset(d->handle, &e);
    d->has_pending_loss = false;  // of the epoch that ended
  }
  if (code != BATON_OK) {
    complete_error(e, code, d->uri.c_str(), d->epoch, "reset");
    return fail(error, e);
  }
  Hold hold(in);
  d->gone = false;
  put(d->stats->lost, 0);
  return ok(error);
}

int32_t baton_enumerate(baton_instance* in, baton_enumerate_fn fn, void* user, baton_error* error) {
  if (!in || !fn) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_enumerate: instance or function is NULL"));
  struct Visit {
    baton_enumerate_fn fn;
    void* user;
    bool stopped = false;
  } visit{fn, user};
  auto each = [](void* u, const baton_device_info* info) -> int32_t {
    auto* v = static_cast<Visit*>(u);
    int32_t rc = v->fn(v->user, info);
    v->stopped = rc != 0;
    return rc;
  };
  for (const std::string& scheme : in->registry.installed()) {
    auto driver = in->registry.driver(scheme);
    baton_error e = blank_error();
    if (driver && (*driver)->enumerate) (*driver)->enumerate(each, &visit, &e);  // one that fails has no devices to show
    if (visit.stopped) break;
  }
  return ok(error);
}
