// submit.cc: checks a batch of ops, translates them into the core's, and lets them in: all or none.
#include "hal/core/link.h"
#include "hal/core/planner.h"
#include "hal/core/program.h"
#include "hal/core/queue.h"
#include "hal/core/schedule.h"
#include "hal/core/trace.h"

#include <cinttypes>
#include <cstddef>
#include <cstring>

namespace baton::core {
namespace {

const char* uri_of(const baton_queue* q) { return q->device ? q->device->uri.c_str() : q->name.c_str(); }

int32_t bad(const baton_queue* q, baton_error* error, const char* next, const std::string& what) {
  return fail(error, make_error(BATON_INVALID_ARGUMENT, uri_of(q), next, "%s", what.c_str()));
}

// [offset, offset + bytes) lies in the buffer, and the buffer is of this epoch.
int32_t check_range(const baton_queue* q, const baton_op& op, const char* side, const baton_buffer* b, uint64_t offset, uint64_t bytes,
                    baton_error* error) {
  if (!b) return bad(q, error, "", std::string(opcode_name(op.opcode)) + " " + side + ": no buffer");
  if (b->device->instance != q->instance) return bad(q, error, "", std::string(side) + " belongs to another instance");
  if (int32_t code = check_epoch(b->device, b->epoch, "buffer", error)) return code;
  if (bytes <= b->bytes && offset <= b->bytes - bytes) return BATON_OK;
  return fail(error, make_error(BATON_INVALID_ARGUMENT, uri_of(q), "offset + bytes must lie within the buffer",
                                "%s (tag %u) %s: %" PRIu64 " bytes at offset %" PRIu64 " of a buffer of %" PRIu64 " bytes",
                                opcode_name(op.opcode), op.tag, side, bytes, offset, b->bytes));
}

int32_t take_points(baton_queue* q, const baton_op& op, Op* to, baton_error* error) {
  for (int i = 0; i < 2; ++i) {
    baton_timeline *w = op.wait[i].timeline, *s = op.signal[i].timeline;
    if ((w && w->instance != q->instance) || (s && s->instance != q->instance))
      return bad(q, error, "", "a timeline of another instance");
    if (w) {
      retain(w);
      to->wait[i].timeline = w;
      to->wait[i].value = op.wait[i].value;
    }
    if (s) {
      retain(s);
      to->signal[i] = s;
      to->signal_value[i] = op.signal[i].value;
    }
  }
  return BATON_OK;
}

void keep(Op* to, int slot, baton_buffer* b) {
  retain(b);
  to->buffer[slot] = b;
}

int32_t take_copy(baton_queue* q, const baton_op& op, Op* to, baton_error* error) {
  baton_driver_op& d = to->driver;
  if (op.plan_op) {
    if (q->kind != QueueKind::table)
      return bad(q, error, "submit it to the queue of the transfer that made the plan", "a plan op on " + q->name);
    d.u.plan = {op.u.plan.plan, op.u.plan.step};
    d.reserved[0] = 1;  // tells a plan from a contiguous COPY
    return BATON_OK;
  }
  const auto& c = op.u.copy;
  if (int32_t code = check_range(q, op, "src", c.src, c.src_offset, c.bytes, error)) return code;
  if (int32_t code = check_range(q, op, "dst", c.dst, c.dst_offset, c.bytes, error)) return code;
  keep(to, 0, c.src);
  keep(to, 1, c.dst);
  to->bytes = d.u.copy.bytes = c.bytes;
  baton_device *src_device = q->device, *dst_device = q->device;
  if (q->kind == QueueKind::lane && c.src->device != q->device && c.dst->device != q->device)
    return fail(error, make_error(BATON_UNSUPPORTED, uri_of(q), "submit the copy to a link: baton_link_open(from, to)",
                                  "neither %s nor %s is memory of %s", c.src->device->shown.c_str(), c.dst->device->shown.c_str(),
                                  q->device->shown.c_str()));
  if (q->kind == QueueKind::link) {
    if (c.src->device != q->link->from || c.dst->device != q->link->to)
      return bad(q, error, "open a link for that pair, in that direction",
                 "a copy " + c.src->device->shown + " -> " + c.dst->device->shown + " on " + q->name);
    to->path = plan_link(c.src, c.dst);
    if (to->path == Path::none) return no_path(q->link->from, q->link->to, error);
    if (int32_t code = prepare_link(q, to->path, error)) return code;
    src_device = to->path == Path::memcpy || to->path == Path::on_to ? nullptr : q->link->from;
    dst_device = to->path == Path::memcpy || to->path == Path::on_from ? nullptr : q->link->to;
    if (c.src->device == c.dst->device) src_device = dst_device = q->link->from;
  }
  if (int32_t code = resolve_side(src_device, c.src, c.src_offset, d.u.copy.src, error)) return code;
  if (int32_t code = resolve_side(dst_device, c.dst, c.dst_offset, d.u.copy.dst, error)) return code;
  if (!c.bytes && q->kind != QueueKind::link) d.opcode = BATON_OP_NOP;  // nothing to move, but its points hold
  return BATON_OK;
}

int32_t take_fill(baton_queue* q, const baton_op& op, Op* to, baton_error* error) {
  const auto& f = op.u.fill;
  if (q->kind != QueueKind::lane) return bad(q, error, "submit it to a queue of the device", "FILL on " + q->name);
  if (int32_t code = check_range(q, op, "dst", f.dst, f.offset, f.bytes, error)) return code;
  if (f.dst->device != q->device)
    return bad(q, error, "submit it to a queue of the device", "FILL of memory of " + f.dst->device->shown + " on " + q->name);
  if (f.pattern_bytes != 1 && f.pattern_bytes != 2 && f.pattern_bytes != 4)
    return bad(q, error, "1, 2 or 4", "FILL with a pattern of " + std::to_string(f.pattern_bytes) + " bytes");
  if (f.bytes % f.pattern_bytes || f.offset % f.pattern_bytes)
    return bad(q, error, "offset and bytes must be multiples of the pattern",
               "FILL of " + std::to_string(f.bytes) + " bytes at " + std::to_string(f.offset) + " with a pattern of " +
                   std::to_string(f.pattern_bytes) + " bytes");
  keep(to, 1, f.dst);
  to->bytes = f.bytes;
  to->driver.u.fill = {f.dst->memory, f.offset, f.bytes, f.pattern, f.pattern_bytes};
  if (!f.bytes) to->driver.opcode = BATON_OP_NOP;
  return BATON_OK;
}

// Copies bindings, their names and the arguments into the op's own storage.
int32_t take_launch(baton_queue* q, const baton_op& op, Op* to, baton_error* error) {
  const auto& l = op.u.launch;
  if (q->kind != QueueKind::lane) return bad(q, error, "submit it to a queue of the device", "LAUNCH on " + q->name);
  if (!l.program || (op.binding_count && !l.bindings) || (op.arg_count && !l.args))
    return bad(q, error, "", "LAUNCH: program, bindings or args is NULL");
  if (l.program->device != q->device || l.program->lane != q->lane)
    return bad(q, error, "load the program onto the lane of the queue",
               "LAUNCH on " + q->name + " of a program on " + l.program->device->shown + " lane " + std::to_string(l.program->lane));
  if (int32_t code = check_epoch(q->device, l.program->epoch, "program", error)) return code;
  if (l.progress && l.progress->instance != q->instance) return bad(q, error, "", "a timeline of another instance");
  size_t name_bytes = 0;
  for (uint16_t i = 0; i < op.binding_count; ++i) {
    const baton_binding& b = l.bindings[i];
    if (!b.name) return bad(q, error, "", "LAUNCH: binding " + std::to_string(i) + " has no name");
    const std::string side = std::string("binding '") + b.name + "'";
    uint64_t bytes = b.bytes || !b.buffer || b.offset > b.buffer->bytes ? b.bytes : b.buffer->bytes - b.offset;
    if (int32_t code = check_range(q, op, side.c_str(), b.buffer, b.offset, bytes, error)) return code;
    if (b.buffer->device != q->device)
      return bad(q, error, "copy it there first", side + " is memory of " + b.buffer->device->shown + ", not of " + q->device->shown);
    name_bytes += std::strlen(b.name) + 1;
  }
  to->names.resize(name_bytes);
  to->bindings.clear();
  char* name = to->names.data();
  for (uint16_t i = 0; i < op.binding_count; ++i) {
    const baton_binding& b = l.bindings[i];
    size_t n = std::strlen(b.name) + 1;
    std::memcpy(name, b.name, n);
    to->bindings.push_back({name, b.buffer->memory, b.offset, b.bytes ? b.bytes : b.buffer->bytes - b.offset});
    name += n;
    retain(b.buffer);
    to->bound.push_back(b.buffer);
  }
  to->args.assign(l.args, l.args + op.arg_count);
  retain(l.program);
  to->program = l.program;
  if (l.progress) retain(l.progress);
  to->progress = l.progress;
  to->progress_base = l.progress_base;
  to->driver.u.launch = {l.program->handle,  to->bindings.data(), to->args.data(),
                         op.binding_count,   op.arg_count,        l.progress != nullptr || q->instance->span != nullptr};
  return BATON_OK;
}

int32_t translate(baton_queue* q, const baton_op& op, Op* to, baton_error* error) {
  to->queue = q;
  to->opcode = op.opcode;
  to->tag = op.tag;
  to->bytes = 0;
  to->driver.opcode = op.opcode;
  to->driver.reserved[0] = 0;
  if (op.flags || op.reserved) return bad(q, error, "zero what is not used", "flags of an op are " + std::to_string(op.flags));
  if (int32_t code = take_points(q, op, to, error)) return code;
  switch (op.opcode) {
    case BATON_OP_NOP: return BATON_OK;
    case BATON_OP_COPY: return take_copy(q, op, to, error);
    case BATON_OP_LAUNCH: return take_launch(q, op, to, error);
    case BATON_OP_FILL: return take_fill(q, op, to, error);
    case BATON_OP_HOST:
      to->host_fn = op.u.host.fn;
      to->host_user = op.u.host.user;
      return to->host_fn ? BATON_OK : bad(q, error, "", "HOST without a function");
    default: to->opcode = BATON_OP_NOP; return bad(q, error, "see baton_opcode", "opcode " + std::to_string(op.opcode));
  }
}

int32_t check_queue(baton_queue* q, uint32_t count, baton_error* error) {
  if (q->closing) return fail(error, make_error(BATON_CANCELLED, uri_of(q), "", "queue '%s' is being closed", q->name.c_str()));
  if (q->device && (q->device->gone || q->device->epoch != q->epoch)) return check_epoch(q->device, q->epoch, "queue", error);
  if (q->count + uint64_t(count) <= kMaxOps) return BATON_OK;
  return fail(error, make_error(BATON_CAPACITY, uri_of(q), "wait for some to complete", "queue '%s' has %u incomplete ops, %u more exceed %u",
                                q->name.c_str(), q->count, count, kMaxOps));
}

}  // namespace
}  // namespace baton::core

using namespace baton::core;

int32_t baton_submit(baton_queue* q, const baton_op* ops, uint32_t count, baton_error* error) {
  if (!q || (count && !ops)) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_submit: queue or ops is NULL"));
  baton_instance* in = q->instance;
  const bool inside = in->mu.owned();
  std::lock_guard lock(in->mu);
  if (int32_t code = check_queue(q, count, error)) return code;
  Op *first = nullptr, *last = nullptr;  // translated, chained by `next`
  for (uint32_t i = 0; i < count; ++i) {
    Op* op = in->ops.take();
    (last ? last->next : first) = op;
    last = op;
    int32_t code = translate(q, ops[i], op, error);
    if (code == BATON_OK) continue;
    while (first) {
      Op* next = first->next;
      discard(first);
      first = next;
    }
    return code;
  }
  while (first) {
    Op* next = first->next;
    enqueue(first);
    first = next;
  }
  drain(in);
  // A sleeping poller learns of work that no descriptor will tell it of.
  if (!inside && (in->more.load(std::memory_order_relaxed) || in->copying)) {
    in->more.store(true, std::memory_order_seq_cst);
    in->waker.kick();
  } else if (q->inflight && q->fd < 0) {
    in->nap_ns.store(0, std::memory_order_relaxed);
    in->waker.kick_sleepers();
  }
  return ok(error);
}
