// port.h: the daemon's end of a link, over either carrier. The client may be hostile: what next() gives was checked on a private copy.
//
// Owner    the session.   Threads  the event loop's.   Cost  as the client's end (drivers/cs3/link/carrier.h).
// Errors   broken: the client is gone or broke the protocol; why() says which. post() needs room().
//
//     while (port.room() > 2 && port.next(s, payload) == Pop::got) { ... port.post(completion, ""); }
#pragma once

#include "drivers/cs3/link/ring.h"
#include "drivers/cs3/link/socket.h"
#include "drivers/cs3/link/wire.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace baton::cs3 {

// What came with a command: a view of the shared arena (which the client may still be writing), or bytes that came inline.
struct Payload {
  std::vector<uint8_t> own;
  const uint8_t* view = nullptr;
  const uint8_t* data() const { return view ? view : own.data(); }
};

class Port {
 public:
  virtual ~Port() = default;
  virtual Pop next(Submission&, Payload&) = 0;
  virtual uint32_t room() = 0;  // completions that can be posted now
  // Where the answer to `s` goes (s.payload_bytes long), before a post() with c.payload_bytes.
  virtual uint8_t* answer(const Submission& s) = 0;
  virtual void post(const Completion& c, std::string_view text) = 0;
  // A descriptor that was passed for `region`; empty: none.
  virtual Fd take_fd(uint32_t region) = 0;

  virtual Status watch(int epoll, uint64_t id) = 0;
  virtual void on_event(uint32_t epoll_events) = 0;
  // Before the loop sleeps: false if something is there.
  virtual bool arm() = 0;
  virtual void disarm() {}
  virtual bool shares_cpu() { return false; }  // with the client: do not spin for its next command
  virtual const char* name() const = 0;
  bool broken() const { return broken_; }
  const std::string& why() const { return why_; }
  // Ends the link from this side.
  void cut(std::string why) { fail(std::move(why)); }

 protected:
  Pop fail(std::string why) {
    if (!broken_) why_ = std::move(why);
    broken_ = true;
    return Pop::broken;
  }

 private:
  bool broken_ = false;
  std::string why_;
};

}  // namespace baton::cs3
