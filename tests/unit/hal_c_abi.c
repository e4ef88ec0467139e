/* baton.h used from C11: the whole life of a copy, and the errors on the way. Exits 0 if all of it is as the header says. */
#include "hal/baton.h"

#include <stdio.h>
#include <string.h>

static int failures;

static void expect(int good, const char* what, const baton_error* e) {
  if (good) return;
  ++failures;
  fprintf(stderr, "not so: %s (%s: %s)\n", what, baton_code_name(e->code), e->what);
}

static void called(void* user) { ++*(int*)user; }

int main(void) {
  baton_error e;
  memset(&e, 0, sizeof e);
  e.struct_size = sizeof e;
  baton_instance_options options = {sizeof options, 0, BATON_DRIVERS, NULL};
  baton_instance* in = NULL;
  baton_device* dev = NULL;
  baton_buffer *a = NULL, *b = NULL;
  baton_queue* q = NULL;
  baton_timeline* t = NULL;
  void *pa = NULL, *pb = NULL;
  int calls = 0;
  baton_device_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;

  expect(baton_instance_create(&options, &in, &e) == BATON_OK, "instance", &e);
  expect(baton_open(in, "nothing://0", &dev, &e) == BATON_NOT_FOUND && e.next[0], "an unknown scheme has a next step", &e);
  expect(baton_open(in, "host://", &dev, &e) == BATON_OK && e.code == BATON_OK && !e.what[0], "open", &e);
  if (failures) return 1;
  expect(baton_info(dev, &info, &e) == BATON_OK && info.lanes == 1 && !strcmp(info.driver, "host"), "info", &e);
  expect(baton_alloc(dev, 0, 4096, &a, &e) == BATON_OK && baton_alloc(dev, 0, 4096, &b, &e) == BATON_OK, "alloc", &e);
  expect(baton_map(a, &pa, &e) == BATON_OK && baton_map(b, &pb, &e) == BATON_OK, "map", &e);
  expect(baton_queue_open(dev, 0, &q, &e) == BATON_OK, "queue", &e);
  expect(baton_timeline_create(in, "done", &t, &e) == BATON_OK, "timeline", &e);
  if (failures) return 1;

  baton_op ops[3];
  memset(ops, 0, sizeof ops);
  ops[0].opcode = BATON_OP_FILL;
  ops[0].u.fill.dst = a;
  ops[0].u.fill.bytes = 4096;
  ops[0].u.fill.pattern = 0x5a;
  ops[0].u.fill.pattern_bytes = 1;
  ops[0].signal[0].timeline = t;
  ops[0].signal[0].value = 1;
  ops[1].opcode = BATON_OP_COPY;
  ops[1].u.copy.src = a;
  ops[1].u.copy.dst = b;
  ops[1].u.copy.bytes = 4096;
  ops[1].wait[0] = ops[0].signal[0];
  ops[1].signal[0].timeline = t;
  ops[1].signal[0].value = 2;
  ops[2].opcode = BATON_OP_HOST;
  ops[2].u.host.fn = called;
  ops[2].u.host.user = &calls;
  ops[2].wait[0] = ops[1].signal[0];
  ops[2].signal[0].timeline = t;
  ops[2].signal[0].value = 3;
  expect(baton_submit(q, ops, 3, &e) == BATON_OK, "submit", &e);
  expect(baton_timeline_wait(t, 3, BATON_NO_DEADLINE, &e) == BATON_OK, "wait", &e);
  expect(((unsigned char*)pb)[4095] == 0x5a && calls == 1, "the bytes and the call", &e);
  ops[1].u.copy.src_offset = UINT64_MAX;
  expect(baton_submit(q, ops, 3, &e) == BATON_INVALID_ARGUMENT && strstr(e.what, "4096"), "a range that overflows is refused", &e);
  expect(baton_submit(NULL, ops, 1, NULL) == BATON_INVALID_ARGUMENT, "an error may be NULL", &e);

  baton_queue_close(q);
  baton_free(a);
  baton_free(b);
  baton_timeline_destroy(t);
  baton_close(dev);
  baton_instance_destroy(in);
  return failures != 0;
}
