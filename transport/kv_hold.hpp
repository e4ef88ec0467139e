// kv_hold.hpp: the prefill side keeps a finished request's blocks, under a lease, until the decode side has pulled them.
//
// A holder gives each request an id (the router tells it to the decode side). A puller that is told of an id keeps it alive by heartbeats, pulls
// the tokens that it has not when it has blocks for them, and confirms. Freed in two phases: the decode side says that it has everything, then
// the holder says that the blocks are the caller's again (ended()). Who says nothing loses its lease: a timer reaps, whether or not anybody asks
// for blocks. A pull under way keeps the lease; one that fails (its session is lost) may be repeated by another decode side.
//
// Owner    The caller owns both, and the buffers until ended() names the request. The Instance stays where it is meanwhile. A puller goes before its
//          sessions and sinks.
// Threads  As the Instance. serve() opens transfers, so call it in the loop, not from within a poll; it waits for nobody.
// Cost     A heartbeat: one small message for all of a session's ids. Nothing a block.
// Errors   NOT_FOUND (id unknown or expired) fails the pull's Incoming; else as kv_link.hpp.
//
//     prefill side                                          decode side
//     BATON_ASSIGN(id, h.hold(sources, tokens));            BATON_TRY(p.track(session, id));
//     in.poll_wait(t);  h.serve();  h.ended(free_again);    BATON_ASSIGN(auto in, p.pull(id, sink, blocks, tokens, held));   // in.landed()
#pragma once

#include "transport/kv_link.hpp"

#include <memory>
#include <string>
#include <vector>

namespace baton::transport {

struct HoldOptions {
  std::string model = {};
  std::string fabric = "auto";
  std::string link_model = "efa-trn2";
  uint64_t lease_ns = 30'000'000'000; // of a request that nobody has beaten for
  uint64_t extend_ns = 0;             // a beat keeps it for as long from then; 0: 2/3 of the lease
};

class KvHolder {
 public:
  static Result<KvHolder> create(const Instance&, Endpoint&, HoldOptions);
  KvHolder(KvHolder&&) noexcept;
  ~KvHolder(); // what is under way is cancelled
  // 32 hex digits, not to be guessed. The blocks of the sources stay as they are until ended() names it.
  Result<std::string> hold(std::vector<KvSource> sources, uint64_t tokens);
  Result<std::string> hold(std::vector<KvSource> sources, uint64_t tokens, HoldOptions); // of its own model, fabric and lease
  void drop(const std::string& id);  // not wanted any more: ends as CANCELLED once nothing is under way
  void end(const std::string& id);   // the blocks are the caller's on return: what is under way is cancelled, which may block 1 s for writes in flight
  Status serve();                    // opens the transfers of pulls that came, seals those that are through; the first error of a pull, if any: it is the pull's alone
  struct Ended {
    std::string id;
    int32_t code;   // BATON_OK: pulled and confirmed; DEADLINE: the lease ran out; CANCELLED: dropped
  };
  void ended(std::vector<Ended>&);   // appends: their blocks are the caller's again
  size_t held() const;
  struct Impl;

 private:
  explicit KvHolder(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

struct PullOptions {
  uint64_t beat_ns = 5'000'000'000; // a sixth of the holder's lease
};

class KvPuller {
 public:
  static Result<KvPuller> create(const Instance&, Endpoint&, PullOptions = {});
  KvPuller(KvPuller&&) noexcept;
  ~KvPuller();
  Status track(Session&, const std::string& id); // heartbeats begin; the first goes at once
  // Asks for tokens [held, tokens) into these blocks of the sink (as KvSink::expect), or into what expects them already. When all has landed and is sealed, it is confirmed and the
  // id forgotten. The ids of a lost session are forgotten: track them over a new one.
  Result<Incoming> pull(const std::string& id, KvSink& sink, std::vector<int32_t> blocks, uint64_t tokens, uint64_t held = 0);
  Status pull(const std::string& id, const Incoming&);
  void confirm(const std::string& id);           // everything is here; the holder may free it
  void forget(const std::string& id);            // no more heartbeats; the lease runs out
  std::optional<Error> refused(const std::string& id); // why the holder does not serve it; once
  struct Impl;

 private:
  explicit KvPuller(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::transport
