#include "hal/core/link.h"

#include "hal/core/buffer.h"
#include "hal/core/planner.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace baton::core {
namespace {

constexpr uint64_t kMemcpyBytes = 256 << 10;  // copied in one visit: about 20 us, so that a poll stays short

Link& link_of(Op* parent) { return *parent->queue->link; }

void push(Op*& head, Op*& tail, Op* op) {
  op->ready_next = nullptr;
  (tail ? tail->ready_next : head) = op;
  tail = op;
}

void remove(Op*& head, Op*& tail, Op* op) {
  Op* before = nullptr;
  for (Op* o = head; o; before = o, o = o->ready_next) {
    if (o != op) continue;
    (before ? before->ready_next : head) = op->ready_next;
    if (tail == op) tail = before;
    op->ready_next = nullptr;
    return;
  }
}

int32_t make_staging(Link& link, baton_error* error) {
  if (link.base) return BATON_OK;
  constexpr uint64_t kBytes = Link::kSlots * Link::kSlotBytes;
  Fd fd(memfd_create("baton-staging", MFD_CLOEXEC));
  void* base = MAP_FAILED;
  if (fd && !ftruncate(fd.get(), kBytes)) base = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED)
    return fail(error, make_error(BATON_IO, link.from->uri.c_str(), "free host memory or raise the limit of open files",
                                  "cannot make %llu bytes of staging: %s", static_cast<unsigned long long>(kBytes), strerror(errno)));
  link.fd = std::move(fd);
  link.base = static_cast<uint8_t*>(base);
  link.free_slots = (1u << Link::kSlots) - 1;
  return BATON_OK;
}

int32_t open_inner(baton_queue* q, baton_device* d, baton_queue*& inner, baton_error* error) {
  if (inner && inner->epoch == d->epoch) return BATON_OK;
  if (inner) close_queue(std::exchange(inner, nullptr), make_error(BATON_DEVICE_LOST, d->uri.c_str(), "", "%s was reset", d->shown.c_str()));
  int32_t code = open_lane(d, 0, &inner, error);
  if (code == BATON_OK) inner->owner = q;
  return code;
}

// A child of `parent` for bytes [offset, offset + bytes) on an inner queue; sides are filled in by the caller.
Op* make_child(Op* parent, baton_queue* on, uint8_t hop, uint64_t offset, uint64_t bytes) {
  Op* child = parent->instance->ops.take();
  child->opcode = child->runs_as = BATON_OP_COPY;
  child->uses = true;
  child->tag = parent->tag;
  child->queue = on;
  child->parent = parent;
  child->hop = hop;
  child->moved = offset;
  child->bytes = child->u.copy.bytes = bytes;
  child->wait_ns = parent->wait_ns;
  for (int i = 0; i < 2; ++i) {  // its own: a parent that is failed early lets go of its buffers
    child->buffer[i] = parent->buffer[i];
    retain(child->buffer[i]);
  }
  on->accepted.fetch_add(1, std::memory_order_relaxed);
  ++parent->outstanding;
  return child;
}

baton_driver_side advanced(baton_driver_side side, uint64_t by) {
  if (side.mem) side.offset += by;
  else side.ptr = static_cast<uint8_t*>(side.ptr) + by;
  side.fd_offset += by;
  return side;
}

baton_driver_side slot_side(const Link& link, uint32_t slot) {
  baton_driver_side side{};
  side.ptr = link.base + slot * Link::kSlotBytes;
  side.fd = link.fd.get();
  side.fd_offset = slot * Link::kSlotBytes;
  return side;
}

// Hands chunks of staged copies to hop 1 while there are free slots.
void pump(Link& link) {
  while (link.staged_head && link.free_slots) {
    Op* parent = link.staged_head;
    if (parent->failure || parent->moved == parent->bytes) {
      remove(link.staged_head, link.staged_tail, parent);
      continue;
    }
    uint32_t slot = uint32_t(__builtin_ctz(link.free_slots));
    link.free_slots &= ~(1u << slot);
    uint64_t offset = parent->moved, bytes = std::min(Link::kSlotBytes, parent->bytes - offset);
    parent->moved += bytes;
    Op* child = make_child(parent, link.from_queue, 1, offset, bytes);
    child->slot = uint8_t(slot);
    child->wait_ns = std::max(child->wait_ns, link.slot_ns[slot]);
    child->u.copy.src = advanced(parent->u.copy.src, offset);
    child->u.copy.dst = slot_side(link, slot);
    enqueue(child);
  }
}

void second_hop(Link& link, Op* parent, const Op* first, uint64_t end_ns) {
  Op* child = make_child(parent, link.to_queue, 2, first->moved, first->bytes);
  child->slot = first->slot;
  child->wait_ns = end_ns;
  child->u.copy.src = slot_side(link, first->slot);
  child->u.copy.dst = advanced(parent->u.copy.dst, first->moved);
  enqueue(child);
}

void finish_if_over(Op* parent) {
  if (parent->outstanding || (!parent->failure && parent->moved < parent->bytes)) return;
  std::unique_ptr<baton_error> failure = std::move(parent->failure);
  complete_at(parent, parent->end_ns, failure.get());
}

}  // namespace

Link::~Link() {
  if (base) munmap(base, kSlots * kSlotBytes);
}

int32_t prepare_link(baton_queue* q, Path path, baton_error* error) {
  Link& link = *q->link;
  int32_t code = BATON_OK;
  if (path == Path::on_from || path == Path::staged) code = open_inner(q, link.from, link.from_queue, error);
  if (code == BATON_OK && (path == Path::on_to || path == Path::staged)) code = open_inner(q, link.to, link.to_queue, error);
  if (code == BATON_OK && path == Path::staged) code = make_staging(link, error);
  return code;
}

void issue_on_link(Op* op) {
  Link& link = link_of(op);
  op->moved = op->outstanding = 0;
  op->end_ns = op->wait_ns;
  if (op->opcode == BATON_OP_NOP || !op->bytes) return complete_at(op, op->wait_ns, nullptr);
  switch (op->path) {
    case Path::on_from:
    case Path::on_to: {
      op->moved = op->bytes;
      Op* child = make_child(op, op->path == Path::on_from ? link.from_queue : link.to_queue, 2, 0, op->bytes);
      child->slot = Link::kSlots;  // none
      child->u.copy = op->u.copy;
      return enqueue(child);
    }
    case Path::staged:
      push(link.staged_head, link.staged_tail, op);
      return pump(link);
    case Path::memcpy:
    case Path::none:
      if (!link.memcpy_head) ++op->instance->copying;
      push(link.memcpy_head, link.memcpy_tail, op);
      if (op->bytes <= kMemcpyBytes && link.memcpy_head == op) poll_link(op->queue);  // small: at once
      return;
  }
}

void child_done(Op* child, uint64_t end_ns, const baton_error* error) {
  baton_queue* q = child->queue->owner;
  Link& link = *q->link;
  Op* parent = child->parent;
  const bool staged = child->slot < Link::kSlots;
  const bool onward = staged && child->hop == 1 && parent && !error && !parent->failure;
  if (parent) {
    --parent->outstanding;
    if (error && !parent->failure) parent->failure = std::make_unique<baton_error>(*error);
    parent->end_ns = std::max(parent->end_ns, end_ns);
    if (!parent->start_ns) parent->start_ns = child->start_ns;
  }
  if (onward) {
    second_hop(link, parent, child, end_ns);
  } else if (staged) {
    link.free_slots |= 1u << child->slot;
    link.slot_ns[child->slot] = end_ns;
  }
  if (parent) finish_if_over(parent);
  if (!q->closing()) pump(link);
}

int32_t child_cancelled(const Op* child) {
  if (child->queue->closing() || child->queue->owner->closing() || !child->parent || child->parent->failure) return 1;
  for (const baton_timeline* t : child->parent->signal)
    if (t && t->poisoned()) return 1;
  return 0;
}

uint32_t poll_link(baton_queue* q) {
  Link& link = *q->link;
  Op* op = link.memcpy_head;
  if (!op) return 0;
  const baton_driver_side &src = op->u.copy.src, &dst = op->u.copy.dst;
  uint64_t n = std::min(kMemcpyBytes, op->bytes - op->moved);
  memmove(static_cast<uint8_t*>(dst.ptr) + op->moved, static_cast<uint8_t*>(src.ptr) + op->moved, n);
  op->moved += n;
  if (op->moved == op->bytes) complete_at(op, op->wait_ns, nullptr);  // detaching takes it off the list
  return 1;
}

void fail_links_of(baton_device* d, const baton_error& cause) {
  for (baton_queue* q : d->instance->queues)
    if (q && q->link && (q->link->from == d || q->link->to == d)) fail_all(q, cause, true);
}

void stop_link(baton_queue* q, const baton_error& cause) {
  Link& link = *q->link;
  while (link.memcpy_head) complete_at(link.memcpy_head, 0, &cause);
  for (Op *op = link.staged_head, *next; op; op = next) {
    next = op->ready_next;
    if (!op->outstanding) complete_at(op, 0, &cause);
    else if (!op->failure) op->failure = std::make_unique<baton_error>(cause);  // when its chunks are back
  }
}

void forget_parent(Op* parent) {
  baton_queue* q = parent->queue;
  Link& link = *q->link;
  remove(link.staged_head, link.staged_tail, parent);
  if (link.memcpy_head) {
    remove(link.memcpy_head, link.memcpy_tail, parent);
    if (!link.memcpy_head) --parent->instance->copying;
  }
  if (parent->outstanding)
    for (baton_queue* inner : {link.from_queue, link.to_queue})
      for (Op* child = inner ? inner->head : nullptr; child; child = child->next)
        if (child->parent == parent) child->parent = nullptr;
  parent->outstanding = 0;
  parent->failure.reset();
}

}  // namespace baton::core
