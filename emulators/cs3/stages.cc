// A session's slots: launches that have left the command stream, and what stages on other wafers send to them.
#include "emulators/cs3/session.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>

namespace baton::cs3 {
namespace {

constexpr size_t kInboxMessages = 64;             // of a slot: an honest pipeline has one or two under way
constexpr uint64_t kInboxBytes = 512ull << 20;    // of a session

}  // namespace

// The launch at the head of the stream goes on in its slot: its kernel has unblocked the stream.
void Session::enter_slot(Command c) {
  LaunchHead head{};
  if (c.s.payload_bytes >= sizeof head) std::memcpy(&head, c.payload.data(), sizeof head);
  if (head.slot >= kMaxSlots) return finish_command(c, Error(BATON_INVALID_ARGUMENT, fmt::format("slot {}: there are {}", head.slot, kMaxSlots)), 0, 0);
  if (c.hang) hung_ = {c.s.id, *c.hang};  // it runs, but nothing behind it in the stream does
  Slot& s = slots_[head.slot];
  s.number = head.slot;
  s.waiting.push(std::move(c));
}

bool Session::slot_ready(Slot& s) {
  if (s.waiting.empty()) return false;
  if (host_.lost) return true;
  if (s.stage) return !peer_lost_.empty() || s.stage->ready(s.inbox);
  return !s.hangs;
}

// Of those that could go on, the one that is furthest behind in modelled time: the wafer serves first what was ready first, not what the
// emulator happened to look at first. Of equals, one in the middle of an iteration, then in turn. What has not begun, begins.
Session::Slot* Session::ready_slot() {
  Slot* next = nullptr;
  std::tuple<uint64_t, bool, uint16_t> best;
  for (auto& [number, s] : slots_) {
    if (!slot_ready(s)) continue;
    const std::tuple at(ready_ns(s), s.stage && s.stage->between_iterations(), uint16_t(number - last_slot_ - 1));
    if (next && at >= best) continue;
    next = &s;
    best = at;
  }
  return next;
}

uint64_t Session::ready_ns(Slot& s) { return s.stage ? s.stage->ready_ns(s.inbox) : 0; }

// The order of events holds over all wafers that one pipeline of this daemon crosses; between unrelated clients there is none.
Session& Session::furthest_behind() {
  const auto at = [](Session& s) {
    if (s.stream_ready()) return uint64_t(0);
    Slot* slot = s.ready_slot();
    return slot ? s.ready_ns(*slot) : UINT64_MAX;
  };
  Session* best = this;
  uint64_t best_ns = at(*this);
  Session* s = next_stage();
  for (uint32_t hops = 1; s && s != this && hops < kMaxStages; ++hops, s = s->next_stage()) {
    if (s->blocked()) continue;
    if (const uint64_t ns = at(*s); ns < best_ns) best = s, best_ns = ns;
  }
  return *best;
}

Session* Session::next_stage() {
  for (const Peer& p : peers_)
    if (p.session) return host_.find(*p.session);
  return nullptr;
}

void Session::step_slot(Slot& s) {
  last_slot_ = s.number;
  if (host_.lost) return end_stage(s, *host_.lost);
  const uint64_t begin = now_ns();
  Status st;
  bool over = false;
  if (!s.stage) st = begin_stage(s, s.waiting.front());
  if (s.stage && !peer_lost_.empty() && s.pipelined) st = Error(BATON_PEER_LOST, peer_lost_, "the client sees that daemon's loss too: reopen the device");
  else if (s.stage && s.stage->ready(s.inbox)) over = s.stage->step(s.inbox) == Stage::Went::over;
  const uint64_t wall = now_ns() - begin;
  s.waiting.front().wall_ns += wall;
  host_.wafer.counters.busy_ns += wall;
  if (over && s.stage->error().code != BATON_OK) st = s.stage->error();
  s.hangs = over && st.ok() && s.waiting.front().hang;
  if (s.hangs) close_stage(s);
  else if (over || !st.ok()) end_stage(s, st);
}

void Session::end_stage(Slot& s, const Status& st) {
  const Command c = s.waiting.take();
  uint64_t cost = 0, busy = 0;
  if (s.stage) {
    cost = s.stage->now_ns() - std::min(s.stage->now_ns(), c.s.arg0);
    busy = s.stage->busy_ns();
    s.end_ns = std::max(s.end_ns, s.stage->now_ns());
    close_stage(s);
  }
  s.hangs = false;
  s.ended = std::max(s.ended, c.s.arg1);
  finish_command(c, st, cost, busy);
}

void Session::close_stage(Slot& s) {
  if (!s.stage) return;
  const uint64_t own = s.stage->own_bytes();
  s.stage.reset();  // tells the others, if it failed
  release(s.pins);
  host_.wafer.uncharge(own);
}

Status Session::begin_stage(Slot& s, Command& c) {
  BATON_ASSIGN(LaunchTable t, read_launch(c));
  const uint32_t stages = std::max<uint32_t>(1, t.head.stages);
  if (t.head.stage >= stages || stages > kMaxStages || c.s.arg1 <= s.ended)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("stage {} of {}, number {} after {}", t.head.stage, t.head.stages, c.s.arg1, s.ended),
                 "the client's bug: numbers of a slot rise, stages are counted from 0");
  const engine::CostModel* cost = host_.wafer.cost();
  Stage::Plan plan;
  plan.number = c.s.arg1;
  plan.slot = t.head.slot;
  plan.stage = t.head.stage;
  plan.stages = uint8_t(stages);
  plan.launch_ns = cost ? uint64_t(std::llround(cost->launch_ns())) : 0;
  // A launch that was there before the slot was free has its way to the wafer behind it.
  plan.start_ns = std::max(c.s.arg0, s.end_ns > plan.launch_ns ? s.end_ns - plan.launch_ns : 0) + c.delay_ns;
  plan.progress = (c.s.flags & kWantProgress) != 0;
  const char* names[4] = {};
  uint64_t own = 0;
  std::optional<std::span<uint8_t>>* const places[4] = {nullptr, &plan.input, &plan.output, &plan.tokens};
  std::vector<engine::Binding> bindings;
  for (size_t i = 0; i < t.wire.size(); ++i) {
    const LaunchBinding& b = t.wire[i];
    if (b.role) {
      names[b.role] = b.name;
      *places[b.role] = t.bindings[i].data;
      if (b.mem == 0) plan.own_bytes[b.role] = b.bytes, own += b.bytes;
    }
    if (b.mem != 0) bindings.push_back(t.bindings[i]);
  }
  const bool pipelined = stages > 1;
  if (pipelined && ((plan.stage > 0) != plan.input.has_value() || (plan.stage + 1u < stages) != plan.output.has_value()))
    return Error(BATON_INVALID_ARGUMENT, fmt::format("stage {} of {} without its input or output", t.head.stage, stages), "the client's bug: all stages but the first have an input, all but the last an output");
  if (pipelined && (c.s.mem >= kMaxStages || (!peers_[c.s.mem].out && !peers_[c.s.mem].session)))
    return Error(BATON_INVALID_ARGUMENT, "a stage of a pipeline, and nowhere to send to", "the client's bug: send peer_open first");
  BATON_TRY(host_.wafer.charge(own, t.program->executable()->program().name));
  if (Status st = pin(t, s.pins); !st.ok()) {
    host_.wafer.uncharge(own);
    return st;
  }
  s.pipelined = pipelined;
  Stage::Tell tell;
  if (pipelined) tell.send = [this, to = c.s.mem](StageMessage&& m) { send_to_peer(peers_[to], std::move(m)); };
  tell.mark = [this, id = c.s.id, start = c.s.arg0](uint64_t k, uint64_t at_ns) { post_mark(id, k, at_ns - std::min(at_ns, start)); };
  s.stage = std::make_unique<Stage>(plan, *t.program->executable(), std::move(bindings), t.args, names, calendar_, cost, std::move(tell));
  return {};
}

// ---- peers ----

void Session::send_to_peer(Peer& p, StageMessage&& m) {
  if (p.out) {
    p.out->send(m);
    if (!p.out->why().empty()) lose_peer(p.out->why());
  } else if (p.session) {
    Session* to = host_.find(*p.session);
    if (!to || !to->deliver(std::move(m))) lose_peer("the session of another stage is over");
  }
}

bool Session::peer_event(uint64_t event_id, uint32_t events) {
  for (Peer& p : peers_) {
    if (!p.out || p.out->id() != event_id) continue;
    p.out->on_event(events);
    settle_peer(p);
    return true;
  }
  return false;
}

// Answers what opened it, if that is over; one that was there and is not any more is lost.
void Session::settle_peer(Peer& p) {
  if (!p.opening) {
    if (!p.out->why().empty()) lose_peer(p.out->why());
    return;
  }
  if (p.out->opening()) return;
  end_opening(p, p.out->why().empty() ? Status() : Status(Error(BATON_PEER_LOST, p.out->why(), "see that the daemons of one device reach each other")));
}

void Session::end_opening(Peer& p, const Status& st) {
  if (!p.opening) return;
  const Submission s = *std::exchange(p.opening, std::nullopt);
  --opening_;
  if (!st.ok()) {
    p = {};
    ++host_.wafer.counters.ops_failed;
  }
  if (!port_->broken()) finish(s, st, Completion{});
}

bool Session::deliver(StageMessage&& m) {
  if (m.frame.slot >= kMaxSlots) return false;
  Slot& s = slots_[m.frame.slot];
  if (m.frame.number <= s.ended) return true;  // for a launch that is over here
  uint64_t bytes = m.payload.size();
  for (auto& [number, slot] : slots_)
    for (size_t i = 0; i < slot.inbox.size(); ++i) bytes += slot.inbox[i].payload.size();
  if (s.inbox.size() >= kInboxMessages || bytes > kInboxBytes) return false;
  s.inbox.push(std::move(m));
  return true;
}

void Session::lose_peer(const std::string& why) {
  if (peer_lost_.empty()) peer_lost_ = why;
}

Status Session::control_peer(const Submission& s, const Payload& payload, Completion& c) {
  if (Op(s.op) == Op::peer_key) {
    if (!has_key_ && ::getrandom(key_.data(), key_.size(), 0) != ssize_t(key_.size())) return io_error("getrandom", errno);
    has_key_ = true;
    c.payload_bytes = std::min<uint32_t>(s.payload_bytes, uint32_t(key_.size()));
    if (c.payload_bytes) std::memcpy(port_->answer(s), key_.data(), c.payload_bytes);
    return {};
  }
  return open_peer(s, payload);
}

Status Session::open_peer(const Submission& s, const Payload& payload) {
  SessionKey key{};
  if (s.payload_bytes < key.size() || s.payload_bytes > 1024 || s.arg0 >= kMaxStages) return Error(BATON_INVALID_ARGUMENT, "peer_open without a key, or with a number over 15");
  std::memcpy(key.data(), payload.data(), key.size());
  Peer& p = peers_[s.arg0];
  end_opening(p, Error(BATON_CANCELLED, "another peer_open came for this number"));
  p = {};
  peer_lost_.clear();
  if (host_.find(key)) {  // of this daemon
    p.session = key;
    return {};
  }
  BATON_ASSIGN(HostPort to, parse_host_port(std::string_view(reinterpret_cast<const char*>(payload.data()) + key.size(), s.payload_bytes - key.size())));
  auto opened = host_.open_peer(to, key);
  if (!opened) return Error(BATON_PEER_LOST, fmt::format("{}:{}: {}", to.host, to.port, opened.error().what), "see that the daemons of one device reach each other");
  p.out = std::move(*opened);
  p.opening = s;
  ++opening_;
  answered_later_ = true;
  return {};
}

}  // namespace baton::cs3
