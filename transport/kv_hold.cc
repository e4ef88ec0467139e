// Messages, over the session:
//   kv.beat     puller > holder   ids: keep them
//   kv.pull     >                 hold, ticket: push it there
//   kv.confirm  >                 hold: everything is here
//   kv.unheld   <                 hold, error: not, or no longer
#include "transport/kv_hold.hpp"

#include "transport/crypto.hpp"
#include "transport/kv_wire.hpp"

#include <fmt/format.h>

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>

namespace baton::transport {
namespace {

constexpr uint64_t kOpenNs = 2'000'000'000; // for a decode side that asked for a pull to accept it
constexpr size_t kIdsABeat = 4096;

Status check(const HoldOptions& o) {
  if (o.lease_ns >= 1'000'000) return {};
  return Error(BATON_INVALID_ARGUMENT, fmt::format("a lease of {} ns", o.lease_ns), "a millisecond or more; 30 s is usual");
}

// A timer of the endpoint's: wakes who sleeps on the instance.
class Alarm final : public Watcher {
 public:
  explicit Alarm(Endpoint::Impl& ep) : ep_(ep), fd_(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)) {
    if (fd_) tag_ = ep_.watch(fd_.get(), EPOLLIN, this);
  }
  ~Alarm() override {
    if (fd_) ep_.unwatch(tag_, fd_.get());
  }
  explicit operator bool() const { return bool(fd_); }
  void at(uint64_t ns) { // 0: never
    if (ns == set_) return;
    set_ = ns;
    itimerspec t{};
    t.it_value = {time_t(ns / 1'000'000'000), long(ns % 1'000'000'000)};
    timerfd_settime(fd_.get(), TFD_TIMER_ABSTIME, &t, nullptr);
  }
  void ready(uint32_t) override {
    uint64_t fired;
    (void)!read(fd_.get(), &fired, sizeof fired);
    set_ = 0;
  }

 private:
  Endpoint::Impl& ep_;
  Fd fd_;
  uint64_t tag_ = 0, set_ = 0;
};

}  // namespace

// ---- the holder ----

struct KvHolder::Impl final : Service {
  struct Pull {
    KvTransfer transfer;
    bool submitted = false; // the decode side has accepted it
  };
  struct Hold {
    std::vector<KvSource> sources;
    HoldOptions options;
    uint64_t tokens = 0, until_ns = 0;
    void keep() { until_ns = std::max(until_ns, now_ns() + options.extend_ns); }
    bool dropped = false, confirmed = false;
    std::vector<std::unique_ptr<Pull>> pulls; // under way
  };

  Impl(const Instance& i, Endpoint::Impl& e, HoldOptions o) : in(i), ep(&e), options(std::move(o)), alarm(e) { ep->add(this); }
  ~Impl() override { ep->remove(this); }

  bool on_message(Session::Impl&, Message&) override;
  void on_lost(Session::Impl&, const Error&) override;
  uint32_t on_poll(uint64_t now) override;
  Status serve();
  Result<Pull> begin(const Hold&, const std::string& ticket, Session::Impl&);
  Result<bool> advance(const std::string& id, Hold&, Pull&); // true: it is sealed
  void unheld(Session::Impl&, const std::string& id);

  const Instance& in;
  Endpoint::Impl* ep;
  HoldOptions options;
  Alarm alarm;
  std::map<std::string, Hold> holds;
  std::vector<Ended> over;
  struct Asked {
    Session::Impl* session;
    std::string id, ticket;
  };
  std::vector<Asked> asked; // pulls that serve() has not opened yet
};

void KvHolder::Impl::unheld(Session::Impl& s, const std::string& id) {
  const Error e(BATON_NOT_FOUND, "the prefill side holds no such request: its lease ran out, or it was pulled before", "prefill it again");
  (void)send_transport(s, "kv.unheld", {{"hold", id}, {"error", to_json(e)}});
}

bool KvHolder::Impl::on_message(Session::Impl& s, Message& m) {
  if (m.type == "kv.beat") {
    const auto ids = texts_of(m.body, "ids");
    for (const std::string& id : ids.value_or(std::vector<std::string>())) {
      const auto it = holds.find(id);
      if (it != holds.end()) it->second.keep();
      else unheld(s, id);
      if (s.cause) break;
    }
    return true;
  }
  if (m.type != "kv.pull" && m.type != "kv.confirm") return false;
  const std::string id = text_of(m.body, "hold").value_or("");
  const auto it = holds.find(id);
  if (m.type == "kv.confirm") {
    if (it != holds.end()) it->second.confirmed = true;
  } else if (it == holds.end() || it->second.dropped) {
    unheld(s, id);
  } else {
    asked.push_back({&s, id, text_of(m.body, "ticket").value_or("")});
    it->second.keep();
  }
  return true;
}

void KvHolder::Impl::on_lost(Session::Impl& s, const Error&) {
  std::erase_if(asked, [&](const Asked& a) { return a.session == &s; });
}

// The reaper. Nothing is destroyed here that a poll may be using: transfers end in serve().
uint32_t KvHolder::Impl::on_poll(uint64_t now) {
  uint32_t n = uint32_t(asked.size());
  uint64_t next = 0;
  for (auto it = holds.begin(); it != holds.end();) {
    Hold& h = it->second;
    const bool asked_for = std::any_of(asked.begin(), asked.end(), [&](const Asked& a) { return a.id == it->first; });
    if (!h.pulls.empty() || asked_for) { // serve() looks at them
      ++it;
      continue;
    }
    if (!h.confirmed && !h.dropped && now < h.until_ns) {
      next = next ? std::min(next, h.until_ns) : h.until_ns;
      ++it;
      continue;
    }
    over.push_back({it->first, h.confirmed ? BATON_OK : h.dropped ? BATON_CANCELLED : BATON_DEADLINE});
    it = holds.erase(it);
    ++n;
  }
  alarm.at(next);
  return n;
}

Result<KvHolder::Impl::Pull> KvHolder::Impl::begin(const Hold& h, const std::string& ticket, Session::Impl& session) {
  BATON_ASSIGN(KvTransfer t, KvTransfer::begin(in, session, ticket, h.sources, h.tokens,
                                               {.fabric = h.options.fabric, .model = h.options.model, .link_model = h.options.link_model}, now_ns() + kOpenNs));
  return Pull{std::move(t)};
}

Result<bool> KvHolder::Impl::advance(const std::string& id, Hold& h, Pull& p) {
  if (!p.submitted) {
    const auto opened = p.transfer.opened();
    if (!opened) return false;
    BATON_TRY(*opened);
    for (uint32_t l = 0; l < p.transfer.layers(); ++l)
      for (uint32_t s = 0; s < h.sources.size(); ++s) BATON_TRY(p.transfer.queue().submit(p.transfer.copy(s, l)));
    p.submitted = true;
  }
  BATON_TRY(p.transfer.alive());
  if (!p.transfer.sent()) return false;
  BATON_TRY(p.transfer.seal({"pulled", {{"hold", id}}, {}}, now_ns()));
  h.keep(); // for the confirmation
  return true;
}

Status KvHolder::Impl::serve() {
  Status first;
  auto keep = [&](const Error& e) {
    if (first.ok()) first = e;
  };
  for (const Asked& a : std::exchange(asked, {})) {
    const auto it = holds.find(a.id);
    if (it == holds.end() || a.session->cause) continue; // its pull fails with the session
    auto p = begin(it->second, a.ticket, *a.session);
    if (p.ok()) it->second.pulls.push_back(std::make_unique<Pull>(std::move(*p)));
    else keep(p.error());
  }
  for (auto& [id, h] : holds) {
    for (auto& p : h.pulls) {
      const auto done = advance(id, h, *p);
      if (!done.ok()) keep(done.error()); // it may be asked for again
      if (!done.ok() || *done) p.reset(); // that may poll: the hold has it in its list until it is gone
    }
    std::erase(h.pulls, nullptr);
  }
  on_poll(now_ns());
  return first;
}

// ---- the puller ----

struct KvPuller::Impl final : Service {
  struct Id {
    Session::Impl* session;
    std::optional<Error> refused;
    std::string ticket; // of the last pull
  };
  Impl(Endpoint::Impl& e, PullOptions o) : ep(&e), options(o), alarm(e) { ep->add(this); }
  ~Impl() override { ep->remove(this); }
  bool on_message(Session::Impl&, Message&) override;
  void on_lost(Session::Impl& s, const Error&) override {
    std::erase_if(ids, [&](const auto& i) { return i.second.session == &s; });
  }
  uint32_t on_poll(uint64_t now) override;
  void beat();

  Endpoint::Impl* ep;
  PullOptions options;
  Alarm alarm;
  uint64_t beat_at = 0;
  std::map<std::string, Id> ids;
};

// One message for each session. A send may lose a session, and with it ids.
void KvPuller::Impl::beat() {
  std::map<Session::Impl*, std::vector<std::string>> all;
  for (const auto& [id, i] : ids)
    if (!i.refused) all[i.session].push_back(id);
  for (const auto& [s, list] : all)
    for (size_t at = 0; at < list.size() && !s->cause; at += kIdsABeat)
      (void)send_transport(*s, "kv.beat", {{"ids", std::vector<std::string>(list.begin() + ptrdiff_t(at), list.begin() + ptrdiff_t(std::min(at + kIdsABeat, list.size())))}});
  beat_at = ids.empty() ? 0 : now_ns() + options.beat_ns;
  alarm.at(beat_at);
}

uint32_t KvPuller::Impl::on_poll(uint64_t now) {
  if (!beat_at || now < beat_at) return 0;
  beat();
  return 1;
}

bool KvPuller::Impl::on_message(Session::Impl& s, Message& m) {
  if (m.type != "kv.unheld") return false;
  const auto it = ids.find(text_of(m.body, "hold").value_or(""));
  if (it == ids.end() || it->second.session != &s) return true;
  it->second.refused = s.hop(error_from(m.body));
  for (size_t i = 0; i < ep->services.size() && !it->second.ticket.empty(); ++i)
    if (ep->services[i] && ep->services[i]->on_ticket(it->second.ticket, *it->second.refused)) break;
  return true;
}

// ---- the public faces ----

KvHolder::KvHolder(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
KvHolder::KvHolder(KvHolder&&) noexcept = default;
KvHolder::~KvHolder() = default;
Result<KvHolder> KvHolder::create(const Instance& in, Endpoint& ep, HoldOptions o) {
  BATON_TRY(check(o));
  auto impl = std::make_unique<Impl>(in, ep.impl(), std::move(o));
  if (!impl->alarm) return io_error("timerfd_create", errno);
  return KvHolder(std::move(impl));
}
Result<std::string> KvHolder::hold(std::vector<KvSource> sources, uint64_t tokens) { return hold(std::move(sources), tokens, impl_->options); }
Result<std::string> KvHolder::hold(std::vector<KvSource> sources, uint64_t tokens, HoldOptions o) {
  BATON_TRY(check(o));
  if (sources.empty() || !tokens) return Error(BATON_INVALID_ARGUMENT, "a request without sources or tokens", "hold what was prefilled");
  std::string id = random_hex(16);
  KvHolder::Impl::Hold& h = impl_->holds[id];
  h.sources = std::move(sources);
  h.tokens = tokens;
  h.until_ns = now_ns() + o.lease_ns;
  if (!o.extend_ns) o.extend_ns = o.lease_ns / 3 * 2;
  h.options = std::move(o);
  impl_->on_poll(now_ns()); // the alarm
  return id;
}
void KvHolder::drop(const std::string& id) {
  const auto it = impl_->holds.find(id);
  if (it == impl_->holds.end()) return;
  it->second.dropped = true;
  for (auto& p : it->second.pulls)
    p->transfer.abort(Error(BATON_CANCELLED, "the prefill side dropped the request", "prefill it again"));
}
void KvHolder::end(const std::string& id) {
  const auto it = impl_->holds.find(id);
  if (it == impl_->holds.end()) return;
  drop(id);
  for (auto& p : it->second.pulls) p.reset(); // polls: the list keeps the request from the reaper meanwhile
  impl_->holds.erase(it);
}
Status KvHolder::serve() { return impl_->serve(); }
void KvHolder::ended(std::vector<Ended>& to) {
  to.insert(to.end(), impl_->over.begin(), impl_->over.end());
  impl_->over.clear();
}
size_t KvHolder::held() const { return impl_->holds.size(); }

KvPuller::KvPuller(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
KvPuller::KvPuller(KvPuller&&) noexcept = default;
KvPuller::~KvPuller() = default;
Result<KvPuller> KvPuller::create(const Instance&, Endpoint& ep, PullOptions o) {
  auto impl = std::make_unique<Impl>(ep.impl(), o);
  if (!impl->alarm) return io_error("timerfd_create", errno);
  return KvPuller(std::move(impl));
}
Status KvPuller::track(Session& s, const std::string& id) {
  if (s.impl().cause) return *s.impl().cause;
  impl_->ids[id] = {&s.impl(), std::nullopt, ""};
  BATON_TRY(send_transport(s.impl(), "kv.beat", {{"ids", {id}}}));
  if (!impl_->beat_at) impl_->beat_at = now_ns() + impl_->options.beat_ns;
  impl_->alarm.at(impl_->beat_at);
  return {};
}
Result<Incoming> KvPuller::pull(const std::string& id, KvSink& sink, std::vector<int32_t> blocks, uint64_t tokens, uint64_t held) {
  BATON_ASSIGN(Incoming in, sink.expect(std::move(blocks), tokens, held));
  BATON_TRY(pull(id, in));
  return in;
}
Status KvPuller::pull(const std::string& id, const Incoming& in) {
  const auto it = impl_->ids.find(id);
  if (it == impl_->ids.end()) return Error(BATON_NOT_FOUND, "an id that is not tracked, or whose session was lost", "track it over a session to its holder");
  if (it->second.refused) return *it->second.refused;
  it->second.ticket = in.ticket();
  return send_transport(*it->second.session, "kv.pull", {{"hold", id}, {"ticket", in.ticket()}});
}
void KvPuller::confirm(const std::string& id) {
  const auto it = impl_->ids.find(id);
  if (it == impl_->ids.end()) return;
  Session::Impl* s = it->second.session;
  impl_->ids.erase(it);
  (void)send_transport(*s, "kv.confirm", {{"hold", id}});
}
void KvPuller::forget(const std::string& id) { impl_->ids.erase(id); }
std::optional<Error> KvPuller::refused(const std::string& id) {
  const auto it = impl_->ids.find(id);
  if (it == impl_->ids.end() || !it->second.refused) return std::nullopt;
  auto why = it->second.refused;
  impl_->ids.erase(it);
  return why;
}

}  // namespace baton::transport
