/* hello.c: which devices this machine has; then, on one of them, memory, a fill, a copy, and a look at the bytes. Plain C11.
 *
 *     cc -std=c11 hello.c $(pkg-config --cflags --libs baton) -o hello
 *     ./hello                  on host://, this process as a device
 *     ./hello emu+cs3://0      on an emulated wafer
 */
#include "hal/baton.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static baton_error error; /* every call that can fail fills it: what happened, and the next step */

static void check(int32_t code) {
  if (code == BATON_OK) return;
  fprintf(stderr, "%s: %s\nnext: %s\n", baton_code_name(code), error.what, error.next);
  exit(1);
}

static int32_t show(void* user, const baton_device_info* info) {
  (void)user;
  printf("device %s: %s\n", info->uri, info->model);
  return 0; /* go on */
}

int main(int argc, char** argv) {
  enum { bytes = 4096 };
  baton_instance* in;
  baton_device *dev, *host;
  baton_buffer *a, *b, *seen;
  baton_queue *q, *back;
  baton_timeline* done;
  check(baton_instance_create(NULL, &in, &error));
  check(baton_enumerate(in, show, NULL, &error));
  check(baton_open(in, argc > 1 ? argv[1] : "host://", &dev, &error));
  check(baton_open(in, "host://", &host, &error));

  /* Two buffers on the device, one that this program can look into, and a timeline: the only ordering there is. */
  check(baton_alloc(dev, 0, bytes, &a, &error));
  check(baton_alloc(dev, 0, bytes, &b, &error));
  check(baton_alloc(host, 0, bytes, &seen, &error));
  check(baton_queue_open(dev, 0, &q, &error));
  check(baton_link_open(dev, host, &back, &error)); /* a queue whose two ends are on different devices */
  check(baton_timeline_create(in, "done", &done, &error));

  /* Fill a, then copy a to b, then b to where we can see it. Nothing waits but on the point that it names. */
  baton_op ops[2] = {{.opcode = BATON_OP_FILL, .signal = {{done, 1}}}, {.opcode = BATON_OP_COPY, .wait = {{done, 1}}, .signal = {{done, 2}}}};
  ops[0].u.fill.dst = a, ops[0].u.fill.bytes = bytes, ops[0].u.fill.pattern = 0xba, ops[0].u.fill.pattern_bytes = 1;
  ops[1].u.copy.src = a, ops[1].u.copy.dst = b, ops[1].u.copy.bytes = bytes;
  baton_op fetch = {.opcode = BATON_OP_COPY, .wait = {{done, 2}}, .signal = {{done, 3}}};
  fetch.u.copy.src = b, fetch.u.copy.dst = seen, fetch.u.copy.bytes = bytes;
  check(baton_submit(q, ops, 2, &error));
  check(baton_submit(back, &fetch, 1, &error));
  check(baton_timeline_wait(done, 3, BATON_NO_DEADLINE, &error)); /* or fails with the first cause */

  void* data;
  check(baton_map(seen, &data, &error));
  const unsigned char* byte = data;
  int right = 0;
  for (int i = 0; i < bytes; ++i) right += byte[i] == 0xba;
  printf("%d of %d bytes are right; modelled time %" PRIu64 " ns\n", right, bytes, baton_timeline_modelled(done, 3));

  baton_timeline_destroy(done), baton_queue_close(back), baton_queue_close(q);
  baton_free(seen), baton_free(b), baton_free(a), baton_close(host), baton_close(dev), baton_instance_destroy(in);
  return right == bytes ? 0 : 1;
}
