/* baton.h: the C ABI of Baton (C11). Four nouns and one verb: Device, Buffer, Program, Timeline, submit.
 *
 * Owner    Every handle belongs to the instance that made it; the caller destroys handles before the instance.
 * Threads  Any thread may call. An instance serializes submit and poll; timelines may be waited on from any thread.
 *          The library owns no thread and no signal handler; a driver may own one where its vendor's call blocks.
 * Cost     submit is O(ops) and allocates nothing once warm. A wait polls the instance, then sleeps on its descriptor.
 * Errors   Every call returns a baton_code and, if `error` is not NULL, fills the caller's baton_error: what happened
 *          with its numbers, and the next step. Codes are stable; see baton_code_name().
 *
 *     baton_instance* in;   baton_instance_create(NULL, &in, &err);
 *     baton_device* dev;    baton_open(in, "emu+neuron://0", &dev, &err);
 *     baton_queue* q;       baton_queue_open(dev, 0, &q, &err);
 *     baton_submit(q, ops, n, &err);
 *     baton_timeline_wait(done, n, BATON_NO_DEADLINE, &err);
 */
#ifndef BATON_H
#define BATON_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BATON_ABI_VERSION 1u
#define BATON_NO_DEADLINE UINT64_MAX
#define BATON_API __attribute__((visibility("default")))

/* ---- errors ---------------------------------------------------------------------------------------------------- */

typedef enum baton_code {
  BATON_OK = 0,
  BATON_INVALID_ARGUMENT = 1, /* the caller's mistake */
  BATON_NOT_FOUND = 2,        /* no such device, file, name */
  BATON_PERMISSION = 3,       /* wrong key, no access */
  BATON_BUSY = 4,             /* somebody else holds it; the text names the holder */
  BATON_UNSUPPORTED = 5,      /* this device or build cannot */
  BATON_CAPACITY = 6,         /* out of memory, blocks, slots */
  BATON_DEVICE_LOST = 7,      /* device reset or gone; the handle's epoch is stale */
  BATON_PEER_LOST = 8,        /* the other process or host is gone */
  BATON_DEADLINE = 9,
  BATON_CANCELLED = 10,
  BATON_VERSION = 11,  /* both versions are named */
  BATON_MISMATCH = 12, /* two sides disagree: model, layout, plan */
  BATON_CORRUPT = 13,  /* malformed bytes */
  BATON_FAILED = 14,   /* the device executed and reported failure */
  BATON_IO = 15,       /* a system call failed; the text holds errno */
  BATON_INTERNAL = 16, /* a bug in Baton */
} baton_code;

typedef struct baton_error {
  uint32_t struct_size; /* sizeof(baton_error), set by the caller; 0 is taken as this version's size */
  int32_t code;         /* baton_code */
  uint64_t epoch;       /* of the device, 0 if none */
  char device[64];      /* URI of the device or link, "" if none */
  char hop[96];         /* how the failure travelled: "neuron://0 > link a:1 > cs3://x", "" if it did not */
  char what[320];       /* one line: what happened, with its numbers */
  char next[192];       /* one line: what to do next, "" if nothing is known */
} baton_error;

/* Stable upper-case name ("DEVICE_LOST"); "UNKNOWN" for others. Static storage. */
BATON_API const char* baton_code_name(int32_t code);
/* Library version, "0.1.0". Static storage. */
BATON_API const char* baton_version(void);

/* ---- handles --------------------------------------------------------------------------------------------------- */

typedef struct baton_instance baton_instance;
typedef struct baton_device baton_device;
typedef struct baton_buffer baton_buffer;
typedef struct baton_program baton_program;
typedef struct baton_timeline baton_timeline;
typedef struct baton_queue baton_queue;

/* ---- instance: registry, timelines, polling -------------------------------------------------------------------- */

typedef struct baton_instance_options {
  uint32_t struct_size;
  uint32_t reserved;
  const char* driver_path;   /* folders searched for libbaton-driver-SCHEME.so, ':'-separated; NULL: BATON_DRIVER_PATH,
                                then the folder "baton" beside libbaton.so */
  const char* emulator_path; /* the same for baton-emu-SCHEME; NULL: BATON_EMULATOR_PATH, then as above */
} baton_instance_options;

BATON_API int32_t baton_instance_create(const baton_instance_options*, baton_instance** out, baton_error*);
/* Closes what is still open, ends emulators that it started. */
BATON_API void baton_instance_destroy(baton_instance*);
/* Makes progress on every queue; handles at most `budget` events; returns how many it handled. Never blocks. */
BATON_API uint32_t baton_poll(baton_instance*, uint32_t budget);
/* An epoll descriptor, readable when a poll may make progress. Owned by the instance. */
BATON_API int baton_instance_fd(baton_instance*);
/* Polls, spinning briefly and then sleeping on the descriptor, until something was handled or `deadline_ns`
 * (CLOCK_MONOTONIC). Returns how many events were handled. For event loops that wait on several things. */
BATON_API uint32_t baton_poll_wait(baton_instance*, uint64_t deadline_ns);

/* ---- devices --------------------------------------------------------------------------------------------------- */

#define BATON_MAX_HEAPS 16

typedef struct baton_heap_info {
  char name[16];        /* "hbm0", "sram", "dram" */
  uint64_t bytes_total; /* capacity */
  uint64_t bytes_used;
  uint32_t mappable;   /* 1: baton_map works */
  uint32_t exportable; /* 1: baton_export works */
} baton_heap_info;

typedef struct baton_device_info {
  uint32_t struct_size;
  uint32_t emulated;    /* what stands below the driver's port says that it is an emulator */
  char uri[128];        /* the ordinary address */
  char name[32];        /* short selector name: "trn0", "cs0", "host0" */
  char model[64];       /* "Trainium2", "CS-3", CPU model */
  char driver[32];      /* scheme */
  char firmware[96];    /* runtime / daemon version as reported */
  char location[64];    /* PCI address, host:port, "" */
  uint64_t epoch;       /* +1 at each reset */
  uint32_t lanes;       /* independent execution units: one queue each (logical NeuronCores; wafers; threads) */
  uint32_t heap_count;
  baton_heap_info heaps[BATON_MAX_HEAPS];
  uint32_t collectives; /* 1: programs with all_reduce run across lanes */
  uint32_t progress;    /* 1: LAUNCH reports marks as they happen; 0: all at the end */
  uint32_t modelled;    /* 1: completions carry modelled time */
  uint32_t numa_node;   /* UINT32_MAX: unknown */
  char timing[96];      /* name and version of the timing model, "" if none */
} baton_device_info;

typedef struct baton_telemetry {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t ops_done, ops_failed, launches;
  uint64_t bytes_in, bytes_out; /* copied to / from the device */
  uint64_t busy_ns;             /* wall time that lanes were executing, summed */
  uint64_t modelled_ns;         /* the same by the timing model */
} baton_telemetry;

/* Called once per device found; return 0 to go on. `info` lives for the call only. */
typedef int32_t (*baton_enumerate_fn)(void* user, const baton_device_info* info);
/* Every device that an installed driver finds. A driver that cannot load is skipped. */
BATON_API int32_t baton_enumerate(baton_instance*, baton_enumerate_fn, void* user, baton_error*);
/* Opens "scheme://address?key=value&...". "emu+scheme://..." runs the program baton-emu-scheme, which prints the ordinary address
 * on its first output line; a daemon is ended with the instance. */
BATON_API int32_t baton_open(baton_instance*, const char* uri, baton_device** out, baton_error*);
BATON_API void baton_close(baton_device*);
BATON_API int32_t baton_info(baton_device*, baton_device_info* out, baton_error*);
BATON_API int32_t baton_telemetry_read(baton_device*, baton_telemetry* out, baton_error*);
/* Ends everything in flight with DEVICE_LOST; the epoch goes up; handles of the old epoch stay stale. */
BATON_API int32_t baton_reset(baton_device*, baton_error*);

/* ---- buffers --------------------------------------------------------------------------------------------------- */

BATON_API int32_t baton_alloc(baton_device*, uint32_t heap, uint64_t bytes, baton_buffer** out, baton_error*);
BATON_API void baton_free(baton_buffer*);
BATON_API uint64_t baton_buffer_bytes(const baton_buffer*);
BATON_API baton_device* baton_buffer_device(const baton_buffer*);
/* Host address of the buffer, valid until it is freed; UNSUPPORTED where the heap is not mappable. */
BATON_API int32_t baton_map(baton_buffer*, void** out, baton_error*);
/* A descriptor (the caller closes it) of the memory object that holds the buffer, and where in it the buffer starts. */
BATON_API int32_t baton_export(baton_buffer*, int* fd, uint64_t* offset, baton_error*);
/* The buffer `bytes` long at `offset` of memory object `fd` (not consumed), as a buffer of this device. */
BATON_API int32_t baton_import(baton_device*, int fd, uint64_t offset, uint64_t bytes, baton_buffer** out, baton_error*);

/* ---- programs -------------------------------------------------------------------------------------------------- */

/* A weight, by the name that the program declares; dense, row-major, in the dtype and shape that it declares.
 * The bytes need to live for the call only: the device packs its own copy. */
typedef struct baton_constant {
  const char* name;
  const void* data;
  uint64_t bytes;
} baton_constant;

/* Loads a serialized portable program (hal/program) onto one lane. `rank` of `ranks`: lanes that share collectives;
 * 0 of 1 for a program without. `group` tells groups apart on one device. Lanes 0..ranks-1 each load their own. */
BATON_API int32_t baton_load(baton_device*, uint32_t lane, const void* program, uint64_t bytes,
                             const baton_constant* constants, uint32_t count, uint32_t rank, uint32_t ranks,
                             baton_program** out, baton_error*);
BATON_API void baton_unload(baton_program*);

/* ---- timelines ------------------------------------------------------------------------------------------------- */

/* A u64 watermark that only rises, plus a failure. Value n means: chunks 0..n-1 are complete and visible on the device.
 * Each value carries the modelled time (ns) at which it was reached; 0 where nothing below is modelled. */
BATON_API int32_t baton_timeline_create(baton_instance*, const char* name, baton_timeline** out, baton_error*);
BATON_API void baton_timeline_destroy(baton_timeline*);
/* Raises the watermark to `value` (a lower or equal value is ignored). Thread-safe. */
BATON_API void baton_timeline_signal(baton_timeline*, uint64_t value, uint64_t modelled_ns);
/* Fails the timeline for good with the first cause; later calls are ignored. Cancel, deadline, peer death: all this. */
BATON_API void baton_timeline_poison(baton_timeline*, const baton_error* cause);
/* The current watermark; returns the poison's code and fills `error` if poisoned. */
BATON_API int32_t baton_timeline_query(baton_timeline*, uint64_t* value, baton_error*);
/* Modelled time (ns) at which `value` was reached; 0 if not reached or not modelled. */
BATON_API uint64_t baton_timeline_modelled(baton_timeline*, uint64_t value);
/* Waits until the watermark is at least `value`, the timeline is poisoned, or CLOCK_MONOTONIC passes deadline_ns. */
BATON_API int32_t baton_timeline_wait(baton_timeline*, uint64_t value, uint64_t deadline_ns, baton_error*);

/* ---- submit ---------------------------------------------------------------------------------------------------- */

typedef enum baton_opcode {
  BATON_OP_NOP = 0, /* completes when its waits are met: joins timelines */
  BATON_OP_COPY = 1,
  BATON_OP_LAUNCH = 2,
  BATON_OP_FILL = 3,
  BATON_OP_HOST = 4, /* calls a function on the polling thread; it must not block */
} baton_opcode;

typedef struct baton_point {
  baton_timeline* timeline; /* NULL: none */
  uint64_t value;
} baton_point;

typedef struct baton_binding {
  const char* name; /* as the program declares it */
  baton_buffer* buffer;
  uint64_t offset, bytes; /* bytes 0: to the end of the buffer */
} baton_binding;

typedef void (*baton_host_fn)(void* user);

/* 128 bytes. Zero what is not used. Ops are ordered by their points alone: a queue issues an op once its waits are met, in submit
 * order among those that are ready. A poisoned wait fails the op and poisons its signals. Arrays pointed to (bindings,
 * args) are copied by submit; handles must live until the op is complete. */
typedef struct baton_op {
  uint8_t opcode; /* baton_opcode */
  uint8_t flags;  /* 0 */
  uint16_t reserved;
  uint32_t tag; /* the caller's; shown in traces and errors */
  baton_point wait[2];
  baton_point signal[2];
  union {
    struct { /* contiguous bytes, or step `step` of a plan that the (link) queue understands */
      baton_buffer* src;
      baton_buffer* dst;
      uint64_t src_offset, dst_offset, bytes;
    } copy;
    struct {
      const void* plan; /* a transfer made by the link's owner (transport/); src and dst are in it */
      uint64_t step;
      uint64_t zero[3];
    } plan;
    struct {
      baton_program* program;
      const baton_binding* bindings;
      const int64_t* args;      /* in the order that the program declares; floats as the bits of a double */
      baton_timeline* progress; /* NULL: none; raised to progress_base + k at the program's k-th mark (k from 1) */
      uint64_t progress_base;
    } launch;
    struct {
      baton_buffer* dst;
      uint64_t offset, bytes;
      uint32_t pattern; /* repeated little-endian */
      uint32_t pattern_bytes; /* 1, 2 or 4 */
    } fill;
    struct {
      baton_host_fn fn;
      void* user;
    } host;
  } u;
  uint16_t binding_count, arg_count; /* LAUNCH */
  uint32_t plan_op;                  /* COPY: 1 = u.plan */
  uint64_t user;                     /* the caller's */
} baton_op;

#if defined(__cplusplus)
static_assert(sizeof(baton_op) == 128, "baton_op is 128 bytes");
#else
_Static_assert(sizeof(baton_op) == 128, "baton_op is 128 bytes");
#endif

/* A queue on one lane of a device. */
BATON_API int32_t baton_queue_open(baton_device*, uint32_t lane, baton_queue** out, baton_error*);
/* A link: a queue between two devices of this process. COPY runs along the plan that baton_plan_copy prints. */
BATON_API int32_t baton_link_open(baton_device* from, baton_device* to, baton_queue** out, baton_error*);
/* Fails what is not complete with CANCELLED, waits for what the device still runs, frees the queue. */
BATON_API void baton_queue_close(baton_queue*);
/* All or nothing: on error no op was taken. COPY between devices is planned here and refused here. */
BATON_API int32_t baton_submit(baton_queue*, const baton_op* ops, uint32_t count, baton_error*);

/* The path that a COPY from heap to heap takes: "direct", "mapped", "imported", "staged", with the reason, one line each
 * hop. UNSUPPORTED with the missing edge if there is none. */
BATON_API int32_t baton_plan_copy(baton_device* from, baton_device* to, char* text, uint64_t text_bytes, baton_error*);

/* ---- the driver table: what a driver .so exports as `baton_driver` ------------------------------------------------ */

/* An op as the core hands it to a driver: its waits are met, its handles resolved to the driver's own. For COPY exactly
 * one or both sides are this device's memory (mem not NULL); the other side is host-visible memory (ptr not NULL, and fd/fd_offset if
 * it is part of a shareable object, else fd = -1). Everything pointed to lives until complete() is called. */
typedef struct baton_driver_side {
  void* mem;           /* the driver's memory handle, NULL if the side is host-visible memory */
  void* ptr;           /* host address of the side's first byte (offset included), NULL if mem is not NULL */
  uint64_t offset;     /* bytes into mem */
  int32_t fd;          /* shareable object behind ptr, or -1 */
  uint32_t reserved;
  uint64_t fd_offset;  /* of ptr in fd */
} baton_driver_side;

typedef struct baton_driver_binding {
  const char* name;
  void* mem; /* the driver's memory handle */
  uint64_t offset, bytes;
} baton_driver_binding;

typedef struct baton_driver_op {
  uint8_t opcode; /* COPY, LAUNCH, FILL, or NOP (an empty op that goes to the device and back) */
  uint8_t reserved[3];
  uint32_t tag;
  void* cookie;      /* to be handed back */
  uint64_t start_ns; /* modelled start: the latest of the waits' times and the end of the queue's previous op */
  union {
    struct {
      baton_driver_side src, dst;
      uint64_t bytes;
    } copy;
    struct {
      void* program;
      const baton_driver_binding* bindings;
      const int64_t* args;
      uint32_t binding_count, arg_count;
      uint32_t want_progress;
    } launch;
    struct {
      void* mem;
      uint64_t offset, bytes;
      uint32_t pattern, pattern_bytes;
    } fill;
    struct { /* link queues only: COPY with plan_op */
      const void* plan;
      uint64_t step;
    } plan;
  } u;
} baton_driver_op;

/* What the core gives to a driver or link. Call only from inside submit and poll (the core holds its lock there). */
typedef struct baton_driver_host {
  uint32_t struct_size;
  uint32_t abi_version;
  /* Ends an op. cost_ns: modelled duration (0: not modelled). error NULL: success. */
  void (*complete)(void* cookie, uint64_t cost_ns, const baton_error* error);
  /* Mark k (from 1) of a LAUNCH was reached, offset_ns (modelled) after its start. Non-zero: the op was cancelled, stop soon. */
  int32_t (*progress)(void* cookie, uint64_t k, uint64_t offset_ns);
  /* The device is gone or was reset behind the driver's back: everything in flight fails with `error`. */
  void (*lost)(void* core_device, const baton_error* error);
  void* core_device; /* for lost(); NULL in enumerate */
} baton_driver_host;

/* Slots may be NULL: the core answers UNSUPPORTED or falls back. Return values are baton_code; `e` is never NULL.
 * Calls on one device are serialized by the core. */
typedef struct baton_driver {
  uint32_t struct_size;
  uint32_t abi_version; /* BATON_ABI_VERSION */
  const char* scheme;   /* "neuron" */
  const char* description;
  int32_t (*enumerate)(baton_enumerate_fn fn, void* user, baton_error* e);
  int32_t (*open)(const baton_driver_host* host, const char* uri, void** device, baton_error* e);
  void (*close)(void* device);
  int32_t (*info)(void* device, baton_device_info* out, baton_error* e);
  int32_t (*telemetry)(void* device, baton_telemetry* out, baton_error* e);
  int32_t (*reset)(void* device, baton_error* e);
  int32_t (*alloc)(void* device, uint32_t heap, uint64_t bytes, void** mem, baton_error* e);
  void (*free)(void* device, void* mem);
  int32_t (*map)(void* device, void* mem, void** ptr, baton_error* e);
  int32_t (*export_buffer)(void* device, void* mem, int* fd, uint64_t* offset, baton_error* e);
  int32_t (*import_buffer)(void* device, int fd, uint64_t offset, uint64_t bytes, void** mem, baton_error* e);
  int32_t (*load)(void* device, uint32_t lane, const void* program, uint64_t bytes, const baton_constant* constants,
                  uint32_t count, uint32_t rank, uint32_t ranks, void** out, baton_error* e);
  void (*unload)(void* device, void* program);
  /* *fd: readable when poll may make progress, -1 if there is none. */
  int32_t (*queue_open)(void* device, uint32_t lane, void** queue, int* fd, baton_error* e);
  void (*queue_close)(void* device, void* queue);
  /* Takes the first *taken of `count` ops; fewer than count: full, the core tries again after a poll. */
  int32_t (*submit)(void* device, void* queue, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e);
  /* Calls complete/progress for at most about `budget` events; returns how many. Never blocks for long. */
  uint32_t (*poll)(void* device, void* queue, uint32_t budget);
} baton_driver;

/* The one symbol that a driver .so exports. */
#define BATON_DRIVER_SYMBOL "baton_driver_v1"
typedef const baton_driver* (*baton_driver_fn)(void);

/* A queue whose far end is not a device of this process (transport sessions). The core resolves waits and signals; the table's submit
 * and poll are called as a driver's are, with `device` = ctx and `queue` = ctx. Only submit, poll and queue_close are used. `fd` as in queue_open. `name`
 * is shown in errors and traces. An op may be COPY (contiguous or plan) or NOP. */
BATON_API int32_t baton_queue_from_table(baton_instance*, const char* name, const baton_driver* table, void* ctx, int fd,
                                         baton_queue** out, baton_error*);
/* The core services for such a queue (complete, progress). Valid as long as the instance. */
BATON_API const baton_driver_host* baton_queue_host(baton_instance*);

/* ---- trace ----------------------------------------------------------------------------------------------------- */

typedef struct baton_span {
  const char* lane;  /* "neuron://0 lane 0", link name; lives for the call */
  const char* what;  /* "LAUNCH", "COPY", "mark" */
  uint32_t tag;
  uint32_t failed;
  uint64_t wall_start_ns, wall_end_ns;         /* CLOCK_MONOTONIC */
  uint64_t modelled_start_ns, modelled_end_ns; /* 0,0: not modelled */
  uint64_t bytes;                              /* COPY, FILL */
} baton_span;

typedef void (*baton_span_fn)(void* user, const baton_span*);
/* Called for each completed op and each mark, from poll. NULL: off (the default; costs nothing). */
BATON_API void baton_set_span_callback(baton_instance*, baton_span_fn, void* user);

#ifdef __cplusplus
}
#endif
#endif
