/* driver.c: a driver as somebody wrote it for Baton 0.1: frozen1://, memory of the host and a queue that runs its ops in poll.
 * It includes the frozen declarations alone, and every later libbaton loads it (tests/abi/README.md). DO NOT EDIT: bugs included.
 *
 * A "program" is the text "marks:N": a launch reaches N marks, 5 ns apart, one a poll. Any other program is refused. */
#include "tests/abi/v1/baton_v1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define HEAP_BYTES (1u << 20)
#define DEPTH 16

typedef struct device {
  const baton_driver_host* core;
  uint64_t used, resets, launches, done, failed, in, out;
} device;

typedef struct memory {
  uint64_t bytes;
  unsigned char data[];
} memory;

typedef struct queue {
  baton_driver_op ops[DEPTH];
  uint32_t count;
  uint64_t marks;
  int fd;
} queue;

static int32_t say(baton_error* e, int32_t code, const char* what) {
  e->code = code;
  snprintf(e->what, sizeof e->what, "%s", what);
  return code;
}

static int32_t describe(void* dev, baton_device_info* out, baton_error* e) {
  (void)e;
  device* d = dev;
  snprintf(out->name, sizeof out->name, "frozen0");
  snprintf(out->model, sizeof out->model, "memory of 1993");
  out->lanes = 1;
  out->progress = 1;
  out->modelled = 1;
  out->numa_node = UINT32_MAX;
  out->heap_count = 1;
  snprintf(out->heaps[0].name, sizeof out->heaps[0].name, "dram");
  out->heaps[0].bytes_total = HEAP_BYTES;
  out->heaps[0].bytes_used = d ? d->used : 0;
  out->heaps[0].mappable = 1;
  return BATON_OK;
}

static int32_t enumerate_devices(baton_enumerate_fn fn, void* user, baton_error* e) {
  baton_device_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  snprintf(info.uri, sizeof info.uri, "frozen1://0");
  snprintf(info.driver, sizeof info.driver, "frozen1");
  describe(NULL, &info, e);
  fn(user, &info);
  return BATON_OK;
}

static int32_t open_device(const baton_driver_host* core, const char* uri, void** out, baton_error* e) {
  if (core->abi_version != BATON_ABI_VERSION || core->struct_size < sizeof *core) return say(e, BATON_VERSION, "made for core services v1");
  if (strcmp(strstr(uri, "://") + 3, "0")) return say(e, BATON_NOT_FOUND, "there is one device: 0");
  device* d = calloc(1, sizeof *d);
  d->core = core;
  *out = d;
  return BATON_OK;
}

static void close_device(void* dev) { free(dev); }

static int32_t telemetry(void* dev, baton_telemetry* out, baton_error* e) {
  (void)e;
  device* d = dev;
  out->ops_done = d->done;
  out->ops_failed = d->failed;
  out->launches = d->launches;
  out->bytes_in = d->in;
  out->bytes_out = d->out;
  return BATON_OK;
}

static int32_t reset(void* dev, baton_error* e) {
  (void)e;
  ++((device*)dev)->resets;
  return BATON_OK;
}

static int32_t alloc_memory(void* dev, uint32_t heap, uint64_t bytes, void** out, baton_error* e) {
  device* d = dev;
  (void)heap;
  if (bytes > HEAP_BYTES - d->used) return say(e, BATON_CAPACITY, "the heap holds 1048576 bytes");
  memory* m = calloc(1, sizeof *m + bytes);
  m->bytes = bytes;
  d->used += bytes;
  *out = m;
  return BATON_OK;
}

static void free_memory(void* dev, void* mem) {
  ((device*)dev)->used -= ((memory*)mem)->bytes;
  free(mem);
}

static int32_t map_memory(void* dev, void* mem, void** out, baton_error* e) {
  (void)dev, (void)e;
  *out = ((memory*)mem)->data;
  return BATON_OK;
}

static int32_t load(void* dev, uint32_t lane, const void* program, uint64_t bytes, const baton_constant* constants, uint32_t count,
                    uint32_t rank, uint32_t ranks, void** out, baton_error* e) {
  (void)dev, (void)lane, (void)constants, (void)count, (void)rank, (void)ranks;
  if (bytes < 7 || memcmp(program, "marks:", 6)) return say(e, BATON_UNSUPPORTED, "a program is the text marks:N");
  char text[16] = {0};
  memcpy(text, program, bytes < sizeof text ? bytes : sizeof text - 1);
  uint64_t* marks = malloc(sizeof *marks);
  *marks = strtoull(text + 6, NULL, 10);
  *out = marks;
  return BATON_OK;
}

static void unload(void* dev, void* program) {
  (void)dev;
  free(program);
}

static int32_t queue_open(void* dev, uint32_t lane, void** out, int* fd, baton_error* e) {
  (void)dev, (void)lane, (void)e;
  queue* q = calloc(1, sizeof *q);
  *fd = q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  *out = q;
  return BATON_OK;
}

static void queue_close(void* dev, void* queue_) {
  (void)dev;
  close(((queue*)queue_)->fd);
  free(queue_);
}

static void wake(queue* q, int on) {
  uint64_t v = 1;
  ssize_t rc = on ? write(q->fd, &v, sizeof v) : read(q->fd, &v, sizeof v);
  (void)rc;
}

static int32_t submit(void* dev, void* queue_, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e) {
  (void)dev, (void)e;
  queue* q = queue_;
  if (!q->count && count) wake(q, 1);
  for (*taken = 0; *taken < count && q->count < DEPTH; ++*taken) q->ops[q->count++] = ops[*taken];
  return BATON_OK;
}

static unsigned char* at(const baton_driver_side* s) { return s->mem ? ((memory*)s->mem)->data + s->offset : s->ptr; }

/* 0: the op goes on at the next poll. */
static int run(device* d, queue* q, const baton_driver_op* op) {
  if (op->opcode == BATON_OP_COPY) {
    memmove(at(&op->u.copy.dst), at(&op->u.copy.src), op->u.copy.bytes);
    if (op->u.copy.dst.mem) d->in += op->u.copy.bytes;
    if (op->u.copy.src.mem) d->out += op->u.copy.bytes;
  } else if (op->opcode == BATON_OP_FILL) {
    unsigned char* p = ((memory*)op->u.fill.mem)->data + op->u.fill.offset;
    for (uint64_t i = 0; i < op->u.fill.bytes; ++i) p[i] = (unsigned char)(op->u.fill.pattern >> 8 * (i % op->u.fill.pattern_bytes));
  } else if (op->opcode == BATON_OP_LAUNCH) {
    if (q->marks < *(uint64_t*)op->u.launch.program) {
      ++q->marks;
      d->core->progress(op->cookie, q->marks, 5 * q->marks);
      return 0;
    }
    q->marks = 0;
    ++d->launches;
  }
  return 1;
}

static uint32_t poll_queue(void* dev, void* queue_, uint32_t budget) {
  device* d = dev;
  queue* q = queue_;
  uint32_t n = 0;
  for (; n < budget && q->count; ++n) {
    baton_driver_op op = q->ops[0];
    if (!run(d, q, &op)) continue;
    memmove(q->ops, q->ops + 1, --q->count * sizeof *q->ops);
    if (!q->count) wake(q, 0);
    baton_error failed;
    memset(&failed, 0, sizeof failed);
    failed.struct_size = sizeof failed;
    int bad = op.opcode == BATON_OP_LAUNCH && op.u.launch.arg_count;
    if (bad) say(&failed, BATON_INVALID_ARGUMENT, "marks:N takes no arguments");
    ++*(bad ? &d->failed : &d->done);
    d->core->complete(op.cookie, 100, bad ? &failed : NULL);
  }
  return n;
}

BATON_API const baton_driver* baton_driver_v1(void);
const baton_driver* baton_driver_v1(void) {
  static const baton_driver table = {
      sizeof(baton_driver), BATON_ABI_VERSION, "frozen1",  "frozen at ABI 1", enumerate_devices, open_device, close_device,
      describe,             telemetry,         reset,      alloc_memory,      free_memory,       map_memory,  NULL,
      NULL,                 load,              unload,     queue_open,        queue_close,       submit,      poll_queue,
  };
  return &table;
}
