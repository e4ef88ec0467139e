// A session's frames, after the handshake (admission.cc): u32 length (authenticated with the frame), sealed { u8 kind, u32 json length, json, bytes };
// a signal's bytes are a Signal. The first frame each way is the identity, or a refusal.
#include "hal/json_depth.hpp"
#include "transport/endpoint.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport {
namespace {

constexpr size_t kSignalBacklog = 16u << 10; // unsent bytes beyond which a signal waits: a later value makes it needless
constexpr size_t kKeepPlain = 64u << 10;

uint32_t u32_at(std::span<const uint8_t> b, size_t at) {
  uint32_t v;
  std::memcpy(&v, b.data() + at, 4);
  return v;
}

std::string link_name(const char* path) {
  char buf[128];
  const ssize_t n = readlink(path, buf, sizeof buf);
  return n > 0 ? std::string(buf, size_t(n)) : "?";
}

std::string boot_id() {
  Fd fd(open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  char buf[64];
  const ssize_t n = fd ? read(fd.get(), buf, sizeof buf) : 0;
  std::string s(buf, n > 0 ? size_t(n) : 0);
  while (!s.empty() && s.back() == '\n') s.pop_back();
  return s.empty() ? random_hex(16) : s; // unknown: equal to nobody's
}

std::string dump(const nlohmann::json& j) { return j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); }

}  // namespace

Identity my_identity(const EndpointOptions& o) {
  Identity me;
  me.name = o.name;
  me.host = fmt::format("{}:{}:{}", boot_id(), geteuid(), link_name("/proc/self/ns/net"));
  me.pids = link_name("/proc/self/ns/pid");
  me.pid = getpid();
  me.lease_ns = o.lease_ns;
  me.seal_bulk = o.seal_bulk;
  return me;
}

Session::Impl::Impl(Endpoint::Impl* owner, Role r, Fd f, std::string addr)
    : ep(owner), role(r), state(r == Role::client ? State::connecting : State::hello), fd(std::move(f)), address(std::move(addr)),
      secrets_(r, owner->shared_key(), owner->own_identity(), owner->epoch) {
  started_ns_ = last_rx_ns_ = last_tx_ns_ = now_ns();
  events_ = EPOLLIN | EPOLLRDHUP | (role == Role::client ? uint32_t(EPOLLOUT) : 0u);
  tag = ep->watch(fd.get(), events_, this);
  ep->enlist(this);
}

Session::Impl::~Impl() {
  if (state == State::up) {
    (void)send_frame(FrameKind::bye, {});
    lose(Error(BATON_CANCELLED, "the session was closed on this side", "open a new one"));
  }
  attached.clear();
  if (ep) {
    if (fd) ep->unwatch(tag, fd.get());
    ep->forget(this);
  }
}

Error Session::Impl::hop(Error e) const {
  const std::string me = ep && !ep->options.name.empty() ? ep->options.name : "this process";
  if (!e.hop[0]) Error::put(e.hop, fmt::format("{} > {} ({})", me, peer.name.empty() ? "peer" : peer.name, address));
  return e;
}

void Session::Impl::lose(Error why) {
  if (state == State::lost) return;
  const bool was_up = state == State::up;
  state = State::lost;
  cause = hop(std::move(why));
  if (fd) {
    if (ep) ep->unwatch(tag, fd.get());
    fd.reset();
  }
  if (!ep) return;
  if (was_up) ep->announce_lost(*this, *cause);
  else ep->failed(this, *cause);
}

void Session::Impl::want(uint32_t events) {
  if (events == events_ || !fd) return;
  events_ = events;
  ep->rewatch(tag, fd.get(), events);
}

void Session::Impl::ready(uint32_t events) {
  if (state == State::connecting) {
    if (int err = socket_error(fd.get()))
      return lose(Error(err == ECONNREFUSED ? BATON_PEER_LOST : BATON_IO, fmt::format("cannot connect to {}: {}", address, strerror(err)),
                        err == ECONNREFUSED ? "nothing listens there: start the peer, or check the address" : "check the address and the network"));
    set_nodelay(fd.get());
    say_hello();
  }
  if (events & EPOLLOUT) flush();
  if (state != State::lost && events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) read_some();
}

void Session::Impl::put(std::span<const uint8_t> bytes) {
  out_.insert(out_.end(), bytes.begin(), bytes.end());
  flush();
}

void Session::Impl::flush() {
  while (state != State::lost && out_at_ < out_.size()) {
    const ssize_t n = ::send(fd.get(), out_.data() + out_at_, out_.size() - out_at_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) {
        // What the peer said before it went (a version, a refusal) is a better cause than the reset: read it first.
        if (state != State::up) read_some();
        return lose(Error(BATON_PEER_LOST, fmt::format("the connection to {} broke: {}", address, strerror(errno)), "restart the peer and connect again"));
      }
      break;
    }
    out_at_ += size_t(n);
    last_tx_ns_ = now_ns();
  }
  if (state == State::lost) return;
  if (out_at_ == out_.size()) {
    out_.clear();
    out_at_ = 0;
  } else if (out_at_ > (1u << 20)) {
    out_.erase(out_.begin(), out_.begin() + ptrdiff_t(out_at_));
    out_at_ = 0;
  }
  want(EPOLLIN | EPOLLRDHUP | (out_.empty() ? 0u : uint32_t(EPOLLOUT)));
}

void Session::Impl::read_some() {
  constexpr size_t kChunk = 256u << 10, kBound = 4u << 20; // bounded work for each poll: one busy peer does not starve the others
  // Before the peer has proved its key it can make this side hold a few kilobytes, no more.
  const bool open = state >= State::header;
  size_t got = 0;
  while (state != State::lost && got < kBound) {
    const size_t room = open ? kChunk : 512;
    if (in_.size() - in_end_ < room) in_.resize(in_end_ + room); // what is behind in_end_ stays as it is: clearing 256 KiB for each read costs as much as a message
    const ssize_t n = recv(fd.get(), in_.data() + in_end_, room, MSG_DONTWAIT);
    const int err = errno;
    if (n > 0) {
      got += size_t(n);
      in_end_ += size_t(n);
      last_rx_ns_ = now_ns();
      while (state != State::lost && step()) {}
      if (in_at_ == in_end_) {
        in_at_ = in_end_ = 0;
      } else if (in_at_ > (1u << 20)) {
        std::memmove(in_.data(), in_.data() + in_at_, in_end_ - in_at_);
        in_end_ -= in_at_;
        in_at_ = 0;
      }
      if (size_t(n) < room) return;
      continue;
    }
    if (n < 0 && err == EINTR) continue;
    if (n < 0 && err == EAGAIN) return;
    if (state == State::up)
      lose(Error(BATON_PEER_LOST, fmt::format("{} went away: {}", peer.name.empty() ? address : peer.name, n == 0 ? "its process ended or closed the session" : strerror(err)),
                 "restart the peer and connect again"));
    else if (role == Role::client && state == State::identity) // it closed right after it saw this side's proof
      lose(Error(BATON_PERMISSION, fmt::format("the endpoint at {} closed the connection when it had seen this side's proof", address),
                 "use the same key file on both sides; with identities, see what that endpoint says of it"));
    else
      lose(Error(BATON_PEER_LOST, fmt::format("{} closed the connection during the handshake", address), "check that it is a Baton endpoint with the same key"));
  }
}

bool Session::Impl::step() {
  switch (state) {
    case State::hello: return role == Role::server ? take_client_hello() : take_server_hello();
    case State::proof: return role == Role::server ? take_client_proof() : take_server_proof();
    case State::header: return take_header();
    case State::identity:
    case State::up: return take_frame();
    case State::connecting:
    case State::lost: return false;
  }
  return false;
}

Status Session::Impl::send_frame(FrameKind kind, const Message& m) {
  if (state == State::lost) return *cause;
  if (!sealed_) return Error(BATON_INTERNAL, "a frame before the session is sealed", "report this");
  std::string json;
  if (kind != FrameKind::heartbeat && kind != FrameKind::bye)
    json = fmt::format(R"({{"t":{},"b":{}}})", dump(m.type), m.body.is_null() ? "{}" : dump(m.body));
  const size_t plain_bytes = 5 + json.size() + m.bytes.size();
  if (plain_bytes > kMaxMessageBytes)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("a message of {} bytes; the limit is {}", plain_bytes, kMaxMessageBytes), "send bulk bytes through a transfer, or in parts");
  if (out_.size() - out_at_ + plain_bytes > kMaxQueuedBytes)
    return Error(BATON_BUSY, fmt::format("{} bytes wait for {} to read them", out_.size() - out_at_, address), "poll, and send again later");
  std::vector<uint8_t> plain(plain_bytes);
  const uint32_t json_bytes = uint32_t(json.size());
  plain[0] = uint8_t(kind);
  std::memcpy(&plain[1], &json_bytes, 4);
  std::copy(json.begin(), json.end(), plain.begin() + 5);
  std::copy(m.bytes.begin(), m.bytes.end(), plain.begin() + 5 + json_bytes);
  seal(plain);
  if (state == State::lost) return *cause;
  return {};
}

void Session::Impl::seal(std::span<const uint8_t> plain) {
  const uint32_t length = uint32_t(plain.size() + Sealer::kExtraBytes);
  const size_t at = out_.size();
  out_.resize(at + 4 + length);
  std::memcpy(&out_[at], &length, 4);
  const uint8_t ad[4] = {out_[at], out_[at + 1], out_[at + 2], out_[at + 3]};
  secrets_->sealer.seal(plain, ad, &out_[at + 4]);
  flush();
}

bool Session::Impl::send_signal(const Signal& s) {
  if (state != State::up || out_.size() - out_at_ > kSignalBacklog) return false;
  uint8_t plain[5 + sizeof s] = {uint8_t(FrameKind::signal)};
  std::memcpy(plain + 5, &s, sizeof s);
  seal(plain);
  return state == State::up;
}

bool Session::Impl::take_frame() {
  const auto in = input();
  if (in.size() < 4) return false;
  const uint32_t length = u32_at(in, 0);
  auto corrupt = [&](const char* why) {
    lose(Error(BATON_CORRUPT, fmt::format("a malformed frame from {}: {}", address, why), "the peer or the network is faulty; connect again"));
    return false;
  };
  if (length < 5 + Sealer::kExtraBytes || length > kMaxMessageBytes + Sealer::kExtraBytes) return corrupt("its length is out of range");
  if (in.size() < 4 + size_t(length)) return false;
  auto& plain = plain_;
  if (plain.capacity() > kKeepPlain) plain = {};
  plain.resize(length - Sealer::kExtraBytes);
  if (!secrets_->opener.open(in.subspan(4, length), in.first(4), plain.data())) return corrupt("it does not authenticate");
  in_at_ += 4 + size_t(length);
  const uint32_t json_bytes = u32_at(plain, 1);
  if (json_bytes > plain.size() - 5) return corrupt("its parts exceed it");
  const auto kind = FrameKind(plain[0]);
  if (kind == FrameKind::heartbeat) return true;
  if (kind == FrameKind::signal) {
    Signal signal;
    if (state != State::up || plain.size() != 5 + sizeof signal) return corrupt("a signal of another size, or before the identity");
    std::memcpy(&signal, &plain[5], sizeof signal);
    ep->dispatch(*this, signal);
    return state != State::lost;
  }
  if (kind == FrameKind::bye) {
    lose(Error(BATON_PEER_LOST, fmt::format("{} closed the session", peer.name.empty() ? address : peer.name), "connect again"));
    return false;
  }
  if (json_too_deep({reinterpret_cast<const char*>(plain.data()) + 5, json_bytes})) return corrupt("its JSON has too many brackets");
  auto json = nlohmann::json::parse(plain.begin() + 5, plain.begin() + 5 + json_bytes, nullptr, false);
  if (!json.is_object() || !json.contains("t") || !json["t"].is_string() || !json.contains("b")) return corrupt("its JSON is not a message");
  Message m;
  m.type = json["t"].get<std::string>();
  m.body = std::move(json["b"]);
  m.bytes.assign(plain.begin() + 5 + json_bytes, plain.end());
  if (kind == FrameKind::refuse) {
    take_refusal(m.body);
    return false;
  }
  if (state == State::identity) {
    if (kind != FrameKind::identity) return corrupt("it comes before the identity");
    take_identity(m);
    return state != State::lost;
  }
  if (kind == FrameKind::transport) {
    ep->dispatch(*this, m);
    return state != State::lost;
  }
  if (kind != FrameKind::user) return corrupt("its kind is unknown");
  inbox_bytes += plain.size();
  inbox.push_back(std::move(m));
  if (inbox_bytes > kMaxQueuedBytes) {
    lose(Error(BATON_CAPACITY, fmt::format("{} bytes from {} were never received", inbox_bytes, address), "call receive() as messages come"));
    return false;
  }
  return true;
}

void Session::Impl::take_identity(const Message& m) {
  const auto& b = m.body;
  auto text = [&](const char* k) { return b.is_object() && b.contains(k) && b[k].is_string() ? b[k].get<std::string>() : std::string(); };
  auto number = [&](const char* k) { return b.is_object() && b.contains(k) && b[k].is_number_unsigned() ? b[k].get<uint64_t>() : uint64_t(0); };
  peer.name = text("name").substr(0, 64);
  peer.host = text("host");
  peer.pids = text("pids");
  peer.pid = int32_t(number("pid"));
  peer.lease_ns = number("lease_ns");
  peer.seal_bulk = m.body.contains("seal") && m.body["seal"] == true;
  if (peer.lease_ns < 1'000'000) return lose(Error(BATON_CORRUPT, fmt::format("{} told no usable lease", address), "run the same Baton version on both sides"));
  const Identity me = my_identity(ep->options);
  same_host = !peer.host.empty() && peer.host == me.host;
  become_up();
}

void Session::Impl::become_up() {
  state = State::up;
  beat_ns_ = std::min(ep->options.lease_ns, peer.lease_ns) / 3;
  ep->authenticated(this);
}

bool Session::Impl::bulk_sealed() const { return ep->options.seal_bulk || peer.seal_bulk; }

void Session::Impl::tick(uint64_t now) {
  if (state == State::lost) return;
  if (state != State::up) {
    if (now - started_ns_ > kHandshakeNs)
      lose(Error(BATON_DEADLINE, fmt::format("the handshake with {} took more than {} ms", address, kHandshakeNs / 1'000'000), "check the network and the peer's load"));
    return;
  }
  if (now - last_rx_ns_ > ep->options.lease_ns) {
    read_some(); // this side may have slept: what has arrived counts
    if (state == State::lost) return;
    if (now_ns() - last_rx_ns_ > ep->options.lease_ns)
      return lose(Error(BATON_PEER_LOST, fmt::format("{} was silent for {} ms, the lease", peer.name.empty() ? address : peer.name, ep->options.lease_ns / 1'000'000),
                        "the peer hangs or the network is down; restart it and connect again"));
  }
  if (now - last_tx_ns_ >= beat_ns_) (void)send_frame(FrameKind::heartbeat, {});
}

}  // namespace baton::transport
