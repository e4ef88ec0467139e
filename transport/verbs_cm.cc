#include "transport/verbs_cm.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/epoll.h>

#include <cerrno>

namespace baton::transport {
namespace {

constexpr size_t kTokenBytes = 32; // hex digits: 16 random bytes. The private data of a request holds 56 (rdma_connect(3)): what the client says follows.
constexpr int kResolveMs = 2000;

Result<sockaddr_storage> address_of(const std::string& host, uint16_t port, const char* what) {
  addrinfo hints{}, *list = nullptr;
  hints.ai_flags = AI_NUMERICHOST;
  if (const int rc = getaddrinfo(host.c_str(), nullptr, &hints, &list)) return Error(BATON_CORRUPT, fmt::format("verbs: {} '{}': {}", what, host.substr(0, 64), gai_strerror(rc)), "run the same Baton version on both sides");
  sockaddr_storage a{};
  std::memcpy(&a, list->ai_addr, list->ai_addrlen);
  freeaddrinfo(list);
  if (a.ss_family == AF_INET) reinterpret_cast<sockaddr_in&>(a).sin_port = htons(port);
  else reinterpret_cast<sockaddr_in6&>(a).sin6_port = htons(port);
  return a;
}

} // namespace

const char* cm_event_text(const CmEvent& e) { return rdma_event_str(e.type); }

Result<VerbsHub*> VerbsHub::of(Endpoint::Impl& ep) {
  auto& slot = ep.attached[kKey];
  if (!slot) {
    std::unique_ptr<VerbsHub> hub(new VerbsHub(ep));
    if (Status s = hub->start(); !s.ok()) {
      ep.attached.erase(kKey);
      return s.error();
    }
    slot = std::move(hub);
  }
  return static_cast<VerbsHub*>(slot.get());
}

VerbsHub* VerbsHub::existing(Endpoint::Impl& ep) {
  const auto it = ep.attached.find(kKey);
  return it == ep.attached.end() ? nullptr : static_cast<VerbsHub*>(it->second.get());
}

Status VerbsHub::start() {
  if (auto why = verbs_missing()) return Error(BATON_UNSUPPORTED, *why, "choose another fabric; 'devctl topo' lists them");
  channel_.reset(rdma_create_event_channel());
  if (!channel_) return Error(BATON_UNSUPPORTED, fmt::format("verbs: no RDMA connection manager: {}", strerror(errno)), "load the kernel module rdma_ucm, and see who may open /dev/infiniband/rdma_cm");
  const int fd = channel_->fd;
  if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC)) return io_error("fcntl", errno);
  tag_ = ep_.watch(fd, EPOLLIN, this);
  return {};
}

VerbsHub::~VerbsHub() {
  if (tag_) ep_.unwatch(tag_, channel_->fd);
  listeners_.clear();
}

bool VerbsHub::has(const std::string& host) {
  if (!error_ && !had_.contains(host) && bound(host).ok()) had_.insert(host);
  return !error_ && had_.contains(host);
}

Result<CmId> VerbsHub::bound(const std::string& host) {
  BATON_ASSIGN(sockaddr_storage a, address_of(host, 0, "the session's own address"));
  rdma_cm_id* raw = nullptr;
  if (rdma_create_id(channel_.get(), &raw, nullptr, RDMA_PS_TCP)) return io_error("rdma_create_id", errno);
  CmId id(raw);
  if (rdma_bind_addr(raw, reinterpret_cast<sockaddr*>(&a)) || !raw->verbs)
    return Error(BATON_UNSUPPORTED, fmt::format("verbs: no RDMA device of this host has the session's address {}: {}", host, strerror(raw->verbs ? errno : ENODEV)),
                 "let the endpoint listen on the address of an RDMA port ('rdma link', 'ip address')");
  return id;
}

Result<VerbsHub::Listening> VerbsHub::listen(const std::string& host) {
  if (const auto it = listeners_.find(host); it != listeners_.end()) return it->second.at;
  BATON_ASSIGN(CmId id, bound(host));
  if (rdma_listen(id.get(), int(kMaxHandshakes))) return io_error("rdma_listen", errno);
  BATON_ASSIGN(VerbsDevice * d, device(id.get()));
  const uint16_t port = ntohs(rdma_get_src_port(id.get()));
  Listener l{std::move(id), {host, port, d}};
  return listeners_.emplace(host, std::move(l)).first->second.at;
}

Result<CmId> VerbsHub::resolve(const std::string& from, const std::string& to, uint16_t port, CmClient* client) {
  BATON_ASSIGN(sockaddr_storage mine, address_of(from, 0, "the session's own address"));
  BATON_ASSIGN(sockaddr_storage theirs, address_of(to, port, "the sink's address"));
  rdma_cm_id* raw = nullptr;
  if (rdma_create_id(channel_.get(), &raw, client, RDMA_PS_TCP)) return io_error("rdma_create_id", errno);
  CmId id(raw);
  if (rdma_resolve_addr(raw, reinterpret_cast<sockaddr*>(&mine), reinterpret_cast<sockaddr*>(&theirs), kResolveMs))
    return Error(BATON_UNSUPPORTED, fmt::format("verbs: no RDMA device reaches {} from {}: {}", to, from, strerror(errno)), "use addresses of RDMA ports for the session ('rdma link', 'ip address')");
  return id;
}

Result<VerbsDevice*> VerbsHub::device(rdma_cm_id* id) {
  const char* name = id->verbs ? ibv_get_device_name(id->verbs->device) : "";
  for (auto& d : devices_)
    if (d->name() == name) return d.get();
  BATON_ASSIGN(auto d, VerbsDevice::open(ep_, id->verbs->device));
  devices_.push_back(std::move(d));
  return devices_.back().get();
}

std::string VerbsHub::expect(CmAcceptor* a) {
  std::string token = random_hex(kTokenBytes / 2);
  tokens_[token] = a;
  return token;
}

void VerbsHub::ready(uint32_t) {
  rdma_cm_event* e = nullptr;
  for (int i = 0; i < 64; ++i) {
    if (rdma_get_cm_event(channel_.get(), &e)) {
      if (errno == EAGAIN || errno == EINTR) return;
      // The kernel serves the descriptor for the credentials that it was opened with alone.
      error_ = io_error("verbs: the RDMA connection manager", errno);
      Error::put(error_->next, "open the endpoint after the process has changed its user or capabilities; see the kernel's log");
      ep_.unwatch(std::exchange(tag_, 0), channel_->fd);
      return;
    }
    const CmEvent copy{e->event, e->status};
    rdma_cm_id* const id = e->id;
    auto* const client = static_cast<CmClient*>(id->context);
    std::string said;
    if (copy.type == RDMA_CM_EVENT_CONNECT_REQUEST && e->param.conn.private_data && e->param.conn.private_data_len >= kTokenBytes)
      said.assign(static_cast<const char*>(e->param.conn.private_data), e->param.conn.private_data_len);
    rdma_ack_cm_event(e); // before the connection is destroyed: that waits for it
    if (copy.type == RDMA_CM_EVENT_CONNECT_REQUEST) {
      id->context = nullptr; // a new connection; it came with the listener's
      request(CmId(id), said);
    } else if (client) {
      client->on_event(copy);
    }
  }
}

void VerbsHub::request(CmId id, const std::string& said) {
  const auto it = tokens_.find(said.substr(0, kTokenBytes));
  if (it == tokens_.end()) {
    rdma_reject(id.get(), nullptr, 0);
    return;
  }
  CmAcceptor* const a = it->second;
  tokens_.erase(it); // it works once
  a->on_request(std::move(id), {reinterpret_cast<const uint8_t*>(said.data()) + kTokenBytes, said.size() - kTokenBytes});
}

}  // namespace baton::transport
