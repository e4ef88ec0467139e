#include "hal/core/submit.h"

#include "hal/core/link.h"
#include "hal/core/planner.h"
#include "hal/core/program.h"
#include "hal/core/schedule.h"
#include "hal/core/trace.h"
#include "hal/core/validate.h"

#include <cinttypes>
#include <cstring>

namespace baton::core {
namespace {

// What both submits do is inline in both: of an empty op it is a handful of tests, and the calls would cost as much again.
#define BATON_INLINE [[gnu::always_inline]] inline

const char* uri_of(const baton_queue* q) { return q->device ? q->device->uri.c_str() : q->name.c_str(); }

int32_t bad(const baton_queue* q, baton_error* error, const char* next, const std::string& what) {
  return fail(error, make_error(BATON_INVALID_ARGUMENT, uri_of(q), next, "%s", what.c_str()));
}

// ---- checks: without a lock, on what does not change while a handle lives ----

std::string side_text(const baton_op& op, const char* side) {
  return op.opcode == BATON_OP_LAUNCH ? std::string("binding '") + side + "'" : side;
}

// [offset, offset + bytes) lies in the buffer, and the buffer is of this epoch. `side`: "dst", or the name of a binding.
int32_t check_range(const baton_queue* q, const baton_op& op, const char* side, const baton_buffer* b, uint64_t offset, uint64_t bytes,
                    baton_error* error) {
  if (!b) return bad(q, error, "", std::string(opcode_name(op.opcode)) + " " + side_text(op, side) + ": no buffer");
  if (b->device->instance != q->instance) return bad(q, error, "", side_text(op, side) + " belongs to another instance");
  if (int32_t code = check_epoch(b->device, b->epoch, "buffer", error)) return code;
  if (bytes <= b->bytes && offset <= b->bytes - bytes) return BATON_OK;
  return fail(error, make_error(BATON_INVALID_ARGUMENT, uri_of(q), "offset + bytes must lie within the buffer",
                                "%s (tag %u) %s: %" PRIu64 " bytes at offset %" PRIu64 " of a buffer of %" PRIu64 " bytes",
                                opcode_name(op.opcode), op.tag, side_text(op, side).c_str(), bytes, offset, b->bytes));
}

bool foreign(const baton_queue* q, const baton_timeline* t) { return t && t->instance != q->instance; }

// A copy that a driver may have to be asked about: where the other device's memory can be reached. Asked for inside (prepare_copy).
bool crosses(const baton_queue* q, const baton_op& op) {
  return op.opcode == BATON_OP_COPY && !op.plan_op &&
         (q->kind != QueueKind::lane || op.u.copy.src->device != q->device || op.u.copy.dst->device != q->device);
}

int32_t check_copy(const baton_queue* q, const baton_op& op, baton_error* error) {
  if (op.plan_op) {
    if (q->kind == QueueKind::table) return BATON_OK;
    return bad(q, error, "submit it to the queue of the transfer that made the plan", "a plan op on " + q->name);
  }
  const auto& c = op.u.copy;
  if (int32_t code = check_range(q, op, "src", c.src, c.src_offset, c.bytes, error)) return code;
  if (int32_t code = check_range(q, op, "dst", c.dst, c.dst_offset, c.bytes, error)) return code;
  if (q->kind == QueueKind::lane && c.src->device != q->device && c.dst->device != q->device)
    return fail(error, make_error(BATON_UNSUPPORTED, uri_of(q), "submit the copy to a link: baton_link_open(from, to)",
                                  "neither %s nor %s is memory of %s", c.src->device->shown.c_str(), c.dst->device->shown.c_str(),
                                  q->device->shown.c_str()));
  if (q->kind == QueueKind::link && (c.src->device != q->link->from || c.dst->device != q->link->to))
    return bad(q, error, "open a link for that pair, in that direction",
               "a copy " + c.src->device->shown + " -> " + c.dst->device->shown + " on " + q->name);
  return BATON_OK;
}

int32_t check_fill(const baton_queue* q, const baton_op& op, baton_error* error) {
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
  return BATON_OK;
}

// Bytes that a binding names: to the end of the buffer, if it says 0.
uint64_t bytes_of(const baton_binding& b) {
  return b.bytes || !b.buffer || b.offset > b.buffer->bytes ? b.bytes : b.buffer->bytes - b.offset;
}

int32_t check_launch(const baton_queue* q, const baton_op& op, baton_error* error) {
  const auto& l = op.u.launch;
  if (q->kind != QueueKind::lane) return bad(q, error, "submit it to a queue of the device", "LAUNCH on " + q->name);
  if (!l.program || (op.binding_count && !l.bindings) || (op.arg_count && !l.args))
    return bad(q, error, "", "LAUNCH: program, bindings or args is NULL");
  if (l.program->device != q->device || l.program->lane != q->lane)
    return bad(q, error, "load the program onto the lane of the queue",
               "LAUNCH on " + q->name + " of a program on " + l.program->device->shown + " lane " + std::to_string(l.program->lane));
  if (int32_t code = check_epoch(q->device, l.program->epoch, "program", error)) return code;
  if (foreign(q, l.progress)) return bad(q, error, "", "a timeline of another instance");
  for (uint16_t i = 0; i < op.binding_count; ++i) {
    const baton_binding& b = l.bindings[i];
    if (!b.name) return bad(q, error, "", "LAUNCH: binding " + std::to_string(i) + " has no name");
    if (int32_t code = check_range(q, op, b.name, b.buffer, b.offset, bytes_of(b), error)) return code;
    if (b.buffer->device != q->device)
      return bad(q, error, "copy it there first",
                 side_text(op, b.name) + " is memory of " + b.buffer->device->shown + ", not of " + q->device->shown);
  }
  return BATON_OK;
}

BATON_INLINE int32_t check(const baton_queue* q, const baton_op& op, baton_error* error) {
  if (op.flags || op.reserved) return bad(q, error, "zero what is not used", "flags of an op are " + std::to_string(op.flags));
  if (foreign(q, op.wait[0].timeline) || foreign(q, op.wait[1].timeline) || foreign(q, op.signal[0].timeline) ||
      foreign(q, op.signal[1].timeline))
    return bad(q, error, "", "a timeline of another instance");
  switch (op.opcode) {
    case BATON_OP_NOP: return BATON_OK;
    case BATON_OP_COPY: return check_copy(q, op, error);
    case BATON_OP_LAUNCH: return check_launch(q, op, error);
    case BATON_OP_FILL: return check_fill(q, op, error);
    case BATON_OP_HOST: return op.u.host.fn ? BATON_OK : bad(q, error, "", "HOST without a function");
    default: return bad(q, error, "see baton_opcode", "opcode " + std::to_string(op.opcode));
  }
}

BATON_INLINE int32_t check_all(const baton_queue* q, const baton_op* ops, uint32_t count, bool& asks, baton_error* error) {
  for (uint32_t i = 0; i < count; ++i) {
    if (int32_t code = check(q, ops[i], error)) return code;
    asks = asks || crosses(q, ops[i]);
  }
  return BATON_OK;
}

constexpr int32_t kAsk = -1;  // no baton_code: the queue is being closed, or its instance validates

// The queue's device is there, in the queue's epoch.
int32_t check_device(const baton_queue* q, baton_error* error) {
  if (!q->device || (!q->device->gone && q->device->epoch == q->epoch)) return BATON_OK;
  return check_epoch(q->device, q->epoch, "queue", error);
}

// Makes room for `count` ops of a queue whose door is open, or refuses. kAsk: it is made, and the door is not simply open. Room that is not
// filled later is given back last of all, since whoever closes the queue waits for that before it goes.
int32_t reserve(baton_queue* q, uint32_t count, baton_error* error) {
  uint64_t accepted = q->accepted.load(std::memory_order_relaxed);
  do {
    const uint64_t incomplete = accepted - q->finished.load(std::memory_order_acquire);
    if (incomplete + count > kMaxOps && int64_t(incomplete) >= 0)
      return fail(error, make_error(BATON_CAPACITY, uri_of(q), "wait for some to complete",
                                    "queue '%s' has %" PRIu64 " incomplete ops, %u more exceed %u", q->name.c_str(), incomplete, count,
                                    kMaxOps));
  } while (!q->accepted.compare_exchange_weak(accepted, accepted + count, std::memory_order_seq_cst, std::memory_order_relaxed));
  if (q->door.load(std::memory_order_seq_cst)) return kAsk;
  const int32_t code = check_device(q, error);
  if (code != BATON_OK) q->accepted.fetch_sub(count, std::memory_order_seq_cst);
  return code;
}

// ---- inside: what drivers must be asked, and the translation, which cannot fail ----

// The sides of a COPY as the driver that runs it sees them. Opens what a link needs, asks for addresses and descriptors once.
int32_t resolve_copy(baton_queue* q, const baton_op& op, Path& path, baton_driver_side& src, baton_driver_side& dst, baton_error* error) {
  const auto& c = op.u.copy;
  baton_device *src_device = q->device, *dst_device = q->device;
  path = Path::none;
  if (q->kind == QueueKind::link) {
    path = plan_link(c.src, c.dst);
    if (path == Path::none) return no_path(q->link->from, q->link->to, error);
    if (int32_t code = prepare_link(q, path, error)) return code;
    src_device = path == Path::memcpy || path == Path::on_to ? nullptr : q->link->from;
    dst_device = path == Path::memcpy || path == Path::on_from ? nullptr : q->link->to;
    if (c.src->device == c.dst->device) src_device = dst_device = q->link->from;
  }
  if (int32_t code = resolve_side(src_device, c.src, c.src_offset, src, error)) return code;
  return resolve_side(dst_device, c.dst, c.dst_offset, dst, error);
}

int32_t prepare_copies(baton_queue* q, const baton_op* ops, uint32_t count, baton_error* error) {
  for (uint32_t i = 0; i < count; ++i) {
    if (!crosses(q, ops[i])) continue;
    Path path;
    baton_driver_side src, dst;
    if (int32_t code = resolve_copy(q, ops[i], path, src, dst, error)) return code;
  }
  return BATON_OK;
}

void keep(Op* to, int slot, baton_buffer* b) {
  retain(b);
  to->buffer[slot] = b;
  to->uses = true;
}

void take_copy(baton_queue* q, const baton_op& op, Op* to) {
  if (op.plan_op) {
    to->u.plan = {op.u.plan.plan, op.u.plan.step};
    to->planned = true;
    return;
  }
  const auto& c = op.u.copy;
  keep(to, 0, c.src);
  keep(to, 1, c.dst);
  to->bytes = to->u.copy.bytes = c.bytes;
  resolve_copy(q, op, to->path, to->u.copy.src, to->u.copy.dst, nullptr);  // prepared
  if (!c.bytes && q->kind != QueueKind::link) to->runs_as = BATON_OP_NOP;  // nothing to move, but its points hold
}

void take_fill(const baton_op& op, Op* to) {
  const auto& f = op.u.fill;
  keep(to, 1, f.dst);
  to->bytes = f.bytes;
  to->u.fill = {f.dst->memory, f.offset, f.bytes, f.pattern, f.pattern_bytes};
  if (!f.bytes) to->runs_as = BATON_OP_NOP;
}

// Copies bindings, their names and the arguments into the op's own storage.
void take_launch(baton_queue* q, const baton_op& op, Op* to) {
  const auto& l = op.u.launch;
  size_t name_bytes = 0;
  for (uint16_t i = 0; i < op.binding_count; ++i) name_bytes += std::strlen(l.bindings[i].name) + 1;
  to->names.resize(name_bytes);
  to->bindings.clear();
  char* name = to->names.data();
  for (uint16_t i = 0; i < op.binding_count; ++i) {
    const baton_binding& b = l.bindings[i];
    size_t n = std::strlen(b.name) + 1;
    std::memcpy(name, b.name, n);
    to->bindings.push_back({name, b.buffer->memory, b.offset, bytes_of(b)});
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
  to->u.launch = {l.program->handle,  to->bindings.data(), to->args.data(),
                         op.binding_count,   op.arg_count,        l.progress != nullptr || q->instance->span != nullptr};
}

void translate(baton_queue* q, const baton_op& op, Op* to) {
  to->queue = q;
  to->opcode = op.opcode;
  to->tag = op.tag;
  to->runs_as = op.opcode;
  to->planned = false;
  for (int i = 0; i < 2; ++i) {
    if (baton_timeline* w = op.wait[i].timeline) {
      retain(w);
      to->wait[i].timeline = w;
      to->wait[i].value = op.wait[i].value;
      to->waits = true;
    }
    if (baton_timeline* s = op.signal[i].timeline) {
      retain(s);
      to->signal[i] = s;
      to->signal_value[i] = op.signal[i].value;
    }
  }
  switch (op.opcode) {
    case BATON_OP_COPY: return take_copy(q, op, to);
    case BATON_OP_LAUNCH: return take_launch(q, op, to);
    case BATON_OP_FILL: return take_fill(op, to);
    case BATON_OP_HOST:
      to->host_fn = op.u.host.fn;
      to->host_user = op.u.host.user;
  }
}

// A sleeping poller learns of work that no descriptor will tell it of. `nested`: in a poll, which sees to it itself.
BATON_INLINE void announce(baton_queue* q, bool nested) {
  baton_instance* in = q->instance;
  if (!nested && (in->more.load(std::memory_order_relaxed) || in->copying)) {
    in->more.store(true, std::memory_order_seq_cst);
    in->waker.kick();
  } else if (q->inflight && q->fd < 0) {
    in->nap_ns.store(0, std::memory_order_relaxed);
    in->waker.kick_sleepers();
  }
}

template <bool validated>
void let_in_each(baton_queue* q, const baton_op* ops, uint32_t count, const baton_error* refused) {
  for (uint32_t i = 0; i < count; ++i) {
    Op* op = q->instance->ops.take();
    translate(q, ops[i], op);
    if constexpr (validated) q->instance->validator->submitted(op);
    enqueue(op, refused);
  }
}

// Inside, and leaves.
template <bool validated = false>
int32_t run(baton_queue* q, const baton_op* ops, uint32_t count, bool asks, bool nested, baton_error* error) {
  const int32_t code = asks ? prepare_copies(q, ops, count, error) : BATON_OK;
  if (code == BATON_OK) {
    let_in_each<validated>(q, ops, count, nullptr);
    drain(q->instance);
    announce(q, nested);
  }
  Hold::leave(q->instance);
  return code;
}

// An instance that validates posts nothing, and looks at handles before it touches what is theirs.
int32_t run_validated(baton_queue* q, const baton_op* ops, uint32_t count, baton_error* error) {
  baton_instance* in = q->instance;
  const bool inside = in->inside.owned();
  Hold hold(in);
  bool asks = false;
  if (int32_t code = in->validator->check_handles(q, ops, count, error)) return code;
  if (int32_t code = check_open(q, error)) return code;
  if (int32_t code = check_all(q, ops, count, asks, error)) return code;
  Hold::enter(in);  // once more, for run
  return run<true>(q, ops, count, asks, inside, error);
}

// Room is made and the door is not simply open: the queue is being closed, or its instance validates.
[[gnu::cold]] int32_t submit_slowly(baton_queue* q, const baton_op* ops, uint32_t count, baton_error* error) {
  const int32_t code = q->instance->validator ? run_validated(q, ops, count, error) : check_open(q, error);
  if (code == BATON_OK) return ok(error);
  q->accepted.fetch_sub(count, std::memory_order_seq_cst);
  return code;
}

}  // namespace

int32_t check_open(const baton_queue* q, baton_error* error) {
  if (!q->closing()) return check_device(q, error);
  return fail(error, make_error(BATON_CANCELLED, uri_of(q), "", "queue '%s' is being closed", q->name.c_str()));
}

void let_in(baton_queue* q, const baton_op* ops, uint32_t count, const baton_error* refused) {
  let_in_each<false>(q, ops, count, refused);
}

}  // namespace baton::core

using namespace baton::core;

int32_t baton_submit(baton_queue* q, const baton_op* ops, uint32_t count, baton_error* error) {
  if (!q || (count && !ops)) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_submit: queue or ops is NULL"));
  if (int32_t code = reserve(q, count, error)) return code == kAsk ? submit_slowly(q, ops, count, error) : code;
  baton_instance* in = q->instance;
  const bool inside = in->inside.owned();
  bool asks = false;  // drivers, and so must be inside
  int32_t code = check_all(q, ops, count, asks, error);
  if (code == BATON_OK && !Hold::try_enter(in)) {
    if (!asks && in->inbox.post(q, ops, count)) {
      Hold::attend(in);  // whoever was inside may have left before the post
      return ok(error);
    }
    Hold::enter(in);
  }
  if (code == BATON_OK) code = run(q, ops, count, asks, inside, error);
  if (code == BATON_OK) return ok(error);
  q->accepted.fetch_sub(count, std::memory_order_seq_cst);
  return code;
}
