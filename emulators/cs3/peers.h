// peers.h: what stages on different wafers say to each other: a connection from one session to another, one way, of PeerFrames.
//
// Owner    PeerOut: the session that sends. PeerIn: the daemon.   Threads  the event loop's.
// Cost     open() does not wait for the connection, on_event() goes on with it: one that is not there in 2 s has failed. (A host that is given
//          by name is looked up in open(), which may wait for a name server.) A message is one send, one or two recv.
// Errors   open(): no such address. A connection that breaks or says what cannot be is over; the session's stages then fail with PEER_LOST.
//
//     BATON_ASSIGN(auto out, PeerOut::open({"10.0.0.6", "9000"}, key));
//     BATON_TRY(out->watch(epoll, id));   ...   out->on_event(events);   if (!out->opening()) out->send(message);
#pragma once

#include "drivers/cs3/link/socket.h"
#include "emulators/cs3/stage.h"

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace baton::cs3 {

using SessionKey = std::array<uint8_t, 16>;

class PeerOut {
 public:
  static Result<std::unique_ptr<PeerOut>> open(const HostPort&, const SessionKey&);
  Status watch(int epoll, uint64_t id);
  void send(const StageMessage&);
  void on_event(uint32_t epoll_events);
  bool opening() const { return connecting_.has_value(); }
  void look_at_clock();  // an opening that takes too long is over
  uint64_t id() const { return id_; }
  const std::string& why() const { return why_; }  // "": it is good

 private:
  void flush();
  void fail(std::string why);
  int fd() const { return connecting_ ? connecting_->fd() : socket_.get(); }
  Status add_to_epoll();
  std::optional<Connecting> connecting_;
  uint64_t deadline_ns_ = 0;  // of the opening
  Fd socket_;
  std::string where_, why_;
  int epoll_ = -1;
  uint64_t id_ = 0;
  std::vector<uint8_t> out_;
  size_t sent_ = 0;
};

class PeerIn {
 public:
  PeerIn(uint64_t id, Fd socket, uint64_t session) : id_(id), socket_(std::move(socket)), session_(session) {}
  uint64_t id() const { return id_; }
  uint64_t session() const { return session_; }
  // Takes what came. False: the connection is over; why() says how.
  bool read(const std::function<bool(StageMessage&&)>& deliver);
  const std::string& why() const { return why_; }

 private:
  uint64_t id_;
  Fd socket_;
  uint64_t session_;
  StageMessage message_;
  size_t got_ = 0;
  std::string why_;
};

}  // namespace baton::cs3
