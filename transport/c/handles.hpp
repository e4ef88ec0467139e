// handles.hpp (internal): what stands behind the handles of baton_kv.h.
//
// The endpoint owns all of them and finds what happened by looking at each in a poll: nothing is queued, so nothing can overflow, and an event that
// did not fit into the caller's array is still there at the next look.
//
// Owner    the endpoint, until the caller gives a handle back.   Threads  one at a time.   Cost  a look is a few loads.   Errors  kept with the handle.
//
//     ep->pools.push_back(std::make_unique<baton_kv_pool>()); ... forget(ep->pools, pool);
#pragma once

#include "transport/baton_kv.h"
#include "transport/c/edge.hpp"
#include "transport/kv_link.hpp"
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
  std::optional<baton::transport::KvSink> sink; // from the first grant on
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
  std::deque<baton::transport::Message> held; // what the last poll's events point into
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

void count_sent(baton_kv_push&);                  // of those pushed
void end_push(baton_kv_push&, const Error& why); // fails it, and lets go of the pools' memory

} // namespace baton::kv_c
