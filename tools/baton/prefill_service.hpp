// prefill_service.hpp: the prefill side of a hand-over: computes the prompt, pushes each layer's KV to the decode side as it is made, and
// seals with the first token. Prompts are taken one after the other; the compute of one begins before its ticket is known.
//
// Owner    the service owns engine, requests and its sessions to decode services (kept, and made anew when lost).
// Threads  as the Instance.   Cost  open packs the weights.
// Errors   from open(): as the device's and the endpoint's; of a request: to its client.
//
//     BATON_ASSIGN(auto prefill, PrefillService::open(shelf, log, "emu+neuron://0", model, options));
#pragma once

#include "tools/baton/prefill_engine.hpp"
#include "tools/baton/service.hpp"
#include "transport/kv_link.hpp"

#include <deque>
#include <map>

namespace baton::runtime {

class PrefillService final : public Service {
 public:
  static Result<std::unique_ptr<PrefillService>> open(Shelf&, SpanLog&, const std::string& uri, const model::Model&, ServiceOptions);
  ~PrefillService() override;
  uint32_t free_blocks() const override { return engine_ ? engine_->pool().free() : 0; }
  uint32_t total_blocks() const override { return engine_ ? engine_->pool().total() : 0; }
  size_t requests() const override { return requests_.size(); }
  uint64_t oldest_began_ns() const override {
    for (auto& r : requests_) // in the order in which they came
      if (!r->finished) return r->began_ns;
    return 0;
  }
  uint64_t layout_hash() const override { return engine_ ? engine_->layout(0).hash() : 0; }
  uint64_t capacity_tokens() const override { return uint64_t(total_blocks()) * (engine_ ? engine_->layout(0).block_tokens : 0); }

 private:
  struct Request {
    uint64_t peer = 0, number = 0;
    Prefill ask;
    std::optional<Handover> handover;
    Blocks blocks;                     // returned after the run is drained
    std::unique_ptr<PrefillRun> run;   // none: waits for its turn
    std::optional<transport::KvTransfer> transfer;
    std::vector<Timeline> sent;        // by rank: layers visible at the decode side
    uint32_t transfer_tag = 0;
    bool told_first = false, finished = false;
    uint64_t began_ns = 0;
  };
  PrefillService(Shelf& shelf, SpanLog& log, std::string uri, const model::Model& m, ServiceOptions o)
      : Service(log, m, std::move(o)), shelf_(shelf), uri_(std::move(uri)) {}
  void message(Peer&, const transport::Message&) override;
  void gone(uint64_t peer, const Error& why) override;
  bool advance() override;
  void observe() override;

  Status open_engine();
  static std::vector<Metrics::Rail> rails(const transport::KvTransfer&, bool ended);
  Status accept(Peer&, Prefill);
  Result<bool> advance(Request&);
  Status start(Request&);
  Status hand_over(Request&);
  // A decode side that is slow is waited for: one that is gone is known by its session.
  uint64_t patience() const { return now_ns() + 4 * options_.lease_ns; }
  Result<transport::Session*> decode_session(const std::string& address);
  void tell_first(Request&);
  Status seal(Request&);
  Result<bool> all_sent(const Request&) const;
  void end(Request&, const Error* why);
  Shelf& shelf_;
  std::string uri_;
  std::unique_ptr<PrefillEngine> engine_;
  std::map<std::string, std::unique_ptr<transport::Session>> decoders_;
  std::deque<std::unique_ptr<Request>> requests_; // the first runs
  bool lost_ = false;
  uint64_t served_ = 0;
};

}  // namespace baton::runtime
