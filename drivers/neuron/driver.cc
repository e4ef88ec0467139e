// The driver table: neuron://CHIP.
#include "drivers/neuron/device.hpp"

#include <exception>

namespace baton::neuron {
namespace {

Device& device(void* d) { return *static_cast<Device*>(d); }

int32_t put_error(baton_error* e, const Error& from) {
  uint64_t epoch = e->epoch;
  *e = from;
  e->epoch = epoch;
  return from.code;
}

// Nothing is thrown across the table.
template <class F>
int32_t guarded(baton_error* e, F&& f) {
  try {
    return f();
  } catch (const std::exception& x) {
    return put_error(e, Error(BATON_INTERNAL, std::string("neuron driver: ") + x.what(), "report this with the command that led here"));
  }
}

template <class T, class O>
int32_t hand_out(Result<T> r, O* out, baton_error* e) {
  if (!r.ok()) return put_error(e, r.error());
  *out = *r;
  return BATON_OK;
}

int32_t enumerate(baton_enumerate_fn fn, void* user, baton_error* e) {
  return guarded(e, [&]() -> int32_t {
    auto machine = probe();
    if (!machine.ok()) return BATON_OK;  // no chip by sysfs or PCI, and no runtime: no devices
    for (uint32_t chip = 0; chip < chip_count(*machine); ++chip) {
      baton_device_info info{};
      info.struct_size = sizeof info;
      ChipShape shape = chip_shape(*machine, chip);
      if (shape.lanes.empty()) continue;
      describe(shape, *machine, chip, info);
      if (fn(user, &info)) break;
    }
    return BATON_OK;
  });
}

int32_t open(const baton_driver_host* host, const char* uri, void** out, baton_error* e) {
  return guarded(e, [&]() -> int32_t {
    auto d = Device::open(*host, uri);
    if (!d.ok()) return put_error(e, d.error());
    *out = d->release();
    return BATON_OK;
  });
}

void close(void* d) { delete &device(d); }

int32_t info(void* d, baton_device_info* out, baton_error* e) {
  return guarded(e, [&] { return device(d).info(*out), BATON_OK; });
}

int32_t telemetry(void* d, baton_telemetry* out, baton_error* e) {
  return guarded(e, [&] { return device(d).telemetry(*out), BATON_OK; });
}

int32_t reset(void* d, baton_error* e) {
  return guarded(e, [&]() -> int32_t {
    Status s = device(d).reset();
    return s.ok() ? BATON_OK : put_error(e, s.error());
  });
}

int32_t alloc(void* d, uint32_t heap, uint64_t bytes, void** mem, baton_error* e) {
  return guarded(e, [&] { return hand_out(device(d).alloc(heap, bytes), mem, e); });
}

void free_memory(void* d, void* mem) { device(d).free(static_cast<Memory*>(mem)); }

int32_t map(void*, void* mem, void** ptr, baton_error* e) {
  *ptr = static_cast<Memory*>(mem)->address();
  if (*ptr) return BATON_OK;
  return put_error(e, Error(BATON_UNSUPPORTED, "the runtime gives no address for device memory (nrt_tensor_get_va)", "set env.NEURON_RT_MAP_HBM=1 in the URI"));
}

int32_t export_buffer(void*, void* mem, int* fd, uint64_t* offset, baton_error* e) {
  return guarded(e, [&]() -> int32_t {
    auto x = static_cast<Memory*>(mem)->export_range();
    if (!x.ok()) return put_error(e, x.error());
    *fd = x->fd;
    *offset = x->offset;
    return BATON_OK;
  });
}

int32_t import_buffer(void* d, int fd, uint64_t offset, uint64_t bytes, void** mem, baton_error* e) {
  return guarded(e, [&] { return hand_out(device(d).import(fd, offset, bytes), mem, e); });
}

int32_t load(void* d, uint32_t lane, const void* program, uint64_t bytes, const baton_constant* constants, uint32_t count, uint32_t rank,
             uint32_t ranks, void** out, baton_error* e) {
  return guarded(e, [&] {
    std::span<const uint8_t> code(static_cast<const uint8_t*>(program), bytes);
    return hand_out(device(d).load(lane, code, {constants, count}, rank, ranks), out, e);
  });
}

void unload(void* d, void* program) { device(d).unload(static_cast<LoadedProgram*>(program)); }

int32_t queue_open(void* d, uint32_t lane, void** queue, int* fd, baton_error* e) {
  return guarded(e, [&]() -> int32_t {
    auto q = device(d).queue_open(lane);
    if (!q.ok()) return put_error(e, q.error());
    *queue = *q;
    *fd = (*q)->fd();
    return BATON_OK;
  });
}

void queue_close(void* d, void* queue) { device(d).queue_close(static_cast<Queue*>(queue)); }

int32_t submit(void*, void* queue, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e) {
  return guarded(e, [&]() -> int32_t {
    *taken = static_cast<Queue*>(queue)->submit(ops, count);
    return BATON_OK;
  });
}

uint32_t poll(void* d, void* queue, uint32_t budget) { return device(d).poll(static_cast<Queue*>(queue), budget); }

int32_t fence(void*, void* mem, uint64_t offset, uint64_t bytes, baton_error* e) {
  Status s = static_cast<Memory*>(mem)->fence(offset, bytes);
  return s.ok() ? BATON_OK : put_error(e, s.error());
}

constexpr baton_driver kDriver = {
    sizeof(baton_driver), BATON_ABI_VERSION, "neuron", "AWS Trainium and Inferentia2 by the Neuron runtime (libnrt.so.1)",
    enumerate, open, close, info, telemetry, reset, alloc, free_memory, map, export_buffer, import_buffer,
    load, unload, queue_open, queue_close, submit, poll, fence,
};

}  // namespace
}  // namespace baton::neuron

extern "C" BATON_API const baton_driver* baton_driver_v1(void) { return &baton::neuron::kDriver; }
