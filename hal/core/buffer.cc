#include "hal/core/buffer.h"

#include "hal/core/validate.h"

#include <unistd.h>

namespace baton::core {
namespace {

// No op uses it and the caller has freed it.
void destroy(baton_buffer* b) {
  baton_device* d = b->device;
  if (b->fd >= 0) close(b->fd);
  {
    DriverCall call(d);
    if (d->driver->free) d->driver->free(d->handle, b->memory);
  }
  add(d->stats->memory_bytes, uint64_t(0) - b->bytes), add(d->stats->buffers, uint64_t(0) - 1);
  dispose(d->instance, b);
}

int32_t make_buffer(baton_device* d, void* memory, uint32_t heap, uint64_t bytes, uint64_t epoch, baton_buffer** out) {
  auto* b = new baton_buffer;
  b->device = d;
  b->memory = memory;
  b->heap = heap;
  b->bytes = bytes;
  b->epoch = epoch;
  add(d->stats->memory_bytes, bytes), add(d->stats->buffers, 1);
  host_address(b, nullptr);  // while no lock but the device's is needed
  Hold hold(d->instance);
  d->buffers.insert(b);
  *out = b;
  return BATON_OK;
}

}  // namespace

void* host_address(baton_buffer* b, baton_error* why) {
  baton_device* d = b->device;
  if (!b->mapped) {
    DriverCall call(d);
    baton_error e = blank_error();
    const bool may = d->driver->map && (b->heap >= BATON_MAX_HEAPS || d->info.heaps[b->heap].mappable);
    if (may && d->driver->map(d->handle, b->memory, &b->address, &e) != BATON_OK) b->address = nullptr;
    b->mapped = true;
  }
  if (!b->address && why) {
    const char* heap = b->heap < BATON_MAX_HEAPS ? d->info.heaps[b->heap].name : "imported";
    fail(why, make_error(BATON_UNSUPPORTED, d->uri.c_str(), "copy to a host:// buffer and map that",
                         "memory of %s (%s) cannot be mapped into the host", d->shown.c_str(), heap));
  }
  return b->address;
}

void find_descriptor(baton_buffer* b) {
  if (b->exported) return;
  b->exported = true;
  baton_device* d = b->device;
  if (!d->driver->export_buffer || (b->heap < BATON_MAX_HEAPS && !d->info.heaps[b->heap].exportable)) return;
  DriverCall call(d);
  baton_error e = blank_error();
  if (d->driver->export_buffer(d->handle, b->memory, &b->fd, &b->fd_offset, &e) != BATON_OK) b->fd = -1;
}

int32_t fence(baton_buffer* b, uint64_t offset, uint64_t bytes, baton_error* error) {
  const baton_device* d = b->device;
  if (!d->driver->fence || !bytes) return BATON_OK;
  baton_error e = blank_error();
  const int32_t code = d->driver->fence(d->handle, b->memory, offset, bytes, &e);
  if (code == BATON_OK) return BATON_OK;
  complete_error(e, code, d->uri.c_str(), b->epoch, "fence");
  return fail(error, e);
}

void release(baton_buffer* b) {
  if (--b->references == 0 && b->freed) b->device->instance->dead_buffers.push_back(b);
}

void free_dead_buffers(baton_instance* in) {
  while (!in->dead_buffers.empty()) {
    baton_buffer* b = in->dead_buffers.back();
    in->dead_buffers.pop_back();
    baton_device* d = b->device;
    destroy(b);
    drop_child(d);
  }
}

}  // namespace baton::core

using namespace baton::core;

int32_t baton_alloc(baton_device* d, uint32_t heap, uint64_t bytes, baton_buffer** out, baton_error* error) {
  if (!d || !out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_alloc: device or out is NULL"));
  if (int32_t code = check_alive(d, "baton_alloc", error)) return code;
  const char* uri = d->uri.c_str();
  if (!d->driver->alloc) return fail(error, make_error(BATON_UNSUPPORTED, uri, "", "%s has no memory of its own", d->shown.c_str()));
  if (heap >= d->info.heap_count)
    return fail(error, make_error(BATON_INVALID_ARGUMENT, uri, "see the heaps with: devctl info", "heap %u of %s: it has %u (0..%u)", heap,
                                  d->shown.c_str(), d->info.heap_count, d->info.heap_count ? d->info.heap_count - 1 : 0));
  if (!bytes) return fail(error, make_error(BATON_INVALID_ARGUMENT, uri, "", "baton_alloc: 0 bytes"));
  const uint64_t epoch = d->epoch;
  if (int32_t code = check_epoch(d, epoch, "device", error)) return code;
  void* memory = nullptr;
  baton_error e = blank_error();
  int32_t code;
  {
    DriverCall call(d);
    code = d->driver->alloc(d->handle, heap, bytes, &memory, &e);
  }
  if (code != BATON_OK) {
    complete_error(e, code, uri, epoch, "alloc");
    return fail(error, e);
  }
  ++d->children;
  make_buffer(d, memory, heap, bytes, epoch, out);
  return ok(error);
}

void baton_free(baton_buffer* b) {
  if (!b) return;
  if (check_alive(b, "baton_free", nullptr)) return;
  baton_device* d = b->device;
  baton_instance* in = d->instance;
  if (in->validator) in->validator->about_to_free(b);
  {
    Hold hold(in);
    d->buffers.erase(b);
    b->freed = true;
    if (b->references) return;  // ops in flight keep it
  }
  destroy(b);
  Hold hold(in);
  drop_child(d);
}

uint64_t baton_buffer_bytes(const baton_buffer* b) { return b && !check_alive(b, "baton_buffer_bytes", nullptr) ? b->bytes : 0; }
baton_device* baton_buffer_device(const baton_buffer* b) {
  return b && !check_alive(b, "baton_buffer_device", nullptr) ? b->device : nullptr;
}

int32_t baton_map(baton_buffer* b, void** out, baton_error* error) {
  if (!b || !out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_map: buffer or out is NULL"));
  if (int32_t code = check_alive(b, "baton_map", error)) return code;
  if (int32_t code = check_epoch(b->device, b->epoch, "buffer", error)) return code;
  baton_instance* in = b->device->instance;
  Hold hold(in);
  if (in->validator) in->validator->memory.written_elsewhere(b);
  baton_error why = blank_error();
  *out = host_address(b, &why);
  return *out ? ok(error) : fail(error, why);
}

int32_t baton_export(baton_buffer* b, int* fd, uint64_t* offset, baton_error* error) {
  if (!b || !fd || !offset) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_export: an argument is NULL"));
  if (int32_t code = check_alive(b, "baton_export", error)) return code;
  baton_device* d = b->device;
  if (int32_t code = check_epoch(d, b->epoch, "buffer", error)) return code;
  if (!d->driver->export_buffer || (b->heap < BATON_MAX_HEAPS && !d->info.heaps[b->heap].exportable))
    return fail(error, make_error(BATON_UNSUPPORTED, d->uri.c_str(), "copy to a host:// buffer and export that",
                                  "memory of %s cannot be exported as a descriptor", d->shown.c_str()));
  baton_error e = blank_error();
  int32_t code;
  {
    DriverCall call(d);
    code = d->driver->export_buffer(d->handle, b->memory, fd, offset, &e);
  }
  if (code != BATON_OK) {
    complete_error(e, code, d->uri.c_str(), b->epoch, "export");
    return fail(error, e);
  }
  if (Validator* v = d->instance->validator.get()) {
    Hold hold(d->instance);
    v->memory.written_elsewhere(b);
  }
  return ok(error);
}

int32_t baton_fence(baton_buffer* b, uint64_t offset, uint64_t bytes, baton_error* error) {
  if (!b) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_fence: buffer is NULL"));
  if (int32_t code = check_alive(b, "baton_fence", error)) return code;
  if (bytes > b->bytes || offset > b->bytes - bytes)
    return fail(error, make_error(BATON_INVALID_ARGUMENT, b->device->uri.c_str(), "", "baton_fence: %llu bytes at %llu of a buffer of %llu",
                                  static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(offset), static_cast<unsigned long long>(b->bytes)));
  if (int32_t code = check_epoch(b->device, b->epoch, "buffer", error)) return code;
  if (int32_t code = fence(b, offset, bytes, error)) return code;
  return ok(error);
}

int32_t baton_import(baton_device* d, int fd, uint64_t offset, uint64_t bytes, baton_buffer** out, baton_error* error) {
  if (!d || !out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_import: device or out is NULL"));
  if (int32_t code = check_alive(d, "baton_import", error)) return code;
  const char* uri = d->uri.c_str();
  if (!d->driver->import_buffer)
    return fail(error, make_error(BATON_UNSUPPORTED, uri, "copy into a buffer of the device", "%s cannot import memory", d->shown.c_str()));
  if (fd < 0 || !bytes || offset > UINT64_MAX - bytes)
    return fail(error, make_error(BATON_INVALID_ARGUMENT, uri, "", "baton_import: descriptor %d, offset %llu, %llu bytes", fd,
                                  static_cast<unsigned long long>(offset), static_cast<unsigned long long>(bytes)));
  const uint64_t epoch = d->epoch;
  if (int32_t code = check_epoch(d, epoch, "device", error)) return code;
  void* memory = nullptr;
  baton_error e = blank_error();
  int32_t code;
  {
    DriverCall call(d);
    code = d->driver->import_buffer(d->handle, fd, offset, bytes, &memory, &e);
  }
  if (code != BATON_OK) {
    complete_error(e, code, uri, epoch, "import");
    return fail(error, e);
  }
  ++d->children;
  make_buffer(d, memory, UINT32_MAX, bytes, epoch, out);
  return ok(error);
}
