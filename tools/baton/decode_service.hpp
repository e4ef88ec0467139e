// decode_service.hpp: the decode side of a hand-over: reserves blocks, takes the KV in, makes tokens, streams them to the client.
//
// A device that was lost is opened again, and its program loaded again, at the next request.
//
// Owner    the service owns engine, sink and requests.   Threads  as the Instance.   Cost  open packs the weights.
// Errors   from open(): as the device's and the endpoint's; of a request: to its client.
//
//     BATON_ASSIGN(auto decode, DecodeService::open(shelf, log, "emu+cs3://0", model, options));
#pragma once

#include "tools/baton/decode_engine.hpp"
#include "tools/baton/service.hpp"
#include "transport/kv_link.hpp"

namespace baton::runtime {

class DecodeService final : public Service {
 public:
  static Result<std::unique_ptr<DecodeService>> open(Shelf&, SpanLog&, const std::string& uri, const model::Model&, ServiceOptions);
  ~DecodeService() override;
  uint32_t free_blocks() const override { return engine_ ? engine_->pool().free() : 0; }
  uint32_t total_blocks() const override { return engine_ ? engine_->pool().total() : 0; }
  size_t requests() const override { return requests_.size(); }
  uint64_t oldest_began_ns() const override {
    for (auto& r : requests_) // in the order in which they came
      if (!r->finished) return r->began_ns;
    return 0;
  }
  uint64_t layout_hash() const override { return engine_ ? engine_->layout().hash() : 0; }
  uint64_t capacity_tokens() const override { return uint64_t(total_blocks()) * (engine_ ? engine_->layout().block_tokens : 0); }

 private:
  struct Request {
    uint64_t peer = 0, id = 0, number = 0;
    Reserve ask;
    Blocks blocks;                        // returned after the run is drained
    std::unique_ptr<DecodeRun> run;
    std::optional<transport::Incoming> incoming;
    bool begun = false, full = false, finished = false;
    size_t sent = 0;                      // tokens told to the client
    uint64_t began_ns = 0, kv_bytes = 0;
  };
  DecodeService(Shelf& shelf, SpanLog& log, std::string uri, const model::Model& m, ServiceOptions o)
      : Service(log, m, std::move(o)), shelf_(shelf), uri_(std::move(uri)) {}
  void message(Peer&, const transport::Message&) override;
  void gone(uint64_t peer, const Error& why) override;
  bool advance() override;
  void observe() override;

  Status open_engine();
  void close_engine();
  Result<std::string> reserve(Peer&, Reserve); // the ticket
  bool advance(Request&);
  Status begin_if_sealed(Request&);
  void stream(Request&);
  void count(const std::vector<Token>&, size_t i); // in the metrics
  void end(Request&, const Error* why);
  Shelf& shelf_;
  std::string uri_;
  std::unique_ptr<DecodeEngine> engine_;
  std::optional<transport::KvSink> sink_;
  std::vector<std::unique_ptr<Request>> requests_;
  bool lost_ = false;
  uint64_t served_ = 0;
};

}  // namespace baton::runtime
