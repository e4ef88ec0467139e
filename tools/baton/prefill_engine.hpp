// prefill_engine.hpp: a prompt through the layers of a model on the lanes of one device.
//
// Each rank of a tensor-parallel group has a lane, a program and a KV-cache; the ranks' caches are numbered alike. A run raises made(r)
// to l+1 once rank r has layer l of the whole prompt in its cache, so that it can travel while the rest is computed.
//
// Owner    the engine owns programs, caches and queues; a run borrows the engine, and its blocks are the caller's.
// Threads  as the Instance.   Cost  open packs the weights; start is microseconds; one run at a time.
// Errors   BUSY: a run is on; UNSUPPORTED: too few lanes; CAPACITY from the device.
//
//     BATON_ASSIGN(auto engine, PrefillEngine::open(shelf, log, "emu+neuron://0", model, options));
//     BATON_ASSIGN(auto run, engine->start({.ids = ids, .blocks = blocks.ids()}));
//     while (run->step() == RunState::running) in.poll_wait(deadline);      printf("%d\n", run->token());
#pragma once

#include "tools/baton/block_pool.hpp"
#include "tools/baton/engine.hpp"
#include "tools/baton/shelf.hpp"
#include "tools/baton/span_log.hpp"

#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace baton::runtime {

struct PrefillJob {
  std::span<const int32_t> ids;    // the prompt
  std::span<const int32_t> blocks; // cover it
  Sampling sampling;
  bool logits = false;             // of the last position
  uint64_t modelled_start_ns = 0;
};

class PrefillEngine;

class PrefillRun {
 public:
  ~PrefillRun();
  RunState step();
  void cancel(const Error& cause);
  bool drained();
  const Error& error() const { return *error_; }
  const Timeline& made(uint32_t rank) const { return ranks_[rank].made; }
  int32_t token() const { return token_; }                     // when done
  std::span<const float> logits() const;                       // when done
  uint64_t token_wall_ns() const { return token_wall_ns_; }    // when it was on this host
  uint64_t token_modelled_ns() const { return token_modelled_ns_; }
  uint32_t tag() const { return tag_; }

 private:
  friend class PrefillEngine;
  struct Rank {
    Timeline order, made;
    Fence fence;
  };
  explicit PrefillRun(PrefillEngine& e) : engine_(e) {}
  Status submit(const PrefillJob&);
  Status submit_rank(const PrefillJob&, uint32_t rank);
  void release();
  PrefillEngine& engine_;
  bool holds_ = true; // the engine: no other run may start
  Timeline start_;
  std::vector<Rank> ranks_;
  uint64_t launched_ = 0, last_ = 0; // values of `order`: after the last launch; rank 0: after the read-back
  RunState state_ = RunState::running;
  std::optional<Error> error_;
  bool wants_logits_ = false;
  int32_t token_ = -1;
  uint64_t token_wall_ns_ = 0, token_modelled_ns_ = 0;
  uint32_t tag_ = 0;
};

class PrefillEngine {
 public:
  static Result<std::unique_ptr<PrefillEngine>> open(Shelf&, SpanLog&, const std::string& uri, const model::Model&, const EngineOptions&);
  ~PrefillEngine();
  Result<std::unique_ptr<PrefillRun>> start(const PrefillJob&);
  bool busy() const { return busy_; }
  uint32_t context() const { return context_; }
  uint32_t ranks() const { return uint32_t(ranks_.size()); }
  const transport::KvLayout& layout(uint32_t rank) const { return ranks_[rank].layout; }
  const Buffer& kv(uint32_t rank) const { return ranks_[rank].kv; }
  BlockPool& pool() { return *pool_; }
  const OpenDevice& device() const { return *device_; }

 private:
  friend class PrefillRun;
  struct Rank {
    transport::KvLayout layout;
    Buffer kv, ids, table, token, logits;
    Program program;
    Queue queue; // closed first
  };
  PrefillEngine(Shelf& shelf, SpanLog& log) : instance_(shelf.instance()), log_(log) {}
  Status open_rank(const model::Model&, const EngineOptions&, uint32_t rank);
  const Instance& instance_;
  SpanLog& log_;
  OpenDevice* device_ = nullptr;
  uint32_t context_ = 0, chunk_ = 0, vocab_ = 0, layers_ = 0;
  Staging ids_, table_, token_, logits_;
  std::optional<BlockPool> pool_;
  std::vector<Rank> ranks_;
  bool busy_ = false;
};

}  // namespace baton::runtime
