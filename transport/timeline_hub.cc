#include "transport/timeline_hub.hpp"

#include "transport/kv_wire.hpp"
#include "transport/remote_timeline_impl.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace baton::transport {
namespace {

constexpr char kKey[] = "timelines";
constexpr size_t kListed = 160; // bytes of names in a refusal

}  // namespace

// ---- a side ----

void TimelineSide::rose(uint64_t value, uint64_t modelled_ns) {
  value_ = value;
  modelled_ = modelled_ns;
  tell_values();
}

// Telling may lose a session, which ends ends, and leaves them in the list.
void TimelineSide::tell_values() {
  for (size_t i = 0; i < ends.size(); ++i) tell_value(*ends[i]);
}

void TimelineSide::tell_value(TimelineEnd& e) {
  if (!e.session || !e.sends || e.known >= value_) return;
  if (e.on_board && e.board) {
    e.known = value_;
    if (e.board->publish(e.slot, value_, modelled_)) (void)e.session->send_signal({0, 0, 0}); // not sent: enough is on its way to wake it
  } else if (e.session->send_signal({e.peer, value_, modelled_})) {
    e.known = value_;
  } else {
    hub_->fall_behind();
  }
}

void TimelineSide::failed(const Error& why) {
  for (size_t i = 0; i < ends.size(); ++i) tell_poison(*ends[i], why);
}

void TimelineSide::tell_poison(TimelineEnd& e, const Error& why) {
  if (!e.session || !e.sends) return;
  Session::Impl& s = *std::exchange(e.session, nullptr);
  (void)send_transport(s, "tl.poison", {{"to", e.peer}, {"error", to_json(why)}});
}

void TimelineSide::endpoint_closed() {
  watch_.reset();
  ends.clear();
  hub_ = nullptr;
}

// ---- the hub ----

TimelineHub& TimelineHub::of(Endpoint::Impl& ep) {
  auto& slot = ep.attached[kKey];
  if (!slot) slot = std::make_unique<TimelineHub>(ep);
  return *static_cast<TimelineHub*>(slot.get());
}

TimelineHub::~TimelineHub() {
  for (TimelineSide* s : sides_) s->endpoint_closed();
  ep_.remove(this);
}

void TimelineHub::leave(TimelineSide& side) {
  for (auto& e : side.ends) {
    drop(*e);
    ends_.erase(e->id);
  }
  std::erase(sides_, &side);
  std::erase_if(exports_, [&](const auto& x) { return x.second == &side; });
}

TimelineEnd& TimelineHub::add_end(TimelineSide& side, Session::Impl& s) {
  auto& e = *side.ends.emplace_back(std::make_unique<TimelineEnd>());
  e.id = next_id_++;
  e.session = &s;
  ends_[e.id] = {&side, &e};
  return e;
}

Status TimelineHub::publish(ExportedTimeline::Impl& x) {
  if (!exports_.emplace(x.name, &x).second)
    return Error(BATON_BUSY, fmt::format("a timeline is exported as '{}' already", x.name), "choose another name, or destroy the other export");
  return {};
}

Result<ExportedTimeline::Impl*> TimelineHub::admit(Session::Impl& s, const std::string& name, bool signal) const {
  const auto it = exports_.find(name);
  if (it == exports_.end() || !it->second->visible_to(s)) {
    std::string there;
    size_t more = 0;
    for (const auto& [n, x] : exports_) {
      if (!x->visible_to(s)) continue;
      if (there.size() + n.size() > kListed) ++more;
      else there += (there.empty() ? "'" : ", '") + n + "'";
    }
    if (more) there += fmt::format(" and {} more", more);
    return Error(BATON_NOT_FOUND, fmt::format("no timeline '{}' is exported to this peer; there are: {}", name.substr(0, kMaxTimelineName), there.empty() ? "none" : there),
                 "check the name, or export it first");
  }
  if (signal && !it->second->options.peer_may_signal)
    return Error(BATON_PERMISSION, fmt::format("timeline '{}' may be looked at, not signalled", name), "export it with peer_may_signal, or import it without signal");
  const auto mine = std::count_if(ends_.begin(), ends_.end(), [&](const auto& e) { return e.second.end->owner && e.second.end->session == &s; });
  if (size_t(mine) >= kMaxImports) return Error(BATON_CAPACITY, fmt::format("this peer has imported {} timelines, the limit", mine), "destroy some RemoteTimelines");
  return it->second;
}

void TimelineHub::import(Session::Impl& s, const Message& m) {
  const auto from = u64_of(m.body, "from");
  if (!from) return;
  const bool signal = m.body.contains("signal") && m.body["signal"] == true;
  auto x = admit(s, text_of(m.body, "name").value_or(""), signal);
  if (!x.ok()) {
    (void)send_transport(s, "tl.refuse", {{"to", *from}, {"error", to_json(x.error())}});
    return;
  }
  TimelineEnd& e = add_end(**x, s);
  e.peer = *from;
  e.owner = e.sends = true;
  e.takes = signal;
  (*x)->welcome(e);
}

void TimelineHub::drop(TimelineEnd& e) {
  if (e.board) std::exchange(e.board, nullptr)->give(e.slot);
}

// ---- boards ----

void TimelineHub::offer_board(TimelineEnd& e, nlohmann::json& accept) {
  Session::Impl& s = *e.session;
  if (!s.same_host || s.peer.pids != my_identity(ep_.options).pids) return;
  auto& board = written_[&s];
  if (!board) {
    auto made = TimelineBoard::make(s.id);
    if (!made.ok()) return; // by the stream, then
    board = std::move(*made);
  }
  const auto slot = board->take();
  if (!slot) return;
  e.board = board.get();
  e.slot = *slot;
  accept["board"] = board->fd();
  accept["slot"] = *slot;
}

void TimelineHub::take_board(TimelineEnd& e, const nlohmann::json& accept) {
  const auto fd = u64_of(accept, "board"), slot = u64_of(accept, "slot");
  if (!fd || !slot || *slot >= TimelineBoard::kSlots || !e.session->same_host) return;
  Reader& r = read_[e.session];
  if (!r.board) {
    auto opened = TimelineBoard::open(e.session->peer.pid, *fd, e.session->id);
    if (!opened.ok()) return;
    r.board = std::move(*opened);
  }
  r.ends[*slot] = e.id;
  (void)send_transport(*e.session, "tl.board", {{"to", e.peer}});
}

uint32_t TimelineHub::read_boards() {
  uint32_t n = 0;
  for (auto& [session, r] : read_)
    if (r.board) n += r.board->read(taker(*session, r));
  return n;
}

// Before the poll returns.
uint32_t TimelineHub::rest(bool found) {
  uint32_t n = 0;
  for (auto& [session, r] : read_)
    if (r.board && !r.board->parked() && doze_.may_park(ep_, found)) n += r.board->park(taker(*session, r));
  return n;
}

// Ends that are over leave the lists, outside of the loops over them.
void TimelineHub::sweep() {
  ended_ = false;
  std::erase_if(ends_, [&](const auto& x) {
    if (x.second.end->session) return false;
    drop(*x.second.end);
    return true;
  });
  for (TimelineSide* side : sides_) std::erase_if(side->ends, [](const auto& e) { return !e->session; });
}

bool TimelineHub::on_message(Session::Impl& s, Message& m) {
  if (m.type == "tl.import") {
    import(s, m);
    return true;
  }
  if (m.type.rfind("tl.", 0) != 0) return false;
  if (m.type == "tl.close") { // the importer may not know the owner's end yet
    const auto from = u64_of(m.body, "from");
    for (auto& [id, x] : ends_)
      if (x.end->owner && x.end->session == &s && x.end->peer == from) x.end->session = nullptr;
    ended_ = true;
    return true;
  }
  const auto it = ends_.find(u64_of(m.body, "to").value_or(0));
  if (it == ends_.end() || it->second.end->session != &s) return true; // late: its end is over
  TimelineEnd& e = *it->second.end;
  if (m.type == "tl.board" && e.board) {
    e.on_board = true;
    it->second.side->tell_value(e);
  } else {
    it->second.side->on_message(e, m);
    ended_ = true;
  }
  return true;
}

bool TimelineHub::on_signal(Session::Impl& s, const Signal& signal) {
  if (!signal.to) {
    read_boards();
    rest(true);
    return true;
  }
  const auto it = ends_.find(signal.to);
  if (it == ends_.end() || it->second.end->session != &s || !it->second.end->takes) return true;
  it->second.end->known = std::max(it->second.end->known, signal.value); // no echo
  it->second.side->on_signal(*it->second.end, signal);
  return true;
}

void TimelineHub::on_lost(Session::Impl& s, const Error& why) {
  if (const auto board = written_.find(&s); board != written_.end()) {
    for (auto& [id, x] : ends_)
      if (x.end->board == board->second.get()) x.end->board = nullptr;
    written_.erase(board);
  }
  read_.erase(&s);
  for (auto& [id, x] : ends_)
    if (x.end->session == &s) {
      x.end->session = nullptr;
      x.side->on_lost(*x.end, why);
    }
  ended_ = true;
}

uint32_t TimelineHub::on_poll(uint64_t now) {
  uint32_t n = read_boards();
  doze_.look(now);
  if (!read_.empty()) n += rest(n != 0);
  if (std::exchange(behind_, false))
    for (TimelineSide* side : sides_) side->tell_values();
  if (ended_) sweep();
  return n;
}

}  // namespace baton::transport
