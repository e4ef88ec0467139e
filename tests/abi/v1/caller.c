/* caller.c: a program as somebody compiled it against Baton 0.1: the frozen declarations, today's libbaton. It goes through every function
 * of version 1, on a driver of its own age (frozen1://) and on today's host://. DO NOT EDIT: what it expects was promised.
 *
 *     abi_v1_caller FOLDER:FOLDER        the folders of the drivers; exits 0 if all of it is still so
 */
#include "tests/abi/v1/baton_v1.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int failures;
static baton_error e = {sizeof(baton_error), 0, 0, "", "", "", ""};

static void expect(int good, const char* what) {
  if (good) return;
  ++failures;
  fprintf(stderr, "not so: %s (%s: %s)\n", what, baton_code_name(e.code), e.what);
}

static uint64_t soon(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)(t.tv_sec + 20) * 1000000000u + (uint64_t)t.tv_nsec;
}

static void called(void* user) { ++*(int*)user; }

typedef struct seen {
  char uri[128];
  int found;
} seen;

static int32_t look(void* user, const baton_device_info* info) {
  seen* s = user;
  s->found += !strcmp(info->uri, s->uri);
  return 0;
}

static void spanned(void* user, const baton_span* s) { *(uint64_t*)user += s->bytes; }

static baton_op op_of(uint8_t opcode, baton_timeline* t, uint64_t after, uint64_t value) {
  baton_op op;
  memset(&op, 0, sizeof op);
  op.opcode = opcode;
  if (after) op.wait[0].timeline = t, op.wait[0].value = after;
  op.signal[0].timeline = t;
  op.signal[0].value = value;
  return op;
}

/* FILL, COPY, HOST and NOP in a row; what is refused; what the spans and the telemetry say of it. */
static void move(baton_instance* in, baton_device* dev) {
  baton_buffer *a = NULL, *b = NULL;
  baton_queue* q = NULL;
  baton_timeline* t = NULL;
  void* p = NULL;
  int calls = 0;
  uint64_t spans = 0, value = 0;
  expect(baton_alloc(dev, 0, 4096, &a, &e) == BATON_OK && baton_alloc(dev, 0, 8192, &b, &e) == BATON_OK, "alloc");
  expect(baton_buffer_bytes(b) == 8192 && baton_buffer_device(b) == dev, "a buffer knows its size and device");
  expect(baton_map(b, &p, &e) == BATON_OK && p, "map");
  expect(baton_queue_open(dev, 0, &q, &e) == BATON_OK, "queue_open");
  expect(baton_timeline_create(in, "v1", &t, &e) == BATON_OK, "timeline_create");
  if (failures) return;
  baton_set_span_callback(in, spanned, &spans);
  baton_op ops[4] = {op_of(BATON_OP_FILL, t, 0, 1), op_of(BATON_OP_COPY, t, 1, 2), op_of(BATON_OP_HOST, t, 2, 3), op_of(BATON_OP_NOP, t, 3, 4)};
  ops[0].u.fill.dst = a;
  ops[0].u.fill.bytes = 4096;
  ops[0].u.fill.pattern = 0x01020304;
  ops[0].u.fill.pattern_bytes = 4;
  ops[1].u.copy.src = a;
  ops[1].u.copy.src_offset = 2;
  ops[1].u.copy.dst = b;
  ops[1].u.copy.dst_offset = 4099;
  ops[1].u.copy.bytes = 4090;
  ops[2].u.host.fn = called;
  ops[2].u.host.user = &calls;
  expect(baton_submit(q, ops, 4, &e) == BATON_OK, "submit");
  expect(baton_timeline_wait(t, 4, soon(), &e) == BATON_OK, "wait");
  expect(baton_timeline_query(t, &value, &e) == BATON_OK && value == 4, "the watermark");
  const unsigned char* got = p;
  expect(got[4098] == 0 && got[4099] == 2 && got[4100] == 1 && got[4101] == 4 && got[4102] == 3 && got[8188] == 1 && got[8189] == 0,
         "the bytes, at their offsets");
  expect(calls == 1, "HOST called its function");
  expect(spans == 4096 + 4090, "the spans");
  baton_set_span_callback(in, NULL, NULL);
  ops[1].u.copy.bytes = UINT64_MAX;
  expect(baton_submit(q, ops, 2, &e) == BATON_INVALID_ARGUMENT && strstr(e.what, "8192") == NULL && strstr(e.what, "4096"), "a range beyond the buffer");
  ops[0].flags = 1;
  expect(baton_submit(q, ops, 1, NULL) == BATON_INVALID_ARGUMENT, "a flag that version 1 does not know, and no error struct");
  baton_queue_close(q);
  baton_free(a);
  baton_free(b);
  baton_timeline_destroy(t);
}

static void link_both(baton_instance* in, baton_device* from, baton_device* to) {
  baton_buffer *a = NULL, *b = NULL;
  baton_queue* link = NULL;
  baton_timeline* t = NULL;
  void *pa = NULL, *pb = NULL;
  char text[512] = "";
  expect(baton_plan_copy(from, to, text, sizeof text, &e) == BATON_OK && strstr(text, "->"), "plan_copy");
  expect(baton_link_open(from, to, &link, &e) == BATON_OK, "link_open");
  expect(baton_alloc(from, 0, 70001, &a, &e) == BATON_OK && baton_alloc(to, 0, 70001, &b, &e) == BATON_OK, "alloc");
  expect(baton_map(a, &pa, &e) == BATON_OK && baton_map(b, &pb, &e) == BATON_OK, "map");
  expect(baton_timeline_create(in, "link", &t, &e) == BATON_OK, "timeline_create");
  if (failures) return;
  for (int i = 0; i < 70001; ++i) ((unsigned char*)pa)[i] = (unsigned char)(i % 251);
  baton_op op = op_of(BATON_OP_COPY, t, 0, 1);
  op.u.copy.src = a;
  op.u.copy.dst = b;
  op.u.copy.bytes = 70001;
  expect(baton_submit(link, &op, 1, &e) == BATON_OK && baton_timeline_wait(t, 1, soon(), &e) == BATON_OK, "a copy over a link");
  expect(!memcmp(pa, pb, 70001), "the bytes over a link");
  baton_queue_close(link);
  baton_free(a);
  baton_free(b);
  baton_timeline_destroy(t);
}

static void memory_objects(baton_device* host) {
  baton_buffer *a = NULL, *same = NULL;
  void *pa = NULL, *ps = NULL;
  int fd = -1;
  uint64_t offset = 0;
  expect(baton_alloc(host, 0, 8192, &a, &e) == BATON_OK && baton_map(a, &pa, &e) == BATON_OK, "alloc and map");
  expect(baton_export(a, &fd, &offset, &e) == BATON_OK && fd >= 0, "export");
  expect(baton_import(host, fd, offset, 8192, &same, &e) == BATON_OK && baton_map(same, &ps, &e) == BATON_OK, "import");
  if (failures) return;
  ((char*)pa)[8000] = 77;
  expect(((char*)ps)[8000] == 77, "one memory, seen twice");
  close(fd);
  baton_free(same);
  baton_free(a);
}

/* What only the frozen driver can be asked, since its answers are as frozen as the questions. */
static void frozen_only(baton_instance* in, baton_device* dev) {
  baton_program* p = NULL;
  baton_queue* q = NULL;
  baton_timeline *t = NULL, *marks = NULL, *bad = NULL;
  baton_buffer* b = NULL;
  int64_t arg = 1;
  int fd;
  uint64_t offset;
  baton_telemetry tel;
  memset(&tel, 0, sizeof tel);
  tel.struct_size = sizeof tel;
  expect(baton_load(dev, 0, "x", 1, NULL, 0, 0, 1, &p, &e) == BATON_UNSUPPORTED && strstr(e.what, "marks:N"), "a load is refused in the driver's words");
  expect(baton_load(dev, 0, "marks:3", 7, NULL, 0, 0, 1, &p, &e) == BATON_OK, "load");
  expect(baton_queue_open(dev, 0, &q, &e) == BATON_OK, "queue_open");
  expect(baton_timeline_create(in, "t", &t, &e) == BATON_OK && baton_timeline_create(in, "marks", &marks, &e) == BATON_OK &&
             baton_timeline_create(in, "bad", &bad, &e) == BATON_OK, "timelines");
  if (failures) return;
  baton_op ops[2] = {op_of(BATON_OP_LAUNCH, t, 0, 1), op_of(BATON_OP_LAUNCH, bad, 0, 1)};
  ops[0].u.launch.program = ops[1].u.launch.program = p;
  ops[0].u.launch.progress = marks;
  ops[0].u.launch.progress_base = 10;
  ops[1].u.launch.args = &arg;
  ops[1].arg_count = 1;
  expect(baton_submit(q, ops, 2, &e) == BATON_OK, "submit of launches");
  expect(baton_timeline_wait(marks, 13, soon(), &e) == BATON_OK && baton_timeline_wait(t, 1, soon(), &e) == BATON_OK, "three marks and the end");
  expect(baton_timeline_modelled(marks, 12) == 10 && baton_timeline_modelled(t, 1) == 100, "their modelled times");
  expect(baton_timeline_wait(bad, 1, soon(), &e) == BATON_INVALID_ARGUMENT && !strcmp(e.what, "marks:N takes no arguments") && !strcmp(e.hop, "frozen1://0"),
         "a launch is refused in the driver's words, with the hop");
  expect(baton_telemetry_read(dev, &tel, &e) == BATON_OK && tel.launches == 2 && tel.ops_failed == 1, "telemetry");
  expect(baton_alloc(dev, 0, 2u << 20, &b, &e) == BATON_CAPACITY && strstr(e.what, "1048576"), "a full heap");
  expect(baton_alloc(dev, 0, 64, &b, &e) == BATON_OK, "alloc");
  expect(baton_export(b, &fd, &offset, &e) == BATON_UNSUPPORTED, "an empty slot is UNSUPPORTED");
  expect(baton_reset(dev, &e) == BATON_OK, "reset");
  expect(baton_submit(q, ops, 1, &e) == BATON_DEVICE_LOST && e.epoch == 2, "a queue of the old epoch");
  baton_free(b);
  expect(baton_alloc(dev, 0, 64, &b, &e) == BATON_OK, "alloc in the new epoch");
  baton_free(b);
  baton_unload(p);
  baton_queue_close(q);
  baton_timeline_destroy(t);
  baton_timeline_destroy(marks);
  baton_timeline_destroy(bad);
}

/* The far end of a queue from a table: completes what it takes at once. */
static const baton_driver_host* core;
static int32_t far_submit(void* ctx, void* queue, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* err) {
  (void)queue, (void)err;
  for (*taken = 0; *taken < count; ++*taken, ++*(int*)ctx) core->complete(ops[*taken].cookie, 7, NULL);
  return BATON_OK;
}
static uint32_t far_poll(void* ctx, void* queue, uint32_t budget) { return (void)ctx, (void)queue, (void)budget, 0; }

static void timelines_and_tables(baton_instance* in) {
  baton_driver table;
  memset(&table, 0, sizeof table);
  table.struct_size = sizeof table;
  table.submit = far_submit;
  table.poll = far_poll;
  baton_queue* q = NULL;
  baton_timeline *t = NULL, *u = NULL;
  int taken = 0;
  core = baton_queue_host(in);
  expect(core && core->abi_version == BATON_ABI_VERSION, "queue_host");
  expect(baton_queue_from_table(in, "far", &table, &taken, -1, &q, &e) == BATON_OK, "queue_from_table");
  expect(baton_timeline_create(in, "a", &t, &e) == BATON_OK && baton_timeline_create(in, "b", &u, &e) == BATON_OK, "timelines");
  if (failures) return;
  baton_op op = op_of(BATON_OP_NOP, u, 0, 1);
  op.wait[0].timeline = t;
  op.wait[0].value = 3;
  expect(baton_submit(q, &op, 1, &e) == BATON_OK, "submit to a table");
  expect(baton_timeline_wait(u, 1, 1, &e) == BATON_DEADLINE, "a deadline that is over");
  baton_timeline_signal(t, 3, 1000);
  expect(baton_timeline_wait(u, 1, soon(), &e) == BATON_OK && taken == 1 && baton_timeline_modelled(u, 1) == 1007, "a signal lets the op go");
  op.wait[0].value = 4;
  op.signal[0].value = 2;
  baton_error cause = {sizeof cause, BATON_CANCELLED, 0, "", "", "enough", ""};
  expect(baton_submit(q, &op, 1, &e) == BATON_OK, "submit");
  baton_timeline_poison(t, &cause);
  expect(baton_timeline_wait(u, 2, soon(), &e) == BATON_CANCELLED && !strcmp(e.what, "enough") && strstr(e.hop, "far"), "poison travels");
  baton_queue_close(q);
  baton_timeline_destroy(t);
  baton_timeline_destroy(u);
}

int main(int argc, char** argv) {
  baton_instance_options options = {sizeof options, 0, argc > 1 ? argv[1] : NULL, NULL};
  baton_instance* in = NULL;
  baton_device *old = NULL, *host = NULL, *none = NULL;
  baton_device_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  seen s = {"frozen1://0", 0};

  expect(baton_version()[0] != 0 && !strcmp(baton_code_name(BATON_DEVICE_LOST), "DEVICE_LOST"), "names");
  expect(baton_instance_create(&options, &in, &e) == BATON_OK, "instance_create");
  if (failures) return 1;
  expect(baton_enumerate(in, look, &s, &e) == BATON_OK && s.found == 1, "enumerate finds the driver's device");
  expect(baton_open(in, "frozen1://0", &old, &e) == BATON_OK && e.code == BATON_OK && !e.what[0], "the frozen driver opens");
  expect(baton_open(in, "host://", &host, &e) == BATON_OK, "the host opens");
  expect(baton_open(in, "frozen1://7", &none, &e) == BATON_NOT_FOUND && !strcmp(e.what, "there is one device: 0"), "the driver's refusal");
  expect(baton_open(in, "nothing://0", &none, &e) == BATON_NOT_FOUND && e.next[0], "an unknown scheme has a next step");
  if (failures) return 1;
  expect(baton_info(old, &info, &e) == BATON_OK && !strcmp(info.uri, "frozen1://0") && !strcmp(info.driver, "frozen1") && info.epoch == 1 &&
             info.heap_count == 1 && !strcmp(info.heaps[0].name, "dram") && !info.emulated, "info");
  expect(baton_instance_fd(in) >= 0 && baton_poll(in, 16) == 0 && baton_poll_wait(in, 1) == 0, "nothing to poll");

  move(in, old);
  move(in, host);
  link_both(in, old, host);
  link_both(in, host, old);
  memory_objects(host);
  timelines_and_tables(in);
  frozen_only(in, old);

  baton_close(old);
  baton_close(host);
  baton_instance_destroy(in);
  return failures != 0;
}
