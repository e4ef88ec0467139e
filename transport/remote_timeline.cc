#include "transport/remote_timeline.hpp"

#include "transport/kv_wire.hpp"
#include "transport/remote_timeline_impl.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace baton::transport {
namespace {

std::string name_of(const Endpoint::Impl& ep) { return ep.options.name.empty() ? "this process" : ep.options.name; }

// An error that the peer tells, with this side added to the way that it took.
Error arrived(const Session::Impl& s, const Message& m) {
  Error e = error_from(m.body);
  const std::string from = e.hop[0] ? e.hop : s.peer.name.empty() ? s.address : s.peer.name;
  const std::string way = from + " > " + name_of(*s.ep);
  Error::put(e.hop, way.size() < sizeof e.hop ? way : from);
  return e;
}

}  // namespace

// ---- the owner's side ----

Status ExportedTimeline::Impl::start(const Instance& in, Endpoint::Impl& ep, const Timeline& t, std::string n, const ExportOptions& o) {
  if (n.empty() || n.size() > kMaxTimelineName)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("a timeline's name of {} bytes", n.size()), fmt::format("1 to {} bytes", kMaxTimelineName));
  name = std::move(n);
  options = o;
  if (o.only) only = o.only->impl().id;
  TimelineHub& hub = TimelineHub::of(ep);
  BATON_TRY(hub.publish(*this));
  hub_ = &hub;
  hub.join(*this);
  watch_.emplace();
  return watch_->start(in, ep.epoll.get(), name_of(ep), t.get(), *this);
}

ExportedTimeline::Impl::~Impl() {
  if (!hub_) return;
  watch_.reset();
  TimelineSide::failed(Error(BATON_CANCELLED, fmt::format("the owner closed its export of timeline '{}'", name), "import it again once it is exported again"));
  hub_->leave(*this);
}

bool ExportedTimeline::Impl::visible_to(const Session::Impl& s) const { return !only || *only == s.id; }

void ExportedTimeline::Impl::welcome(TimelineEnd& e) {
  e.known = value_;
  nlohmann::json accept{{"to", e.peer}, {"from", e.id}, {"value", value_}, {"modelled", modelled_}};
  hub_->offer_board(e, accept);
  (void)send_transport(*e.session, "tl.accept", std::move(accept));
  if (failure) tell_poison(e, *failure);
}

void ExportedTimeline::Impl::failed(const Error& why) {
  failure = why;
  TimelineSide::failed(why);
}

void ExportedTimeline::Impl::on_signal(TimelineEnd&, const Signal& s) { watch_->raise(s.value, s.modelled_ns); }

void ExportedTimeline::Impl::on_message(TimelineEnd& e, Message& m) {
  if (m.type != "tl.poison" || !e.takes) return;
  const Error why = arrived(*e.session, m);
  e.session = nullptr;
  watch_->poison(why);
}

void ExportedTimeline::Impl::on_lost(TimelineEnd& e, const Error& why) {
  if (e.takes && watch_) watch_->poison(why);
}

// ---- the importer's side ----

Status RemoteTimeline::Impl::start(const Instance& in, Session::Impl& s, const std::string& name, uint64_t deadline_ns, const ImportOptions& o) {
  if (s.cause) return *s.cause;
  BATON_ASSIGN(mirror, in.timeline(name));
  TimelineHub& hub = TimelineHub::of(*s.ep);
  hub_ = &hub;
  hub.join(*this);
  may_signal = o.signal;
  TimelineEnd& e = hub.add_end(*this, s);
  BATON_TRY(send_transport(s, "tl.import", {{"from", e.id}, {"name", name}, {"signal", o.signal}}));
  Endpoint::Impl& ep = *s.ep;
  if (!ep.drive(deadline_ns, [&] { return accepted || refused; }))
    return s.hop(Error(BATON_DEADLINE, fmt::format("no answer to the import of timeline '{}' before the deadline", name), "check that the owner polls"));
  if (refused) return *refused;
  if (!may_signal) return {};
  watch_.emplace();
  return watch_->start(in, ep.epoll.get(), name_of(ep), mirror.get(), *this);
}

RemoteTimeline::Impl::~Impl() {
  if (!hub_) return;
  watch_.reset();
  for (auto& e : ends)
    if (e->session) (void)send_transport(*std::exchange(e->session, nullptr), "tl.close", {{"from", e->id}});
  hub_->leave(*this);
}

void RemoteTimeline::Impl::on_signal(TimelineEnd&, const Signal& s) { mirror.signal(s.value, s.modelled_ns); }

void RemoteTimeline::Impl::accept(TimelineEnd& e, const Message& m) {
  const auto from = u64_of(m.body, "from"), value = u64_of(m.body, "value"), modelled = u64_of(m.body, "modelled");
  if (!from || !value || !modelled) {
    refused = e.session->hop(Error(BATON_CORRUPT, "the owner's answer has missing or malformed fields", "run the same Baton version on both sides"));
    return;
  }
  accepted = e.takes = true;
  e.peer = *from;
  e.sends = may_signal;
  e.known = *value;
  mirror.signal(*value, *modelled);
  hub_->take_board(e, m.body);
}

void RemoteTimeline::Impl::on_message(TimelineEnd& e, Message& m) {
  if (m.type == "tl.accept" && !accepted) return accept(e, m);
  if (m.type == "tl.refuse" && !accepted) {
    refused = e.session->hop(error_from(m.body));
    e.session = nullptr;
  } else if (m.type == "tl.poison" && accepted) {
    const Error why = arrived(*e.session, m);
    e.session = nullptr;
    mirror.poison(why);
  }
}

void RemoteTimeline::Impl::on_lost(TimelineEnd&, const Error& why) {
  if (!accepted && !refused) refused = why;
  mirror.poison(why);
}

// ---- the public faces ----

ExportedTimeline::ExportedTimeline(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
ExportedTimeline::ExportedTimeline(ExportedTimeline&&) noexcept = default;
ExportedTimeline::~ExportedTimeline() = default;

Result<ExportedTimeline> ExportedTimeline::open(const Instance& in, Endpoint& ep, const Timeline& t, std::string name, ExportOptions o) {
  auto impl = std::make_unique<Impl>();
  BATON_TRY(impl->start(in, ep.impl(), t, std::move(name), o));
  return ExportedTimeline(std::move(impl));
}

size_t ExportedTimeline::importers() const {
  return size_t(std::count_if(impl_->ends.begin(), impl_->ends.end(), [](const auto& e) { return e->session != nullptr; }));
}

RemoteTimeline::RemoteTimeline(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
RemoteTimeline::RemoteTimeline(RemoteTimeline&&) noexcept = default;
RemoteTimeline::~RemoteTimeline() = default;
const Timeline& RemoteTimeline::timeline() const { return impl_->mirror; }

Result<RemoteTimeline> RemoteTimeline::import(const Instance& in, Session& s, const std::string& name, uint64_t deadline_ns, ImportOptions o) {
  auto impl = std::make_unique<Impl>();
  BATON_TRY(impl->start(in, s.impl(), name, deadline_ns, o));
  return RemoteTimeline(std::move(impl));
}

}  // namespace baton::transport
