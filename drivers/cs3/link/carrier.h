// carrier.h: the client's end of a wafer link, over either carrier: commands out, completions in, payload slots in the arena.
//
// A command in flight holds a ticket (at most kSqEntries) and, if it has a payload or an answer, one slot of the arena (64 of 16 KiB,
// 16 of 1 MiB). On TCP the arena is private memory and its bytes travel behind the entry; nothing above can tell.
//
// Owner    The driver's device.   Threads  one at a time.
// Cost     begin + push: two cache lines and no syscall on shm while the daemon is awake. Nothing is allocated after connect.
// Errors   pop() says broken once the daemon is gone or sent what cannot be; broken() says why. Nothing that the daemon says is used
//          as an address: slots and tickets are this side's own.
//
//     Ticket* t = c.begin(bytes);                  // nullptr: full, try again after a pop
//     std::memcpy(t->payload, data, bytes);
//     s.op = uint16_t(Op::memcpy_h2d), ...; c.push(*t, s);
//     Event ev;
//     while (c.pop(ev) == Pop::got) { use(*ev.ticket, ev.c); if (ev.last) c.end(*ev.ticket); }
#pragma once

#include "drivers/cs3/link/ring.h"
#include "drivers/cs3/link/wire.h"
#include "hal/baton.hpp"

#include <array>
#include <span>
#include <string_view>

namespace baton::cs3 {

struct Ticket {
  uint64_t id = 0;            // of the command in flight; 0: free
  uint8_t* payload = nullptr; // the slot, or nullptr
  uint32_t payload_bytes = 0;
  uint16_t slot = 0, index = 0;
  uint32_t owner = 0;         // the driver's: which of its ops
  uint64_t offset = 0;        // the driver's: where in the op
  Submission s{};             // as pushed
};

struct Event {
  Completion c{};
  Ticket* ticket = nullptr; // nullptr: Kind::lost
  bool last = false;        // the command is over: call end()
  std::string_view text;    // "what\nnext"; until the next pop
};

class Carrier {
 public:
  explicit Carrier(uint8_t* arena);
  virtual ~Carrier() = default;
  Carrier(const Carrier&) = delete;

  // A ticket, with a slot of at least `bytes` (0: none; at most kMaxPayload). nullptr: full.
  Ticket* begin(uint32_t bytes);
  void end(Ticket&);
  uint32_t in_flight() const { return kSqEntries - free_count_; }
  // Fills in id, where and payload place (unless `s` names a region), and sends it.
  void push(Ticket& t, Submission& s);
  Pop pop(Event&);
  const Error& broken() const { return broken_; }
  bool is_broken() const { return broken_.code != BATON_OK; }

  // Sends what is held back (TCP); cheap when there is nothing.
  virtual void flush() {}
  // Adds what must be watched to an epoll set: readable means pop() may find something or the daemon is gone.
  virtual Status watch(int epoll) = 0;
  // Before sleeping on the epoll set. False: something is there already.
  virtual bool arm() = 0;
  virtual void disarm() {}
  // Nothing has come or rung since arm(): still fit for sleep.
  virtual bool armed() = 0;
  // The daemon ran last on this very CPU: do not spin for its answer.
  virtual bool shares_cpu() { return false; }
  // Looks whether the daemon is gone although no entry says so. One syscall.
  virtual void check_alive() = 0;
  // Passes a descriptor for a following region_add. False: not now (the socket is full) or not with this carrier.
  virtual bool pass_fd(int fd, uint32_t region) = 0;
  virtual const char* name() const = 0;

 protected:
  virtual void send(Ticket&) = 0;
  // The next completion, already checked; for `done` with an answer its bytes are in the ticket's slot.
  virtual Pop receive(Completion&, std::string_view& text) = 0;
  Ticket* find(uint64_t id);
  Ticket& ticket(uint32_t index) { return tickets_[index]; }
  void fail(const Error&); // the first one stays

 private:
  bool take_slot(uint32_t bytes, Ticket&);
  uint8_t* arena_;
  std::array<Ticket, kSqEntries> tickets_;
  std::array<uint16_t, kSqEntries> free_;
  std::array<uint16_t, kSmallSlots> small_;
  std::array<uint16_t, kLargeSlots> large_;
  uint32_t free_count_ = kSqEntries, small_count_ = kSmallSlots, large_count_ = kLargeSlots;
  uint64_t generation_ = 1;
  Error broken_;
};

}  // namespace baton::cs3
