// The ops that nobody waits for: submit pushes commands in order, poll takes answers and tells the core.
#include "drivers/cs3/device.h"

#include <algorithm>
#include <cstring>

namespace baton::cs3 {
namespace {

constexpr uint64_t kAwakeNs = 50'000;        // after a submit: polled for, before the daemon is asked to ring
constexpr uint64_t kAliveNs = 1'000'000;     // while polling awake, how often the socket is looked at
constexpr uint64_t kRegionFrom = 4096;       // below, the arena's two short copies beat an fstat and a pread

const Memory* memory(void* handle) { return static_cast<const Memory*>(handle); }

}  // namespace

// ---- out ----

// Whose stream an op is in: a copy's or fill's memory says so; a nop is in its lane's.
System* Device::stream_of(const StreamOp& o) const {
  switch (o.op.opcode) {
    case BATON_OP_COPY: {
      const Memory *to = memory(o.op.u.copy.dst.mem), *from = memory(o.op.u.copy.src.mem);
      if (to && from && to->system != from->system) return nullptr;
      return to ? to->system : from->system;
    }
    case BATON_OP_FILL: return memory(o.op.u.fill.mem)->system;
    case BATON_OP_LAUNCH: return nullptr;
    default: return systems_[o.queue->lane].get();
  }
}

// A queue's ops run in order. A stream has an order of its own, and so has a slot; between them, the later op waits here.
bool Device::may_push(const StreamOp& o) const {
  const Queue& q = *o.queue;
  if (q.between_out) return false;
  if (o.op.opcode == BATON_OP_LAUNCH) return true;  // what is before it in the streams of its wafers is before it there
  if (q.launches_out) return false;
  for (const auto& s : systems_)
    if (s.get() != o.system && q.streams_out[s->index]) return false;
  return true;
}

void Device::count(StreamOp& o, int by) {
  Queue& q = *o.queue;
  if (o.op.opcode == BATON_OP_LAUNCH) q.launches_out += uint32_t(by);
  else if (o.system) q.streams_out[o.system->index] += uint32_t(by);
  else q.between_out += uint32_t(by);
  o.counted = by > 0;
}

bool Device::push_simple(StreamOp& o, uint32_t index, Submission& s) {
  Ticket* t = o.system->carrier->begin(0);
  if (!t) return false;
  t->owner = index;
  s.tag = o.op.tag;
  o.system->carrier->push(*t, s);
  ++o.outstanding;
  o.pushed = true;
  return true;
}

bool Device::awaited(const void* ptr, uint64_t bytes) const {
  const auto* begin = static_cast<const uint8_t*>(ptr);
  for (const StreamOp& o : ops_) {
    if (!o.reading) continue;
    const auto& c = o.op.u.copy;
    const auto* at = static_cast<const uint8_t*>(c.dst.ptr);
    if (begin < at + c.bytes && at < begin + bytes) return true;
  }
  return false;
}

// From wafer to wafer by way of this host: all of it here, then all of it there.
bool Device::push_between(StreamOp& o, uint32_t index) {
  const auto& c = o.op.u.copy;
  if (o.fetched && o.next == c.bytes) return o.pushed = true;
  const Memory& m = *memory(o.fetched ? c.dst.mem : c.src.mem);
  const uint64_t offset = o.fetched ? c.dst.offset : c.src.offset;
  o.between.resize(c.bytes);
  while (o.next < c.bytes && o.error.code == BATON_OK) {
    const uint32_t n = uint32_t(std::min<uint64_t>(kMaxPayload, c.bytes - o.next));
    Ticket* t = m.system->carrier->begin(n);
    if (!t) return false;
    if (o.fetched) std::memcpy(t->payload, o.between.data() + o.next, n);
    Submission s{};
    s.op = uint16_t(o.fetched ? Op::memcpy_h2d : Op::memcpy_d2h);
    s.tag = o.op.tag;
    s.mem = m.handle;
    s.address = m.address + offset + o.next;
    s.bytes = n;
    s.total = c.bytes;
    s.flags = o.next + n < c.bytes ? kMore : 0;
    t->owner = index;
    t->offset = o.next;
    m.system->carrier->push(*t, s);
    o.next += n;
    ++o.outstanding;
  }
  o.pushed = o.fetched || o.error.code != BATON_OK;
  return o.pushed;
}

bool Device::push_copy(StreamOp& o, uint32_t index) {
  const auto& c = o.op.u.copy;
  const bool in = c.dst.mem != nullptr, out = c.src.mem != nullptr;
  Submission s{};
  s.tag = o.op.tag;
  if (c.bytes == 0) {
    s.op = uint16_t(Op::nop);
    return push_simple(o, index, s);
  }
  const baton_driver_side& device = in ? c.dst : c.src;
  s.mem = memory(device.mem)->handle;
  s.address = memory(device.mem)->address + device.offset;
  if (in && out && !o.system) return push_between(o, index);
  if (in && out) {
    s.op = uint16_t(Op::copy);
    s.bytes = c.bytes;
    s.src_mem = memory(c.src.mem)->handle;
    s.src_address = memory(c.src.mem)->address + c.src.offset;
    return push_simple(o, index, s);
  }
  s.op = uint16_t(in ? Op::memcpy_h2d : Op::memcpy_d2h);
  s.total = c.bytes;
  // Two 16-bit elements a wavelet, in the wafer's own order, over all channels (or as many as the address says): the wire carries the bytes and nothing else (facts/cs3 1.2).
  s.element_bits = 32;
  s.order = uint8_t(Order::column_major);
  s.channels = options_.channels;
  const baton_driver_side& host = in ? c.src : c.dst;
  if (!o.decided) {
    // Host memory is read here, at the push, or by the daemon; what a copy before this one brings there is written when its answer is
    // absorbed. The wafer's own memory needs no such care: the stream is ordered.
    if (reads_out_ && awaited(host.ptr, c.bytes)) return false;
    o.decided = true;
    o.reading = out;
    reads_out_ += out;
    if (host.fd >= 0 && c.bytes >= kRegionFrom) {
      if (const Region* r = o.system->regions.use(*o.system->carrier, host.fd, !in)) o.region = r->number;
    }
  }
  if (o.region) {
    s.bytes = c.bytes;
    s.where = uint8_t(Where::region);
    s.region = o.region;
    s.payload_offset = host.fd_offset;
    return push_simple(o, index, s);
  }
  while (o.next < c.bytes && o.error.code == BATON_OK) {
    const uint32_t n = uint32_t(std::min<uint64_t>(kMaxPayload, c.bytes - o.next));
    Ticket* t = o.system->carrier->begin(n);
    if (!t) return false;
    if (in) std::memcpy(t->payload, static_cast<const uint8_t*>(host.ptr) + o.next, n);
    Submission chunk = s;
    chunk.address += o.next;
    chunk.bytes = n;
    chunk.flags = o.next + n < c.bytes ? kMore : 0;
    t->owner = index;
    t->offset = o.next;
    o.system->carrier->push(*t, chunk);
    o.next += n;
    ++o.outstanding;
  }
  o.pushed = true;
  return true;
}

bool Device::push_op(StreamOp& o, uint32_t index) {
  if (!o.counted) {
    o.system = stream_of(o);
    if (!may_push(o)) return false;
    count(o, +1);
  }
  Submission s{};
  switch (o.op.opcode) {
    case BATON_OP_NOP: s.op = uint16_t(Op::nop); return push_simple(o, index, s);
    case BATON_OP_COPY: return push_copy(o, index);
    case BATON_OP_LAUNCH: return push_launch(o, index);
    case BATON_OP_FILL: {
      const auto& f = o.op.u.fill;
      s.op = uint16_t(f.bytes ? Op::fill : Op::nop);
      if (f.bytes) {
        s.mem = memory(f.mem)->handle;
        s.address = memory(f.mem)->address + f.offset;
        s.bytes = f.bytes;
        s.arg0 = f.pattern;
        s.arg1 = f.pattern_bytes;
      }
      return push_simple(o, index, s);
    }
    default: fail_op(o, Error(BATON_UNSUPPORTED, "opcode " + std::to_string(o.op.opcode) + " on a CS-3", "", options_.shown)); return true;
  }
}

void Device::fail_op(StreamOp& o, const Error& e) {
  if (o.error.code == BATON_OK) o.error = e;
  o.pushed = true;
}

// Commands of a queue leave in submit order. Only what waits for a ticket, for host memory or for a launch holds up what comes after it.
void Device::push_ops() {
  for (size_t i = 0; i < queues_.size(); ++i) {
    Queue& q = *queues_[i];
    while (!q.to_push.empty()) {
      const uint32_t index = q.to_push.front();
      StreamOp& o = ops_[index];
      if (!o.pushed && !push_op(o, index)) break;
      q.to_push.take();
      o.listed = false;
      finish_if_over(index);
    }
  }
  if (cancels_wanted_) push_cancels();
  for (const auto& s : systems_) s->carrier->flush();
}

bool Device::to_push() const {
  return std::any_of(queues_.begin(), queues_.end(), [](const auto& q) { return !q->to_push.empty(); });
}

void Device::push_cancels() {
  for (StreamOp& o : ops_) {
    if (!o.used || !o.cancel_wanted || o.cancelled || o.outstanding == 0) continue;
    for (; o.stages_cancelled < o.stages_pushed; ++o.stages_cancelled) {
      Carrier& c = *o.launch_on[o.stages_cancelled]->carrier;
      Ticket* t = c.begin(0);
      if (!t) return;
      t->owner = kQuietOwner;
      Submission s{};
      s.op = uint16_t(Op::cancel);
      s.arg0 = o.launch_ids[o.stages_cancelled];
      c.push(*t, s);
    }
    o.cancelled = true;
    --cancels_wanted_;
  }
}

uint32_t Device::submit(Queue* queue, const baton_driver_op* ops, uint32_t count) {
  if (loss_ || any_broken()) {
    tell_lost();
    return count;  // the core has failed them already
  }
  uint32_t taken = 0;
  while (taken < count && !free_ops_.empty()) {
    const uint32_t index = free_ops_.back();
    free_ops_.pop_back();
    StreamOp& o = ops_[index];
    o = StreamOp();
    o.op = ops[taken++];
    o.queue = queue;
    o.used = o.listed = true;
    queue->to_push.push(index);
  }
  push_ops();
  wake();
  return taken;
}

// ---- in ----

bool Device::pump() {
  Event ev;
  for (size_t i = 0; i < systems_.size(); ++i) {  // in turns
    System& s = *systems_[(next_system_ + i) % systems_.size()];
    if (s.broken() || s.carrier->pop(ev) != Pop::got) continue;
    next_system_ = s.index + 1u;
    absorb(s, ev);
    return true;
  }
  return false;
}

void Device::absorb(System& system, const Event& ev) {
  if (!ev.ticket) {
    Error e(BATON_DEVICE_LOST, name_of(system) + " was reset by another client (epoch " +
                                   std::to_string(ev.c.epoch) + ")",
            "reset or reopen the device, allocate and load again", options_.shown);
    e.epoch = system.daemon.epoch = ev.c.epoch;
    system.reset_by_other = true;
    ++connection_;
    loss_ = e;
    return;
  }
  Ticket& t = *ev.ticket;
  if (t.owner < kOps) return absorb_op(system, t.owner, ev);
  if (!ev.last) return;
  if (t.owner == kWaitedOwner && t.id == waited_.id && waited_.system == &system) {
    waited_.c = ev.c;
    if (ev.c.code != BATON_OK) waited_.error = error_of(system, ev.c, ev.text);
    else if (waited_.answer) std::memcpy(waited_.answer, t.payload, std::min({ev.c.payload_bytes, waited_.answer_bytes, t.payload_bytes}));
    waited_.done = true;
  } else if (t.owner == kLoadOwner) {
    if (loads_out_) --loads_out_;
    if (ev.c.code != BATON_OK && load_error_.code == BATON_OK) load_error_ = error_of(system, ev.c, ev.text);
  }
  system.carrier->end(t);
}

void Device::absorb_op(System& system, uint32_t index, const Event& ev) {
  StreamOp& o = ops_[index];
  if (!ev.last) return absorb_mark(index, uint32_t(ev.ticket->offset), ev.c);
  Ticket& t = *ev.ticket;
  // Of the stages of a launch, the one that failed by itself has the cause; the others were cancelled.
  if (ev.c.code != BATON_OK && (o.error.code == BATON_OK || (o.error.code == BATON_CANCELLED && ev.c.code != BATON_CANCELLED))) o.error = error_of(system, ev.c, ev.text);
  if (ev.c.code == BATON_DEVICE_LOST && !o.orphan && !loss_) loss_ = o.error;  // the wafer itself: what is on it is gone
  const Submission& s = t.s;
  if (s.op == uint16_t(Op::memcpy_d2h) && s.where == uint8_t(Where::arena) && ev.c.code == BATON_OK && !o.orphan)
    std::memcpy((o.between.empty() ? static_cast<uint8_t*>(o.op.u.copy.dst.ptr) : o.between.data()) + t.offset, t.payload, s.payload_bytes);
  o.cost_ns = s.op == uint16_t(Op::launch) ? std::max(o.cost_ns, ev.c.cost_ns) : o.cost_ns + ev.c.cost_ns;
  system.carrier->end(t);
  --o.outstanding;
  if (!o.between.empty() && !o.fetched && o.outstanding == 0 && o.next == o.op.u.copy.bytes) {
    o.fetched = true;
    o.next = 0;
  }
  finish_if_over(index);
}

void Device::finish_if_over(uint32_t index) {
  StreamOp& o = ops_[index];
  if (o.listed || o.outstanding) return;
  if (o.region) o.system->regions.done(o.region);
  if (o.reading) --reads_out_;
  o.reading = false;
  notices_.push({index, true, 0, 0});
}

bool Device::deliver(const Notice& n) {
  StreamOp& o = ops_[n.op];
  if (!n.done) {
    if (o.orphan) return false;
    const uint64_t at = o.op.start_ns + n.offset_ns;
    if (host_.progress(o.op.cookie, n.k, o.clocked ? at - std::min(at, begin_ns(o)) : n.offset_ns) != 0 && !o.cancel_wanted) {
      o.cancel_wanted = true;
      ++cancels_wanted_;
    }
    return true;
  }
  if (o.cancel_wanted && !o.cancelled) --cancels_wanted_;
  Queue* q = o.queue;
  const uint64_t begin = begin_ns(o), end = o.op.start_ns + o.cost_ns;
  const uint64_t cost = o.clocked ? end - std::min(begin, end) : o.cost_ns;
  q->end_ns = begin + cost;
  if (o.counted) count(o, -1);
  o.used = false;
  o.between = {};
  free_ops_.push_back(n.op);
  if (o.orphan) {
    reap_queues();
    return false;
  }
  host_.complete(o.op.cookie, cost, o.error.code == BATON_OK ? nullptr : &o.error);
  return true;
}

uint32_t Device::poll(uint32_t budget) {
  if (lost_told_) return 0;
  uint32_t handled = 0;
  while (handled < budget && !loss_) {
    if (notices_.empty()) {
      if (!pump()) break;
      continue;
    }
    handled += deliver(notices_.take());
  }
  if (!any_broken() && (to_push() || cancels_wanted_)) push_ops();
  if (!loss_ && !any_broken()) settle(handled);
  if (loss_ || any_broken()) tell_lost();
  return handled;
}

// ---- sleeping ----

void Device::wake() {
  awake_until_ = now_ns() + kAwakeNs;
  if (awake_) return;
  awake_ = true;
  for (const auto& s : systems_)
    if (s->carrier) s->carrier->disarm();
  ring(again_.get());
}

// Ends the awake time once it is over: from here on the daemon rings. With something at hand already, it goes on.
void Device::settle(uint32_t handled) {
  const uint64_t now = now_ns();
  if (now - checked_ > kAliveNs) {
    checked_ = now;
    for (const auto& s : systems_) s->carrier->check_alive();
  }
  if (awake_) {
    if (handled) awake_until_ = now + kAwakeNs;
    const bool shared = std::any_of(systems_.begin(), systems_.end(), [](const auto& s) { return s->carrier->shares_cpu(); });
    if ((now < awake_until_ && !shared) || !notices_.empty()) return;
    drain(again_.get());
    awake_ = false;
  } else if (notices_.empty() && std::all_of(systems_.begin(), systems_.end(), [](const auto& s) { return s->carrier->armed(); })) {
    return;
  }
  bool quiet = notices_.empty();
  for (const auto& s : systems_) quiet = quiet && s->carrier->arm();
  if (!quiet) wake();
}

// ---- letting go ----

void Device::close_queue(Queue* queue) {
  queue->closed = true;
  for (StreamOp& o : ops_) {
    if (!o.used || o.queue != queue) continue;
    o.orphan = true;
    o.pushed = true;
    if (o.stages_pushed && !o.cancel_wanted) {
      o.cancel_wanted = true;
      ++cancels_wanted_;
    }
  }
  if (!any_broken()) push_ops();
  reap_queues();
}

// A closed queue stays until nothing of it is on a wafer: its slot is not free before.
void Device::reap_queues() {
  std::erase_if(queues_, [&](const auto& q) {
    return q->closed && std::none_of(ops_.begin(), ops_.end(), [&](const StreamOp& o) { return o.used && o.queue == q.get(); });
  });
}

// The core expects nothing any more. What the daemon still answers is absorbed without touching the core's memory.
void Device::abandon_all() {
  const bool dead = any_broken();
  notices_.clear();
  for (const auto& q : queues_) q->to_push.clear();
  cancels_wanted_ = 0;
  reads_out_ = 0;
  for (uint32_t i = 0; i < kOps; ++i) {
    StreamOp& o = ops_[i];
    if (!o.used) continue;
    o.orphan = o.pushed = true;
    o.cancel_wanted = o.cancelled = o.listed = o.reading = false;
    o.region = 0;
    if (dead) o.outstanding = 0;
    if (o.outstanding) continue;
    if (o.counted) count(o, -1);
    o.used = false;
    free_ops_.push_back(i);
  }
  reap_queues();
}

}  // namespace baton::cs3
