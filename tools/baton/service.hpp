// service.hpp: what the prefill and the decode service have in common: an endpoint, its clients, and the log line of a request.
//
// Owner    a Service owns its endpoint and the sessions that it accepted.
// Threads  as the Instance.   Cost  step(): a look at each session.
// Errors   those of a request go to its client; those of the service come from open().
//
//     while (!stopped) { in.poll_wait(deadline_in_ms(50)); while (service.step()) {} }
#pragma once

#include "tools/baton/metrics.hpp"
#include "tools/baton/wire.hpp"
#include "transport/session.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace baton::runtime {

// A peer that is silent for so long is lost: a request ends within 2 s of a death, also where no connection breaks.
inline constexpr uint64_t kLeaseNs = 1'500'000'000;

// What an endpoint is opened with; the files of an identity are read then.
struct Proof {
  transport::Key key{}; // zero: none
  std::string identity, known_peers;
};

struct ServiceOptions {
  std::string listen = "127.0.0.1:0";
  transport::Key key{};
  std::string fabric = "auto";
  uint64_t lease_ns = kLeaseNs;
  EngineOptions engine;
  std::function<void(const std::string&)> log; // one line a request; may be empty
  std::string identity, known_peers;           // with the key, or in its place
  bool seal = false;                           // KV that leaves the host is encrypted
  std::string rails = {};                      // EndpointOptions::rails
};

class Service {
 public:
  virtual ~Service() = default;
  // Handles what has happened. True: something did, call again before sleeping.
  bool step();
  const std::string& address() const { return endpoint_->address(); }
  const Leg& leg() const { return leg_; }
  const transport::Endpoint& endpoint() const { return *endpoint_; }
  const std::string& model_id() const { return model_id_; }
  virtual size_t requests() const = 0;        // that are not done
  virtual uint64_t oldest_began_ns() const = 0; // when the first of them came; 0: there is none
  virtual uint64_t layout_hash() const = 0;   // of its KV-cache (of the first rank)
  virtual uint64_t capacity_tokens() const = 0;
  virtual uint32_t free_blocks() const = 0;   // of its KV-cache
  virtual uint32_t total_blocks() const = 0;
  std::string metrics_text(); // Prometheus, as of now

 protected:
  struct Peer {
    uint64_t number;
    std::unique_ptr<transport::Session> session;
  };
  Service(SpanLog& log, const model::Model& m, ServiceOptions o) : log_(log), model_(m), options_(std::move(o)) {}
  // `from`: the roles that may connect, of peers whose line names any.
  Status listen(const Instance&, std::string role, const OpenDevice&, uint32_t ranks, std::vector<std::string> from);
  virtual void message(Peer&, const transport::Message&) = 0;
  virtual void gone(uint64_t peer, const Error& why) = 0; // cancel its requests
  virtual bool advance() = 0;                             // requests; true: something happened
  virtual void observe() {}                               // into the metrics: what only a look tells
  transport::Session* session(uint64_t peer);             // nullptr: gone
  void send(uint64_t peer, const transport::Message&);
  void say(const std::string& line) const {
    if (options_.log) options_.log(line);
  }
  Status same_model(const std::string& theirs) const;

  SpanLog& log_;
  const model::Model& model_;
  ServiceOptions options_;
  std::string model_id_; // with the precision: what both sides must agree on
  Leg leg_;
  std::optional<transport::Endpoint> endpoint_;
  std::optional<Metrics> metrics_; // once it listens
  std::vector<Peer> peers_;
  uint64_t next_peer_ = 1;
};

// The identity that both sides compare: weights, config, precision.
std::string model_identity(const model::Model&, model::Precision);

}  // namespace baton::runtime
