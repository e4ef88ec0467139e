// What a client asks for that is answered at once.
#include "emulators/cs3/session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace baton::cs3 {
namespace {

constexpr size_t kQueued = 2 * kSqEntries;          // an honest client has at most kSqEntries in flight
constexpr uint64_t kQueuedBytes = 64ull << 20;      // inline payloads of queued commands (TCP)
constexpr size_t kMaxPrograms = 64;                 // guess: a session that loads more has lost count

}  // namespace

Session::Session(uint64_t id, Host& host, std::unique_ptr<Port> port, uint16_t minor)
    : id_(id), host_(host), port_(std::move(port)), minor_(minor), life_(minor == 0 ? Life::loaded : Life::fresh) {
  symbols_.program = {0, 0, uint16_t(host_.wafer.data().usable_width()), uint16_t(host_.wafer.data().usable_height())};
}

Session::~Session() {
  end_launch();
  for (auto& [number, s] : slots_) close_stage(s);
  programs_.clear();
  host_.wafer.free_session(id_);
}

// Progress fills the ring to the half at most, so that the completions of all that is in flight always have room.
bool Session::blocked() { return port_->room() < kSqEntries + 2; }

bool Session::delayed() const { return resume_ns_ != 0; }

bool Session::runnable() { return !blocked() && (stream_ready() || ready_slot()); }

bool Session::stream_ready() {
  if (stream_.empty() || (hung_ && !host_.lost)) return false;
  const bool mended = stream_.front().held && held_by_ != host_.plans;
  if (resume_ns_ && !mended && now_ns() < resume_ns_) return false;
  resume_ns_ = 0;
  return true;
}

bool Session::serve() {
  bool any = false;
  for (size_t i = 0; opening_ > 0 && i < kMaxStages; ++i)
    if (Peer& p = peers_[i]; p.opening) {
      p.out->look_at_clock();
      settle_peer(p);
    }
  while (!blocked() && stream_.size() < kQueued && queued_bytes_ < kQueuedBytes) {
    Submission s;
    Payload payload;
    if (port_->next(s, payload) != Pop::got) break;
    any = true;
    if (is_stream(Op(s.op)) && running()) {
      queued_bytes_ += payload.own.size();
      stream_.push({s, std::move(payload)});
    } else {
      control(s, payload);
    }
  }
  return any;
}

Session::Command Session::take(size_t index) {
  Command c = stream_.take(index);
  queued_bytes_ -= c.payload.own.size();
  return c;
}

void Session::finish(const Submission& s, const Status& st, Completion c) {
  c.id = s.id;
  c.kind = uint8_t(Kind::done);
  c.epoch = host_.wafer.epoch();
  std::string text;
  if (!st.ok()) {
    c.code = st.error().code;
    c.payload_bytes = 0;
    text = std::string(op_name(s.op)) + ": " + st.error().what;
    if (st.error().next[0]) text += std::string("\n") + st.error().next;
    if (text.size() > kTextBytes) text.resize(kTextBytes);
  }
  port_->post(c, text);
}

void Session::control(const Submission& s, const Payload& payload) {
  Completion c{};
  Status st = meet_fault(Op(s.op), nullptr);
  if (st.ok() && !port_->broken()) st = serve_control(s, payload, c);
  if (std::exchange(answered_later_, false)) return;
  if (!st.ok()) ++host_.wafer.counters.ops_failed;
  if (!port_->broken()) finish(s, st, c);
}

Status Session::serve_control(const Submission& s, const Payload& payload, Completion& c) {
  Status st;
  switch (Op(s.op)) {
    case Op::info: send_info(s, c); break;
    case Op::telemetry:
      c.payload_bytes = std::min<uint32_t>(s.payload_bytes, sizeof(TelemetryReply));
      host_.wafer.counters.dead_channels = host_.faults.conditions().dead_bits();
      if (c.payload_bytes) std::memcpy(port_->answer(s), &host_.wafer.counters, c.payload_bytes);
      break;
    case Op::get_id:
    case Op::symbol:
    case Op::port: st = control_symbol(s, payload, c); break;
    case Op::fault: st = control_fault(s, payload, c); break;
    case Op::clock: st = control_clock(s, c); break;
    case Op::load:
    case Op::run:
    case Op::stop:
      if (s.payload_bytes) st = Error(BATON_UNSUPPORTED, "an artifact by its name", "an emulator takes portable programs alone: load_begin");
      else st = control_life(Op(s.op), s);
      break;
    case Op::reset:
      host_.lost.reset();
      host_.reset(id_);
      break;
    case Op::peer_key:
    case Op::peer_open: st = control_peer(s, payload, c); break;
    case Op::cancel: cancel(s.arg0); break;
    case Op::alloc:
    case Op::free: st = control_memory(s, c); break;
    case Op::region_add:
    case Op::region_drop: st = control_region(s); break;
    case Op::load_begin:
    case Op::load_program:
    case Op::load_constant:
    case Op::load_chunk:
    case Op::load_finish:
    case Op::unload:
      try {
        st = control_load(s, payload, c);
      } catch (const std::bad_alloc&) {
        st = Error(BATON_CAPACITY, "the daemon's host has no memory for this load", "load a smaller program, or use a larger host");
      }
      break;
    default:
      st = clients_bug("the command stream is not running: SdkRuntime must be running to accept memcpy and launch commands",
                       "send load and run first, and nothing after stop");
      break;
  }
  return st;
}

// As SdkRuntime has it (facts/cs3 1.1): load once, run once, commands, stop once. A reset begins anew.
Status Session::control_life(Op op, const Submission& s) {
  constexpr char kOrder[] = "load once, run once, then commands, stop once; connect again for another round";
  if (op == Op::load) {
    if (life_ != Life::fresh) return clients_bug("load comes twice", kOrder);
    const Area all = symbols_.program, wanted{0, 0, s.w ? uint32_t(s.w) : all.w, s.h ? uint32_t(s.h) : all.h};
    if (!all.holds(wanted)) return clients_bug(fmt::format("a program of {} PEs: {} are usable", wanted.text(), all.text()), "info says how many");
    symbols_.program = wanted;
    life_ = Life::loaded;
  } else if (op == Op::run) {
    if (life_ != Life::loaded) return clients_bug("Cannot call run() multiple times, or call run() if load() has not been called", kOrder);
    life_ = Life::running;
  } else {
    if (life_ != Life::running) return clients_bug("stop without run", kOrder);
    drop_everything(Error(BATON_CANCELLED, "the command stream was stopped"));
    life_ = Life::stopped;
  }
  return {};
}

void Session::send_info(const Submission& s, Completion& c) {
  InfoReply r{};
  r.bytes = sizeof r;
  r.emulated = r.lanes = r.progress = 1;
  r.modelled = host_.wafer.cost() != nullptr;
  r.programs = uint32_t(programs_.size());
  r.epoch = host_.wafer.epoch();
  r.sram_bytes = host_.wafer.capacity();
  r.sram_used = host_.wafer.used();
  r.fabric_w = uint16_t(host_.wafer.data().usable_width());
  r.fabric_h = uint16_t(host_.wafer.data().usable_height());
  r.sessions = host_.sessions();
  const Conditions& broken = host_.faults.conditions();
  r.lost = host_.lost.has_value();
  r.channels = uint16_t(broken.alive(0));
  r.bad_row_count = uint16_t(broken.bad_rows.size());
  std::copy(broken.bad_rows.begin(), broken.bad_rows.end(), r.bad_rows);
  Error::put(r.model, "CS-3");
  Error::put(r.firmware, host_.firmware);
  if (host_.wafer.cost()) Error::put(r.timing, host_.wafer.cost()->name());
  c.payload_bytes = std::min<uint32_t>(s.payload_bytes, sizeof r);
  if (c.payload_bytes) std::memcpy(port_->answer(s), &r, c.payload_bytes);
}

Status Session::control_memory(const Submission& s, Completion& c) {
  if (Op(s.op) == Op::free && symbols_.uses(s.mem))
    return clients_bug(fmt::format("buffer {} belongs to a symbol", s.mem), "a symbol's memory goes with the session");
  if (Op(s.op) == Op::free) return host_.wafer.free(id_, s.mem);
  BATON_ASSIGN(const Block* b, host_.wafer.alloc(id_, s.bytes));
  c.handle = b->handle;
  c.address = b->address;
  return {};
}

Status Session::control_region(const Submission& s) {
  if (s.region == 0 || s.region > kMaxRegions)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("region {}: there are 1 to {}", s.region, kMaxRegions), "");
  if (Op(s.op) == Op::region_add) return add_region(s.region);
  regions_[s.region - 1].reset();
  return {};
}

// Only memory files: they are read and written with pread and pwrite, which neither block nor fault whatever the client does to them.
Status Session::add_region(uint32_t number) {
  Fd fd = port_->take_fd(number);
  if (!fd) return Error(BATON_INVALID_ARGUMENT, fmt::format("no descriptor was passed for region {}", number), "pass it on the unix socket first");
  struct stat st{};
  struct statfs fs{};
  if (::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode) || ::fcntl(fd.get(), F_GET_SEALS) < 0 || ::fstatfs(fd.get(), &fs) != 0 ||
      fs.f_type != TMPFS_MAGIC)
    return Error(BATON_UNSUPPORTED, "the descriptor is no memory file", "pass a memfd or a tmpfs file, or copy through the arena");
  regions_[number - 1] = std::move(fd);
  return {};
}

Status Session::control_load(const Submission& s, const Payload& payload, Completion& c) {
  if (Op(s.op) == Op::load_begin) {
    if (programs_.size() >= kMaxPrograms) return Error(BATON_CAPACITY, fmt::format("{} programs are loaded already", kMaxPrograms), "unload some");
    while (next_program_ == 0 || programs_.count(next_program_)) ++next_program_;
    auto loading = std::make_unique<Loading>(host_.wafer, host_.engine, s.bytes, host_.faults.conditions().bad_rows);
    c.handle = next_program_++;
    programs_[c.handle] = std::move(loading);
    return {};
  }
  const auto found = programs_.find(s.program);
  if (found == programs_.end()) return Error(BATON_INVALID_ARGUMENT, fmt::format("there is no program {}", s.program), "it was unloaded, or never loaded");
  Loading& l = *found->second;
  const std::span<const uint8_t> data(payload.data(), s.payload_bytes);
  switch (Op(s.op)) {
    case Op::load_program: return l.program_chunk(s.address, data);
    case Op::load_constant: return l.begin_constant(std::string(reinterpret_cast<const char*>(data.data()), data.size()), s.bytes);
    case Op::load_chunk: return l.constant_chunk(s.address, data);
    case Op::load_finish: return l.finish();
    default:
      if (l.running()) return Error(BATON_BUSY, fmt::format("program {} is running", s.program), "wait for the launch, or cancel it");
      programs_.erase(found);
      return {};
  }
}

void Session::cancel(uint64_t id) {
  for (size_t i = 0; i < stream_.size(); ++i) {
    if (stream_[i].s.id != id) continue;
    const Error e = because_of_hang(Error(BATON_CANCELLED, "cancelled by the client"));
    if (i == 0) {
      resume_ns_ = 0;
      if (stream_.front().s.op == uint16_t(Op::launch)) end_launch();
      finish_stream(e, 0);
    } else {
      finish(take(i).s, e, Completion{});
    }
    return;
  }
  for (auto& [number, s] : slots_)
    for (size_t i = 0; i < s.waiting.size(); ++i) {
      if (s.waiting[i].s.id != id) continue;
      const Error e = because_of_hang(Error(BATON_CANCELLED, "cancelled by the client"));
      if (i == 0) return end_stage(s, e);
      finish_command(s.waiting.take(i), e, 0, 0);
      return;
    }
}

void Session::drop_everything(const Error& why) {
  end_launch();
  const Error cause = because_of_hang(why);
  hung_.reset();
  resume_ns_ = 0;
  for (auto& [number, s] : slots_)
    while (!s.waiting.empty()) end_stage(s, cause);
  while (!stream_.empty()) finish(take(0).s, cause, Completion{});
  for (Peer& p : peers_) end_opening(p, why);
}

void Session::reset_by_other(uint64_t by_session) {
  if (by_session != id_) {  // first: what fails below does so for this
    Completion c{};
    c.kind = uint8_t(Kind::lost);
    c.epoch = host_.wafer.epoch();
    port_->post(c, "");
  }
  drop_everything(Error(BATON_DEVICE_LOST, fmt::format("the wafer was reset (epoch {})", host_.wafer.epoch()), "allocate and load again"));
  programs_.clear();
  symbols_.clear();
  symbols_.program = {0, 0, uint16_t(host_.wafer.data().usable_width()), uint16_t(host_.wafer.data().usable_height())};
  host_.wafer.free_session(id_);
  life_ = minor_ == 0 ? Life::loaded : Life::fresh;
  for (Fd& r : regions_) r.reset();
}

}  // namespace baton::cs3
