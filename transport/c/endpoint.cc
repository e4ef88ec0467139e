// Identities, endpoints, sessions and pools of baton_kv.h.
#include "transport/c/handles.hpp"
#include "transport/identity.hpp"
#include "transport/kv_wire.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

using namespace baton;
using namespace baton::kv_c;
using namespace baton::transport;

namespace {

// "a,b" as a list.
std::vector<std::string> split(std::string_view s) {
  std::vector<std::string> all;
  while (!s.empty()) {
    const size_t n = std::min(s.find(','), s.size());
    if (n) all.emplace_back(s.substr(0, n));
    s.remove_prefix(std::min(n + 1, s.size()));
  }
  return all;
}

Result<EndpointOptions> options_of(const baton_kv_endpoint_options& c) {
  EndpointOptions o;
  o.listen = text(c.listen);
  o.name = text(c.name);
  if (c.key_file) {
    BATON_ASSIGN(o.key, read_key_file(c.key_file));
  } else if (c.key) {
    std::copy_n(c.key, o.key.size(), o.key.begin());
  } else if (!c.identity) {
    return Error(BATON_INVALID_ARGUMENT, "an endpoint without a key", "set key_file, key or identity");
  }
  if (!c.identity && std::all_of(o.key.begin(), o.key.end(), [](uint8_t b) { return b == 0; }))
    return Error(BATON_INVALID_ARGUMENT, "the key is all zero", "make one: 32 random bytes");
  if (c.lease_ns) o.lease_ns = c.lease_ns;
  o.identity = text(c.identity);
  o.known_peers = text(c.known_peers);
  o.accept_roles = split(text(c.accept_roles));
  o.recheck_peers_ns = c.recheck_peers_ns;
  o.seal_bulk = c.seal_bulk;
  o.rails = text(c.rails);
  return o;
}

baton_kv_session* adopt(baton_kv_endpoint* ep, std::unique_ptr<Session> s) {
  auto& out = ep->sessions.emplace_back(std::make_unique<baton_kv_session>());
  out->ep = ep;
  out->session = std::move(s);
  return out.get();
}

void tell(const PublicKey& key, baton_kv_identity* out) {
  if (!out) return;
  baton_kv_identity i{};
  put(i.public_key, public_key_text(key));
  put(i.fingerprint, fingerprint(key));
  copy_out(out, i);
}

Error too_long(uint64_t count) { return Error(BATON_INVALID_ARGUMENT, std::to_string(count) + " bytes in one message", "at most BATON_KV_NOTE_BYTES; large things go by a push"); }

// Fills in where the pool's memory is. What the pool must close, it owns.
Status find_memory(baton_kv_pool& p, const baton_kv_pool_options& o) {
  HostMemory& m = p.memory;
  m.bytes = o.bytes;
  switch (o.memory) {
    case BATON_KV_MEMORY_HOST:
      if (!o.base) return missing("base");
      m.base = o.base;
      return {};
    case BATON_KV_MEMORY_FD: {
      struct stat st {};
      if (fstat(o.fd, &st)) return io_error("fstat", errno);
      if (S_ISREG(st.st_mode) && (o.bytes > uint64_t(st.st_size) || o.fd_offset > uint64_t(st.st_size) - o.bytes)) // else the first access is a SIGBUS
        return Error(BATON_INVALID_ARGUMENT, std::to_string(o.bytes) + " bytes at offset " + std::to_string(o.fd_offset) + " of an object of " + std::to_string(st.st_size),
                     "make the object as large as the pool");
      p.fd = Fd(fcntl(o.fd, F_DUPFD_CLOEXEC, 0));
      if (!p.fd) return io_error("dup", errno);
      m.fd = p.fd.get();
      m.fd_offset = o.fd_offset;
      m.base = o.base;
      if (m.base) return {};
      auto mapped = mapped::Mapping::of(m.fd, m.fd_offset, m.bytes, mapped::Mapping::Use::write);
      if (!mapped.ok()) return Error(BATON_UNSUPPORTED, "the descriptor cannot be mapped: " + std::string(mapped.error().what), "pass a memfd, or a dma-buf whose exporter can mmap");
      p.mapping = std::move(*mapped);
      m.base = p.mapping.get();
      return {};
    }
    case BATON_KV_MEMORY_BUFFER: {
      Error e;
      if (!o.buffer) return missing("buffer");
      m.bytes = baton_buffer_bytes(o.buffer);
      m.buffer = o.buffer;
      if (baton_map(o.buffer, &m.base, &e)) return e;
      int fd = -1;
      if (!baton_export(o.buffer, &fd, &m.fd_offset, nullptr)) p.fd = Fd(fd);
      m.fd = p.fd.get();
      return {};
    }
    default: return Error(BATON_INVALID_ARGUMENT, "memory " + std::to_string(o.memory), "one of baton_kv_memory_kind");
  }
}

} // namespace

baton_kv_endpoint::~baton_kv_endpoint() {
  pushes.clear();
  holds.clear();
  holder.reset();
  lenders.clear();
  borrowers.clear();
  grants.clear();
  puller.reset();
  pools.clear();
  sessions.clear();
  endpoint.reset();
}

int32_t baton_kv_key_new(const char* path, baton_error* error) {
  return edge(error, [&]() -> Status { return path ? write_key_file(path) : Status(missing("the path")); });
}

int32_t baton_kv_identity_new(const char* path, baton_kv_identity* out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!path) return missing("the path");
    BATON_ASSIGN(const PublicKey key, write_identity_file(path));
    tell(key, out);
    return {};
  });
}

int32_t baton_kv_identity_read(const char* path, baton_kv_identity* out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!path) return missing("the path");
    BATON_ASSIGN(const PublicKey key, identity_public_key(path));
    tell(key, out);
    return {};
  });
}

int32_t baton_kv_endpoint_open(const baton_kv_endpoint_options* options, baton_kv_endpoint** out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!options) return missing("the options: an endpoint has a key");
    if (!out) return missing("the result");
    const auto c = copy_in(options);
    BATON_ASSIGN(EndpointOptions o, options_of(c));
    auto ep = std::make_unique<baton_kv_endpoint>();
    if (c.instance) {
      ep->lent.in = Instance(c.instance);
      ep->instance = &ep->lent.in;
    } else {
      BATON_ASSIGN(ep->own, Instance::create());
      ep->instance = &ep->own;
    }
    BATON_ASSIGN(Endpoint e, Endpoint::open(*ep->instance, std::move(o)));
    ep->endpoint.emplace(std::move(e));
    ep->address = ep->endpoint->address();
    ep->hold_beat_ns = c.hold_beat_ns;
    *out = ep.release();
    return {};
  });
}

void baton_kv_endpoint_close(baton_kv_endpoint* ep) { delete ep; }
const char* baton_kv_endpoint_address(const baton_kv_endpoint* ep) { return ep ? ep->address.c_str() : ""; }
baton_instance* baton_kv_endpoint_instance(const baton_kv_endpoint* ep) { return ep ? ep->instance->get() : nullptr; }
int baton_kv_endpoint_fd(const baton_kv_endpoint* ep) { return ep ? baton_instance_fd(ep->instance->get()) : -1; }

uint32_t baton_kv_endpoint_drop_unknown_peers(baton_kv_endpoint* ep) {
  if (!ep) return 0;
  return quietly(0u, [&] { return ep->endpoint->drop_unknown_peers(); });
}

int32_t baton_kv_connect(baton_kv_endpoint* ep, const char* address, uint64_t deadline_ns, baton_kv_session** out, baton_error* error) {
  return baton_kv_connect_to(ep, address, nullptr, deadline_ns, out, error);
}

int32_t baton_kv_connect_to(baton_kv_endpoint* ep, const char* address, const baton_kv_connect_options* options, uint64_t deadline_ns, baton_kv_session** out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!ep || !address || !out) return missing("the endpoint, the address or the result");
    const auto o = options ? copy_in(options) : baton_kv_connect_options{};
    BATON_ASSIGN(auto s, ep->endpoint->connect(address, deadline_ns, {text(o.peer), text(o.role)}));
    *out = adopt(ep, std::move(s));
    return {};
  });
}

int32_t baton_kv_accept(baton_kv_endpoint* ep, uint64_t deadline_ns, baton_kv_session** out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!ep || !out) return missing("the endpoint or the result");
    const uint64_t before = ep->endpoint->rejected();
    baton_poll(ep->instance->get(), 64);
    for (;;) {
      if (auto s = ep->endpoint->accept()) {
        *out = adopt(ep, std::move(s));
        return {};
      }
      if (now_ns() >= deadline_ns) break;
      baton_poll_wait(ep->instance->get(), std::min(deadline_ns, now_ns() + 10'000'000));
    }
    const auto why = ep->endpoint->last_rejection();
    return Error(BATON_DEADLINE, ep->endpoint->rejected() != before && why ? "nobody but a peer that was refused: " + std::string(why->what) : std::string("nobody has connected"),
                 "connect to this address, and ask again");
  });
}

void baton_kv_session_close(baton_kv_session* s) {
  if (!s) return;
  quietly(0, [&] {
    baton_kv_endpoint* ep = s->ep;
    for (auto& g : ep->grants)
      if (g->session == s) {
        g->session = nullptr;
        if (!g->complete && g->incoming) g->incoming->cancel(Error(BATON_CANCELLED, "the session was closed on this side", "open a new one"));
      }
    untrack(*ep, s);
    forget(ep->sessions, s); // its transfers and loans fail with it
    return 0;
  });
}

int32_t baton_kv_session_read(const baton_kv_session* s, baton_kv_session_info* out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!s || !out) return missing("the session or the result");
    baton_kv_session_info i{};
    i.same_host = s->session->same_host();
    put(i.name, s->session->peer_name());
    put(i.address, s->session->peer_address());
    put(i.epoch, s->session->peer_epoch());
    if (const PeerIdentity* known = s->session->peer_identity()) {
      put(i.peer, known->name);
      put(i.fingerprint, known->fingerprint);
      std::string roles;
      for (const std::string& r : known->roles) roles += (roles.empty() ? "" : ",") + r;
      put(i.roles, roles);
    }
    i.bulk_sealed = s->session->impl().bulk_sealed();
    copy_out(out, i);
    return s->session->alive();
  });
}

int32_t baton_kv_notify(baton_kv_session* s, const char* type, const void* bytes, uint64_t count, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!s || !type || (count && !bytes)) return missing("the session, the type or the bytes");
    if (count > BATON_KV_NOTE_BYTES || std::strlen(type) > 255) return too_long(count + std::strlen(type));
    if (std::string_view(type).starts_with(kReserved)) return Error(BATON_INVALID_ARGUMENT, "the type '" + std::string(type) + "' is reserved", "choose one that does not begin with 'baton.'");
    const auto* b = static_cast<const uint8_t*>(bytes);
    return s->session->send({type, nlohmann::json::object(), std::vector<uint8_t>(b, b + count)});
  });
}

int32_t baton_kv_register(baton_kv_endpoint* ep, const baton_kv_pool_options* options, baton_kv_pool** out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!ep || !options || !out) return missing("the endpoint, the options or the result");
    const auto o = copy_in(options);
    if (!o.layout) return missing("the layout");
    auto p = std::make_unique<baton_kv_pool>();
    p->ep = ep;
    p->layout = layout_in(o.layout);
    p->model = text(o.model);
    BATON_TRY(p->layout.check());
    BATON_TRY(find_memory(*p, o));
    if (p->memory.bytes < p->layout.bytes())
      return Error(BATON_INVALID_ARGUMENT, "the pool has " + std::to_string(p->memory.bytes) + " bytes, its layout needs " + std::to_string(p->layout.bytes()), "see baton_kv_layout_facts");
    p->tags.emplace(p->layout.blocks);
    *out = ep->pools.emplace_back(std::move(p)).get();
    return {};
  });
}

int32_t baton_kv_renew(baton_kv_pool* p, const int32_t* blocks, uint64_t count, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!p || (count && !blocks)) return missing("the pool or the list of blocks");
    const std::span<const int32_t> all(blocks, count);
    for (const int32_t b : all)
      if (b < 0 || uint32_t(b) >= p->layout.blocks)
        return Error(BATON_INVALID_ARGUMENT, "block " + std::to_string(b) + " of a pool of " + std::to_string(p->layout.blocks), "pass this pool's blocks");
    p->tags->renew(all);
    if (p->sink) p->sink->tags().renew(all);
    return {};
  });
}

void baton_kv_unregister(baton_kv_pool* p) {
  if (!p) return;
  quietly(0, [&] {
    baton_kv_endpoint* ep = p->ep;
    for (auto& u : ep->pushes)
      if (std::find(u->pools.begin(), u->pools.end(), p) != u->pools.end()) end_push(*u, Error(BATON_CANCELLED, "the pool was unregistered", "push from another"));
    const Error gone(BATON_CANCELLED, "the pool was unregistered", "use another");
    for (auto& h : ep->holds)
      if (std::find(h->pools.begin(), h->pools.end(), p) != h->pools.end()) end_hold(*h, gone);
    for (auto& l : ep->lenders)
      if (l->pool == p) end_lender(*l, gone);
    p->sink.reset(); // poisons what is granted
    for (auto& g : ep->grants)
      if (g->pool == p) g->pool = nullptr;
    forget_memory(*ep->endpoint, p->memory);
    forget(ep->pools, p);
    return 0;
  });
}

void* baton_kv_pool_base(const baton_kv_pool* p) { return p ? p->memory.base : nullptr; }
