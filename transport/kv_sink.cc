// The decode side: tickets, the lifetime of requests, and fencing.
//
// How a request that ends early is fenced: its slot of the landing is revoked first (mapped: a word that the sender reads before each chunk;
// libfabric: a kv.cancel that the sender answers with kv.abort once nothing of it is in flight). Its generation leaves the active list, so a note
// that still arrives matches nothing and is dropped. Its blocks stay in quarantine until the landing says that the slot is quiet; expect()
// refuses them until then. If the session is lost, quiet means: mapped and shm, the peer's process is gone (or was not writing);
// tcp and hardware, the endpoint is closed.
#include "transport/kv_sink.hpp"
#include "transport/kv_wire.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport {

// ---- lifetime ----

Status KvSink::Impl::start(const Instance& in, Endpoint::Impl& e, const HostMemory& host, const KvLayout& l, std::string m) {
  BATON_TRY(l.check());
  if (!host.base) return Error(BATON_INVALID_ARGUMENT, "a landing without memory", "give the KV pool's first byte");
  if (host.bytes < l.bytes())
    return Error(BATON_INVALID_ARGUMENT, fmt::format("the landing buffer has {} bytes, its layout needs {}", host.bytes, l.bytes()), "allocate KvLayout::bytes()");
  instance = in.get();
  layout = l;
  tags.emplace(l.blocks);
  model = std::move(m);
  memory.id = random_hex(8);
  memory.base = static_cast<uint8_t*>(host.base);
  memory.bytes = l.bytes();
  buffer = host.buffer;
  if (host.fd >= 0) {
    fd = Fd(fcntl(host.fd, F_DUPFD_CLOEXEC, 0));
    if (!fd) return io_error("dup", errno);
    memory.fd = fd.get();
    memory.fd_offset = host.fd_offset;
  }
  timer = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer) return io_error("timerfd_create", errno);
  ep = &e;
  timer_tag_ = ep->watch(timer.get(), EPOLLIN, this);
  ep->add(this);
  notes_.reserve(256);
  return {};
}

KvSink::Impl::~Impl() {
  if (!ep) return;
  ep->remove(this);
  const auto mine = all_;
  for (Incoming::Impl* in : mine) {
    cancel(*in, Error(BATON_CANCELLED, "the sink was closed", "open it again"));
    in->sink = nullptr;
  }
  for (auto& l : links_)
    if (l->session) (void)send_transport(*l->session, "kv.gone", {{"sink", memory.id}});
  links_.clear();
  ep->unwatch(timer_tag_, timer.get());
}

Status KvSink::Impl::check_blocks(const std::vector<int32_t>& blocks, uint64_t tokens) const {
  if (tokens == 0) return Error(BATON_INVALID_ARGUMENT, "a request of 0 tokens", "expect at least one");
  const uint64_t need = (tokens + layout.block_tokens - 1) / layout.block_tokens;
  if (blocks.size() < need)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{} tokens need {} blocks of {}; {} given", tokens, need, layout.block_tokens, blocks.size()), "allocate more blocks");
  std::vector<bool> mine(layout.blocks);
  for (int32_t b : blocks) {
    if (b < 0 || uint32_t(b) >= layout.blocks) return Error(BATON_INVALID_ARGUMENT, fmt::format("block {}: the buffer has 0..{}", b, layout.blocks - 1), "pass this buffer's blocks");
    if (mine[size_t(b)]) return Error(BATON_INVALID_ARGUMENT, fmt::format("block {} is given twice", b), "give each block once");
    mine[size_t(b)] = true;
  }
  for (const auto& q : quarantine_)
    for (int32_t b : q.blocks)
      if (mine[size_t(b)])
        return Error(BATON_BUSY, fmt::format("block {} belongs to a cancelled request whose sender has not stopped yet", b), "use other blocks, or poll until quiesced()");
  return {};
}

Result<Incoming> KvSink::Impl::expect(std::vector<int32_t> blocks, uint64_t tokens, uint64_t held) {
  settle();
  if (held >= tokens && tokens) return Error(BATON_INVALID_ARGUMENT, fmt::format("{} of {} tokens are held: nothing is to come", held, tokens), "expect what is missing");
  BATON_TRY(check_blocks(blocks, tokens));
  auto in = std::make_unique<Incoming::Impl>();
  in->sink = this;
  in->ticket = random_hex(16);
  in->blocks = std::move(blocks);
  const auto upto = [&](uint64_t n) { return size_t((n + layout.block_tokens - 1) / layout.block_tokens); };
  const auto mine = std::span(in->blocks).first(upto(tokens));
  tags->renew(mine.subspan(upto(held)));
  in->tagged = KvTagged(&*tags, mine);
  in->tokens = tokens;
  in->held = held;
  Error e;
  baton_timeline* t = nullptr;
  const std::string name = "landed " + in->ticket.substr(0, 8);
  if (baton_timeline_create(instance, name.c_str(), &t, &e)) return e;
  in->landed = Timeline(t);
  const uint32_t layers = layout.layers_held();
  in->arrived.resize(layers);
  in->wanted.resize(layers);
  in->modelled.resize(layers);
  in->stats.landed_wall_ns.resize(layers);
  in->stats.landed_modelled_ns.resize(layers);
  waiting_[in->ticket] = in.get();
  all_.push_back(in.get());
  return Incoming(std::move(in));
}

void KvSink::Impl::forget(Incoming::Impl& in) {
  cancel(in, Error(BATON_CANCELLED, "the decode side dropped the request", "nothing: it was its choice"));
  std::erase(all_, &in);
  for (auto& q : quarantine_)
    if (q.incoming == &in) q.incoming = nullptr;
}

// ---- ending ----

void KvSink::Impl::leave(Incoming::Impl& in) {
  if (!in.landing) return;
  std::erase(active_, &in);
  in.landing->revoke(in.slot);
  KvKept::of(*ep).keep(in.moves.parts);
  in.quiet = in.landing->quiet(in.slot);
  if (!in.quiet) quarantine_.push_back({in.landing, in.slot, in.session, in.transfer, in.blocks, &in});
  in.landing = nullptr;
  in.session = nullptr;
}

void KvSink::Impl::fail(Incoming::Impl& in, Error why) {
  if (in.state == Incoming::Impl::State::ended || in.state == Incoming::Impl::State::done) return;
  waiting_.erase(in.ticket);
  in.state = Incoming::Impl::State::ended;
  leave(in);
  in.landed.poison(why);
}

void KvSink::Impl::cancel(Incoming::Impl& in, const Error& why) {
  if (in.state == Incoming::Impl::State::active && in.session)
    (void)send_transport(*in.session, "kv.cancel", {{"id", in.transfer}, {"error", to_json(why)}});
  fail(in, why);
}

// Quarantined blocks whose sender has stopped are free again; landings of lost sessions go when nothing holds them.
void KvSink::Impl::settle() {
  std::erase_if(quarantine_, [](Quarantine& q) {
    if (!q.landing->quiet(q.slot)) return false;
    if (q.incoming) q.incoming->quiet = true;
    return true;
  });
  std::erase_if(links_, [&](const auto& l) {
    return !l->session && std::none_of(quarantine_.begin(), quarantine_.end(), [&](const Quarantine& q) { return q.landing == l->landing.get(); });
  });
}

void KvSink::Impl::on_lost(Session::Impl& s, const Error& why) {
  collect(); // what had landed before the end has landed
  const auto mine = active_;
  for (Incoming::Impl* in : mine)
    if (in->session == &s) fail(*in, why);
  for (auto& q : quarantine_)
    if (q.session == &s) q.session = nullptr;
  for (auto& l : links_)
    if (l->session == &s) {
      l->session = nullptr;
      l->landing->session_lost();
    }
  settle();
}

// ---- the public faces ----

Incoming::Incoming(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
Incoming::Incoming(Incoming&&) noexcept = default;
Incoming::~Incoming() {
  if (impl_ && impl_->sink) impl_->sink->forget(*impl_);
}
const std::string& Incoming::ticket() const { return impl_->ticket; }
const Timeline& Incoming::landed() const { return impl_->landed; }
const Incoming::Stats& Incoming::stats() const { return impl_->stats; }

std::optional<Message> Incoming::sealed() {
  if (impl_->state != Impl::State::done || impl_->seal_taken) return std::nullopt;
  impl_->seal_taken = true;
  return std::move(*impl_->seal);
}

void Incoming::cancel(const Error& cause) {
  if (impl_->sink) impl_->sink->cancel(*impl_, cause);
}

bool Incoming::quiesced() {
  if (!impl_->quiet && impl_->sink) impl_->sink->settle();
  return impl_->quiet || !impl_->sink;
}

Status Incoming::intact() {
  if (!impl_->sink) return Error(BATON_CANCELLED, "the sink was closed", "open it again");
  return impl_->tagged.intact("this request");
}

KvSink::KvSink(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
KvSink::KvSink(KvSink&&) noexcept = default;
KvSink::~KvSink() = default;

Result<KvSink> KvSink::create(const Instance& in, Endpoint& ep, const Buffer& memory, const KvLayout& layout, std::string model) {
  BATON_ASSIGN(void* base, memory.map());
  auto x = memory.export_fd();
  const Fd fd(x.ok() ? x->fd : -1);
  return create(in, ep, HostMemory{base, memory.bytes(), fd.get(), x.ok() ? x->offset : 0, memory.get()}, layout, std::move(model));
}

Result<KvSink> KvSink::create(const Instance& in, Endpoint& ep, const HostMemory& memory, const KvLayout& layout, std::string model) {
  auto impl = std::make_unique<Impl>();
  BATON_TRY(impl->start(in, ep.impl(), memory, layout, std::move(model)));
  return KvSink(std::move(impl));
}

KvTags& KvSink::tags() { return *impl_->tags; }

Result<Incoming> KvSink::expect(std::vector<int32_t> blocks, uint64_t tokens, uint64_t held) { return impl_->expect(std::move(blocks), tokens, held); }

}  // namespace baton::transport
