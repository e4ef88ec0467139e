#include "transport/copy_kernel.hpp"
#include "transport/endpoint.hpp"
#include "transport/kv_wire.hpp"
#include "transport/ofi_library.hpp"

#include <fmt/format.h>

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport {
namespace {

constexpr uint64_t kEpollEveryNs = 5'000; // a spinning poller does not pay a system call each time

uint32_t poll_slot(void* ctx, void*, uint32_t budget) { return static_cast<Endpoint::Impl*>(ctx)->poll(budget); }

// Nobody submits to an endpoint's queue: it exists to be polled.
int32_t submit_slot(void*, void*, const baton_driver_op*, uint32_t, uint32_t* taken, baton_error* e) {
  *taken = 0;
  *e = Error(BATON_UNSUPPORTED, "an endpoint takes no ops", "submit to a KvTransfer's queue");
  return BATON_UNSUPPORTED;
}

}  // namespace

// ---- Endpoint::Impl ----

// Keys leave the options for memory that no core dump shows.
Status Endpoint::Impl::take_credentials() {
  BATON_TRY(crypto_ready());
  randombytes_buf(epoch.data(), epoch.size());
  if (!sodium_is_zero(options.key.data(), options.key.size())) {
    shared.emplace();
    **shared = options.key;
    sodium_memzero(options.key.data(), options.key.size());
  }
  if (options.identity.empty() != options.known_peers.empty())
    return Error(BATON_INVALID_ARGUMENT, options.identity.empty() ? "known peers without an identity" : "an identity without known peers",
                 "give both: a key pair ('devctl key new FILE') and the file of the peers that may talk to it");
  if (!options.identity.empty()) {
    BATON_ASSIGN(OwnIdentity me, OwnIdentity::read(options.identity));
    identity.emplace(std::move(me));
    BATON_ASSIGN(KnownPeers peers, KnownPeers::open(options.known_peers));
    known.emplace(std::move(peers));
  }
  if (!shared && !identity) return Error(BATON_INVALID_ARGUMENT, "an endpoint without a key", "give it a key file's key, or an identity and known peers");
  return {};
}

Status Endpoint::Impl::start(const Instance& in) {
  copy_probe(); // rather than in the first transfer
  BATON_TRY(take_credentials());
  if (options.lease_ns < 10'000'000)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("a lease of {} ns", options.lease_ns), "10 ms is the least; 1500 ms is the default");
  BATON_ASSIGN(epoll, epoll_new());
  timer = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer) return io_error("timerfd_create", errno);
  timer_tag_ = watch(timer.get(), EPOLLIN, nullptr);
  if (!options.listen.empty()) {
    BATON_ASSIGN(listener, tcp_listen(options.listen));
    address = local_address(listener.get());
    listener_tag_ = watch(listener.get(), EPOLLIN, this);
  }
  table_.struct_size = sizeof table_;
  table_.abi_version = BATON_ABI_VERSION;
  table_.scheme = "session";
  table_.description = "sessions of an endpoint";
  table_.submit = submit_slot;
  table_.poll = poll_slot;
  const std::string name = "endpoint " + (address.empty() ? options.name : address);
  Error e;
  baton_queue* q = nullptr;
  if (baton_queue_from_table(in.get(), name.c_str(), &table_, this, epoll.get(), &q, &e)) return e;
  queue_ = Queue(q);
  return {};
}

Endpoint::Impl::~Impl() {
  queue_.reset(); // no more polls from here on
  accepted_.clear();
  handshakes_.clear();
  dead_.clear();
  const auto sessions = live_;
  for (Session::Impl* s : sessions) {
    s->lose(Error(BATON_CANCELLED, "the endpoint was closed", "open it again"));
    s->attached.clear(); // they may stand on this endpoint's domains
    s->ep = nullptr;
  }
}

uint64_t Endpoint::Impl::watch(int fd, uint32_t events, Watcher* w) {
  const uint64_t tag = next_tag_++;
  watchers_[tag] = w;
  epoll_add(epoll.get(), fd, events, tag);
  return tag;
}

void Endpoint::Impl::unwatch(uint64_t tag, int fd) {
  watchers_.erase(tag);
  epoll_remove(epoll.get(), fd);
}

void Endpoint::Impl::remove(Service* s) {
  for (auto& x : services)
    if (x == s) x = nullptr;
  if (!iterating_) std::erase(services, nullptr);
}

uint32_t Endpoint::Impl::poll(uint32_t budget) {
  uint32_t handled = 0;
  const uint64_t now = now_ns();
  const bool outer = !std::exchange(iterating_, true);
  for (size_t i = 0; i < services.size(); ++i)
    if (services[i]) handled += services[i]->on_poll(now);
  if (outer) {
    iterating_ = false;
    std::erase(services, nullptr);
  }
  // What a service has found goes to the caller first, and the descriptor that woke it stays readable for the next poll: but not twice in a row.
  put_off_ = handled && !put_off_;
  if (!put_off_ && now - last_wait_ns_ >= kEpollEveryNs) {
    last_wait_ns_ = now;
    epoll_event events[16];
    const int n = epoll_wait(epoll.get(), events, int(std::clamp<uint32_t>(budget, 1, 16)), 0);
    for (int i = 0; i < n; ++i) {
      const auto it = watchers_.find(events[i].data.u64); // an earlier event of this batch may have ended it
      if (it == watchers_.end()) continue;
      if (it->second) {
        it->second->ready(events[i].events);
        ++handled;
      } else {
        uint64_t fired;
        (void)!read(timer.get(), &fired, sizeof fired);
      }
    }
  }
  // Sessions may have begun since `now` was read: an older time would make them look ages old.
  if (now >= next_tick_ns_) tick(now_ns());
  reap();
  return handled;
}

void Endpoint::Impl::tick(uint64_t now) {
  next_tick_ns_ = now + tick_ns_;
  const auto sessions = live_; // a tick may end sessions
  for (Session::Impl* s : sessions)
    if (std::find(live_.begin(), live_.end(), s) != live_.end()) s->tick(now);
  if (options.recheck_peers_ns && now >= next_recheck_ns_) {
    next_recheck_ns_ = now + options.recheck_peers_ns;
    drop_unknown_peers();
  }
}

uint32_t Endpoint::Impl::drop_unknown_peers() {
  if (!known) return 0;
  (void)known->refresh().ok(); // one that cannot be read knows nobody
  uint32_t dropped = 0;
  const auto sessions = live_;
  for (Session::Impl* s : sessions) {
    if (std::find(live_.begin(), live_.end(), s) == live_.end() || s->state != Session::Impl::State::up || !s->known || known->find(s->known->key) || s->known->key == identity->public_key()) continue;
    s->drop("removed");
    ++dropped;
  }
  return dropped;
}

// The timer wakes sleepers for heartbeats and leases; while there is no session it is off.
void Endpoint::Impl::arm_timer() {
  uint64_t least = live_.empty() ? 0 : std::min<uint64_t>(options.lease_ns, kHandshakeNs);
  for (Session::Impl* s : live_)
    if (s->peer.lease_ns) least = std::min(least, s->peer.lease_ns);
  const uint64_t every = least / 6;
  if (every == tick_ns_) return;
  tick_ns_ = every;
  next_tick_ns_ = every ? now_ns() + every : UINT64_MAX;
  set_timer(every);
}

void Endpoint::Impl::set_timer(uint64_t first_ns) {
  auto spec = [](uint64_t ns) { return timespec{time_t(ns / 1'000'000'000), long(ns % 1'000'000'000)}; };
  const itimerspec t{spec(tick_ns_), spec(first_ns)};
  timerfd_settime(timer.get(), 0, &t, nullptr);
}

void Endpoint::Impl::ready(uint32_t) {
  for (int i = 0; i < 16; ++i) { // bounded work for each poll
    Fd fd(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) return;
    if (handshakes_.size() >= kMaxHandshakes || accepted_.size() >= kMaxHandshakes) {
      ++rejected;
      last_rejection = Error(BATON_BUSY, fmt::format("{} handshakes at once; {} was turned away", kMaxHandshakes, remote_address(fd.get())), "connect again later");
      continue;
    }
    set_nodelay(fd.get());
    std::string who = remote_address(fd.get());
    handshakes_.push_back(std::make_unique<Session::Impl>(this, Role::server, std::move(fd), std::move(who)));
  }
}

void Endpoint::Impl::enlist(Session::Impl* s) {
  live_.push_back(s);
  arm_timer();
}

void Endpoint::Impl::forget(Session::Impl* s) {
  std::erase(live_, s);
  arm_timer();
}

void Endpoint::Impl::authenticated(Session::Impl* s) {
  arm_timer();
  for (auto it = handshakes_.begin(); it != handshakes_.end(); ++it)
    if (it->get() == s) {
      accepted_.push_back(wrap(std::move(*it)));
      handshakes_.erase(it);
      return;
    }
}

void Endpoint::Impl::failed(Session::Impl* s, const Error& why) {
  for (auto it = handshakes_.begin(); it != handshakes_.end(); ++it)
    if (it->get() == s) { // it is inside its own call: freed by reap()
      ++rejected;
      last_rejection = why;
      dead_.push_back(std::move(*it));
      handshakes_.erase(it);
      return;
    }
}

void Endpoint::Impl::reap() { dead_.clear(); }

bool Endpoint::Impl::dispatch(Session::Impl& s, Message& m) {
  const bool outer = !std::exchange(iterating_, true);
  bool taken = false;
  for (size_t i = 0; i < services.size() && !taken; ++i) taken = services[i] && services[i]->on_message(s, m);
  if (outer) iterating_ = false;
  if (!taken) unclaimed(s, m);
  return taken;
}

void Endpoint::Impl::dispatch(Session::Impl& s, const Signal& signal) {
  const bool outer = !std::exchange(iterating_, true);
  for (size_t i = 0; i < services.size(); ++i)
    if (services[i] && services[i]->on_signal(s, signal)) break;
  if (outer) iterating_ = false;
}

void Endpoint::Impl::announce_lost(Session::Impl& s, const Error& why) {
  const bool outer = !std::exchange(iterating_, true);
  for (size_t i = 0; i < services.size(); ++i)
    if (services[i]) services[i]->on_lost(s, why);
  if (outer) iterating_ = false;
}

// ---- Session ----

Session::Session(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
Session::~Session() = default;

Status Session::send(const Message& m) { return impl_->send_frame(FrameKind::user, m); }

std::optional<Message> Session::receive() {
  if (impl_->inbox.empty()) return std::nullopt;
  Message m = std::move(impl_->inbox.front());
  impl_->inbox.pop_front();
  if (impl_->inbox.empty()) impl_->inbox_bytes = 0;
  else impl_->inbox_bytes -= std::min(impl_->inbox_bytes, m.bytes.size());
  return m;
}

Status Session::alive() const {
  if (impl_->cause) return *impl_->cause;
  return {};
}
const std::string& Session::peer_name() const { return impl_->peer.name; }
const std::string& Session::peer_address() const { return impl_->address; }
bool Session::same_host() const { return impl_->same_host; }
const std::string& Session::peer_epoch() const { return impl_->peer_epoch; }
const PeerIdentity* Session::peer_identity() const { return impl_->known ? &*impl_->known : nullptr; }

// ---- Endpoint ----

Endpoint::Endpoint(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
Endpoint::Endpoint(Endpoint&&) noexcept = default;
Endpoint& Endpoint::operator=(Endpoint&&) noexcept = default;
Endpoint::~Endpoint() = default;

Result<Endpoint> Endpoint::open(const Instance& in, EndpointOptions options) {
  (void)ofi_library(); // here, and not in the first transfer; a fabric that needs it says that it is missing
  auto impl = std::make_unique<Impl>(in, std::move(options));
  BATON_TRY(impl->start(in));
  return Endpoint(std::move(impl));
}

const std::string& Endpoint::address() const { return impl_->address; }
std::string Endpoint::epoch() const { return hex(impl_->epoch); }
std::string Endpoint::fingerprint() const { return impl_->identity ? transport::fingerprint(impl_->identity->public_key()) : ""; }
uint32_t Endpoint::drop_unknown_peers() { return impl_->drop_unknown_peers(); }
uint64_t Endpoint::rejected() const { return impl_->rejected; }
std::optional<Error> Endpoint::last_rejection() const { return impl_->last_rejection; }

Result<std::unique_ptr<Session>> Endpoint::connect(const std::string& address, uint64_t deadline_ns, const ConnectOptions& expected) {
  if (!impl_->identity && !(expected.peer.empty() && expected.role.empty()))
    return Error(BATON_INVALID_ARGUMENT, "a peer's name or role is expected, and this endpoint has no identity", "give the endpoint an identity and known peers");
  BATON_ASSIGN(Fd fd, tcp_connect(address));
  auto s = std::make_unique<Session::Impl>(impl_.get(), Role::client, std::move(fd), address);
  s->expected = expected;
  using State = Session::Impl::State;
  if (!impl_->drive(deadline_ns, [&] { return s->state == State::up || s->state == State::lost; }))
    return s->hop(Error(BATON_DEADLINE, fmt::format("no session with {} before the deadline", address), "check that the peer polls, and the network"));
  if (s->state == State::lost) return *s->cause;
  return Impl::wrap(std::move(s));
}

std::unique_ptr<Session> Endpoint::accept() {
  if (impl_->accepted_.empty()) return nullptr;
  std::unique_ptr<Session> s = std::move(impl_->accepted_.front());
  impl_->accepted_.pop_front();
  return s;
}

}  // namespace baton::transport
