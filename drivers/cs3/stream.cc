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

bool Device::push_simple(StreamOp& o, uint32_t index, Submission& s) {
  Ticket* t = carrier_->begin(0);
  if (!t) return false;
  t->owner = index;
  s.tag = o.op.tag;
  carrier_->push(*t, s);
  ++o.outstanding;
  o.pushed = true;
  return true;
}

bool Device::push_launch(StreamOp& o, uint32_t index) {
  const auto& l = o.op.u.launch;
  if (l.binding_count > kMaxBindings || l.arg_count > kMaxArgs) {
    fail_op(o, Error(BATON_INVALID_ARGUMENT, "a launch of " + std::to_string(l.binding_count) + " bindings and " + std::to_string(l.arg_count) +
                                                 " arguments: a CS-3 takes " + std::to_string(kMaxBindings) + " and " + std::to_string(kMaxArgs),
                     "", options_.shown));
    return true;
  }
  const uint32_t bytes = uint32_t(sizeof(LaunchHead) + l.binding_count * sizeof(LaunchBinding) + l.arg_count * sizeof(int64_t));
  Ticket* t = carrier_->begin(bytes);
  if (!t) return false;
  uint8_t* p = t->payload;
  const LaunchHead head{uint16_t(l.binding_count), uint16_t(l.arg_count), 0};
  std::memcpy(p, &head, sizeof head);
  p += sizeof head;
  for (uint32_t i = 0; i < l.binding_count; ++i, p += sizeof(LaunchBinding)) {
    const baton_driver_binding& b = l.bindings[i];
    const Memory* m = memory(b.mem);
    LaunchBinding w{{}, m->handle, 0, m->address + b.offset, b.bytes};
    if (std::strlen(b.name) >= sizeof w.name) {
      carrier_->end(*t);
      fail_op(o, Error(BATON_INVALID_ARGUMENT, "the name '" + std::string(b.name, 40) + "...' of a binding is over 63 bytes", "", options_.shown));
      return true;
    }
    std::strcpy(w.name, b.name);
    std::memcpy(p, &w, sizeof w);
  }
  if (l.arg_count) std::memcpy(p, l.args, l.arg_count * sizeof(int64_t));
  Submission s{};
  s.op = uint16_t(Op::launch);
  s.flags = l.want_progress ? kWantProgress : 0;
  s.tag = o.op.tag;
  s.program = static_cast<const LoadedProgram*>(l.program)->handle;
  t->owner = index;
  carrier_->push(*t, s);
  o.launch_id = t->id;
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
  if (in && out) {
    s.op = uint16_t(Op::copy);
    s.bytes = c.bytes;
    s.src_mem = memory(c.src.mem)->handle;
    s.src_address = memory(c.src.mem)->address + c.src.offset;
    return push_simple(o, index, s);
  }
  s.op = uint16_t(in ? Op::memcpy_h2d : Op::memcpy_d2h);
  s.total = c.bytes;
  // Two 16-bit elements a wavelet, in the wafer's own order, over all channels: the wire carries the bytes and nothing else (facts/cs3 1.2).
  s.element_bits = 32;
  s.order = uint8_t(Order::column_major);
  s.channels = kMaxChannels;
  const baton_driver_side& host = in ? c.src : c.dst;
  if (!o.decided) {
    // Host memory is read here, at the push, or by the daemon; what a copy before this one brings there is written when its answer is
    // absorbed. The wafer's own memory needs no such care: the stream is ordered.
    if (reads_out_ && awaited(host.ptr, c.bytes)) return false;
    o.decided = true;
    o.reading = out;
    reads_out_ += out;
    if (host.fd >= 0 && c.bytes >= kRegionFrom) {
      if (const Region* r = regions_.use(*carrier_, host.fd, !in)) o.region = r->number;
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
    Ticket* t = carrier_->begin(n);
    if (!t) return false;
    if (in) std::memcpy(t->payload, static_cast<const uint8_t*>(host.ptr) + o.next, n);
    Submission chunk = s;
    chunk.address += o.next;
    chunk.bytes = n;
    chunk.flags = o.next + n < c.bytes ? kMore : 0;
    t->owner = index;
    t->offset = o.next;
    carrier_->push(*t, chunk);
    o.next += n;
    ++o.outstanding;
  }
  o.pushed = true;
  return true;
}

bool Device::push_op(StreamOp& o, uint32_t index) {
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

// Commands leave in submit order: one ordered stream. Only what waits for a slot, or for host memory, holds up what comes after it.
void Device::push_ops() {
  while (!to_push_.empty()) {
    const uint32_t index = to_push_.front();
    StreamOp& o = ops_[index];
    if (!o.pushed && !push_op(o, index)) break;
    to_push_.take();
    o.listed = false;
    finish_if_over(index);
  }
  if (cancels_wanted_) push_cancels();
  carrier_->flush();
}

void Device::push_cancels() {
  for (StreamOp& o : ops_) {
    if (!o.used || !o.cancel_wanted || o.cancelled || o.outstanding == 0) continue;
    Ticket* t = carrier_->begin(0);
    if (!t) return;
    t->owner = kQuietOwner;
    Submission s{};
    s.op = uint16_t(Op::cancel);
    s.arg0 = o.launch_id;
    carrier_->push(*t, s);
    o.cancelled = true;
    --cancels_wanted_;
  }
}

uint32_t Device::submit(void* queue, const baton_driver_op* ops, uint32_t count) {
  if (loss_ || carrier_->is_broken()) {
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
    to_push_.push(index);
  }
  push_ops();
  wake();
  return taken;
}

// ---- in ----

bool Device::pump() {
  Event ev;
  if (carrier_->pop(ev) != Pop::got) return false;
  absorb(ev);
  return true;
}

void Device::absorb(const Event& ev) {
  if (!ev.ticket) {
    Error e(BATON_DEVICE_LOST, options_.address.host + ":" + options_.address.port + " was reset by another client (epoch " +
                                   std::to_string(ev.c.epoch) + ")",
            "reset or reopen the device, allocate and load again", options_.shown);
    e.epoch = daemon_.epoch = ev.c.epoch;
    ++connection_;
    loss_ = e;
    reset_by_others_ = true;
    return;
  }
  Ticket& t = *ev.ticket;
  if (t.owner < kOps) return absorb_op(t.owner, ev);
  if (!ev.last) return;
  if (t.owner == kWaitedOwner && t.id == waited_.id) {
    waited_.c = ev.c;
    if (ev.c.code != BATON_OK) waited_.error = error_of(ev.c, ev.text);
    else if (waited_.answer) std::memcpy(waited_.answer, t.payload, std::min({ev.c.payload_bytes, waited_.answer_bytes, t.payload_bytes}));
    waited_.done = true;
  } else if (t.owner == kLoadOwner) {
    if (loads_out_) --loads_out_;
    if (ev.c.code != BATON_OK && load_error_.code == BATON_OK) load_error_ = error_of(ev.c, ev.text);
  }
  carrier_->end(t);
}

void Device::absorb_op(uint32_t index, const Event& ev) {
  StreamOp& o = ops_[index];
  if (!ev.last) {
    notices_.push({index, false, ev.c.value, ev.c.cost_ns});
    return;
  }
  Ticket& t = *ev.ticket;
  if (ev.c.code != BATON_OK && o.error.code == BATON_OK) o.error = error_of(ev.c, ev.text);
  if (ev.c.code == BATON_DEVICE_LOST && !o.orphan && !loss_) loss_ = o.error;  // the wafer itself: what is on it is gone
  const Submission& s = t.s;
  if (s.op == uint16_t(Op::memcpy_d2h) && s.where == uint8_t(Where::arena) && ev.c.code == BATON_OK && !o.orphan)
    std::memcpy(static_cast<uint8_t*>(o.op.u.copy.dst.ptr) + t.offset, t.payload, s.payload_bytes);
  o.cost_ns += ev.c.cost_ns;
  carrier_->end(t);
  --o.outstanding;
  finish_if_over(index);
}

void Device::finish_if_over(uint32_t index) {
  StreamOp& o = ops_[index];
  if (o.listed || o.outstanding) return;
  if (o.region) regions_.done(o.region);
  if (o.reading) --reads_out_;
  o.reading = false;
  notices_.push({index, true, 0, 0});
}

bool Device::deliver(const Notice& n) {
  StreamOp& o = ops_[n.op];
  if (!n.done) {
    if (o.orphan) return false;
    if (host_.progress(o.op.cookie, n.k, n.offset_ns) != 0 && !o.cancel_wanted) {
      o.cancel_wanted = true;
      ++cancels_wanted_;
    }
    return true;
  }
  if (o.cancel_wanted && !o.cancelled) --cancels_wanted_;
  o.used = false;
  free_ops_.push_back(n.op);
  if (o.orphan) return false;
  host_.complete(o.op.cookie, o.cost_ns, o.error.code == BATON_OK ? nullptr : &o.error);
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
  if (!to_push_.empty() || cancels_wanted_) push_ops();
  if (!loss_ && !carrier_->is_broken()) settle(handled);
  if (loss_ || carrier_->is_broken()) tell_lost();
  return handled;
}

// ---- sleeping ----

void Device::wake() {
  awake_until_ = now_ns() + kAwakeNs;
  if (awake_) return;
  awake_ = true;
  carrier_->disarm();
  ring(again_.get());
}

// Ends the awake time once it is over: from here on the daemon rings. With something at hand already, it goes on.
void Device::settle(uint32_t handled) {
  const uint64_t now = now_ns();
  if (now - checked_ > kAliveNs) {
    checked_ = now;
    carrier_->check_alive();
  }
  if (awake_) {
    if (handled) awake_until_ = now + kAwakeNs;
    const bool shared = carrier_->shares_cpu();
    if ((now < awake_until_ && !shared) || !notices_.empty()) return;
    drain(again_.get());
    awake_ = false;
  } else if (notices_.empty() && carrier_->armed()) {
    return;
  }
  if (!notices_.empty() || !carrier_->arm()) wake();
}

// ---- letting go ----

void Device::drop_queue(void* queue) {
  for (StreamOp& o : ops_) {
    if (!o.used || o.queue != queue) continue;
    o.orphan = true;
    o.pushed = true;
    if (o.launch_id && !o.cancel_wanted) {
      o.cancel_wanted = true;
      ++cancels_wanted_;
    }
  }
  if (!carrier_->is_broken()) push_ops();
}

// The core expects nothing any more. What the daemon still answers is absorbed without touching the core's memory.
void Device::abandon_all() {
  const bool dead = !carrier_ || carrier_->is_broken();
  notices_.clear();
  to_push_.clear();
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
    o.used = false;
    free_ops_.push_back(i);
  }
}

}  // namespace baton::cs3
