// The driver table of cs3://HOST:PORT. Everything that happens is in device.h; here handles and errors change their form.
#include "drivers/cs3/device.h"

#include <new>

namespace {

using baton::Error;
using baton::cs3::Device;
using baton::cs3::LoadedProgram;
using baton::cs3::Memory;

Device* device(void* d) { return static_cast<Device*>(d); }

int32_t give(baton_error* e, const Error& error) {
  *e = error;
  return error.code;
}

int32_t give(baton_error* e, const baton::Status& s) { return s.ok() ? int32_t(BATON_OK) : give(e, s.error()); }

int32_t open(const baton_driver_host* host, const char* uri, void** out, baton_error* e) {
  auto d = Device::open(host, uri);
  if (!d) return give(e, d.error());
  *out = d->release();
  return BATON_OK;
}

void close(void* d) { delete device(d); }
int32_t info(void* d, baton_device_info* out, baton_error* e) { return give(e, device(d)->info(*out)); }
int32_t telemetry(void* d, baton_telemetry* out, baton_error* e) { return give(e, device(d)->telemetry(*out)); }
int32_t reset(void* d, baton_error* e) { return give(e, device(d)->reset()); }

int32_t alloc(void* d, uint32_t heap, uint64_t bytes, void** mem, baton_error* e) {
  auto m = device(d)->alloc(heap, bytes);
  if (!m) return give(e, m.error());
  *mem = *m;
  return BATON_OK;
}

void free_memory(void* d, void* mem) { device(d)->free(static_cast<Memory*>(mem)); }

int32_t load(void* d, uint32_t lane, const void* program, uint64_t bytes, const baton_constant* constants, uint32_t count, uint32_t rank,
             uint32_t ranks, void** out, baton_error* e) {
  auto p = device(d)->load(lane, {static_cast<const uint8_t*>(program), bytes}, {constants, count}, rank, ranks);
  if (!p) return give(e, p.error());
  *out = *p;
  return BATON_OK;
}

void unload(void* d, void* program) { device(d)->unload(static_cast<LoadedProgram*>(program)); }

int32_t queue_open(void* d, uint32_t lane, void** queue, int* fd, baton_error*) {
  *queue = device(d)->open_queue(lane);
  *fd = device(d)->fd();
  return BATON_OK;
}

void queue_close(void* d, void* queue) {
  device(d)->close_queue(static_cast<Device::Queue*>(queue));
}

int32_t submit(void* d, void* queue, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error*) {
  *taken = device(d)->submit(static_cast<Device::Queue*>(queue), ops, count);
  return BATON_OK;
}

uint32_t poll(void* d, void*, uint32_t budget) { return device(d)->poll(budget); }

constexpr baton_driver kTable = {
    .struct_size = sizeof(baton_driver),
    .abi_version = BATON_ABI_VERSION,
    .scheme = "cs3",
    .description = "Cerebras CS-3 over the wafer link (cs3://HOST:PORT,...)",
    .enumerate = nullptr,  // systems on a network are named, not found
    .open = open,
    .close = close,
    .info = info,
    .telemetry = telemetry,
    .reset = reset,
    .alloc = alloc,
    .free = free_memory,
    .map = nullptr,
    .export_buffer = nullptr,
    .import_buffer = nullptr,
    .load = load,
    .unload = unload,
    .queue_open = queue_open,
    .queue_close = queue_close,
    .submit = submit,
    .poll = poll,
};

}  // namespace

extern "C" BATON_API const baton_driver* baton_driver_v1(void) { return &kTable; }
