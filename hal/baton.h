/* baton.h: the C ABI of Baton (C11). Four nouns and one verb: Device, Buffer, Program, Timeline, submit.
 *
 * Unless a declaration says otherwise, for every function here:
 *
 * Owner    Whoever made a handle closes it, once, before the instance: destroying the instance ends what is left, and every handle
 *          of it is dangling from then on. Children may be closed before or after their device. Closing NULL does nothing.
 * Threads  Any thread may call; several may use one handle. Nobody may use a handle while another thread closes it. One
 *          thread at a time is inside an instance; submit and signal do not wait for it. The library starts no thread and touches no signal.
 * Cost     Nothing blocks but what says so. A call that reaches a driver (open, info, alloc, load) takes as long as the vendor's.
 * Errors   A baton_code is returned and, if `error` is not NULL, the caller's struct says what happened with its numbers and what
 *          to do next. INVALID_ARGUMENT: a NULL handle or result, an index out of range, handles of two instances. DEVICE_LOST: the
 *          device is gone, or was reset since the handle was made. On failure no result is made, and nothing has to be closed.
 *          Running out of host memory for the library's own small objects is not survived.
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

#define BATON_ABI_VERSION 1u                                     /* of the driver table; another is refused with VERSION */
#define BATON_NO_DEADLINE UINT64_MAX                             /* as a deadline: wait for ever */
#define BATON_API __attribute__((visibility("default")))         /* an exported symbol */

/* ---- errors ---------------------------------------------------------------------------------------------------- */

/* Why a call or an op failed. The numbers and the names (baton_code_name) never change; codes are only added. */
typedef enum baton_code {
  BATON_OK = 0,               /* done */
  BATON_INVALID_ARGUMENT = 1, /* the caller's mistake */
  BATON_NOT_FOUND = 2,        /* no such device, file, name */
  BATON_PERMISSION = 3,       /* wrong key, no access */
  BATON_BUSY = 4,             /* somebody else holds it; the text names the holder */
  BATON_UNSUPPORTED = 5,      /* this device or build cannot */
  BATON_CAPACITY = 6,         /* out of memory, blocks, slots */
  BATON_DEVICE_LOST = 7,      /* device reset or gone; the handle's epoch is stale */
  BATON_PEER_LOST = 8,        /* the other process or host is gone */
  BATON_DEADLINE = 9,         /* the time given was up; what was waited for goes on */
  BATON_CANCELLED = 10,       /* somebody gave it up: a poison without a cause, a queue or an instance being closed */
  BATON_VERSION = 11,         /* both versions are named */
  BATON_MISMATCH = 12,        /* two sides disagree: model, layout, plan */
  BATON_CORRUPT = 13,         /* malformed bytes */
  BATON_FAILED = 14,          /* the device executed and reported failure */
  BATON_IO = 15,              /* a system call failed; the text holds errno */
  BATON_INTERNAL = 16,        /* a bug in Baton */
} baton_code;

/* What went wrong, as texts of one line each. A plain struct, filled by the call that failed.
 * Owner    the caller, who may keep and copy it. NULL may be passed where one is asked for.
 * Cost     nothing on success, which empties the texts of the last failure.
 *
 *     baton_error err = {.struct_size = sizeof err};
 *     if (baton_open(in, "cs3://10.0.0.5:9000", &dev, &err))
 *       fprintf(stderr, "%s: %s\nnext: %s\n", baton_code_name(err.code), err.what, err.next);
 */
typedef struct baton_error {
  uint32_t struct_size; /* sizeof(baton_error), set by the caller; 0 is taken as this version's size */
  int32_t code;         /* baton_code */
  uint64_t epoch;       /* of the device, 0 if none */
  char device[64];      /* URI of the device or link, "" if none */
  char hop[96];         /* how the failure travelled: "neuron://0 > link a:1 > cs3://x", "" if it did not */
  char what[320];       /* what happened, with its numbers */
  char next[192];       /* what to do next, "" if nothing is known */
} baton_error;

/* Stable upper-case name ("DEVICE_LOST"); "UNKNOWN" for others. Static storage, never NULL. */
BATON_API const char* baton_code_name(int32_t code);
/* Library version, "0.1.0". Static storage. */
BATON_API const char* baton_version(void);

/* ---- handles --------------------------------------------------------------------------------------------------- */

typedef struct baton_instance baton_instance; /* a registry of devices, its timelines, and one lock over their scheduling */
typedef struct baton_device baton_device;     /* an open device; lives until it is closed and its last child is gone */
typedef struct baton_buffer baton_buffer;     /* memory on one device; an op in flight keeps it after baton_free */
typedef struct baton_program baton_program;   /* a program on one lane; a LAUNCH in flight keeps it after baton_unload */
typedef struct baton_timeline baton_timeline; /* a watermark that only rises, plus a failure that stays */
typedef struct baton_queue baton_queue;       /* where ops are submitted: a lane, a link, or a table */

/* ---- instance: registry, timelines, polling -------------------------------------------------------------------- */

/* Where an instance looks for what it loads. Zero is the default for each. */
typedef struct baton_instance_options {
  uint32_t struct_size;      /* sizeof(baton_instance_options); 0: this version's */
  uint32_t reserved;         /* 0 */
  const char* driver_path;   /* folders searched for libbaton-driver-SCHEME.so, ':'-separated; NULL: BATON_DRIVER_PATH,
                                then the folder "baton" beside libbaton.so */
  const char* emulator_path; /* the same for baton-emu-SCHEME; NULL: BATON_EMULATOR_PATH, then as above */
  const char* layers;        /* "NAME[=ARGUMENT],..." (see layers, below); NULL: BATON_LAYERS; "": none */
} baton_instance_options;

/* Makes an instance; a process may have several, which share nothing. NULL options: the defaults.
 * Cost     an epoll and an eventfd descriptor; reads the environment (BATON_DRIVER_PATH, BATON_EMULATOR_PATH, BATON_LAYERS)
 *          once; loads the layers named.
 * Errors   IO: no descriptor left. INVALID_ARGUMENT, NOT_FOUND: a layer's name or argument. */
BATON_API int32_t baton_instance_create(const baton_instance_options*, baton_instance** out, baton_error*);
/* Closes what is still open (what is in flight fails with CANCELLED), then ends the emulators that it started.
 * Threads  the last call on the instance: no other thread may be in a call on it or on a handle of it.
 * Cost     may block: 5 s a queue whose driver does not give back what it runs, 2 s an emulator that hangs. */
BATON_API void baton_instance_destroy(baton_instance*);
/* Makes progress on every queue and calls the functions of HOST ops; handles about `budget` events; returns how many it handled.
 * Threads  any, one at a time (others wait for the lock). From inside a driver's call or a span callback it does nothing, and
 *          returns 0.
 * Cost     never sleeps; a visit to each queue. HOST functions and the drivers' polls run on this thread. */
BATON_API uint32_t baton_poll(baton_instance*, uint32_t budget);
/* An epoll descriptor, readable when a poll may make progress: for an event loop. It may be readable for nothing.
 * Owner    the instance: watch it, never close or read it.
 * Cost     from the first call on, a change made by another thread costs it a write to the instance's eventfd. -1 for NULL. */
BATON_API int baton_instance_fd(baton_instance*);
/* Polls, spinning briefly and then sleeping on the descriptor, until something was handled or `deadline_ns`
 * (CLOCK_MONOTONIC). Returns how many events were handled since the last call. For event loops that wait on several things.
 * Threads  one at a time: what one call counted, another does not see. Several threads use baton_timeline_wait.
 * Cost     30 us of spinning, then asleep. Polls at least once, also after the deadline. */
BATON_API uint32_t baton_poll_wait(baton_instance*, uint64_t deadline_ns);

/* ---- devices --------------------------------------------------------------------------------------------------- */

#define BATON_MAX_HEAPS 16 /* a device shows at most so many */

/* One kind of memory of a device. What it can is the same for all its buffers and does not change while the device is open. */
typedef struct baton_heap_info {
  char name[16];        /* "hbm0", "sram", "dram" */
  uint64_t bytes_total; /* capacity */
  uint64_t bytes_used;  /* at the time of the call */
  uint32_t mappable;    /* 1: baton_map works */
  uint32_t exportable;  /* 1: baton_export works */
} baton_heap_info;

/* What a device is. Filled by baton_info (for the caller) and baton_enumerate (for the length of the call). */
typedef struct baton_device_info {
  uint32_t struct_size;            /* sizeof(baton_device_info), set by the caller; 0: this version's */
  uint32_t emulated;               /* what stands below the driver's port says that it is an emulator */
  char uri[128];                   /* the ordinary address */
  char name[32];                   /* short selector name: "trn0", "cs0", "host0" */
  char model[64];                  /* "Trainium2", "CS-3", CPU model */
  char driver[32];                 /* scheme */
  char firmware[96];               /* runtime / daemon version as reported */
  char location[64];               /* PCI address, host:port, "" */
  uint64_t epoch;                  /* +1 at each reset or loss */
  uint32_t lanes;                  /* independent execution units (logical NeuronCores; wafers; threads), counted from 0 */
  uint32_t heap_count;             /* heaps[0 .. heap_count - 1] are filled */
  baton_heap_info heaps[BATON_MAX_HEAPS]; /* by index, as baton_alloc takes it; 0 is the ordinary one */
  uint32_t collectives;            /* 1: programs of several ranks (all_reduce, all_gather, reduce_scatter) run across lanes */
  uint32_t progress;               /* 1: LAUNCH reports marks as they happen; 0: all at the end */
  uint32_t modelled;               /* 1: completions carry modelled time */
  uint32_t numa_node;              /* UINT32_MAX: unknown */
  char timing[96];                 /* name and version of the timing model, "" if none */
} baton_device_info;

/* How a device is, by its own instruments. */
typedef enum baton_health {
  BATON_HEALTH_UNKNOWN = 0,  /* nothing says */
  BATON_HEALTH_OK = 1,       /* instruments are there and show nothing */
  BATON_HEALTH_DEGRADED = 2, /* it answers, and shows damage: memory errors that were not corrected, parts that call themselves unhealthy */
} baton_health;

/* Which instruments a device has, as bits: a reading of 0 without its bit is no reading. */
typedef enum baton_instrument {
  BATON_INSTRUMENT_ECC = 1,       /* ecc_corrected, ecc_uncorrected */
  BATON_INSTRUMENT_HW_ERRORS = 2, /* hw_errors */
  BATON_INSTRUMENT_POWER = 4,     /* power_percent_x100 */
} baton_instrument;

/* Counters of a device since it was opened, then what its instruments show, which count since the device itself began. A field that a
 * driver does not keep is 0. */
typedef struct baton_telemetry {
  uint32_t struct_size; /* sizeof(baton_telemetry), set by the caller; 0: this version's */
  uint32_t reserved;    /* 0 */
  uint64_t ops_done;    /* completed without error */
  uint64_t ops_failed;  /* completed with one */
  uint64_t launches;    /* LAUNCH among them */
  uint64_t bytes_in;    /* copied to the device */
  uint64_t bytes_out;   /* copied from the device */
  uint64_t busy_ns;     /* wall time that lanes were executing, summed */
  uint64_t modelled_ns; /* the same by the timing model */
  uint32_t health;             /* baton_health */
  uint32_t instruments;        /* baton_instrument: which of the following are read */
  uint64_t ecc_corrected;      /* memory errors */
  uint64_t ecc_uncorrected;    /* likewise, not corrected */
  uint64_t hw_errors;          /* executions that ended by the hardware's fault */
  uint32_t power_percent_x100; /* of the most that it may draw, in hundredths of a percent, over the last minute */
  uint32_t reserved2;          /* 0 */
} baton_telemetry;

/* Called once per device found; return 0 to go on, another value to stop. `info` lives for the call only.
 * Threads  the caller's. It may open what it is shown. */
typedef int32_t (*baton_enumerate_fn)(void* user, const baton_device_info* info);
/* Every device that an installed driver finds. A driver that cannot load or look is skipped; no emulator is started.
 * Cost     loads every driver in the path the first time (a dlopen each, and what the vendor's library does then). */
BATON_API int32_t baton_enumerate(baton_instance*, baton_enumerate_fn, void* user, baton_error*);
/* Opens "scheme://address?key=value&...". "emu+scheme://..." runs the program baton-emu-scheme, which prints the ordinary address
 * on its first output line; a daemon is shared by the opens of one address and ended with the instance.
 * Owner    the caller: baton_close.
 * Cost     the first of a scheme loads its driver. Blocks while an emulator starts (10 s at most) or a device is connected to.
 * Errors   INVALID_ARGUMENT: not an address, or a key that the driver does not know. NOT_FOUND: no driver, no emulator, no such device.
 *          VERSION, MISMATCH: a driver for another libbaton or scheme. BUSY: held by the process that is named. FAILED, DEADLINE:
 *          the driver did not load, the emulator did not start. The rest is the driver's.
 *
 *     if (baton_open(in, "emu+cs3://0", &dev, &err)) return err.code;
 */
BATON_API int32_t baton_open(baton_instance*, const char* uri, baton_device** out, baton_error*);
/* Gives the handle up. The device itself is closed once its last queue, program and buffer is gone. */
BATON_API void baton_close(baton_device*);
/* What the device is and how full it is now.
 * Errors   DEVICE_LOST between a loss and the reset that cures it. */
BATON_API int32_t baton_info(baton_device*, baton_device_info* out, baton_error*);
/* Reads the counters.
 * Errors   UNSUPPORTED: the driver keeps none. */
BATON_API int32_t baton_telemetry_read(baton_device*, baton_telemetry* out, baton_error*);
/* Fails everything in flight with DEVICE_LOST, resets the device, and raises its epoch: buffers, programs and queues made before are
 * stale for good, and still have to be closed. Their memory counts as free at once. The device handle itself stays good.
 * Cost     blocks for as long as the vendor's reset takes; other devices go on.
 * Errors   UNSUPPORTED: close and open instead. BUSY: a copy of another device with it has not ended in 5 s. Others too: it stays lost. */
BATON_API int32_t baton_reset(baton_device*, baton_error*);

/* ---- buffers --------------------------------------------------------------------------------------------------- */

/* Allocates from a heap of the device. The bytes are undefined, and reading what was never written is an error on emulators.
 * Owner    the caller: baton_free.
 * Errors   INVALID_ARGUMENT: no such heap, 0 bytes. CAPACITY: full, with the numbers. UNSUPPORTED: no memory of its own. */
BATON_API int32_t baton_alloc(baton_device*, uint32_t heap, uint64_t bytes, baton_buffer** out, baton_error*);
/* Gives the handle up. Ops in flight keep the memory until they are complete; a mapped address is dead at once. */
BATON_API void baton_free(baton_buffer*);
/* The length as allocated or imported; 0 for NULL. */
BATON_API uint64_t baton_buffer_bytes(const baton_buffer*);
/* The device whose memory it is: borrowed, good as long as the caller keeps that device open. NULL for NULL. */
BATON_API baton_device* baton_buffer_device(const baton_buffer*);
/* Host address of the buffer, valid until it is freed or its device is reset. Ordered against ops by timelines alone: read after a wait,
 * write before a submit.
 * Owner    the buffer; there is nothing to unmap.
 * Cost     one lock: the driver was asked when the buffer was made.
 * Errors   UNSUPPORTED: the heap is not mappable; copy to a host:// buffer instead. */
BATON_API int32_t baton_map(baton_buffer*, void** out, baton_error*);
/* A descriptor of the memory object that holds the buffer, and where in it the buffer starts: for another process or device.
 * Owner    the caller closes the descriptor; the memory lives as long as somebody holds one.
 * Errors   UNSUPPORTED: the heap is not exportable. IO. */
BATON_API int32_t baton_export(baton_buffer*, int* fd, uint64_t* offset, baton_error*);
/* The buffer `bytes` long at `offset` of memory object `fd`, as a buffer of this device. No bytes are copied.
 * Owner    the caller: baton_free. The descriptor is not consumed and may be closed after the call.
 * Errors   INVALID_ARGUMENT: the range is not within the object. UNSUPPORTED: the device cannot import. */
BATON_API int32_t baton_import(baton_device*, int fd, uint64_t offset, uint64_t bytes, baton_buffer** out, baton_error*);
/* What others have written into that range through a descriptor of it, and have said is complete, is visible to the buffer's device and at
 * its mapped address from here on: a completion alone does not say so (a NIC's write on Trn2). For whoever hears of such a write: between
 * hearing and whatever reads the bytes. COPY between devices, and landings of transport/, have done it before they signal.
 * Threads  any.
 * Cost     two loads if the device needs none; else a small read by the device.
 * Errors   INVALID_ARGUMENT: outside of the buffer. DEVICE_LOST. What the driver says: then it is not known what a reader sees. */
BATON_API int32_t baton_fence(baton_buffer*, uint64_t offset, uint64_t bytes, baton_error*);

/* ---- programs -------------------------------------------------------------------------------------------------- */

/* A weight, by the name that the program declares; dense, row-major, in the dtype and shape that it declares.
 * Owner    the caller, for the length of baton_load: the device packs its own copy. */
typedef struct baton_constant {
  const char* name; /* of the constant in the program */
  const void* data; /* its first byte */
  uint64_t bytes;   /* exactly its shape times its dtype */
} baton_constant;

/* Loads a serialized portable program (hal/program) onto one lane. `rank` of `ranks`: lanes that share collectives;
 * 0 of 1 for a program without. Lanes 0..ranks-1 each load their own.
 * Owner    the caller: baton_unload. Program bytes and constants need to live for the call only.
 * Cost     packs the weights: seconds for a large model. Blocks this device's other calls; polling of other devices goes on.
 * Errors   CORRUPT, VERSION: not a program, or one of another format. INVALID_ARGUMENT: it does not verify; a constant is missing,
 *          unknown, given twice or of another size; no such lane or rank. UNSUPPORTED: no programs, no collectives. CAPACITY: the
 *          weights do not fit. */
BATON_API int32_t baton_load(baton_device*, uint32_t lane, const void* program, uint64_t bytes,
                             const baton_constant* constants, uint32_t count, uint32_t rank, uint32_t ranks,
                             baton_program** out, baton_error*);
/* Gives the handle up. Launches in flight keep the program loaded until they are complete. */
BATON_API void baton_unload(baton_program*);

/* ---- timelines ------------------------------------------------------------------------------------------------- */

/* Makes a timeline at 0: a watermark that only rises, plus a failure. Value n means: chunks 0..n-1 are complete and visible on the
 * device. Each value carries the modelled time (ns) at which it was reached; 0 where nothing below is modelled.
 * Owner    the caller: baton_timeline_destroy. `name` (may be NULL) is copied; it is shown in errors.
 * Cost     a cache line and the name; no descriptor, no thread. The latest 512 modelled points are kept once there are any (8 KiB). */
BATON_API int32_t baton_timeline_create(baton_instance*, const char* name, baton_timeline** out, baton_error*);
/* Gives the handle up. Ops in flight that name it fail with CANCELLED: destroy it after they are complete.
 * Threads  no thread may be inside a wait on it. */
BATON_API void baton_timeline_destroy(baton_timeline*);
/* Raises the watermark to `value`; a lower or equal value is ignored, and so is any after a poison.
 * Threads  any, also inside HOST functions and span callbacks; never waits for a poll.
 * Cost     one compare-and-swap, one lock with modelled time, plus O(threads woken). The ops that wait are issued by the next poll. */
BATON_API void baton_timeline_signal(baton_timeline*, uint64_t value, uint64_t modelled_ns);
/* Fails the timeline for good with the first cause; later calls are ignored. Cancel, deadline, peer death: all this. Every op and
 * thread that waits for it fails with the cause, as does whoever looks at it later, also for values that were reached.
 * NULL cause: CANCELLED.   Threads and cost: as baton_timeline_signal. */
BATON_API void baton_timeline_poison(baton_timeline*, const baton_error* cause);
/* The current watermark (`value` may be NULL).
 * Cost     two loads; does not poll, so that what a device finished since the last poll is not seen.
 * Errors   if poisoned, the poison's, and `value` is filled all the same. */
BATON_API int32_t baton_timeline_query(baton_timeline*, uint64_t* value, baton_error*);
/* Modelled time (ns) at which `value` was reached; 0 if not reached or not modelled. For values older than the latest 512 points: the
 * time of the oldest that is kept, an upper bound. */
BATON_API uint64_t baton_timeline_modelled(baton_timeline*, uint64_t value);
/* Waits until the watermark is at least `value`, the timeline is poisoned, or CLOCK_MONOTONIC passes deadline_ns.
 * Threads  any number at once; one of them polls for all, the others sleep on a futex. A HOST function may wait. EINTR is not
 *          reported: a signal's handler runs and the wait goes on.
 * Cost     two loads if it is reached already. Else polls, spins for 30 us after the last event, then sleeps. One poll at least, so
 *          deadline 0 looks once.
 * Errors   DEADLINE, with the value reached: nothing is cancelled by it. The poison's code, with the hops it took. INVALID_ARGUMENT:
 *          inside a driver's call or a span callback, where it would never end.
 *
 *     struct timespec t;   clock_gettime(CLOCK_MONOTONIC, &t);
 *     uint64_t soon = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec + 100000000u;
 *     if (baton_timeline_wait(done, n, soon, &err) == BATON_DEADLINE) baton_timeline_poison(done, &err);
 */
BATON_API int32_t baton_timeline_wait(baton_timeline*, uint64_t value, uint64_t deadline_ns, baton_error*);

/* ---- submit ---------------------------------------------------------------------------------------------------- */

/* What an op does. New opcodes are added at the end; a queue refuses what it does not know with INVALID_ARGUMENT. */
typedef enum baton_opcode {
  BATON_OP_NOP = 0,    /* completes when its waits are met: joins timelines */
  BATON_OP_COPY = 1,   /* moves bytes between two buffers (u.copy), or a step of a transfer plan (u.plan) */
  BATON_OP_LAUNCH = 2, /* runs a program (u.launch) */
  BATON_OP_FILL = 3,   /* repeats a pattern (u.fill) */
  BATON_OP_HOST = 4,   /* calls a function on the polling thread (u.host); it must not block */
} baton_opcode;

/* A value of a timeline: to wait for, or to signal. */
typedef struct baton_point {
  baton_timeline* timeline; /* NULL: none */
  uint64_t value;           /* at least this */
} baton_point;

/* Memory for one of a program's inputs, outputs or caches. */
typedef struct baton_binding {
  const char* name;     /* as the program declares it */
  baton_buffer* buffer; /* of the program's device */
  uint64_t offset;      /* bytes into the buffer */
  uint64_t bytes;       /* 0: to the end of the buffer */
} baton_binding;

/* The function of a HOST op. Called by a poll or a wait, on its thread, without any lock of the library's: it may call every function
 * of this header but baton_instance_destroy, also wait and close its own queue. While it runs, nothing else of that poll does;
 * another thread's poll may call the next one that is ready: order them by a wait where that matters. */
typedef void (*baton_host_fn)(void* user);

/* One thing to do, 128 bytes. Zero what is not used. Ops are ordered by their points alone: a queue issues an op once its waits are
 * met, in submit order among those that are ready. A wait may name a point that nobody has submitted a signal for yet. A poisoned wait
 * fails the op; a failed op poisons its signals and its progress; one without either fails unseen (spans show it).
 * Owner    the caller; submit copies it and what it points to (bindings, names, args). Buffers, programs and timelines are kept
 *          while the op is in flight, but for plan, which must live until the op is complete.
 *
 *     baton_op op = {.opcode = BATON_OP_FILL, .u.fill = {.dst = buf, .bytes = 4096, .pattern_bytes = 1}};
 *     op.signal[0] = (baton_point){done, 1};
 *     baton_submit(q, &op, 1, &err);
 */
typedef struct baton_op {
  uint8_t opcode;        /* baton_opcode */
  uint8_t flags;         /* 0 */
  uint16_t reserved;     /* 0 */
  uint32_t tag;          /* the caller's; shown in traces and errors */
  baton_point wait[2];   /* issued once both are reached */
  baton_point signal[2]; /* raised when complete, poisoned when failed */
  /* By opcode. */
  union {
    /* COPY: contiguous bytes; they must not overlap. A lane's queue takes a COPY if one side is memory of its device and the other of
     * the same or host-visible; a link's takes those from its first device to its second, over any path. */
    struct {
      baton_buffer* src;   /* read */
      baton_buffer* dst;   /* written */
      uint64_t src_offset; /* bytes into src */
      uint64_t dst_offset; /* bytes into dst */
      uint64_t bytes;      /* 0: nothing moves, the points hold */
    } copy;
    /* COPY with plan_op = 1, on a queue made by the plan's owner (transport/): src and dst are in the plan. */
    struct {
      const void* plan; /* read by that queue alone */
      uint64_t step;    /* which of its steps */
      uint64_t zero[3]; /* 0 */
    } plan;
    /* LAUNCH, on a queue of the lane that the program is on. */
    struct {
      baton_program* program;        /* runs once, or loops as its args say */
      const baton_binding* bindings; /* binding_count of them, in any order */
      const int64_t* args;           /* in the order that the program declares; floats as the bits of a double */
      baton_timeline* progress;      /* NULL: none; raised to progress_base + k at the program's k-th mark (k from 1) */
      uint64_t progress_base;        /* of this launch */
    } launch;
    /* FILL, on a queue of the buffer's device. */
    struct {
      baton_buffer* dst;      /* written */
      uint64_t offset;        /* bytes; a multiple of pattern_bytes */
      uint64_t bytes;         /* a multiple of pattern_bytes */
      uint32_t pattern;       /* repeated little-endian */
      uint32_t pattern_bytes; /* 1, 2 or 4 */
    } fill;
    /* HOST, on any queue. */
    struct {
      baton_host_fn fn; /* not NULL */
      void* user;       /* its argument */
    } host;
  } u;
  uint16_t binding_count; /* LAUNCH */
  uint16_t arg_count;     /* LAUNCH */
  uint32_t plan_op;       /* COPY: 1 = u.plan */
  uint64_t user;          /* the caller's; not read */
} baton_op;

#if defined(__cplusplus)
static_assert(sizeof(baton_op) == 128, "baton_op is 128 bytes");
#else
_Static_assert(sizeof(baton_op) == 128, "baton_op is 128 bytes");
#endif

/* A queue on one lane of a device. A lane may have several; they share its execution in an order of the device's.
 * Owner    the caller: baton_queue_close.
 * Errors   INVALID_ARGUMENT: no such lane. UNSUPPORTED: the driver takes no ops. */
BATON_API int32_t baton_queue_open(baton_device*, uint32_t lane, baton_queue** out, baton_error*);
/* A link: a queue between two devices of this process, one way. COPY runs along the plan that baton_plan_copy prints; a link takes
 * COPY, NOP and HOST.
 * Owner    the caller: baton_queue_close. Both devices live on until then.
 * Cost     queues on both devices and 8 MiB of staging, each when a COPY first needs it.
 * Errors   as baton_plan_copy. */
BATON_API int32_t baton_link_open(baton_device* from, baton_device* to, baton_queue** out, baton_error*);
/* Fails what is not complete with CANCELLED, waits for what the device still runs, frees the queue.
 * Cost     blocks until the device gives back what it runs, 5 s at most. */
BATON_API void baton_queue_close(baton_queue*);
/* Takes `count` ops, all or none: on error no op was taken and no point will be signalled. Ops may complete inside the call.
 * Threads  any, also from HOST functions and span callbacks. It does not wait for a thread that is inside the instance, but leaves the
 *          ops for that one to take in, in order; it does wait if one is a COPY between devices, or if 256 batches are left already.
 * Cost     O(count); no lock; allocates nothing once as many ops have been in flight, or batches left for another thread, before.
 * Errors   INVALID_ARGUMENT: the op and its numbers are named (a range outside the buffer, an opcode that this queue does not take,
 *          a program of another lane). UNSUPPORTED: a COPY without an edge, which is named. CAPACITY: more than 262144 incomplete
 *          ops in the queue. CANCELLED: the queue is being closed. What the device finds later (a binding that the program does not
 *          have, an argument out of its bounds) fails the op, not the call. */
BATON_API int32_t baton_submit(baton_queue*, const baton_op* ops, uint32_t count, baton_error*);

/* The path that a COPY from heap to heap takes: "direct", "mapped", "imported", "staged", with the reason, one line each
 * hop, cut at `text_bytes` (NULL: only whether there is a path). Nothing is opened or moved.
 * Errors   UNSUPPORTED, with the missing edge. */
BATON_API int32_t baton_plan_copy(baton_device* from, baton_device* to, char* text, uint64_t text_bytes, baton_error*);

/* ---- the driver table: what a driver .so exports as `baton_driver` ------------------------------------------------ */

/* One side of a COPY as the core hands it to a driver. Exactly one or both sides are this device's memory (mem not NULL); the other
 * side is host-visible memory (ptr not NULL, and fd/fd_offset if it is part of a shareable object, else fd = -1). */
typedef struct baton_driver_side {
  void* mem;          /* the driver's memory handle, NULL if the side is host-visible memory */
  void* ptr;          /* host address of the side's first byte (offset included), NULL if mem is not NULL */
  uint64_t offset;    /* bytes into mem */
  int32_t fd;         /* shareable object behind ptr, or -1 */
  uint32_t reserved;  /* 0 */
  uint64_t fd_offset; /* of ptr in fd */
} baton_driver_side;

/* A binding of a LAUNCH, its range checked. */
typedef struct baton_driver_binding {
  const char* name; /* as the caller gave it: the driver says whether the program has it */
  void* mem;        /* the driver's memory handle */
  uint64_t offset;  /* bytes into mem */
  uint64_t bytes;   /* never 0 unless the range is empty */
} baton_driver_binding;

/* An op as the core hands it to a driver: its waits are met, its handles resolved to the driver's own.
 * Owner    the core, for the length of the call that passes it; everything it points to lives until complete() is called. */
typedef struct baton_driver_op {
  uint8_t opcode;      /* COPY, LAUNCH, FILL, or NOP (an empty op that goes to the device and back) */
  uint8_t reserved[3]; /* [0]: 1 on a COPY that is a plan step (table queues) */
  uint32_t tag;        /* the caller's, for errors */
  void* cookie;        /* to be handed back to complete and progress */
  uint64_t start_ns;   /* modelled start: the latest of the waits' times and the end of the queue's previous op */
  /* By opcode. */
  union {
    /* COPY. */
    struct {
      baton_driver_side src; /* read */
      baton_driver_side dst; /* written */
      uint64_t bytes;        /* never 0 */
    } copy;
    /* LAUNCH. */
    struct {
      void* program;                        /* the driver's, from load */
      const baton_driver_binding* bindings; /* binding_count of them */
      const int64_t* args;                  /* arg_count of them */
      uint32_t binding_count;               /* as submitted */
      uint32_t arg_count;                   /* as submitted */
      uint32_t want_progress;               /* 0: nobody listens, marks need not be reported */
    } launch;
    /* FILL; offset and bytes are multiples of pattern_bytes. */
    struct {
      void* mem;              /* the driver's memory handle */
      uint64_t offset;        /* bytes into mem */
      uint64_t bytes;         /* never 0 */
      uint32_t pattern;       /* repeated little-endian */
      uint32_t pattern_bytes; /* 1, 2 or 4 */
    } fill;
    /* Table queues only: COPY with plan_op. */
    struct {
      const void* plan; /* as submitted */
      uint64_t step;    /* as submitted */
    } plan;
  } u;
} baton_driver_op;

/* What the core gives to a driver or a table queue.
 * Owner    the core; valid until the device is closed, or for a table as long as the instance.
 * Threads  complete and progress are meant for calls from inside submit and poll, where the core holds its lock; from another thread
 *          they take it. A cookie that is over (reset, loss, close came first) is ignored. */
typedef struct baton_driver_host {
  uint32_t struct_size; /* sizeof(baton_driver_host) */
  uint32_t abi_version; /* BATON_ABI_VERSION */
  /* Ends an op, once. cost_ns: modelled duration (0: not modelled). error NULL: success. */
  void (*complete)(void* cookie, uint64_t cost_ns, const baton_error* error);
  /* Mark k (from 1) of a LAUNCH was reached, offset_ns (modelled) after its start. Non-zero: the op was cancelled, stop soon, and
   * still complete it. k = 0 reaches no mark and is for any op: it only asks whether the op was cancelled. */
  int32_t (*progress)(void* cookie, uint64_t k, uint64_t offset_ns);
  /* The device is gone or was reset behind the driver's back: everything in flight fails with `error` (NULL: DEVICE_LOST). */
  void (*lost)(void* core_device, const baton_error* error);
  void* core_device; /* for lost(); NULL for a table */
} baton_driver_host;

/* The driver table. Slots may be NULL: the core answers UNSUPPORTED or falls back; slots beyond struct_size count as NULL.
 * Owner    the driver, in static storage; the core works on a copy.
 * Threads  calls on one device are serialized by the core, and come from any of the user's threads. enumerate and open may run at
 *          once with any other call.
 * Errors   return values are baton_code; `e` is never NULL. What is left empty in it (code, device, text) the core completes.
 *
 * drivers/host is the template to copy; drivers/README.md says what a driver owes. */
typedef struct baton_driver {
  uint32_t struct_size;    /* sizeof(baton_driver) as the driver was compiled */
  uint32_t abi_version;    /* BATON_ABI_VERSION */
  const char* scheme;      /* "neuron"; the file is libbaton-driver-neuron.so */
  const char* description; /* one line for people */
  /* Calls fn for each device that can be opened; stops if it returns non-zero. NULL: none are found. */
  int32_t (*enumerate)(baton_enumerate_fn fn, void* user, baton_error* e);
  /* Opens `uri` (an ordinary address with its options) as `*device`. `host` lives until close. */
  int32_t (*open)(const baton_driver_host* host, const char* uri, void** device, baton_error* e);
  /* After everything of the device was freed, unloaded and closed. */
  void (*close)(void* device);
  /* Fills `out`, which is zeroed. lanes, heap_count and what a heap can do must not change while the device is open. */
  int32_t (*info)(void* device, baton_device_info* out, baton_error* e);
  /* Fills `out`, which is zeroed. */
  int32_t (*telemetry)(void* device, baton_telemetry* out, baton_error* e);
  /* Resets the device. What was in flight is failed already; old memory, programs and queues are still closed one by one. */
  int32_t (*reset)(void* device, baton_error* e);
  /* `bytes` (not 0) of heap `heap` (below heap_count). */
  int32_t (*alloc)(void* device, uint32_t heap, uint64_t bytes, void** mem, baton_error* e);
  /* No op uses it. */
  void (*free)(void* device, void* mem);
  /* Host address of mem, the same until free. Asked once an allocation, if its heap is mappable. */
  int32_t (*map)(void* device, void* mem, void** ptr, baton_error* e);
  /* A new descriptor, which the caller closes, and the offset of mem in it. */
  int32_t (*export_buffer)(void* device, void* mem, int* fd, uint64_t* offset, baton_error* e);
  /* Does not consume fd; keeps what it needs of it. */
  int32_t (*import_buffer)(void* device, int fd, uint64_t offset, uint64_t bytes, void** mem, baton_error* e);
  /* As baton_load; lane, rank and ranks are in range. */
  int32_t (*load)(void* device, uint32_t lane, const void* program, uint64_t bytes, const baton_constant* constants,
                  uint32_t count, uint32_t rank, uint32_t ranks, void** out, baton_error* e);
  /* No LAUNCH uses it. */
  void (*unload)(void* device, void* program);
  /* `*fd`: readable when poll may make progress, -1 if there is none (then a waiting thread looks every 50 us). */
  int32_t (*queue_open)(void* device, uint32_t lane, void** queue, int* fd, baton_error* e);
  /* Nothing of the queue is expected any more; a completion that comes later is dropped. Must not block for long. */
  void (*queue_close)(void* device, void* queue);
  /* Takes the first `*taken` of `count` ops; fewer than count: full, the core tries again after a poll. On error op number `*taken`
   * fails with it and those after it are tried again. May complete ops inside. Never blocks. */
  int32_t (*submit)(void* device, void* queue, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e);
  /* Calls complete and progress for at most about `budget` events; returns how many. Never blocks for long. */
  uint32_t (*poll)(void* device, void* queue, uint32_t budget);
  /* Complete writes of others into [offset, offset + bytes) of mem, through a descriptor that export_buffer gave, are visible to what the
   * device does from now on, and at map's address. NULL: such writes always are. Short.
   * Threads  any, and unlike the other slots at once with any call but open, close, and free of that mem: it calls nothing of the host. */
  int32_t (*fence)(void* device, void* mem, uint64_t offset, uint64_t bytes, baton_error* e);
} baton_driver;

#define BATON_DRIVER_SYMBOL "baton_driver_v1" /* the one symbol that a driver .so exports */
typedef const baton_driver* (*baton_driver_fn)(void); /* its type: returns the table, never NULL */

/* A queue whose far end is not a device of this process (transport sessions). The core resolves waits and signals; the table's submit
 * and poll are called as a driver's are, with `device` = ctx and `queue` = ctx. Only submit, poll and queue_close are used. `fd` as in
 * queue_open. `name` is shown in errors and traces. An op may be COPY (contiguous or plan), NOP or HOST.
 * Owner    the caller: baton_queue_close, which calls the table's queue_close. ctx is the caller's, and lives until then.
 * Errors   INVALID_ARGUMENT: no submit or no poll. IO: a descriptor that epoll does not take. */
BATON_API int32_t baton_queue_from_table(baton_instance*, const char* name, const baton_driver* table, void* ctx, int fd,
                                         baton_queue** out, baton_error*);
/* The core services for such a queue (complete, progress). Owned by the instance, valid as long as it is; NULL for NULL. */
BATON_API const baton_driver_host* baton_queue_host(baton_instance*);

/* ---- layers: between the core and a driver ------------------------------------------------------------------------ */

/* A layer sees, changes or answers every call of the driver table of each device that an instance opens: a table in, a table out. The
 * instance option `layers` or BATON_LAYERS names them, the first one next to the core, the last one next to the driver:
 * "trace=/tmp/t.json,delay=2us". What follows '=' is the layer's own. NAME is loaded from libbaton-layer-NAME.so in the drivers'
 * folders, which exports one symbol. A layer that is not named is not in the path of a call: there is no test and no indirection for it.
 * Links are layered by way of the lane queues that they run on; a link that the core copies itself, HOST ops and table queues are not.
 *
 * A layer's device begins with a baton_layered. The layer fills struct_size and host in attach; the core fills the rest before any
 * slot is called. A slot that the layer leaves NULL is passed on to `next` by the core; one that `next` lacks stays NULL above it, so
 * that what a device cannot do still reads as UNSUPPORTED. A layer that has a queue of its own fills queue_open, queue_close, submit and
 * poll, all four. enumerate, open, close, scheme and description are never the layer's. */
typedef struct baton_layered {
  uint32_t struct_size;          /* sizeof(baton_layered), by the layer */
  uint32_t reserved;             /* 0 */
  const baton_driver_host* host; /* what stands below calls these: the layer's own, or those given to attach */
  const baton_driver* next;      /* the table below; slots may be NULL */
  void* device;                  /* first argument of next's slots */
  void* core;                    /* the core's */
} baton_layered;

/* What a layer's file exports.
 * Owner    the layer, in static storage; the core works on a copy.
 * Threads  create and destroy are called once an instance; attach may be called from several threads; the slots of one device are
 *          serialized as a driver's are. A layer that hands on other cookies than it was given must expect each to come back never,
 *          once or more often (a reset, a loss, a driver's bug), until detach.
 * Errors   return values are baton_code; `e` is never NULL. */
typedef struct baton_layer {
  uint32_t struct_size;    /* sizeof(baton_layer) as the layer was compiled */
  uint32_t abi_version;    /* BATON_ABI_VERSION */
  const char* name;        /* "trace"; the file is libbaton-layer-trace.so */
  const char* description; /* one line for people */
  /* `argument`: what followed "NAME=", "" if nothing did. INVALID_ARGUMENT or CORRUPT says which part and what is allowed. */
  int32_t (*create)(const char* argument, void** layer, baton_error* e);
  /* After its last device is detached. */
  void (*destroy)(void* layer);
  /* A device is being opened at `uri`, an ordinary address; `host` lives until detach. A failure is the open's. */
  int32_t (*attach)(void* layer, const baton_driver_host* host, const char* uri, baton_layered** out, baton_error* e);
  /* The device below is closed (or did not open: then `device` is NULL): frees what attach made. */
  void (*detach)(baton_layered* layered);
  /* What the layer does with calls and ops; NULL slots pass on. */
  const baton_driver* slots;
} baton_layer;

#define BATON_LAYER_SYMBOL "baton_layer_v1" /* the one symbol that a layer .so exports */
typedef const baton_layer* (*baton_layer_fn)(void); /* its type: returns the layer, never NULL */

/* ---- trace ----------------------------------------------------------------------------------------------------- */

/* A completed op, or a mark of a launch (then start and end are one). */
typedef struct baton_span {
  const char* lane;           /* "neuron://0 lane 0", link name; lives for the call */
  const char* what;           /* "LAUNCH", "COPY", "mark"; static storage */
  uint32_t tag;               /* the op's */
  uint32_t failed;            /* 1: it failed */
  uint64_t wall_start_ns;     /* CLOCK_MONOTONIC: handed to the driver, or the lane's previous op ended */
  uint64_t wall_end_ns;       /* CLOCK_MONOTONIC: its completion was polled */
  uint64_t modelled_start_ns; /* 0 with modelled_end_ns 0: not modelled */
  uint64_t modelled_end_ns;   /* the time that its signals carry */
  uint64_t bytes;             /* COPY, FILL */
} baton_span;

/* Called under the instance's lock, perhaps from inside a driver: it may submit, signal, poison and query, and should be short.
 * `span` lives for the call. */
typedef void (*baton_span_fn)(void* user, const baton_span*);
/* Calls fn for each completed op and each mark, from the poll or submit that saw it. NULL: off (the default; costs nothing). */
BATON_API void baton_set_span_callback(baton_instance*, baton_span_fn, void* user);

/* ---- validation: the layer "validate" ---------------------------------------------------------------------------- */

/* With "validate" among an instance's layers the core looks for misuse of this API: double signals, uses after free, waits that nobody
 * will signal, reads of memory never written, overlapping ops with nothing between them, leaks, drivers that complete twice.
 * hal/README.md lists the codes, each with whose bug it is and a line that it prints. It is part of the core, not of the stack over a
 * driver: where it stands in the list does not matter.
 *
 * What is found goes to a callback; if the list came from BATON_LAYERS, it is also one line on stderr. "validate=abort" aborts at the
 * first misuse, after that line. "validate=patience=MS" looks into a wait that takes so long (5000); both: "validate=abort:patience=MS".
 * Without the layer nothing of it is in the path of a call. With it a call on a destroyed handle is refused instead of undefined, for the
 * last 16384 that were destroyed, and a submit waits for whoever is inside the instance. */

/* How bad a finding is. */
typedef enum baton_severity {
  BATON_WARNING = 1, /* legal, and most likely not meant */
  BATON_MISUSE = 2,  /* the contract is broken */
} baton_severity;

/* Something that validation found.
 * Owner    the core; it and its texts live for the call. */
typedef struct baton_finding {
  uint32_t struct_size; /* sizeof(baton_finding), by the core */
  uint32_t severity;    /* baton_severity */
  const char* code;     /* stable: "double-signal", "use-after-free", "wait-cycle" ... */
  const char* blame;    /* whose bug it is: "caller", "driver" */
  const char* what;     /* one line, with the names of ops, queues and timelines */
  const char* next;     /* one line: what to do */
} baton_finding;

/* Called for each finding, from inside the call that showed it, one at a time. It may submit, signal, poison and query, and should be
 * short. */
typedef void (*baton_finding_fn)(void* user, const baton_finding*);
/* Calls fn for each finding from now on, until the instance is destroyed: leaks are found last. NULL: nobody.
 * Errors   UNSUPPORTED: the instance does not validate.
 *
 *     if (baton_set_finding_callback(in, NULL, NULL, &err) == BATON_UNSUPPORTED) puts("nobody looks for misuse");
 */
BATON_API int32_t baton_set_finding_callback(baton_instance*, baton_finding_fn, void* user, baton_error*);

/* ---- statistics: what other processes see -------------------------------------------------------------------------- */

/* Every instance keeps a page that other processes of this user may read while it runs, and after it was killed: its open devices, its
 * queues, and values that you name. hal/stats.h is its layout; `devctl who`, `stats` and `top` show it. BATON_RUN_DIR names the folder ("":
 * no file), else it is XDG_RUNTIME_DIR/baton, else /dev/shm/baton-run-UID. */

/* The word of a value in this instance's page, 0 at first; the same word for the same name. A name is as Prometheus has them, with labels
 * if there are any: baton_requests, baton_itl_wall_seconds{quantile="0.5"}; values that are seconds there are nanoseconds here.
 * Owner    the instance: good until it is destroyed.
 * Threads  any; store and add atomically where several threads do.
 * Errors   none: NULL for NULL. Where there is no room (448 rows) the word is shared.
 *
 *     *baton_stats_value(in, "baton_requests") = 3;
 */
BATON_API uint64_t* baton_stats_value(baton_instance*, const char* name);
/* The folder that this instance's page is in, "" if it has no file. Owned by the instance. */
BATON_API const char* baton_stats_folder(baton_instance*);

#ifdef __cplusplus
}
#endif
#endif
