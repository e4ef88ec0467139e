// The command stream: one step at a time of the command at its head.
#include "emulators/cs3/session.h"
#include "emulators/cs3/wires.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace baton::cs3 {
namespace {

constexpr uint64_t kStepBytes = 1u << 20;  // of a copy, so that other sessions are served in between

}  // namespace

void Session::step() {
  slot_turn_ = !slot_turn_;
  const bool stream = stream_ready();
  if (slot_turn_ || !stream) {
    if (Slot* s = ready_slot()) return step_slot(*s);
    if (!stream) return;
  }
  Command& c = stream_.front();
  const bool part = is_transfer(Op(c.s.op)) && (c.s.flags & kMore);  // the plan counts whole transfers
  if (!c.met && !part) {
    c.met = true;
    const Status met = meet_fault(Op(c.s.op), &c);
    if (port_->broken() || resume_ns_) return;
    if (!met.ok()) return finish_stream(met, 0);
  }
  if (host_.lost) {
    end_launch();
    return finish_stream(*host_.lost, 0);
  }
  if (c.held) return finish_stream(Status(), *c.held);
  if (Op(c.s.op) == Op::launch && (c.s.flags & kInSlot)) return enter_slot(take(0));
  const uint64_t begin = now_ns();
  cost_ns_ = held_ns_ = 0;
  auto went = advance(c);
  const uint64_t wall = now_ns() - begin;
  c.wall_ns += wall;
  host_.wafer.counters.busy_ns += wall;
  if (!went) return finish_stream(went.error(), cost_ns_);
  if (*went != Went::over) return;
  if (!held_ns_) return finish_stream(Status(), cost_ns_);
  c.held = cost_ns_;
  held_by_ = host_.plans;
  resume_ns_ = now_ns() + held_ns_;
}

// A delay by the fault plan is part of what a stream command took.
void Session::finish_stream(const Status& st, uint64_t cost_ns) {
  const Command c = take(0);
  cost_ns += c.delay_ns;
  finish_command(c, st, cost_ns, cost_ns);
}

// `busy_ns`: what the wafer worked of `cost_ns`, which a pipeline spends with waiting too.
void Session::finish_command(const Command& c, const Status& st, uint64_t cost_ns, uint64_t busy_ns) {
  if (hung_ && hung_->launch == c.s.id) hung_.reset();
  TelemetryReply& t = host_.wafer.counters;
  if (st.ok()) {
    if (!(c.s.flags & kMore)) ++t.ops_done;
    t.modelled_ns += busy_ns;
    if (is_transfer(Op(c.s.op))) (is_inward(Op(c.s.op)) ? t.bytes_in : t.bytes_out) += c.s.bytes;
    if (Op(c.s.op) == Op::launch) ++t.launches;
  } else {
    ++t.ops_failed;
  }
  Completion out{};
  out.cost_ns = cost_ns;
  out.wall_ns = c.wall_ns;
  if (st.ok() && is_transfer(Op(c.s.op)) && !is_inward(Op(c.s.op)) && c.s.where == uint8_t(Where::arena)) out.payload_bytes = c.s.payload_bytes;
  finish(c.s, st, out);
}

Result<Session::Went> Session::advance(Command& c) {
  switch (Op(c.s.op)) {
    case Op::nop: return Went::over;
    case Op::memcpy_h2d:
    case Op::memcpy_d2h: return advance_memcpy(c);
    case Op::copy: return advance_copy(c);
    case Op::fill: return advance_fill(c);
    case Op::launch: return advance_launch(c);
    case Op::send:
    case Op::receive: return advance_symbol(c);
    default: return Error(BATON_INTERNAL, "not a stream command");
  }
}

// A transfer that came in chunks is one, of `total` bytes, counted with its last chunk.
void Session::end_transfer(const Submission& s, const Rectangle* r) {
  if (s.flags & kMore) return;
  const Wires w = wires_of(s, r, host_.faults.conditions());
  const WireTime t = w.time(host_.wafer.cost());
  w.count(host_.wafer.counters, t);
  cost_ns_ = uint64_t(std::llround(t.cost_ns));
  held_ns_ = uint64_t(t.waited_ns);
}

Result<Session::Went> Session::advance_memcpy(Command& c) {
  const Submission& s = c.s;
  if (s.symbol > kSramSymbol) return advance_symbol(c);
  if (s.x || s.y || s.w || s.h || s.elements_per_pe || (s.flags & (kAlongRows | kAlongColumns)) || s.row_stride || s.col_stride)
    return clients_bug("a rectangle of PEs, and no symbol on them", "name a symbol from get_id; sram is addressed linearly, with w = h = 0");
  BATON_ASSIGN(uint8_t* sram, host_.wafer.range(id_, s.mem, s.address, s.bytes));
  const bool in = is_inward(Op(s.op));
  if (s.where == uint8_t(Where::region)) return advance_region(c, sram, in);
  if (in) std::memcpy(sram, c.payload.data(), s.bytes);
  else std::memcpy(port_->answer(s), sram, s.bytes);
  end_transfer(s, nullptr);
  return Went::over;
}

Status Session::move_region(const Submission& s, uint8_t* bytes, uint64_t count, uint64_t done, bool in) {
  if (s.region == 0 || s.region > kMaxRegions || !regions_[s.region - 1])
    return Error(BATON_INVALID_ARGUMENT, fmt::format("host memory region {} is not registered", s.region), "send region_add first");
  if (s.payload_offset > uint64_t(INT64_MAX) || s.bytes > uint64_t(INT64_MAX) - s.payload_offset)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("offset {} in region {}", s.payload_offset, s.region), "");
  const int fd = regions_[s.region - 1].get();
  while (count) {
    const off_t at = off_t(s.payload_offset + done);
    const ssize_t n = in ? ::pread(fd, bytes, count, at) : ::pwrite(fd, bytes, count, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(fmt::format("host memory region {} at {}", s.region, at), errno);
    if (n == 0)
      return Error(BATON_INVALID_ARGUMENT, fmt::format("host memory region {} ends at {}, before the copy's {} + {} bytes", s.region, at, s.payload_offset, s.bytes),
                   "keep the host range inside of the memory object");
    bytes += n;
    done += uint64_t(n);
    count -= uint64_t(n);
  }
  return {};
}

Result<Session::Went> Session::advance_region(Command& c, uint8_t* sram, bool in) {
  const uint64_t n = std::min(kStepBytes, c.s.bytes - c.done);
  BATON_TRY(move_region(c.s, sram + c.done, n, c.done, in));
  c.done += n;
  if (c.done < c.s.bytes) return Went::on;
  end_transfer(c.s, nullptr);
  return Went::over;
}

// By way of a buffer of a step where the host's memory is a descriptor.
Result<Session::Went> Session::advance_symbol(Command& c) {
  const Submission& s = c.s;
  BATON_ASSIGN(const Symbol* symbol, symbols_.find(s.symbol));
  BATON_ASSIGN(const Rectangle r, rectangle_of(s, *symbol, symbols_.program, host_.faults.conditions()));
  const uint64_t bytes = uint64_t(symbol->area.w) * symbol->area.h * symbol->elements * 4;
  BATON_ASSIGN(uint8_t* base, host_.wafer.range(id_, symbol->mem, symbol->base, bytes));
  const PeWords words{reinterpret_cast<uint32_t*>(base), symbol->area.w, symbol->elements};
  const bool in = is_inward(Op(s.op)), region = s.where == uint8_t(Where::region);
  const uint64_t n = std::min(kStepBytes, s.bytes - c.done), first = (s.address + c.done) / r.element_bytes;
  if (!region && in) {
    scatter(r, first, {c.payload.data() + c.done, n}, words);
  } else if (!region) {
    gather(r, first, {port_->answer(s) + c.done, n}, words);
  } else {
    std::vector<uint8_t> staged(n);
    if (in) BATON_TRY(move_region(s, staged.data(), n, c.done, true));
    if (in) scatter(r, first, staged, words);
    else gather(r, first, staged, words);
    if (!in) BATON_TRY(move_region(s, staged.data(), n, c.done, false));
  }
  c.done += n;
  if (c.done < s.bytes) return Went::on;
  end_transfer(s, &r);
  return Went::over;
}

Result<Session::Went> Session::advance_copy(Command& c) {
  const Submission& s = c.s;
  BATON_ASSIGN(uint8_t* to, host_.wafer.range(id_, s.mem, s.address, s.bytes));
  BATON_ASSIGN(const uint8_t* from, host_.wafer.range(id_, s.src_mem, s.src_address, s.bytes));
  if (to < from + s.bytes && from < to + s.bytes && to != from)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("the source and the target of a copy of {} bytes overlap", s.bytes), "copy by way of another buffer");
  const uint64_t n = std::min(kStepBytes, s.bytes - c.done);
  if (n) std::memmove(to + c.done, from + c.done, n);
  c.done += n;
  return c.done < s.bytes ? Went::on : Went::over;
}

Result<Session::Went> Session::advance_fill(Command& c) {
  const Submission& s = c.s;
  BATON_ASSIGN(uint8_t* to, host_.wafer.range(id_, s.mem, s.address, s.bytes));
  const uint64_t n = std::min(kStepBytes, s.bytes - c.done);  // kStepBytes is a multiple of every pattern's length
  const uint32_t pattern = uint32_t(s.arg0);
  if (s.arg1 == 1) {
    std::memset(to + c.done, int(pattern & 0xff), n);
  } else {
    for (uint64_t i = 0; i < n; i += s.arg1) std::memcpy(to + c.done + i, &pattern, std::min<uint64_t>(s.arg1, n - i));
  }
  c.done += n;
  return c.done < s.bytes ? Went::on : Went::over;
}

// The table of bindings is copied before it is looked at: the client could change it meanwhile.
Result<Session::LaunchTable> Session::read_launch(Command& c) {
  LaunchTable t;
  LaunchHead& head = t.head;
  const std::vector<uint8_t> table(c.payload.data(), c.payload.data() + c.s.payload_bytes);
  if (table.size() < sizeof head) return Error(BATON_CORRUPT, "a launch without its table", "");
  std::memcpy(&head, table.data(), sizeof head);
  if (head.bindings > kMaxBindings || head.args > kMaxArgs ||
      table.size() != sizeof head + head.bindings * sizeof(LaunchBinding) + head.args * sizeof(int64_t))
    return Error(BATON_CORRUPT, fmt::format("a launch table of {} bytes for {} bindings and {} arguments", table.size(), head.bindings, head.args), "");
  const auto found = programs_.find(c.s.program);
  if (found == programs_.end() || !found->second->executable())
    return Error(BATON_INVALID_ARGUMENT, fmt::format("program {} is not loaded", c.s.program), "load it, and keep it until the launch is over");
  t.program = found->second.get();
  std::vector<LaunchBinding>& wire = t.wire;
  wire.resize(head.bindings);
  if (!wire.empty()) std::memcpy(wire.data(), table.data() + sizeof head, wire.size() * sizeof(LaunchBinding));
  bool taken[4] = {};
  for (LaunchBinding& b : wire) {
    b.name[sizeof b.name - 1] = 0;
    const bool own = b.role && b.mem == 0;
    if (b.role > uint32_t(Role::tokens) || (b.role && (head.stages < 2 || std::exchange(taken[b.role], true))) || (own && (b.bytes == 0 || b.bytes > kMaxStageBytes)))
      return Error(BATON_INVALID_ARGUMENT, fmt::format("binding '{}' in role {} with {} bytes", b.name, b.role, b.bytes), "the client's bug: roles belong to stages, each once, with at most 256 MiB");
    if (own) {
      t.bindings.push_back({b.name, {}});
      continue;
    }
    auto p = host_.wafer.range(id_, b.mem, b.address, b.bytes);
    if (!p) return Error(p.error().code, fmt::format("binding '{}': {}", b.name, p.error().what), p.error().next);
    t.bindings.push_back({b.name, std::span(*p, b.bytes)});
  }
  std::vector<int64_t>& args = t.args;
  args.resize(head.args);
  if (!args.empty()) std::memcpy(args.data(), table.data() + sizeof head + wire.size() * sizeof(LaunchBinding), args.size() * sizeof(int64_t));
  return t;
}

Status Session::pin(const LaunchTable& t, Pins& pins) {
  BATON_TRY(t.program->begin_run());
  pins.program = t.program;
  for (const LaunchBinding& b : t.wire) {
    if (b.mem == 0) continue;
    pins.buffers.push_back(b.mem);
    host_.wafer.use(b.mem, +1);
  }
  return {};
}

void Session::release(Pins& pins) {
  for (const uint32_t b : pins.buffers) host_.wafer.use(b, -1);
  if (pins.program) pins.program->end_run();
  pins = Pins();
}

void Session::post_mark(uint64_t id, uint64_t k, uint64_t offset_ns) {
  Completion p{};
  p.id = id;
  p.kind = uint8_t(Kind::progress);
  p.value = k;
  p.cost_ns = offset_ns;
  p.epoch = host_.wafer.epoch();
  port_->post(p, "");
}

Status Session::begin_launch(Command& c) {
  BATON_ASSIGN(const LaunchTable t, read_launch(c));
  if (t.head.stages > 1) return Error(BATON_INVALID_ARGUMENT, "a stage of a pipeline outside of a slot", "the client's bug: launch it with kInSlot");
  engine::RunHooks hooks;
  if (c.s.flags & kWantProgress)
    hooks.on_mark = [this, id = c.s.id](uint64_t k, uint64_t offset_ns) {
      post_mark(id, k, offset_ns);
      return true;  // a cancel ends the launch between two steps
    };
  BATON_TRY(pin(t, launch_.pins));
  launch_.run = std::make_unique<engine::Run>(*t.program->executable(), t.bindings, t.args, std::move(hooks));
  return {};
}

void Session::end_launch() {
  if (!launch_.run) return;
  launch_.run.reset();
  release(launch_.pins);
}

Result<Session::Went> Session::advance_launch(Command& c) {
  if (!launch_.run) BATON_TRY(begin_launch(c));
  const engine::Step step = launch_.run->step();
  if (step == engine::Step::more) return Went::on;
  cost_ns_ = launch_.run->modelled_ns();
  Status st;
  if (step == engine::Step::failed) st = launch_.run->error();
  end_launch();
  if (!st.ok()) return st.error();
  if (!c.hang) return Went::over;
  hung_ = {c.s.id, *c.hang};
  return Went::on;
}

}  // namespace baton::cs3
