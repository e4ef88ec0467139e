// handles.hpp (internal): what stands behind the handles of baton_kv.h.
//
// The endpoint owns all of them (KvHolder and KvPuller once for all holds) and finds what happened by looking at each in a poll: nothing is queued, so nothing can overflow, and an event that
// did not fit into the caller's array is still there at the next look.
//
// Owner    the endpoint, until the caller gives a handle back.   Threads  one at a time.   Cost  a look is a few loads.   Errors  kept with the handle.
//
//     ep->pools.push_back(std::make_unique<baton_kv_pool>()); ... forget(ep->pools, pool);
#pragma once

#include "transport/baton_kv.h"
#include "transport/c/edge.hpp"
#include "transport/kv_hold.hpp"
#include "transport/kv_lend.hpp"
#include "transport/mapped_wire.hpp"

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace baton::kv_c {

// Messages of a session that are this library's, not its user's. What begins with kReserved is never shown as a notification.
inline constexpr const char* kReserved = "baton.";
inline constexpr const char* kPull = "baton.kv.pull";     // decode > prefill   id, ticket, tokens, held; bytes: the caller's
inline constexpr const char* kRefuse = "baton.kv.refuse"; // <                  id, error

// An instance that is the caller's: a handle that is never closed.
union Lent {
  Lent() : in() {}
  ~Lent() {}
  Instance in;
};

transport::KvLayout layout_in(const baton_kv_layout*); // not checked
baton_kv_layout layout_out(const transport::KvLayout&);

} // namespace baton::kv_c

struct baton_kv_session {
  baton_kv_endpoint* ep;
  std::unique_ptr<baton::transport::Session> session;
  bool lost_told = false;
  baton::Error cause;
};

struct baton_kv_pool {
  baton_kv_endpoint* ep;
  baton::transport::KvLayout layout;
  baton::transport::HostMemory memory;
  baton::transport::Fd fd;                      // memory.fd
  baton::transport::mapped::Mapping mapping;    // of a descriptor that the caller had not mapped
  std::string model;
  std::optional<baton::transport::KvTags> tags; // whose the blocks are, for pushes and holds of them
  std::optional<baton::transport::KvSink> sink; // from the first grant on; with tags of its own
};

struct baton_kv_grant {
  baton_kv_endpoint* ep;
  baton_kv_pool* pool; // nullptr: unregistered
  baton_kv_session* session = nullptr;
  std::optional<baton::transport::Incoming> incoming;
  uint64_t tokens = 0, held = 0, user = 0, deadline_ns = 0;
  uint64_t pull = 0;   // id, 0: not asked for
  uint64_t told = 0;   // layers
  bool complete = false, failed = false, quiet_told = false;
  baton::Error cause;
};

struct baton_kv_push {
  baton_kv_endpoint* ep;
  std::vector<baton_kv_pool*> pools;
  std::optional<baton::transport::KvTransfer> transfer; // empty: failed and over
  enum class Ready : uint8_t { no, untold, told } ready = Ready::no; // whether the decode side has agreed
  struct Early {
    uint32_t source, layer;
    baton_point wait; // no timeline: none
  };
  std::vector<Early> early;    // pushed before that
  bool early_all = false;
  uint64_t agree_ns = 0;       // deadline of it
  baton::Timeline points;      // poisoned if a wait of a layer fails
  uint32_t sources = 0, layers = 0;
  std::vector<uint8_t> pushed; // [source * layers + layer]
  std::vector<uint32_t> waiting; // pushed and not sent
  uint64_t pushes = 0, sent = 0, told = 0, user = 0;
  std::optional<std::vector<uint8_t>> seal;
  bool complete = false, failed = false;
  baton::Error cause;
  baton::transport::KvTransfer::Stats last; // of a transfer that is over
};

struct baton_kv_hold {
  baton_kv_endpoint* ep;
  std::vector<baton_kv_pool*> pools;
  std::string id;
  uint64_t user = 0;
  std::optional<int32_t> over; // BATON_OK: confirmed
  bool told = false;
  baton::Error cause;
};

struct baton_kv_lender {
  baton_kv_endpoint* ep;
  baton_kv_pool* pool;
  std::optional<baton::transport::KvLender> lender; // empty: its pool is gone
  bool ready = false, failed = false, told = false;
  uint64_t agree_ns = 0;
  std::vector<uint64_t> back; // loans that were not told of yet
  baton::Error cause;
};

struct baton_kv_borrower {
  baton_kv_endpoint* ep;
  baton::transport::KvBorrower borrower;
  bool ready_told = false;
  std::vector<std::unique_ptr<baton::transport::KvLoan>> loans, spare;
};

struct baton_kv_endpoint {
  // In the order of their making: destroyed in reverse.
  baton::Instance own;
  baton::kv_c::Lent lent;
  baton::Instance* instance = nullptr; // one of the two
  std::optional<baton::transport::Endpoint> endpoint;
  std::string address;
  std::vector<std::unique_ptr<baton_kv_session>> sessions;
  std::vector<std::unique_ptr<baton_kv_pool>> pools;
  std::vector<std::unique_ptr<baton_kv_grant>> grants;
  std::vector<std::unique_ptr<baton_kv_push>> pushes;
  std::vector<std::unique_ptr<baton_kv_hold>> holds;
  std::vector<std::unique_ptr<baton_kv_lender>> lenders;
  std::vector<std::unique_ptr<baton_kv_borrower>> borrowers;
  std::optional<baton::transport::KvHolder> holder; // from the first hold on
  std::optional<baton::transport::KvPuller> puller; // from the first track on
  std::vector<std::pair<std::string, baton_kv_session*>> tracked;
  uint64_t hold_beat_ns = 0; // 0: the puller's own
  std::deque<baton::transport::Message> held; // what the last poll's events point into
  std::deque<baton::Error> causes;            // as well
  uint64_t next_pull = 1;
  uint32_t turn = 0; // who is looked at first
  ~baton_kv_endpoint();
};

namespace baton::kv_c {

// Gives a handle back to its list.
template <class T>
void forget(std::vector<std::unique_ptr<T>>& all, T* one) {
  for (auto& x : all)
    if (x.get() == one) {
      const std::unique_ptr<T> gone = std::exchange(x, nullptr); // destroyed once the list is whole again: its end may poll
      std::erase(all, nullptr);
      return;
    }
}

// A push's or a hold's; the pools that they are of are appended.
baton::Result<std::vector<baton::transport::KvSource>> sources_of(const baton_kv_endpoint*, const baton_kv_source*, uint32_t count, std::vector<baton_kv_pool*>& pools);

void agreed(baton_kv_push&);                      // the decode side has: what was pushed before goes out
void count_sent(baton_kv_push&);                  // of those pushed
void end_hold(baton_kv_hold&, const Error& why);  // its blocks are the caller's on return
void end_lender(baton_kv_lender&, const Error& why);
void untrack(baton_kv_endpoint&, const baton_kv_session*); // what is tracked over it
void end_push(baton_kv_push&, const Error& why); // fails it, and lets go of the pools' memory

} // namespace baton::kv_c
