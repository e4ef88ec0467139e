// kv_sink.hpp (internal): the decode side of a hand-over: what a sink and its requests consist of. Three files: kv_sink.cc (tickets, lifetime, the end of a
// request), kv_agree.cc (the agreement before the memory is disclosed), kv_landing.cc (what arrives, up to the contiguous prefix).
//
// Owner    KvSink has its Impl; an Incoming has its own, which the sink forgets when it goes.   Threads  as the endpoint.
// Cost     a poll with nothing active: one comparison.   Errors  an agreement's go to the peer; all others end their request.
#pragma once

#include "transport/fabric.hpp"
#include "transport/kv_kept.hpp"
#include "transport/kv_link.hpp"
#include "transport/rails.hpp"

#include <unistd.h>

namespace baton::transport {

struct Incoming::Impl {
  enum class State : uint8_t { waiting, active, done, ended };

  KvSink::Impl* sink = nullptr; // nullptr: the sink is closed
  std::string ticket;
  std::vector<int32_t> blocks;
  KvTagged tagged; // they
  uint64_t tokens = 0, held = 0; // [held, tokens) come
  bool checksum = false;         // each layer has one
  Timeline landed;
  State state = State::waiting;
  bool quiet = true;

  Session::Impl* session = nullptr;
  uint64_t transfer = 0, generation = 0; // the peer's id; ours
  Landing* landing = nullptr;
  uint32_t slot = 0;
  Shares shares;
  std::vector<std::vector<int32_t>> tables; // the sources'
  KvMoves moves;                         // empty where the fabric does all by itself
  std::vector<uint64_t> wanted;          // by layer held: bit s: source s sends some of it
  std::vector<uint64_t> arrived;         // by layer
  std::vector<uint64_t> modelled;        // by layer: the latest of its sources
  uint32_t prefix = 0;
  std::optional<Message> seal;
  bool seal_taken = false;
  Stats stats;
};

struct KvSink::Impl final : Service, Watcher {
  struct Link {
    Session::Impl* session; // nullptr: lost
    std::string fabric;
    std::unique_ptr<Landing> landing;
  };
  struct Quarantine { // a request that ended while somebody may still write
    Landing* landing;
    uint32_t slot;
    Session::Impl* session;
    uint64_t transfer;
    std::vector<int32_t> blocks;
    Incoming::Impl* incoming; // nullptr: destroyed
  };

  ~Impl() override;
  Status start(const Instance&, Endpoint::Impl&, const HostMemory&, const KvLayout&, std::string model); // dups the descriptor
  Result<Incoming> expect(std::vector<int32_t> blocks, uint64_t tokens, uint64_t held);
  void forget(Incoming::Impl&);
  void cancel(Incoming::Impl&, const Error&);

  bool on_message(Session::Impl&, Message&) override;
  bool on_ticket(const std::string& ticket, const Error& why) override {
    const auto it = waiting_.find(ticket);
    if (it == waiting_.end()) return false;
    fail(*it->second, why);
    return true;
  }
  void on_lost(Session::Impl&, const Error&) override;
  uint32_t on_poll(uint64_t now) override;
  void ready(uint32_t) override { // the timer
    uint64_t fired;
    (void)!read(timer.get(), &fired, sizeof fired);
  }

 private:
  void open(Session::Impl&, Incoming::Impl&, const Message&);
  void again(Session::Impl&, Incoming::Impl&, const Message&);
  Status agree(Session::Impl&, Incoming::Impl&, const Message&, nlohmann::json& reply);
  Status grant(Session::Impl&, Incoming::Impl&, const Message&, nlohmann::json& reply);
  void plan(Incoming::Impl&);
  Result<Link*> choose(Session::Impl&, const std::vector<std::string>& wanted, bool rails);
  Status check_blocks(const std::vector<int32_t>&, uint64_t tokens) const;
  uint32_t collect();
  void take(const Note&);
  Status fence(const Incoming::Impl&, const Note&);
  void finish_if_complete(Incoming::Impl&);
  void fail(Incoming::Impl&, Error);
  void leave(Incoming::Impl&); // from active: revoke, forget, quarantine
  void retick(uint64_t now, bool events);

 public:
  void settle();
  Endpoint::Impl* ep = nullptr;
  baton_instance* instance = nullptr;
  LandingMemory memory;
  baton_buffer* buffer = nullptr; // whose memory it is; nullptr: no device's
  std::optional<KvTags> tags;
  KvLayout layout;
  std::string model;
  Fd fd, timer;

 private:
  uint64_t timer_tag_ = 0, tick_ns_ = 0, last_event_ns_ = 0;
  std::map<std::string, Incoming::Impl*> waiting_;
  std::vector<Incoming::Impl*> active_, all_;
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<Quarantine> quarantine_;
  std::vector<Note> notes_;
  std::vector<uint8_t> scratch_; // of checksums
  std::vector<Message> told_;
  std::vector<std::pair<Incoming::Impl*, Error>> doomed_;
};

}  // namespace baton::transport
