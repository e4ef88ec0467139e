// hal_fake_driver.cc: fake://LABEL?key=value, a device for tests of the core: every behaviour that the host driver does not have.
//
//   map=1      the heap is mappable (default 0)          timed=N   an op costs N ns plus 1 ns a byte, modelled (default: not timed)
//   depth=N    a queue takes N ops, then is full (64)    fd=0      no descriptor: the core must nap and poll (default 1)
//   noreset=1  a reset fails                             refuse    in the address: open answers BUSY
//
// A LAUNCH reaches three marks, 10 ns apart, one a poll. An op's tag tells it what else to do: hal_fake_tags.hpp.
#include "tests/unit/hal_fake_tags.hpp"

#include "hal/baton.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <thread>
#include <utility>

namespace {

struct Device {
  const baton_driver_host* core;
  std::string uri;
  bool mappable = false, timed = false, with_fd = true, reset_fails = false;
  uint64_t cost = 0;
  size_t depth = 64;
};

struct Memory {
  uint8_t* data;
};

struct Queue {
  std::deque<baton_driver_op> ops;
  int fd = -1;
  uint64_t marks = 0;
  void* untaken = nullptr;  // the cookie of the latest kUntaken
  bool untaken_completed = false;
  std::thread elsewhere;
  void signal(bool on) {
    if (fd < 0) return;
    uint64_t v = 1;
    ssize_t rc = on ? write(fd, &v, sizeof v) : read(fd, &v, sizeof v);
    (void)rc;
  }
};

uint64_t option(const std::string& uri, const char* key, uint64_t otherwise) {
  size_t at = uri.find(std::string(key) + "=");
  return at == std::string::npos ? otherwise : std::strtoull(uri.c_str() + at + std::strlen(key) + 1, nullptr, 10);
}

int32_t open_device(const baton_driver_host* core, const char* uri, void** out, baton_error* e) {
  if (std::string(uri).find("refuse") != std::string::npos) {
    *e = baton::Error(BATON_BUSY, "held by pid 1 (init)");
    return BATON_BUSY;
  }
  auto* d = new Device{core, uri};
  d->mappable = option(uri, "map", 0);
  d->timed = d->uri.find("timed=") != std::string::npos;
  d->cost = option(uri, "timed", 0);
  d->depth = option(uri, "depth", 64);
  d->with_fd = option(uri, "fd", 1);
  d->reset_fails = option(uri, "noreset", 0);
  *out = d;
  return BATON_OK;
}

int32_t info(void* device, baton_device_info* out, baton_error*) {
  auto* d = static_cast<Device*>(device);
  baton::Error::put(out->name, "fake0");
  out->lanes = 2;
  out->progress = 1;
  out->modelled = d->timed;
  out->heap_count = 1;
  baton::Error::put(out->heaps[0].name, "sram");
  out->heaps[0].bytes_total = 1 << 30;
  out->heaps[0].mappable = d->mappable;
  return BATON_OK;
}

int32_t alloc(void*, uint32_t, uint64_t bytes, void** out, baton_error* e) {
  if (bytes > (1 << 30)) {
    *e = baton::Error(BATON_CAPACITY, "the heap holds 1073741824 bytes");
    return BATON_CAPACITY;
  }
  *out = new Memory{static_cast<uint8_t*>(std::calloc(1, bytes))};
  return BATON_OK;
}

void free_memory(void*, void* memory) {
  auto* m = static_cast<Memory*>(memory);
  std::free(m->data);
  delete m;
}

int32_t map(void*, void* memory, void** out, baton_error*) {
  *out = static_cast<Memory*>(memory)->data;
  return BATON_OK;
}

int32_t load(void*, uint32_t, const void* program, uint64_t bytes, const baton_constant*, uint32_t, uint32_t, uint32_t, void** out,
             baton_error*) {
  *out = new std::string(static_cast<const char*>(program), bytes);
  return BATON_OK;
}

int32_t queue_open(void* device, uint32_t, void** out, int* fd, baton_error*) {
  auto* q = new Queue;
  if (static_cast<Device*>(device)->with_fd) q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  *fd = q->fd;
  *out = q;
  return BATON_OK;
}

void queue_close(void*, void* queue) {
  auto* q = static_cast<Queue*>(queue);
  if (q->fd >= 0) close(q->fd);
  if (q->elsewhere.joinable()) q->elsewhere.join();
  delete q;
}

// Breaks a rule of drivers, if the op says so. True: it is not taken.
bool misbehave(Device* d, Queue* q, const baton_driver_op& op) {
  const baton_driver_host* core = d->core;
  switch (op.tag) {
    case kEager: core->complete(op.cookie, 0, nullptr); return true;
    case kUntaken:
      if (q->untaken == op.cookie) return false;
      q->untaken = op.cookie;
      q->untaken_completed = false;
      return true;
    case kMarks: core->progress(op.cookie, 1, 0); return false;
    case kBackwards:
      core->progress(op.cookie, 2, 0);
      core->progress(op.cookie, 1, 0);
      return false;
    default: return false;
  }
}

int32_t submit(void* device, void* queue, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error*) {
  auto* d = static_cast<Device*>(device);
  auto* q = static_cast<Queue*>(queue);
  if (q->ops.empty() && count) q->signal(true);
  for (*taken = 0; *taken < count && q->ops.size() < d->depth; ++*taken) {
    const baton_driver_op& op = ops[*taken];
    if (misbehave(d, q, op)) break;
    if (op.tag == kElsewhere) q->elsewhere = std::thread([core = d->core, cookie = op.cookie] { core->complete(cookie, 0, nullptr); });
    else q->ops.push_back(op);
  }
  return BATON_OK;
}

uint8_t* at(const baton_driver_side& s) {
  return s.mem ? static_cast<Memory*>(s.mem)->data + s.offset : static_cast<uint8_t*>(s.ptr);
}

uint64_t execute(const baton_driver_op& op) {  // bytes
  if (op.opcode == BATON_OP_COPY) {
    std::memmove(at(op.u.copy.dst), at(op.u.copy.src), op.u.copy.bytes);
    return op.u.copy.bytes;
  }
  if (op.opcode == BATON_OP_FILL) {
    std::memset(static_cast<Memory*>(op.u.fill.mem)->data + op.u.fill.offset, int(op.u.fill.pattern), op.u.fill.bytes);
    return op.u.fill.bytes;
  }
  return 0;
}

// Runs the first op. False: it goes on at the next poll.
bool step(Device* d, Queue* q) {
  const baton_driver_op op = q->ops.front();
  const baton_driver_host* core = d->core;
  if (op.tag == kHang && core->progress(op.cookie, 0, 0) == 0) return false;
  if (op.opcode == BATON_OP_LAUNCH && q->marks < 3) {
    ++q->marks;
    core->progress(op.cookie, q->marks, q->marks * 10);
    return false;
  }
  q->marks = 0;
  q->ops.pop_front();
  if (q->ops.empty()) q->signal(false);
  baton::Error failed(BATON_FAILED, "told to fail");
  baton::Error lost(BATON_DEVICE_LOST, "the fake fell off the bus");
  baton::Error cancelled(BATON_CANCELLED, "stopped");
  const uint64_t bytes = execute(op), cost = d->timed ? d->cost + bytes : 0;
  switch (op.tag) {
    case kFail: core->complete(op.cookie, cost, &failed); break;
    case kHang: core->complete(op.cookie, 0, &cancelled); break;
    case kLose:
      q->ops.clear();
      core->lost(core->core_device, &lost);
      break;
    case kLate: core->complete(op.cookie, cost, nullptr); [[fallthrough]];
    default: core->complete(op.cookie, cost, nullptr);
  }
  return true;
}

uint32_t poll(void* device, void* queue, uint32_t budget) {
  auto* q = static_cast<Queue*>(queue);
  uint32_t n = 0;
  if (q->untaken && !std::exchange(q->untaken_completed, true)) static_cast<Device*>(device)->core->complete(q->untaken, 0, nullptr);
  while (n < budget && !q->ops.empty() && step(static_cast<Device*>(device), q)) ++n;
  return n;
}

int32_t reset(void* device, baton_error* e) {
  if (!static_cast<Device*>(device)->reset_fails) return BATON_OK;
  *e = baton::Error(BATON_FAILED, "stays dead");
  return BATON_FAILED;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const baton_driver* baton_driver_v1() {
  static const baton_driver table = {
      .struct_size = sizeof(baton_driver),
      .abi_version = BATON_ABI_VERSION,
      .scheme = "fake",
      .description = "for tests",
      .enumerate = nullptr,
      .open = open_device,
      .close = [](void* d) { delete static_cast<Device*>(d); },
      .info = info,
      .telemetry = nullptr,
      .reset = reset,
      .alloc = alloc,
      .free = free_memory,
      .map = map,
      .export_buffer = nullptr,
      .import_buffer = nullptr,
      .load = load,
      .unload = [](void*, void* p) { delete static_cast<std::string*>(p); },
      .queue_open = queue_open,
      .queue_close = queue_close,
      .submit = submit,
      .poll = poll,
  };
  return &table;
}
