/* short_driver.c: short://0, the frozen driver with a table that lacks slots, as the test says before the driver is loaded: older than a
 * slot (struct_size ends before it) or without it (NULL). What a driver without `free` or `close` cannot give back stays reachable here. */
#define baton_driver_v1 frozen_table
#include "tests/abi/v1/driver.c"
#undef baton_driver_v1

static struct {
  baton_driver table;
  char more[256]; /* slots that are newer than the frozen table */
} storage;
#define table storage.table
static int without_poll;
static void* kept[256];
static unsigned kept_count;

static int32_t keep(int32_t code, void** p) {
  if (code == BATON_OK && kept_count < sizeof kept / sizeof *kept) kept[kept_count++] = *p;
  return code;
}

static int32_t keep_open(const baton_driver_host* core, const char* uri, void** out, baton_error* e) {
  return keep(open_device(core, uri, out, e), out);
}
static int32_t keep_alloc(void* dev, uint32_t heap, uint64_t bytes, void** out, baton_error* e) {
  return keep(alloc_memory(dev, heap, bytes, out, e), out);
}
static int32_t keep_load(void* dev, uint32_t lane, const void* program, uint64_t bytes, const baton_constant* constants, uint32_t count,
                         uint32_t rank, uint32_t ranks, void** out, baton_error* e) {
  return keep(load(dev, lane, program, bytes, constants, count, rank, ranks, out, e), out);
}
static int32_t keep_queue(void* dev, uint32_t lane, void** out, int* fd, baton_error* e) {
  return keep(queue_open(dev, lane, out, fd, e), out);
}
/* Without a poll there is nobody else to complete it. */
static int32_t submit_and_run(void* dev, void* q, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e) {
  int32_t code = submit(dev, q, ops, count, taken, e);
  while (without_poll && ((queue*)q)->count) poll_queue(dev, q, DEPTH);
  return code;
}

/* A table of struct_size `bytes`, without the slot at `missing` (0: with all). */
BATON_API void short_driver_shape(uint32_t bytes, uint32_t missing);
void short_driver_shape(uint32_t bytes, uint32_t missing) {
  table = *frozen_table();
  table.scheme = "short";
  table.open = keep_open;
  table.alloc = keep_alloc;
  table.load = keep_load;
  table.queue_open = keep_queue;
  table.submit = submit_and_run;
  table.struct_size = bytes;
  without_poll = bytes <= offsetof(baton_driver, poll) || missing == offsetof(baton_driver, poll);
  if (missing) memset((char*)&table + missing, 0, sizeof(void*));
  memset(storage.more, 0, sizeof storage.more);
  if (bytes < sizeof storage) memset((char*)&storage + bytes, 0xa5, sizeof storage - bytes); /* nobody may look beyond struct_size */
}

BATON_API const baton_driver* baton_driver_v1(void);
const baton_driver* baton_driver_v1(void) { return &table; }
