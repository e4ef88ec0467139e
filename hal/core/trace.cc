#include "hal/core/trace.h"

#include "hal/core/validate.h"

#include <algorithm>

namespace baton::core {
namespace {

void call(baton_instance* in, const baton_span& span) {
  ++in->in_driver;  // a submit from inside the callback is taken, and issued when the callback is over
  in->span(in->span_user, &span);
  --in->in_driver;
}

}  // namespace

const char* opcode_name(uint8_t opcode) {
  static const char* const names[] = {"NOP", "COPY", "LAUNCH", "FILL", "HOST"};
  return opcode < sizeof names / sizeof names[0] ? names[opcode] : "?";
}

void trace_op(Op* op, uint64_t end_ns, const baton_error* error) {
  baton_queue* q = op->queue;
  uint64_t now = now_ns();
  // An op issued while another ran starts, on the wall clock too, when that one ended. Links run several at once.
  uint64_t start = op->wall_start ? op->wall_start : now;
  if (q->kind == QueueKind::lane && op->opcode != BATON_OP_HOST) {
    start = std::min(now, std::max(start, q->wall_end));
    q->wall_end = now;
  }
  uint64_t begin = error ? 0 : std::min(op->start_ns ? op->start_ns : op->wait_ns, end_ns);
  call(op->instance, {q->name.c_str(), opcode_name(op->opcode), op->tag, error != nullptr, start, now, begin, error ? 0 : end_ns, op->bytes});
}

void trace_mark(Op* op, uint64_t at_ns) {
  uint64_t now = now_ns();
  call(op->instance, {op->queue->name.c_str(), "mark", op->tag, 0, now, now, at_ns, at_ns, 0});
}

}  // namespace baton::core

void baton_set_span_callback(baton_instance* in, baton_span_fn fn, void* user) {
  if (!in) return;
  baton::core::Hold hold(in);
  in->span = fn;
  in->span_user = user;
  in->watched = fn || in->validator;
}
