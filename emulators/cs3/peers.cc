#include "emulators/cs3/peers.h"

#include "drivers/cs3/link/connect.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace baton::cs3 {

static constexpr uint64_t kConnectMs = 2000;
static constexpr size_t kPiece = 1 << 20;

Result<std::unique_ptr<PeerOut>> PeerOut::open(const HostPort& to, const SessionKey& key) {
  auto p = std::make_unique<PeerOut>();
  p->where_ = to.host + ":" + to.port;
  p->deadline_ns_ = deadline_in_ms(kConnectMs);
  BATON_ASSIGN(p->connecting_, Connecting::begin(to.host, to.port));
  Hello hello = make_hello(CarrierKind::stage);
  std::memcpy(hello.key, key.data(), key.size());
  const auto* bytes = reinterpret_cast<const uint8_t*>(&hello);
  p->out_.assign(bytes, bytes + sizeof hello);  // goes first
  return p;
}

Status PeerOut::watch(int epoll, uint64_t id) {
  epoll_ = epoll;
  id_ = id;
  return add_to_epoll();
}

// A connection that is on its way to another address has another socket; one that is known already stays.
Status PeerOut::add_to_epoll() {
  epoll_event ev{.events = EPOLLRDHUP | EPOLLOUT, .data = {.u64 = id_}};
  return ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd(), &ev) == 0 || errno == EEXIST ? Status() : Status(io_error("epoll_ctl", errno));
}

void PeerOut::fail(std::string why) {
  if (why_.empty()) why_ = "the stage on " + where_ + ": " + why;
  connecting_.reset();
  socket_.reset();
}

void PeerOut::look_at_clock() {
  if (connecting_ && now_ns() >= deadline_ns_) fail("no answer in " + std::to_string(kConnectMs / 1000) + " s");
}

void PeerOut::send(const StageMessage& m) {
  if (!why_.empty()) return;
  const auto* head = reinterpret_cast<const uint8_t*>(&m.frame);
  out_.insert(out_.end(), head, head + sizeof m.frame);
  out_.insert(out_.end(), m.payload.begin(), m.payload.end());
  flush();
}

void PeerOut::flush() {
  if (connecting_) return;
  while (sent_ < out_.size()) {
    const ssize_t n = ::send(socket_.get(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) sent_ += size_t(n);
    else if (n < 0 && errno == EAGAIN) break;
    else if (n < 0 && errno != EINTR) return fail(io_error("its daemon is gone", errno).what);
  }
  const bool whole = sent_ == out_.size();
  epoll_event ev{.events = whole ? uint32_t(EPOLLRDHUP) : uint32_t(EPOLLRDHUP | EPOLLOUT), .data = {.u64 = id_}};
  ::epoll_ctl(epoll_, EPOLL_CTL_MOD, socket_.get(), &ev);
  if (!whole) return;
  out_.clear();
  sent_ = 0;
}

void PeerOut::on_event(uint32_t events) {
  if (!why_.empty()) return;
  if (connecting_) {
    auto connected = connecting_->step();
    if (!connected) return fail(connected.error().what);
    if (!*connected) {
      if (Status st = add_to_epoll(); !st.ok()) fail(st.error().what);
      return;
    }
    socket_ = std::move(*connecting_).take();
    connecting_.reset();
    return flush();
  }
  if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) return fail("its daemon is gone, or its client is");
  if (events & EPOLLOUT) flush();
}

bool PeerIn::read(const std::function<bool(StageMessage&&)>& deliver) {
  constexpr size_t kHead = sizeof(PeerFrame);
  std::vector<uint8_t>& payload = message_.payload;
  for (;;) {
    const bool in_head = got_ < kHead;
    if (!in_head && got_ - kHead == payload.size()) payload.resize(std::min<size_t>(message_.frame.bytes, payload.size() + kPiece));  // as it comes: what is announced costs nothing
    uint8_t* to = in_head ? reinterpret_cast<uint8_t*>(&message_.frame) + got_ : payload.data() + (got_ - kHead);
    const size_t left = in_head ? kHead - got_ : kHead + payload.size() - got_;
    if (left) {
      const ssize_t n = ::recv(socket_.get(), to, left, MSG_DONTWAIT);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return true;
      if (n <= 0) return why_ = "the stage before is gone with its daemon, or its client is", false;
      got_ += size_t(n);
    }
    if (got_ < kHead) continue;
    if (in_head) {
      if (const char* wrong = check(message_.frame)) return why_ = std::string("the stage before said what cannot be: ") + wrong, false;
    }
    if (got_ < kHead + message_.frame.bytes) continue;
    if (!deliver(std::move(message_))) return why_ = "the stage before sends more than is taken", false;
    message_ = {};
    got_ = 0;
  }
}

}  // namespace baton::cs3
