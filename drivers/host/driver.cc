// driver.cc: the host driver: this process as a device. The template: copy the folder, keep the shape, replace the insides.
//
// A driver is one table of C functions. It sees ready ops only: waits, signals, epochs, planning and modelled time are the core's.
// It reports through two calls, from inside submit and poll: complete(cookie, cost, error) and progress(cookie, k, offset).
// Slots that a device cannot fill stay NULL; the core answers UNSUPPORTED for them.
//
// Start here:  driver.cc (the table), queue.h (how ops run), memory.h (the heap), launch.h (programs), options.h (the address).
#include "drivers/host/machine.h"
#include "drivers/host/memory.h"
#include "drivers/host/options.h"
#include "drivers/host/queue.h"

#include <algorithm>
#include <memory>
#include <vector>

namespace baton::host_driver {
namespace {

struct Device {
  const baton_driver_host* core;  // lives until close
  std::string uri;
  Options options;
  Machine machine;
  Counters counters;
  uint64_t allocated = 0;  // bytes of its own since the latest reset; what it imports is another's
  uint32_t resets = 0;
  std::vector<Queue*> queues;
};

Device* device(void* d) { return static_cast<Device*>(d); }

// Every slot answers a code and fills the core's error, which is never NULL.
int32_t answer(baton_error* to, const Error& e) {
  *to = e;
  return e.code;
}

void fill_info(const std::string& uri, const std::string& label, const Machine& m, uint64_t used, baton_device_info* out) {
  Error::put(out->uri, uri);
  Error::put(out->name, label.empty() ? "host0" : label);
  Error::put(out->model, m.cpu);
  Error::put(out->driver, "host");
  Error::put(out->firmware, m.kernel);
  Error::put(out->location, m.hostname);
  out->lanes = 1;     // one ordered lane; a program spreads over `threads` inside it
  out->progress = 1;  // marks are reported as they are reached
  out->numa_node = m.numa_node;
  out->heap_count = 1;
  Error::put(out->heaps[0].name, "dram");
  out->heaps[0].bytes_total = m.memory_bytes;
  out->heaps[0].bytes_used = used;
  out->heaps[0].mappable = 1;
  out->heaps[0].exportable = 1;
}

// There is always exactly one.
int32_t enumerate(baton_enumerate_fn fn, void* user, baton_error*) {
  baton_device_info info{};
  info.struct_size = sizeof info;
  fill_info("host://", "", read_machine(), 0, &info);
  fn(user, &info);
  return BATON_OK;
}

int32_t open(const baton_driver_host* core, const char* uri, void** out, baton_error* e) {
  auto options = parse_options(uri);
  if (!options) return answer(e, options.error());
  *out = new Device{core, uri, std::move(*options), read_machine(), {}, 0, 0, {}};
  return BATON_OK;
}

// The core closes a device after its queues, programs and buffers.
void close(void* d) { delete device(d); }

int32_t info(void* d, baton_device_info* out, baton_error*) {
  fill_info(device(d)->uri, device(d)->options.label, device(d)->machine, device(d)->allocated, out);
  return BATON_OK;
}

int32_t telemetry(void* d, baton_telemetry* out, baton_error*) {
  const Counters& c = device(d)->counters;
  out->ops_done = c.ops_done;
  out->ops_failed = c.ops_failed;
  out->launches = c.launches;
  out->bytes_in = c.bytes_in;
  out->bytes_out = c.bytes_out;
  out->busy_ns = c.busy_ns;
  return BATON_OK;
}

// The core has already failed everything in flight and will not hear of those cookies again. Memory of before is not counted any more; its pages
// stay until it is freed, since somebody may have mapped it.
int32_t reset(void* d, baton_error*) {
  for (Queue* q : device(d)->queues) q->drop();
  device(d)->allocated = 0;
  ++device(d)->resets;
  return BATON_OK;
}

int32_t alloc(void* d, uint32_t, uint64_t bytes, void** out, baton_error* e) {
  const Machine& m = device(d)->machine;
  uint64_t& used = device(d)->allocated;
  // The kernel would promise it, and kill the process when it is touched.
  if (m.memory_bytes && (bytes > m.memory_bytes || used > m.memory_bytes - bytes))
    return answer(e, Error(BATON_CAPACITY, std::to_string(bytes) + " bytes; this machine has " + std::to_string(m.memory_bytes) + ", this device uses " +
                                               std::to_string(used) + " of them", "allocate less, or free buffers"));
  auto memory = Memory::allocate(bytes);
  if (!memory) return answer(e, memory.error());
  used += bytes;
  (*memory)->resets = device(d)->resets;
  *out = *memory;
  return BATON_OK;
}

int32_t import_buffer(void*, int fd, uint64_t offset, uint64_t bytes, void** out, baton_error* e) {
  auto memory = Memory::import(fd, offset, bytes);
  if (!memory) return answer(e, memory.error());
  *out = *memory;
  return BATON_OK;
}

void free(void* d, void* memory) {
  auto* m = static_cast<Memory*>(memory);
  if (!m->imported() && m->resets == device(d)->resets) device(d)->allocated -= m->bytes();
  delete m;
}

int32_t map(void*, void* memory, void** out, baton_error*) {
  *out = static_cast<Memory*>(memory)->data();
  return BATON_OK;
}

int32_t export_buffer(void*, void* memory, int* fd, uint64_t* offset, baton_error* e) {
  auto* m = static_cast<Memory*>(memory);
  auto copy = m->duplicate();
  if (!copy) return answer(e, copy.error());
  *fd = *copy;
  *offset = m->fd_offset();
  return BATON_OK;
}

int32_t load(void* d, uint32_t, const void* program, uint64_t bytes, const baton_constant* constants, uint32_t count, uint32_t, uint32_t,
             void** out, baton_error* e) {
  const Options& o = device(d)->options;
  auto p = load_program(program, bytes, constants, count, {.isa = o.isa, .threads = o.threads});
  if (!p) return answer(e, p.error());
  *out = *p;
  return BATON_OK;
}

void unload(void*, void* program) { delete static_cast<Program*>(program); }

int32_t queue_open(void* d, uint32_t, void** out, int* fd, baton_error* e) {
  auto q = Queue::open(device(d)->core, &device(d)->counters);
  if (!q) return answer(e, q.error());
  device(d)->queues.push_back(*q);
  *fd = (*q)->fd();
  *out = *q;
  return BATON_OK;
}

void queue_close(void* d, void* queue) {
  std::erase(device(d)->queues, queue);
  delete static_cast<Queue*>(queue);
}

int32_t submit(void*, void* queue, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error*) {
  *taken = static_cast<Queue*>(queue)->submit(ops, count);
  return BATON_OK;
}

uint32_t poll(void*, void* queue, uint32_t budget) { return static_cast<Queue*>(queue)->poll(budget); }

}  // namespace
}  // namespace baton::host_driver

extern "C" __attribute__((visibility("default"))) const baton_driver* baton_driver_v1() {
  namespace host = baton::host_driver;
  static const baton_driver table = {
      .struct_size = sizeof(baton_driver),
      .abi_version = BATON_ABI_VERSION,
      .scheme = "host",
      .description = "this process: its memory, its processors",
      .enumerate = host::enumerate,
      .open = host::open,
      .close = host::close,
      .info = host::info,
      .telemetry = host::telemetry,
      .reset = host::reset,
      .alloc = host::alloc,
      .free = host::free,
      .map = host::map,
      .export_buffer = host::export_buffer,
      .import_buffer = host::import_buffer,
      .load = host::load,
      .unload = host::unload,
      .queue_open = host::queue_open,
      .queue_close = host::queue_close,
      .submit = host::submit,
      .poll = host::poll,
      .fence = nullptr,  // what others write to this host's memory is visible
  };
  return &table;
}
