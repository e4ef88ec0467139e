#include "hal/layers/tap.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace baton::layers {

const char* opcode_name(uint8_t opcode) {
  static const char* const kNames[] = {"NOP", "COPY", "LAUNCH", "FILL"};
  return opcode < std::size(kNames) ? kNames[opcode] : "?";
}

Tap::Tap(const baton_driver_host* to, const char* address, bool holds)
    : baton_layered{sizeof(baton_layered), 0, &services_, nullptr, nullptr, nullptr}, up(to), uri(address), services_(*to), holds_(holds) {
  services_.complete = on_complete;
  services_.progress = on_progress;
  services_.lost = on_lost;
  services_.core_device = static_cast<baton_layered*>(this);
}

void Tap::on_complete(void* cookie, uint64_t cost_ns, const baton_error* error) {
  Op* op = Cookies<Op>::find(cookie);
  if (!op) return;
  Queue& q = *op->queue;
  Op record = *op;
  q.tap->ops_.give(op);
  if (!error) record.start_ns = std::max(record.start_ns, q.end_ns);
  if (!error) q.end_ns = record.start_ns + cost_ns;
  q.tap->completed(record, cost_ns, error);
}

int32_t Tap::on_progress(void* cookie, uint64_t k, uint64_t offset_ns) {
  Op* op = Cookies<Op>::find(cookie);
  if (!op) return 1;
  if (k) op->queue->tap->marked(*op, k, offset_ns);
  return op->queue->tap->up->progress(op->up, k, offset_ns);
}

void Tap::on_lost(void* device, const baton_error* error) {
  Tap* t = of(device);
  t->was_lost(error);
  t->up->lost(t->up->core_device, error);
}

int32_t Tap::reset(baton_error* e) {
  const int32_t code = next->reset(device, e);
  ops_.give_up([](const Op&) { return true; });  // of the epoch that ended
  for (auto& q : queues_)
    if (q->held) q->held->clear();
  was_reset(code);
  return code;
}

int32_t Tap::open_queue(uint32_t lane, void** out, int* fd, baton_error* e) {
  auto q = std::make_unique<Queue>();
  q->tap = this;
  q->lane = lane;
  if (int32_t code = next->queue_open(device, lane, &q->below, fd, e)) return code;
  if (holds_) {
    q->held = std::make_unique<Held>();
    if (Status s = q->held->open(*fd); !s.ok()) {
      if (next->queue_close) next->queue_close(device, q->below);
      *e = s.error();
      return e->code;
    }
    *fd = q->held->fd();
  }
  q->number = ++opened_;
  opened(*q);
  *out = q.get();
  queues_.push_back(std::move(q));
  return BATON_OK;
}

void Tap::close_queue(Queue* q) {
  if (next->queue_close) next->queue_close(device, q->below);
  closed(*q);
  ops_.give_up([q](const Op& op) { return op.queue == q; });
  std::erase_if(queues_, [q](auto& p) { return p.get() == q; });
}

int32_t Tap::submit(Queue& q, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e) {
  std::vector<baton_driver_op> batch = std::move(batch_);
  std::vector<Op*> sent_ops = std::move(sent_);
  batch.resize(std::max<size_t>(batch.size(), count));
  sent_ops.resize(batch.size());
  for (uint32_t i = 0; i < count; ++i) {
    const baton_driver_op& from = ops[i];
    Op* op = sent_ops[i] = ops_.take();
    op->queue = &q;
    op->up = from.cookie;
    op->opcode = from.opcode;
    op->tag = from.tag;
    op->start_ns = from.start_ns;
    op->bytes = from.opcode == BATON_OP_COPY ? from.u.copy.bytes : from.opcode == BATON_OP_FILL ? from.u.fill.bytes : 0;
    std::memcpy(&batch[i], &from, from.opcode == BATON_OP_NOP ? offsetof(baton_driver_op, u) : sizeof from);
    batch[i].cookie = op->cookie();
    sending(*op, from);
  }
  *taken = 0;
  const int32_t code = next->submit(device, q.below, batch.data(), count, taken, e);
  sent(q, sent_ops.data(), count, *taken, code);
  for (uint32_t i = *taken; i < count; ++i)
    if (Op* op = Cookies<Op>::find(batch[i].cookie)) ops_.give(op);
  batch_ = std::move(batch);
  sent_ = std::move(sent_ops);
  return code;
}

uint32_t Tap::poll(Queue& q, uint32_t budget) {
  uint32_t n = q.held ? q.held->release(up) : 0;
  if (next->poll) n += next->poll(device, q.below, budget);
  return n;
}

baton_driver Tap::slots() {
  baton_driver t{};
  t.struct_size = sizeof t;
  t.abi_version = BATON_ABI_VERSION;
  t.reset = [](void* d, baton_error* e) { return of(d)->reset(e); };
  t.queue_open = [](void* d, uint32_t lane, void** q, int* fd, baton_error* e) { return of(d)->open_queue(lane, q, fd, e); };
  t.queue_close = [](void* d, void* q) { of(d)->close_queue(static_cast<Queue*>(q)); };
  t.submit = [](void* d, void* q, const baton_driver_op* ops, uint32_t n, uint32_t* taken, baton_error* e) {
    return of(d)->submit(*static_cast<Queue*>(q), ops, n, taken, e);
  };
  t.poll = [](void* d, void* q, uint32_t budget) { return of(d)->poll(*static_cast<Queue*>(q), budget); };
  return t;
}

}  // namespace baton::layers
