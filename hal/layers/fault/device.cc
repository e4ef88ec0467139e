#include "hal/layers/fault/device.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace baton::layers {
namespace {

constexpr uint64_t kRestNs = 5'000'000'000;

void nap(uint64_t ns) {
  const timespec t{time_t(ns / 1'000'000'000), long(ns % 1'000'000'000)};
  nanosleep(&t, nullptr);
}

[[noreturn]] void kill_self() {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

// Flips `count` different bits of [data, data + bytes).
void flip(uint8_t* data, uint64_t bytes, uint32_t count, uint64_t random) {
  std::vector<uint64_t> chosen;
  const uint64_t bits = bytes * 8;
  while (chosen.size() < std::min<uint64_t>(count, bits)) {
    random = random * 6364136223846793005ull + 1442695040888963407ull;  // Knuth's MMIX
    uint64_t bit = (random >> 16) % bits;
    while (std::find(chosen.begin(), chosen.end(), bit) != chosen.end()) bit = (bit + 1) % bits;
    chosen.push_back(bit);
    data[bit / 8] ^= uint8_t(1u << bit % 8);
  }
}

void on_complete(void* cookie, uint64_t cost_ns, const baton_error* error) {
  FaultOp* f = Cookies<FaultOp>::find(cookie);
  if (!f) return;
  FaultDevice& d = f->queue->device;
  FaultQueue& q = *f->queue;
  const Rule* rule = f->decision.rule;
  void* up = f->up;
  if (rule && rule->action == Action::corrupt && !error && f->reachable) flip(f->reachable, f->bytes, rule->bits, f->decision.random);
  f->forged.clear();
  d.ops.give(f);
  if (d.losing) return;
  if (rule && rule->action == Action::delay) return q.held.hold(now_ns() + rule->delay_ns, up, cost_ns, error);
  d.up->complete(up, cost_ns, error);
  if (rule && rule->action == Action::duplicate) d.up->complete(up, cost_ns, error);
}

int32_t on_progress(void* cookie, uint64_t k, uint64_t offset_ns) {
  FaultOp* f = Cookies<FaultOp>::find(cookie);
  if (!f || f->queue->device.losing) return 1;
  return f->queue->device.up->progress(f->up, k, offset_ns);
}

void on_lost(void* device, const baton_error* error) {
  auto* d = static_cast<FaultDevice*>(device);
  if (!d->losing) d->up->lost(d->up->core_device, error);
}

}  // namespace

FaultDevice::FaultDevice(Trigger& t, const baton_driver_host* to, const char* address)
    : baton_layered{sizeof(baton_layered), 0, &services, nullptr, nullptr, nullptr}, trigger(t), up(to), services(*to), uri(address),
      points(t.points(uri)) {
  services.complete = on_complete;
  services.progress = on_progress;
  services.lost = on_lost;
  services.core_device = this;
}

int32_t FaultDevice::gate(uint32_t point, baton_error* e, bool* drop) {
  if (!(points & point)) return BATON_OK;
  const Trigger::Decision d = trigger.decide(uri, point, 0, 0);
  if (!d.rule) return BATON_OK;
  switch (d.rule->action) {
    case Action::delay: nap(d.rule->delay_ns); return BATON_OK;
    case Action::drop: *drop = true; return BATON_OK;  // plan.cc lets it match calls that ask alone
    case Action::kill: kill_self();
    case Action::lose: lose(d); [[fallthrough]];
    default: *e = Trigger::error(d); return e->code;
  }
}

void FaultDevice::lose(const Trigger::Decision& decision) {
  losing = true;
  for (const uint64_t end = now_ns() + kRestNs; next && ops.below() && now_ns() < end;) {
    uint32_t n = 0;
    for (auto& q : queues)
      if (next->poll) n += next->poll(device, q->below, 256);
    if (!n) nap(50'000);
  }
  for (auto& q : queues) q->held.clear();
  losing = false;
  const Error e = Trigger::error(decision);
  up->lost(up->core_device, &e);
}

int32_t FaultDevice::reset(baton_error* e) {
  if (int32_t code = gate(kReset, e)) return code;
  const int32_t code = next->reset(device, e);
  ops.give_up([](const FaultOp&) { return true; });  // of the epoch that ended
  for (auto& q : queues) q->held.clear();
  return code;
}

int32_t FaultDevice::open_queue(uint32_t lane, void** out, int* fd, baton_error* e) {
  if (int32_t code = gate(kQueueOpen, e)) return code;
  auto q = std::make_unique<FaultQueue>(*this, lane);
  if (int32_t code = next->queue_open(device, lane, &q->below, fd, e)) return code;
  if (Status s = q->held.open(*fd); !s.ok()) {
    if (next->queue_close) next->queue_close(device, q->below);
    *e = s.error();
    return e->code;
  }
  *fd = q->held.fd();
  *out = q.get();
  queues.push_back(std::move(q));
  return BATON_OK;
}

void FaultDevice::close_queue(FaultQueue* q) {
  if (next->queue_close) next->queue_close(device, q->below);
  ops.give_up([q](const FaultOp& f) { return f.queue == q; });
  std::erase_if(queues, [q](auto& p) { return p.get() == q; });
}

int32_t FaultQueue::pass(const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e) {
  FaultDevice& d = device;
  std::vector<baton_driver_op> batch = std::move(d.batch);
  batch.resize(std::max<size_t>(batch.size(), count));
  for (uint32_t i = 0; i < count; ++i) {
    FaultOp* f = d.ops.take();
    f->queue = this;
    f->up = ops[i].cookie;
    f->decision.rule = nullptr;
    std::memcpy(&batch[i], &ops[i], ops[i].opcode == BATON_OP_NOP ? offsetof(baton_driver_op, u) : sizeof ops[i]);
    batch[i].cookie = f->cookie();
  }
  *taken = 0;
  const int32_t code = d.next->submit(d.device, below, batch.data(), count, taken, e);
  for (uint32_t i = *taken; i < count; ++i)
    if (FaultOp* f = Cookies<FaultOp>::find(batch[i].cookie)) d.ops.give(f);
  d.batch = std::move(batch);
  return code;
}

// Finds the bytes that a corruption is to change: the destination, or in place of a destination out of reach a copy of the source.
bool FaultQueue::aim(baton_driver_op& op, FaultOp& f) {
  const bool copy = op.opcode == BATON_OP_COPY;
  f.bytes = copy ? op.u.copy.bytes : op.u.fill.bytes;
  void* memory = copy ? op.u.copy.dst.mem : op.u.fill.mem;
  f.reachable = copy ? static_cast<uint8_t*>(op.u.copy.dst.ptr) : nullptr;
  if (!memory) return true;
  void* base = nullptr;
  Error ignored;
  if (device.next->map && device.next->map(device.device, memory, &base, &ignored) == BATON_OK && base) {
    f.reachable = static_cast<uint8_t*>(base) + (copy ? op.u.copy.dst.offset : op.u.fill.offset);
    return true;
  }
  f.reachable = nullptr;
  if (!copy || op.u.copy.src.mem) return false;
  const auto* from = static_cast<const uint8_t*>(op.u.copy.src.ptr);
  f.forged.assign(from, from + f.bytes);
  flip(f.forged.data(), f.bytes, f.decision.rule->bits, f.decision.random);
  op.u.copy.src.ptr = f.forged.data();
  op.u.copy.src.fd = -1;
  op.u.copy.src.fd_offset = 0;
  return true;
}

int32_t FaultQueue::pass_treated(const baton_driver_op& given, Trigger::Decision& decision, uint32_t* taken, baton_error* e) {
  FaultDevice& d = device;
  baton_driver_op op = given;
  FaultOp* f = d.ops.take();
  f->queue = this;
  f->up = op.cookie;
  f->decision = decision;
  f->reachable = nullptr;
  if (decision.rule->action == Action::corrupt && !aim(op, *f)) {
    d.ops.give(f);
    *taken = 1;
    Error why = Trigger::error(decision);
    why = Error(BATON_UNSUPPORTED, std::string(why.what) + ": memory of " + d.uri + " cannot be reached to corrupt it",
                "match a COPY whose one side is host memory");
    d.up->complete(given.cookie, 0, &why);
    return BATON_OK;
  }
  op.cookie = f->cookie();
  void* const cookie = op.cookie;
  *taken = 0;
  const int32_t code = d.next->submit(d.device, below, &op, 1, taken, e);
  if (!*taken)
    if (FaultOp* still = Cookies<FaultOp>::find(cookie)) {
      still->forged.clear();
      d.ops.give(still);
    }
  return code;
}

int32_t FaultQueue::submit(const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error* e) {
  FaultDevice& d = device;
  for (uint32_t done = *taken = 0; done < count; *taken = done) {
    uint32_t run = 0, passed = 0;
    while (done + run < count && !(d.points & point_of_opcode(ops[done + run].opcode))) ++run;
    if (run) {
      const int32_t code = pass(ops + done, run, &passed, e);
      *taken = done += passed;
      if (code != BATON_OK || passed < run) return code;
      continue;
    }
    const baton_driver_op& op = ops[done];
    Trigger::Decision decision = d.trigger.decide(d.uri, point_of_opcode(op.opcode), op.tag, lane);
    const Action action = decision.rule ? decision.rule->action : Action::fail;
    if (!decision.rule || action == Action::delay || action == Action::duplicate || action == Action::corrupt) {
      const int32_t code = decision.rule ? pass_treated(op, decision, &passed, e) : pass(&op, 1, &passed, e);
      if (!passed) {
        d.trigger.undo(decision);
        return code;
      }
      ++done;
      if (code != BATON_OK) return *taken = done, code;
      continue;
    }
    ++done;
    if (action == Action::kill) kill_self();
    if (action == Action::drop) {
      held.hold(Held::kNever, op.cookie, 0, nullptr);
    } else if (action == Action::lose) {
      d.lose(decision);
      return *taken = count, BATON_OK;  // the core has failed them all
    } else {
      const Error failed = Trigger::error(decision);
      d.up->complete(op.cookie, 0, &failed);
    }
  }
  return BATON_OK;
}

uint32_t FaultQueue::poll(uint32_t budget) {
  uint32_t n = held.release(device.up);
  if (device.next->poll) n += device.next->poll(device.device, below, budget);
  return n;
}

}  // namespace baton::layers
