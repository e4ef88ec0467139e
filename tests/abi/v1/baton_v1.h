/* baton_v1.h: the declarations of hal/baton.h as they were at ABI version 1, without their comments. NEVER EDIT THIS FILE.
 *
 * It stands for what somebody compiled against Baton 0.1 and did not compile again: v1/driver.c and v1/caller.c include it instead of
 * hal/baton.h, and every later libbaton must serve both. A change of baton.h that this copy "has to follow" is a break of the ABI. */
#ifndef BATON_V1_H
#define BATON_V1_H
#include <stddef.h>
#include <stdint.h>
#define BATON_ABI_VERSION 1u
#define BATON_NO_DEADLINE UINT64_MAX
#define BATON_API __attribute__((visibility("default")))

typedef enum baton_code {
  BATON_OK = 0,
  BATON_INVALID_ARGUMENT = 1,
  BATON_NOT_FOUND = 2,
  BATON_PERMISSION = 3,
  BATON_BUSY = 4,
  BATON_UNSUPPORTED = 5,
  BATON_CAPACITY = 6,
  BATON_DEVICE_LOST = 7,
  BATON_PEER_LOST = 8,
  BATON_DEADLINE = 9,
  BATON_CANCELLED = 10,
  BATON_VERSION = 11,
  BATON_MISMATCH = 12,
  BATON_CORRUPT = 13,
  BATON_FAILED = 14,
  BATON_IO = 15,
  BATON_INTERNAL = 16,
} baton_code;

typedef struct baton_error {
  uint32_t struct_size;
  int32_t code;
  uint64_t epoch;
  char device[64];
  char hop[96];
  char what[320];
  char next[192];
} baton_error;
BATON_API const char* baton_code_name(int32_t code);
BATON_API const char* baton_version(void);
typedef struct baton_instance baton_instance;
typedef struct baton_device baton_device;
typedef struct baton_buffer baton_buffer;
typedef struct baton_program baton_program;
typedef struct baton_timeline baton_timeline;
typedef struct baton_queue baton_queue;

typedef struct baton_instance_options {
  uint32_t struct_size;
  uint32_t reserved;
  const char* driver_path;
  const char* emulator_path;
} baton_instance_options;
BATON_API int32_t baton_instance_create(const baton_instance_options*, baton_instance** out, baton_error*);
BATON_API void baton_instance_destroy(baton_instance*);
BATON_API uint32_t baton_poll(baton_instance*, uint32_t budget);
BATON_API int baton_instance_fd(baton_instance*);
BATON_API uint32_t baton_poll_wait(baton_instance*, uint64_t deadline_ns);
#define BATON_MAX_HEAPS 16

typedef struct baton_heap_info {
  char name[16];
  uint64_t bytes_total;
  uint64_t bytes_used;
  uint32_t mappable;
  uint32_t exportable;
} baton_heap_info;

typedef struct baton_device_info {
  uint32_t struct_size;
  uint32_t emulated;
  char uri[128];
  char name[32];
  char model[64];
  char driver[32];
  char firmware[96];
  char location[64];
  uint64_t epoch;
  uint32_t lanes;
  uint32_t heap_count;
  baton_heap_info heaps[BATON_MAX_HEAPS];
  uint32_t collectives;
  uint32_t progress;
  uint32_t modelled;
  uint32_t numa_node;
  char timing[96];
} baton_device_info;

typedef struct baton_telemetry {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t ops_done, ops_failed, launches;
  uint64_t bytes_in, bytes_out;
  uint64_t busy_ns;
  uint64_t modelled_ns;
} baton_telemetry;
typedef int32_t (*baton_enumerate_fn)(void* user, const baton_device_info* info);
BATON_API int32_t baton_enumerate(baton_instance*, baton_enumerate_fn, void* user, baton_error*);
BATON_API int32_t baton_open(baton_instance*, const char* uri, baton_device** out, baton_error*);
BATON_API void baton_close(baton_device*);
BATON_API int32_t baton_info(baton_device*, baton_device_info* out, baton_error*);
BATON_API int32_t baton_telemetry_read(baton_device*, baton_telemetry* out, baton_error*);
BATON_API int32_t baton_reset(baton_device*, baton_error*);
BATON_API int32_t baton_alloc(baton_device*, uint32_t heap, uint64_t bytes, baton_buffer** out, baton_error*);
BATON_API void baton_free(baton_buffer*);
BATON_API uint64_t baton_buffer_bytes(const baton_buffer*);
BATON_API baton_device* baton_buffer_device(const baton_buffer*);
BATON_API int32_t baton_map(baton_buffer*, void** out, baton_error*);
BATON_API int32_t baton_export(baton_buffer*, int* fd, uint64_t* offset, baton_error*);
BATON_API int32_t baton_import(baton_device*, int fd, uint64_t offset, uint64_t bytes, baton_buffer** out, baton_error*);

typedef struct baton_constant {
  const char* name;
  const void* data;
  uint64_t bytes;
} baton_constant;
BATON_API int32_t baton_load(baton_device*, uint32_t lane, const void* program, uint64_t bytes,
                             const baton_constant* constants, uint32_t count, uint32_t rank, uint32_t ranks,
                             baton_program** out, baton_error*);
BATON_API void baton_unload(baton_program*);
BATON_API int32_t baton_timeline_create(baton_instance*, const char* name, baton_timeline** out, baton_error*);
BATON_API void baton_timeline_destroy(baton_timeline*);
BATON_API void baton_timeline_signal(baton_timeline*, uint64_t value, uint64_t modelled_ns);
BATON_API void baton_timeline_poison(baton_timeline*, const baton_error* cause);
BATON_API int32_t baton_timeline_query(baton_timeline*, uint64_t* value, baton_error*);
BATON_API uint64_t baton_timeline_modelled(baton_timeline*, uint64_t value);
BATON_API int32_t baton_timeline_wait(baton_timeline*, uint64_t value, uint64_t deadline_ns, baton_error*);

typedef enum baton_opcode {
  BATON_OP_NOP = 0,
  BATON_OP_COPY = 1,
  BATON_OP_LAUNCH = 2,
  BATON_OP_FILL = 3,
  BATON_OP_HOST = 4,
} baton_opcode;

typedef struct baton_point {
  baton_timeline* timeline;
  uint64_t value;
} baton_point;

typedef struct baton_binding {
  const char* name;
  baton_buffer* buffer;
  uint64_t offset, bytes;
} baton_binding;
typedef void (*baton_host_fn)(void* user);

typedef struct baton_op {
  uint8_t opcode;
  uint8_t flags;
  uint16_t reserved;
  uint32_t tag;
  baton_point wait[2];
  baton_point signal[2];
  union {
    struct {
      baton_buffer* src;
      baton_buffer* dst;
      uint64_t src_offset, dst_offset, bytes;
    } copy;
    struct {
      const void* plan;
      uint64_t step;
      uint64_t zero[3];
    } plan;
    struct {
      baton_program* program;
      const baton_binding* bindings;
      const int64_t* args;
      baton_timeline* progress;
      uint64_t progress_base;
    } launch;
    struct {
      baton_buffer* dst;
      uint64_t offset, bytes;
      uint32_t pattern;
      uint32_t pattern_bytes;
    } fill;
    struct {
      baton_host_fn fn;
      void* user;
    } host;
  } u;
  uint16_t binding_count, arg_count;
  uint32_t plan_op;
  uint64_t user;
} baton_op;
_Static_assert(sizeof(baton_op) == 128, "baton_op is 128 bytes");
BATON_API int32_t baton_queue_open(baton_device*, uint32_t lane, baton_queue** out, baton_error*);
BATON_API int32_t baton_link_open(baton_device* from, baton_device* to, baton_queue** out, baton_error*);
BATON_API void baton_queue_close(baton_queue*);
BATON_API int32_t baton_submit(baton_queue*, const baton_op* ops, uint32_t count, baton_error*);
BATON_API int32_t baton_plan_copy(baton_device* from, baton_device* to, char* text, uint64_t text_bytes, baton_error*);

typedef struct baton_driver_side {
  void* mem;
  void* ptr;
  uint64_t offset;
  int32_t fd;
  uint32_t reserved;
  uint64_t fd_offset;
} baton_driver_side;

typedef struct baton_driver_binding {
  const char* name;
  void* mem;
  uint64_t offset, bytes;
} baton_driver_binding;

typedef struct baton_driver_op {
  uint8_t opcode;
  uint8_t reserved[3];
  uint32_t tag;
  void* cookie;
  uint64_t start_ns;
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
    struct {
      const void* plan;
      uint64_t step;
    } plan;
  } u;
} baton_driver_op;

typedef struct baton_driver_host {
  uint32_t struct_size;
  uint32_t abi_version;
  void (*complete)(void* cookie, uint64_t cost_ns, const baton_error* error);
  int32_t (*progress)(void* cookie, uint64_t k, uint64_t offset_ns);
  void (*lost)(void* core_device, const baton_error* error);
  void* core_device;
} baton_driver_host;

typedef struct baton_driver {
  uint32_t struct_size;
  uint32_t abi_version;
  const char* scheme;
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
  int32_t (*queue_open)(void* device, uint32_t lane, void** queue, int* fd, baton_error* e);
  void (*queue_close)(void* device, void* queue);
  int32_t (*submit)(void* device, void* queue, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e);
  uint32_t (*poll)(void* device, void* queue, uint32_t budget);
} baton_driver;
#define BATON_DRIVER_SYMBOL "baton_driver_v1"
typedef const baton_driver* (*baton_driver_fn)(void);
BATON_API int32_t baton_queue_from_table(baton_instance*, const char* name, const baton_driver* table, void* ctx, int fd,
                                         baton_queue** out, baton_error*);
BATON_API const baton_driver_host* baton_queue_host(baton_instance*);

typedef struct baton_span {
  const char* lane;
  const char* what;
  uint32_t tag;
  uint32_t failed;
  uint64_t wall_start_ns, wall_end_ns;
  uint64_t modelled_start_ns, modelled_end_ns;
  uint64_t bytes;
} baton_span;
typedef void (*baton_span_fn)(void* user, const baton_span*);
BATON_API void baton_set_span_callback(baton_instance*, baton_span_fn, void* user);
#endif
