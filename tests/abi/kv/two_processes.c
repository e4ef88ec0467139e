/* two_processes.c: a decode side and a prefill side in C11, on baton_kv.h alone. Run without arguments it is the decode side, starts itself again as the
 * prefill side, and checks each element of what came. Exits 0 if all of it is so. Children are killed by their own pid.
 *
 *     abi_kv_two_processes                 abi_kv_two_processes prefill ADDRESS LEASE_NS
 */
#define _GNU_SOURCE
#include "transport/baton_kv.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LEASE_NS 15000000000ull /* long for a loaded machine: a death is heard of by the end of its stream */
#define SECOND 1000000000ull

enum { LAYERS = 6, HEADS = 4, DIM = 32, TOKENS = 150 };

static int failures;
static baton_error e = {.struct_size = sizeof(baton_error)};

static void expect(int good, const char* what) {
  if (good) return;
  ++failures;
  fprintf(stderr, "not so: %s (%s: %s; hop %s)\n", what, baton_code_name(e.code), e.what, e.hop);
}

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}
static uint64_t soon(void) { return now() + 60 * SECOND; }

/* ---- a cache with known contents ---- */

static uint16_t value_of(uint32_t salt, uint32_t layer, uint32_t half, uint32_t token, uint32_t head, uint32_t d) {
  uint32_t x = ((((salt * 31u + layer) * 2u + half) * 4099u + token) * 67u + head) * 257u + d;
  x ^= x >> 15;
  x *= 2654435761u;
  return (uint16_t)(x >> 13);
}

/* Where an element lies, by the two orders that are used here. */
static uint64_t place(const baton_kv_layout* l, uint32_t layer, uint32_t half, int32_t block, uint32_t in_block, uint32_t head, uint32_t d) {
  uint64_t at = ((uint64_t)layer * 2 + half) * l->blocks + (uint64_t)block;
  if (l->order == BATON_KV_HEAD_MAJOR) return ((at * HEADS + head) * l->block_tokens + in_block) * DIM + d;
  return ((at * l->block_tokens + in_block) * HEADS + head) * DIM + d;
}

static int64_t visit(uint16_t* pool, const baton_kv_layout* l, const int32_t* blocks, uint32_t salt, int write) {
  int64_t wrong = 0;
  for (uint32_t layer = 0; layer < LAYERS; ++layer)
    for (uint32_t half = 0; half < 2; ++half)
      for (uint32_t token = 0; token < TOKENS; ++token)
        for (uint32_t head = 0; head < HEADS; ++head)
          for (uint32_t d = 0; d < DIM; ++d) {
            uint16_t* at = pool + place(l, layer, half, blocks[token / l->block_tokens], token % l->block_tokens, head, d);
            uint16_t want = value_of(salt, layer, half, token, head, d);
            if (write) *at = want;
            else wrong += *at != want;
          }
  return wrong;
}

static baton_kv_layout layout_of(uint32_t order, uint32_t block_tokens, uint32_t blocks) {
  baton_kv_layout l = {.struct_size = sizeof l, .layers = LAYERS, .kv_heads = HEADS, .head_dim = DIM, .order = order, .block_tokens = block_tokens, .blocks = blocks};
  return l;
}

/* ---- the prefill side ---- */

static int prefill(const char* address, uint64_t lease_ns) {
  uint8_t key[32];
  memset(key, 7, sizeof key);
  baton_kv_endpoint* ep = NULL;
  baton_kv_session* s = NULL;
  baton_kv_endpoint_options o = {.struct_size = sizeof o, .name = "prefill in C", .key = key, .lease_ns = lease_ns};
  if (baton_kv_endpoint_open(&o, &ep, &e) || baton_kv_connect(ep, address, soon(), &s, &e)) return fprintf(stderr, "prefill: %s\n", e.what), 1;

  baton_kv_layout l = layout_of(BATON_KV_TOKEN_MAJOR, 16, 24);
  uint64_t bytes = 0;
  if (baton_kv_layout_facts(&l, NULL, &bytes, &e)) return 1;
  uint16_t* memory = malloc(bytes);
  memset(memory, 0, bytes);
  baton_kv_pool_options po = {.struct_size = sizeof po, .memory = BATON_KV_MEMORY_HOST, .base = memory, .bytes = bytes, .layout = &l, .model = "m"};
  baton_kv_pool* pool = NULL;
  if (baton_kv_register(ep, &po, &pool, &e)) return fprintf(stderr, "prefill: %s\n", e.what), 1;
  int32_t blocks[10];
  for (int32_t i = 0; i < 10; ++i) blocks[i] = (i * 7 + 3) % 24;

  for (int over = 0; !over;) {
    baton_kv_event events[4];
    events[0].struct_size = sizeof events[0];
    uint32_t n = baton_kv_wait(ep, events, 4, soon());
    if (!n) return fprintf(stderr, "prefill: nothing was asked for\n"), 1;
    for (uint32_t i = 0; i < n; ++i) {
      baton_kv_event* v = &events[i];
      if (v->kind == BATON_KV_EVENT_PEER_LOST || (v->kind == BATON_KV_EVENT_NOTE && !strcmp(v->text, "bye"))) over = 1;
      if (v->kind == BATON_KV_EVENT_COMPLETE || v->kind == BATON_KV_EVENT_FAILED) baton_kv_push_release(v->push);
      if (v->kind != BATON_KV_EVENT_PULL) continue;
      char how[16] = "", fabric[16] = "";
      uint32_t salt = 0;
      if (v->byte_count >= 64 || sscanf(v->bytes, "%15s %15s %u", how, fabric, &salt) != 3) return fprintf(stderr, "prefill: what is asked for?\n"), 1;
      if (!strcmp(how, "refuse")) {
        baton_error no = {.struct_size = sizeof no, .code = BATON_NOT_FOUND, .what = "no such request", .next = "ask for another"};
        baton_kv_refuse(s, v->id, &no, &e);
        continue;
      }
      visit(memory, &l, blocks, salt, 1);
      baton_kv_source source = {pool, blocks, 10};
      baton_kv_push_options pu = {.struct_size = sizeof pu, .source_count = 1, .sources = &source, .ticket = v->text, .fabric = fabric, .tokens = v->tokens};
      baton_kv_push* push = NULL;
      int begun = salt % 2 == 1; /* what is pushed before the decode side has agreed goes out with that */
      if ((begun ? baton_kv_push_begin : baton_kv_push_open)(s, &pu, &push, &e)) {
        baton_kv_notify(s, "not pushed", e.what, strlen(e.what), NULL);
        continue;
      }
      if (!strcmp(how, "hang")) {
        baton_kv_push_layer(push, 0, 0, NULL, &e);
        continue;
      }
      if (!strcmp(how, "whole")) {
        if (baton_kv_push_all(push, &e)) return fprintf(stderr, "prefill: %s\n", e.what), 1;
      } else {
        if (baton_kv_push_layers(push) != (begun ? 0 : LAYERS)) return fprintf(stderr, "prefill: %u layers\n", baton_kv_push_layers(push)), 1;
        for (uint32_t layer = 0; layer < LAYERS; ++layer)
          if (baton_kv_push_layer(push, 0, layer, NULL, &e)) return fprintf(stderr, "prefill: %s\n", e.what), 1;
      }
      if (baton_kv_push_seal(push, "token 42", 8, &e)) return fprintf(stderr, "prefill: %s\n", e.what), 1;
    }
  }
  baton_kv_endpoint_close(ep);
  free(memory);
  return 0;
}

/* ---- the decode side ---- */

typedef struct decode {
  baton_kv_endpoint* ep;
  baton_kv_session* s;
  baton_kv_pool* pool;
  baton_kv_layout layout;
  uint16_t* memory;
  pid_t child;
  char note[32]; /* of one that came before it was waited for: nothing orders it against the events of a grant */
} decode;

static void start(decode* d, const char* self) {
  char lease[32];
  snprintf(lease, sizeof lease, "%llu", (unsigned long long)LEASE_NS);
  d->child = fork();
  if (d->child == 0) {
    execl(self, self, "prefill", baton_kv_endpoint_address(d->ep), lease, (char*)NULL);
    _exit(127);
  }
  expect(!baton_kv_accept(d->ep, soon(), &d->s, &e), "the prefill side connects");
}

static baton_kv_grant* ask(decode* d, const char* how, const char* fabric, uint32_t salt) {
  static const int32_t blocks[3] = {4, 0, 2};
  char text[64];
  baton_kv_grant* g = NULL;
  baton_kv_grant_options o = {.struct_size = sizeof o, .session = d->s, .blocks = blocks, .block_count = 3, .tokens = TOKENS, .user = salt};
  expect(!baton_kv_grant_blocks(d->pool, &o, &g, &e), "blocks are granted");
  expect(strlen(baton_kv_grant_ticket(g)) == 32, "a ticket has 32 digits");
  int n = snprintf(text, sizeof text, "%s %s %u", how, fabric, salt) + 1;
  expect(!baton_kv_pull(g, d->s, text, (uint64_t)n, &e), "a pull is sent");
  expect(baton_kv_pull(g, d->s, text, (uint64_t)n, NULL) == BATON_BUSY, "once");
  return g;
}

/* Polls until the kind comes for this grant or session; what came before is checked for order. */
static baton_kv_event until(decode* d, uint32_t kind, baton_kv_grant* g, uint64_t* landed) {
  uint64_t end = soon();
  baton_kv_event v = {.struct_size = sizeof v};
  if (kind == BATON_KV_EVENT_NOTE && d->note[0]) {
    static char text[sizeof d->note];
    memcpy(text, d->note, sizeof text);
    d->note[0] = 0;
    v.kind = kind, v.text = text;
    return v;
  }
  while (now() < end) {
    v.struct_size = sizeof v;
    if (!baton_kv_wait(d->ep, &v, 1, end)) break;
    if (v.kind == kind && v.grant == g) return v;
    if (v.kind == BATON_KV_EVENT_NOTE) {
      snprintf(d->note, sizeof d->note, "%s", v.text);
      continue;
    }
    if (v.kind == BATON_KV_EVENT_LANDED && landed) {
      expect(v.grant == g && v.layers > *landed && v.layers <= LAYERS, "layers land in order");
      *landed = v.layers;
      continue;
    }
    if (v.error) e = *v.error;
    fprintf(stderr, "event %u instead of %u: %.*s\n", v.kind, kind, (int)v.byte_count, v.bytes ? (const char*)v.bytes : "");
    if (v.kind == BATON_KV_EVENT_FAILED) break;
  }
  expect(0, "the event comes");
  v.kind = 0;
  return v;
}

static void moves(decode* d, const char* how, const char* fabric, uint32_t salt) {
  static const int32_t blocks[3] = {4, 0, 2};
  uint64_t bytes = 0, landed = 0;
  baton_kv_layout_facts(&d->layout, NULL, &bytes, &e);
  memset(d->memory, 0xee, bytes);
  baton_kv_grant* g = ask(d, how, fabric, salt);
  baton_kv_event v = until(d, BATON_KV_EVENT_COMPLETE, g, &landed);
  expect(v.kind && v.byte_count == 8 && !memcmp(v.bytes, "token 42", 8) && v.user == salt, "the seal comes with its bytes");
  expect(landed == LAYERS, "each layer was told of before");
  expect(visit(d->memory, &d->layout, blocks, salt, 0) == 0, "each element is where it belongs");
  expect(baton_kv_grant_quiet(g) == 1, "nobody writes any more");
  baton_kv_stats st = {.struct_size = sizeof st};
  expect(!baton_kv_grant_stats(g, &st, &e) && st.layers == LAYERS && st.bytes == (uint64_t)LAYERS * 2 * TOKENS * HEADS * DIM * 2, "the stats count each byte");
  expect(!strcmp(fabric, "auto") || !strcmp(st.fabric, fabric), "the fabric is the one that was asked for");
  printf("%s over %s: %llu bytes in %llu segments\n", how, st.fabric, (unsigned long long)st.bytes, (unsigned long long)st.segments);
  baton_kv_grant_release(g);
}

int main(int argc, char** argv) {
  if (argc == 4 && !strcmp(argv[1], "prefill")) return prefill(argv[2], strtoull(argv[3], NULL, 10));
  uint8_t key[32];
  memset(key, 7, sizeof key);
  decode d = {.layout = layout_of(BATON_KV_HEAD_MAJOR, 64, 5)};
  uint64_t bytes = 0;
  expect(baton_kv_endpoint_open(NULL, &d.ep, NULL) == BATON_INVALID_ARGUMENT, "there is no endpoint without a key");
  baton_kv_endpoint_options o = {.struct_size = sizeof o, .listen = "127.0.0.1:0", .name = "decode in C", .key = key, .lease_ns = LEASE_NS};
  expect(!baton_kv_endpoint_open(&o, &d.ep, &e), "an endpoint opens");
  if (failures) return 1;
  expect(!baton_kv_layout_facts(&d.layout, NULL, &bytes, &e), "a layout has a size");
  int fd = memfd_create("kv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  expect(fd >= 0 && !ftruncate(fd, (off_t)bytes), "a memfd");
  baton_kv_pool_options po = {.struct_size = sizeof po, .memory = BATON_KV_MEMORY_FD, .fd = fd, .bytes = bytes, .layout = &d.layout, .model = "m"};
  expect(!baton_kv_register(d.ep, &po, &d.pool, &e), "memory is registered");
  if (failures) return 1;
  d.memory = baton_kv_pool_base(d.pool);
  start(&d, argv[0]);
  if (failures) return 1;
  baton_kv_session_info info = {.struct_size = sizeof info};
  expect(!baton_kv_session_read(d.s, &info, &e) && !strcmp(info.name, "prefill in C") && info.same_host == 1, "the peer is who it says");

  moves(&d, "whole", "auto", 1);
  moves(&d, "layers", "mapped", 2);
  moves(&d, "layers", "tcp", 3);
  moves(&d, "whole", "shm", 4);

  baton_kv_grant* g = ask(&d, "refuse", "auto", 5);
  baton_kv_event v = until(&d, BATON_KV_EVENT_FAILED, g, NULL);
  expect(v.kind && v.error->code == BATON_NOT_FOUND && !strcmp(v.error->what, "no such request"), "a refusal says why");
  until(&d, BATON_KV_EVENT_QUIET, g, NULL);
  baton_kv_grant_release(g);

  g = ask(&d, "whole", "auto", 6); /* cancelled before anybody pushes */
  baton_kv_grant_cancel(g, NULL);
  v = until(&d, BATON_KV_EVENT_FAILED, g, NULL);
  expect(v.kind && v.error->code == BATON_CANCELLED, "a cancel is seen here");
  until(&d, BATON_KV_EVENT_QUIET, g, NULL);
  baton_kv_grant_release(g);
  v = until(&d, BATON_KV_EVENT_NOTE, NULL, NULL);
  expect(v.kind && !strcmp(v.text, "not pushed"), "and the prefill side is refused");

  /* The prefill side dies with layers on their way: the decode side hears of it within the lease, and has its blocks back. */
  for (int32_t k = 0; k < 2; ++k) {
    g = ask(&d, "hang", k ? "tcp" : "mapped", 7);
    uint64_t landed = 0;
    while (!landed) {
      v = until(&d, BATON_KV_EVENT_LANDED, g, NULL);
      if (!v.kind) return 1;
      landed = v.layers;
    }
    expect(kill(d.child, SIGKILL) == 0 && waitpid(d.child, NULL, 0) == d.child, "the child is killed");
    uint64_t killed = now();
    int failed = 0, lost = 0, quiet = 0;
    while (!(failed && lost && quiet) && now() < killed + 60 * SECOND) {
      baton_kv_event some[3] = {{.struct_size = sizeof some[0]}};
      uint32_t n = baton_kv_wait(d.ep, some, 3, soon());
      for (uint32_t i = 0; i < n; ++i) {
        failed += some[i].kind == BATON_KV_EVENT_FAILED && some[i].grant == g && some[i].error->code == BATON_PEER_LOST;
        quiet += some[i].kind == BATON_KV_EVENT_QUIET && some[i].grant == g;
        lost += some[i].kind == BATON_KV_EVENT_PEER_LOST && some[i].session == d.s;
      }
      if (failed + lost == 2 && killed) {
        uint64_t took = now() - killed;
        expect(took < 2ull * LEASE_NS, "a death is heard of within the lease");
        printf("killed: heard of after %llu us\n", (unsigned long long)(took / 1000));
        killed = now();
        failed = lost = 2;
      }
    }
    expect(failed && lost && quiet, "the grant fails, the session is lost, the blocks are quiet");
    baton_kv_grant_release(g);
    baton_kv_session_close(d.s);
    start(&d, argv[0]);
    if (failures) return 1;
    moves(&d, "whole", "auto", 8); /* a new peer, into the same blocks */
  }
  baton_kv_notify(d.s, "bye", NULL, 0, &e);
  int status = 1;
  uint64_t end = soon();
  while (waitpid(d.child, &status, WNOHANG) == 0 && now() < end) {
    baton_kv_event some = {.struct_size = sizeof some};
    baton_kv_wait(d.ep, &some, 1, now() + SECOND / 100);
  }
  expect(status == 0, "the prefill side ends in order");
  baton_kv_unregister(d.pool);
  baton_kv_endpoint_close(d.ep);
  close(fd);
  if (!failures) puts("all of it is so");
  return failures != 0;
}
