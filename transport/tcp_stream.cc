#include "transport/tcp_stream.hpp"

#include "transport/crypto.hpp"
#include "transport/kv_wire.hpp"

#include <fmt/format.h>

#include <poll.h>
#include <sodium.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

namespace baton::transport {
namespace {

constexpr uint64_t kLeastSegment = 512;       // on average; below, an entry of an iovec costs more than to pack it
constexpr uint64_t kChunkBytes = 1u << 20;
constexpr size_t kSegmentsPerCall = 256;
constexpr uint64_t kPollBytes = 2u << 20;     // what a poll of the sink reads, about 0.4 ms
constexpr size_t kStrangers = 8;              // that have connected and not shown the token yet
constexpr size_t kSinkBytes = 64u << 10;

std::string with_any_port(const std::string& host) { return host.find(':') == std::string::npos ? host + ":0" : fmt::format("[{}]:0", host); }

}  // namespace

// ---- the sender ----

Status TcpStreamSender::start(const nlohmann::json& offer, uint64_t small_segment) {
  const auto address = text_of(offer, "address"), token = text_of(offer, "token");
  size_t n = 0;
  if (!address || !token || sodium_hex2bin(token_.data(), token_.size(), token->data(), token->size(), nullptr, &n, nullptr) || n != token_.size())
    return Error(BATON_CORRUPT, "the sink's socket for a stream makes no sense", "run the same Baton version on both sides");
  small_ = small_segment;
  auto fd = tcp_connect(*address);
  if (!fd.ok()) state_ = State::broken; // the other road is there
  else fd_ = std::move(*fd);
  return {};
}

bool TcpStreamSender::connected() {
  if (state_ == State::connecting) {
    pollfd p{fd_.get(), POLLOUT, 0};
    if (::poll(&p, 1, 0) != 1) return false;
    if (socket_error(fd_.get())) return state_ = State::broken, false;
    set_nodelay(fd_.get());
    state_ = State::token;
  }
  if (state_ == State::token) {
    const ssize_t n = send(fd_.get(), token_.data() + head_, token_.size() - head_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN) state_ = State::broken;
    if (n > 0 && (head_ += size_t(n)) == token_.size()) state_ = State::ready;
  }
  return state_ == State::ready;
}

bool TcpStreamSender::takes(Batch& b) {
  if (!b.next && !b.offset && !b.pack && !(open_ && batch_ == &b)) {
    const size_t n = b.segments.size();
    b.job = connected() && !b.units && !b.stripe && n > 4 && b.bytes / n < small_ && b.bytes / n >= kLeastSegment;
  }
  return b.job;
}

bool TcpStreamSender::begin(Batch& b) {
  uint64_t bytes = 0, offset = b.offset;
  for (size_t i = b.next; i < b.segments.size() && bytes < kChunkBytes; ++i, offset = 0) bytes += b.segments[i].bytes - offset;
  if (!bytes) return false;
  note_ = {};
  note_.kind = Note::Kind::piece;
  note_.generation = b.generation;
  note_.source = b.source, note_.part = b.part, note_.layer = b.layer;
  note_.offset = b.packed;
  left_ = note_.bytes = std::min(bytes, kChunkBytes);
  head_ = 0;
  open_ = true;
  batch_ = &b;
  ++b.outstanding;
  return true;
}

// What is missing of the note, and of the chunk as much as one call takes. The result is of the chunk alone; -1: errno.
ssize_t TcpStreamSender::send_some() {
  static constexpr uint8_t kZeros[4096] = {};
  iovec iov[kSegmentsPerCall];
  size_t k = 0;
  uint64_t room = left_;
  if (head_ < sizeof note_) iov[k++] = {reinterpret_cast<uint8_t*>(&note_) + head_, sizeof note_ - head_};
  const size_t head = sizeof note_ - head_;
  if (batch_) {
    uint64_t offset = batch_->offset;
    for (size_t i = batch_->next; k < kSegmentsPerCall && room; ++i, offset = 0) {
      const KvSegment& g = batch_->segments[i];
      const uint64_t n = std::min(g.bytes - offset, room);
      iov[k++] = {const_cast<uint8_t*>(batch_->src + g.src + offset), n};
      room -= n;
    }
  } else {
    for (; k < kSegmentsPerCall && room; room -= iov[k++].iov_len) iov[k] = {const_cast<uint8_t*>(kZeros), std::min(room, uint64_t(sizeof kZeros))};
  }
  msghdr m{};
  m.msg_iov = iov;
  m.msg_iovlen = k;
  const ssize_t sent = sendmsg(fd_.get(), &m, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0) return -1;
  const size_t of_head = std::min(size_t(sent), head);
  head_ += of_head;
  const uint64_t n = uint64_t(sent) - of_head;
  left_ -= n;
  if (batch_) {
    Batch& b = *batch_;
    b.packed += n, b.streamed += n;
    for (uint64_t rest = n; rest;) {
      const uint64_t here = std::min(b.segments[b.next].bytes - b.offset, rest);
      b.offset += here, rest -= here;
      if (b.offset == b.segments[b.next].bytes) ++b.next, b.offset = 0;
    }
    if (b.posted()) b.packed = 0;
  }
  if (head_ == sizeof note_ && !left_) {
    open_ = false;
    if (batch_) --std::exchange(batch_, nullptr)->outstanding;
  }
  return ssize_t(n);
}

void TcpStreamSender::fail(Batch& b, int err) {
  state_ = State::broken;
  b.error = io_error("the socket of a stream", err);
  b.error->code = BATON_PEER_LOST;
}

uint64_t TcpStreamSender::step(Batch& b, uint64_t budget) {
  uint64_t done = 0;
  flush();
  while (done < budget && !b.error) {
    if (state_ != State::ready) {
      fail(b, EPIPE);
      break;
    }
    if (open_ ? batch_ != &b : b.posted() || !begin(b)) break;
    const ssize_t n = send_some();
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) fail(b, errno);
    else done += uint64_t(n);
  }
  return done;
}

void TcpStreamSender::stop(Batch& b) {
  if (!open_ || batch_ != &b) return;
  batch_ = nullptr;
  --b.outstanding;
  flush();
}

void TcpStreamSender::flush() {
  while (open_ && !batch_ && state_ == State::ready)
    if (send_some() < 0) {
      if (errno != EAGAIN) state_ = State::broken;
      return;
    }
}

// ---- the landing ----

TcpStreamLanding::~TcpStreamLanding() {
  for (Peer& p : peers_) drop(p);
  if (tag_) ep_.unwatch(tag_, listen_.get());
}

Status TcpStreamLanding::listen(const std::string& host) {
  BATON_ASSIGN(listen_, tcp_listen(with_any_port(host)));
  randombytes_buf(token_.data(), token_.size());
  tag_ = ep_.watch(listen_.get(), EPOLLIN, this);
  return {};
}

nlohmann::json TcpStreamLanding::offer() const { return {{"address", local_address(listen_.get())}, {"token", hex(token_)}}; }

void TcpStreamLanding::drop(Peer& p) {
  if (p.tag) ep_.unwatch(std::exchange(p.tag, 0), p.fd.get());
  p.fd.reset();
}

void TcpStreamLanding::accept_all() {
  for (int fd; (fd = accept4(listen_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
    if (std::count_if(peers_.begin(), peers_.end(), [](const Peer& p) { return !p.admitted; }) >= ptrdiff_t(kStrangers)) { // the oldest makes room
      const auto oldest = std::find_if(peers_.begin(), peers_.end(), [](const Peer& p) { return !p.admitted; });
      drop(*oldest);
      peers_.erase(oldest);
    }
    Peer& p = peers_.emplace_back();
    p.fd = Fd(fd);
    p.tag = ep_.watch(fd, EPOLLIN, this);
  }
}

bool TcpStreamLanding::poll(uint32_t& worked) {
  accept_all();
  for (size_t i = 0; i < peers_.size();) {
    Read r = Read::some;
    for (uint64_t bytes = 0; bytes < kPollBytes && (r = read(peers_[i], bytes)) == Read::some;) ++worked;
    if (r == Read::broken) return false;
    if (r != Read::gone) {
      ++i;
      continue;
    }
    drop(peers_[i]);
    peers_.erase(peers_.begin() + ptrdiff_t(i));
  }
  return true;
}

// A token or a note, so much of it as came.
TcpStreamLanding::Read TcpStreamLanding::take_head(Peer& p, size_t bytes) {
  p.head += bytes;
  if (!p.admitted) {
    if (p.head < p.token.size()) return Read::some;
    if (sodium_memcmp(p.token.data(), token_.data(), token_.size())) return Read::gone;
    p.admitted = true;
    p.head = 0;
    return Read::some;
  }
  if (p.head < sizeof p.note) return Read::some;
  p.head = 0;
  if (p.note.kind != Note::Kind::piece || !flows_.fits(p.note, kChunkBytes)) {
    broken_ = "a chunk that the plan does not have";
    return Read::broken;
  }
  p.left = p.note.bytes;
  return Read::some;
}

// One call: what is missing of a head; or of a chunk, and the next one's head.
TcpStreamLanding::Read TcpStreamLanding::read(Peer& p, uint64_t& total) {
  iovec iov[kSegmentsPerCall];
  size_t k = 0;
  bool wanted = false;
  uint64_t room = 0;
  if (p.left) {
    const auto turn = flows_.turn(p.note);
    if (turn == StreamFlows::Turn::later) return broken_ = "a chunk before its turn", Read::broken;
    wanted = turn == StreamFlows::Turn::now;
    if (wanted) {
      k = flows_.place(p.note, {iov, kSegmentsPerCall - 1});
    } else {
      sink_.resize(kSinkBytes);
      iov[k++] = {sink_.data(), size_t(std::min<uint64_t>(p.left, kSinkBytes))};
    }
    for (size_t i = 0; i < k; ++i) room += iov[i].iov_len;
  }
  const Note now = p.note;
  Note next{};
  if (!p.admitted) iov[k++] = {p.token.data() + p.head, p.token.size() - p.head};
  else if (!p.left) iov[k++] = {reinterpret_cast<uint8_t*>(&p.note) + p.head, sizeof p.note - p.head};
  else if (room == p.left) iov[k++] = {&next, sizeof next};
  msghdr m{};
  m.msg_iov = iov;
  m.msg_iovlen = k;
  const ssize_t n = recvmsg(p.fd.get(), &m, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return Read::nothing;
  if (n <= 0) {
    if (!p.admitted || (n == 0 && !p.left && !p.head)) return Read::gone; // a stranger, or a sender that has no more
    cause_ = Error(BATON_PEER_LOST, n ? io_error("the socket of a stream", errno).what : "the socket of a stream ended within a chunk", "see the prefill side's own error");
    return Read::broken;
  }
  total += uint64_t(n);
  const uint64_t bytes = std::min(uint64_t(n), room);
  if (wanted) flows_.placed(now, bytes);
  p.note.offset += bytes;
  p.note.bytes -= bytes;
  p.left -= bytes;
  if (!room) return take_head(p, size_t(n));
  if (p.left) return Read::some;
  p.note = next;
  return take_head(p, size_t(n) - size_t(bytes));
}

}  // namespace baton::transport
