#include "hal/core/program.h"

#include "hal/core/validate.h"

namespace baton::core {
namespace {

void destroy(baton_program* p) {
  baton_device* d = p->device;
  {
    DriverCall call(d);
    if (d->driver->unload) d->driver->unload(d->handle, p->handle);
  }
  dispose(d->instance, p);
}

}  // namespace

void release(baton_program* p) {
  if (--p->references == 0 && p->unloaded) p->device->instance->dead_programs.push_back(p);
}

void free_dead_programs(baton_instance* in) {
  while (!in->dead_programs.empty()) {
    baton_program* p = in->dead_programs.back();
    in->dead_programs.pop_back();
    baton_device* d = p->device;
    destroy(p);
    drop_child(d);
  }
}

}  // namespace baton::core

using namespace baton::core;

int32_t baton_load(baton_device* d, uint32_t lane, const void* program, uint64_t bytes, const baton_constant* constants, uint32_t count,
                   uint32_t rank, uint32_t ranks, baton_program** out, baton_error* error) {
  if (!d || !out || !program || (count && !constants))
    return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_load: device, program, constants or out is NULL"));
  if (int32_t code = check_alive(d, "baton_load", error)) return code;
  const char* uri = d->uri.c_str();
  if (!d->driver->load) return fail(error, make_error(BATON_UNSUPPORTED, uri, "", "%s does not run programs", d->shown.c_str()));
  if (lane >= d->info.lanes || rank >= ranks)
    return fail(error, make_error(BATON_INVALID_ARGUMENT, uri, "lanes count from 0, ranks from 0 to ranks - 1",
                                  "lane %u of %u, rank %u of %u", lane, d->info.lanes, rank, ranks));
  if (ranks > 1 && !d->info.collectives)
    return fail(error, make_error(BATON_UNSUPPORTED, uri, "load the program with ranks = 1",
                                  "%s has no collectives: a program cannot be spread over %u lanes", d->shown.c_str(), ranks));
  const uint64_t epoch = d->epoch;
  if (int32_t code = check_epoch(d, epoch, "device", error)) return code;
  void* handle = nullptr;
  baton_error e = blank_error();
  int32_t code;
  {
    DriverCall call(d);
    code = d->driver->load(d->handle, lane, program, bytes, constants, count, rank, ranks, &handle, &e);
  }
  if (code != BATON_OK) {
    complete_error(e, code, uri, epoch, "load");
    return fail(error, e);
  }
  auto* p = new baton_program;
  p->device = d;
  p->handle = handle;
  p->lane = lane;
  p->epoch = epoch;
  ++d->children;
  Hold hold(d->instance);
  d->programs.insert(p);
  if (d->instance->validator) d->instance->validator->memory.loaded(p, program, bytes);
  *out = p;
  return ok(error);
}

void baton_unload(baton_program* p) {
  if (!p) return;
  if (check_alive(p, "baton_unload", nullptr)) return;
  baton_device* d = p->device;
  baton_instance* in = d->instance;
  if (in->validator) in->validator->about_to_unload(p);
  {
    Hold hold(in);
    d->programs.erase(p);
    p->unloaded = true;
    if (p->references) return;  // a launch in flight keeps it
  }
  destroy(p);
  Hold hold(in);
  drop_child(d);
}
