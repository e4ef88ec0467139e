#include "transport/mapped_hub.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport {
namespace {

constexpr char kKey[] = "mapped";

}  // namespace

Status MappedHub::start() {
  name_ = "baton-" + random_hex(16);
  BATON_ASSIGN(listener_, unix_listen(name_));
  tag_ = ep_.watch(listener_.get(), EPOLLIN, this);
  return {};
}

Result<MappedHub*> MappedHub::of(Endpoint::Impl& ep) {
  auto& slot = ep.attached[kKey];
  if (!slot) {
    auto hub = std::make_unique<MappedHub>(ep);
    BATON_TRY(hub->start());
    slot = std::move(hub);
  }
  return static_cast<MappedHub*>(slot.get());
}

void MappedHub::ready(uint32_t) {
  for (int i = 0; i < 8; ++i) {
    Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) return;
    if (!unix_peer_is_me(fd.get())) continue;
    if (guests_.size() >= kMaxHandshakes) guests_.erase(guests_.begin()); // the oldest has had its time
    auto g = std::make_unique<Guest>();
    g->hub = this;
    g->tag = ep_.watch(fd.get(), EPOLLIN, g.get());
    g->fd = std::move(fd);
    guests_.push_back(std::move(g));
  }
}

void MappedHub::token_from(Guest* g) {
  uint8_t buf[65];
  std::array<Fd, 4> none;
  const ssize_t n = unix_recv(g->fd.get(), buf, none);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  MappedHost* host = nullptr;
  if (n == 64) {
    const auto it = tokens_.find(std::string(reinterpret_cast<char*>(buf), 64));
    if (it != tokens_.end()) host = it->second;
  }
  Fd fd = std::move(g->fd);
  ep_.unwatch(g->tag, fd.get());
  if (host) host->welcome(std::move(fd));
  std::erase_if(guests_, [&](const auto& x) { return x.get() == g; });
}

}  // namespace baton::transport
