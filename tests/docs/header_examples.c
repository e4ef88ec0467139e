/* The examples in baton.h, program/json.h and baton_kv.h, compiled. */
#include "hal/baton.h"
#include "hal/program/json.h"
#include "transport/baton_kv.h"

#include <stdio.h>
#include <time.h>

#define EXAMPLE(number)                                                                                                        \
  int32_t example_##number(baton_instance* in, baton_device* dev, baton_buffer* buf, baton_queue* q, baton_timeline* done,     \
                      const baton_op* ops, uint32_t n, baton_error err);                                              \
  int32_t example_##number(baton_instance* in, baton_device* dev, baton_buffer* buf, baton_queue* q, baton_timeline* done,     \
                      const baton_op* ops, uint32_t n, baton_error err)
#define DONE (void)in, (void)dev, (void)buf, (void)q, (void)done, (void)ops, (void)n, (void)err; return 0;
#include "baton_h.inc"
#undef EXAMPLE
#undef DONE
#define EXAMPLE(number)                     \
  int32_t json_example_##number(void);      \
  int32_t json_example_##number(void)
#define DONE return 0;
#include "json_h.inc"
#undef EXAMPLE
#define EXAMPLE(number)                                                                                                                          \
  int32_t kv_example_##number(baton_kv_endpoint* endpoint, baton_kv_session* session, baton_kv_pool* pool, const int32_t* blocks, baton_error err); \
  int32_t kv_example_##number(baton_kv_endpoint* endpoint, baton_kv_session* session, baton_kv_pool* pool, const int32_t* blocks, baton_error err)
#undef DONE
#define DONE (void)grant; return 0;
static baton_kv_grant* grant;
static baton_kv_event events[8];
#include "baton_kv_h.inc"
