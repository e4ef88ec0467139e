// decode_engine.hpp: one token after the other on one device, from a KV-cache that was landed or prefilled there.
//
// Tokens are made by launches of a looping program: 1, 2, 4, ... up to launch_tokens each, so that the first ones are seen early and a
// wafer is not launched for each. The next launch is queued while one runs, so that its way to the device costs no token time; if a stop token
// ends the one before, it makes nothing. After a launch its tokens (and logits) are copied back, beside what runs.
//
// On a device of several wafers the layers may be cut into stages, as `devctl place` cuts them: each has its KV-cache on its own wafer, where
// layers land as they come, and no more blocks than the placement has room for. Every
// run then has a queue of its own, and as many runs as stages keep all wafers at work.
//
// With spill_bytes there may be more sequences than the device keeps: each has blocks of this host's memory for as long as it lives, and blocks of
// the device while it is decoded. When others wait, one that has made a launch's worth of tokens gives them back: what is new of its KV is copied
// out over the link, and all of it in again before its next launch (decode_spill.cc). Its tokens do not depend on that.
//
// Owner    the engine owns program, queues and (unless it shares a prefill engine's) the caches; runs borrow them. Several runs may be on: one
//          lane takes their launches in turn, a pipeline overlaps them.
// Threads  as the Instance.   Cost  a launch and a copy for each batch of tokens.
// Errors   CAPACITY from the device; a lost device fails every run: drop the engine, open it again.
//
//     BATON_ASSIGN(auto engine, DecodeEngine::open(shelf, log, "emu+cs3://0", model, options, nullptr));
//     BATON_ASSIGN(auto run, engine->start({.blocks = ids, .position = prompt, .steps = 63}));
//     run->land(landed, blocks, prompt);   ...   run->begin(first, modelled_ns);
//     while (run->step() == RunState::running) in.poll_wait(deadline);
#pragma once

#include "drivers/cs3/placement/place.hpp"
#include "tools/baton/block_pool.hpp"
#include "tools/baton/engine.hpp"
#include "tools/baton/shelf.hpp"
#include "tools/baton/span_log.hpp"

#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace baton::runtime {

struct Token {
  int32_t id = 0;
  uint64_t wall_ns = 0, modelled_ns = 0; // when the device had it
};

struct DecodeJob {
  std::vector<int32_t> blocks; // cover position + steps
  uint32_t position = 0;       // tokens in the cache: the prompt's
  uint32_t steps = 0;          // tokens to make, at most
  Sampling sampling;
  bool stop = true;            // a stop token ends the run
  bool logits = false;         // of every step
};

// What has gone between the device and this host's memory because sequences took turns.
struct SpillStats {
  uint64_t out = 0, in = 0;             // sequences, each time
  uint64_t bytes_out = 0, bytes_in = 0;
  uint32_t waiting = 0;                 // sequences, now
};

class DecodeEngine;

class DecodeRun {
 public:
  ~DecodeRun();
  // Where the cache is not the landing buffer: copies each layer of these blocks to its wafer as `landed` rises, or later if it must wait for room.
  Status land(const Timeline& landed, std::span<const int32_t> blocks, uint32_t tokens);
  // The token to continue from, known to this host since `modelled_ns`. `landed` (may be none) must have reached `layers`.
  Status begin(int32_t first, uint64_t modelled_ns, const Timeline* landed, uint32_t layers);
  RunState step();
  void cancel(const Error& cause);
  bool drained();
  const Error& error() const { return *error_; }
  // Fails if the device is lost while the run waits for its KV.
  Status alive() const;
  const std::vector<Token>& tokens() const { return tokens_; } // grows; without the first
  const std::vector<float>& logits() const { return logits_; } // a row a token
  bool stopped() const { return stopped_; }                    // by a stop token
  uint32_t tag() const { return tag_; }
  uint64_t ready_wall_ns() const { return ready_wall_ns_; }    // when the KV was on the device

 private:
  friend class DecodeEngine;
  explicit DecodeRun(DecodeEngine& e) : engine_(e) {}
  Status prepare(DecodeJob job);
  Status submit_batch();
  Status put_tables(std::span<const int32_t> blocks);
  // Tokens [from, to) between this host and each stage's wafer, behind the chain; landed: as its layers come.
  enum class Way : uint8_t { in, out };
  Status move(Way, std::span<const int32_t> host, std::span<const int32_t> device, uint64_t from, uint64_t to, const Timeline* landed);
  Status wait_for(const Timeline&, uint64_t value); // the chain goes on then
  // decode_spill.cc
  Result<bool> seated(uint64_t chain); // its KV is on the device; if not, it comes when there is room
  Status come(const Timeline* landed); // there is
  bool yields() const;
  Status leave();
  void leave_room(); // nothing of it is in flight
  Status harvest();
  const Queue& queue() const;
  std::vector<Timeline*> timelines();

  struct Slot { // buffers of one run, kept for the next
    Buffer tokens, logits;
    std::vector<Buffer> tables; // by stage
    Staging tokens_host, table_host, logits_host;
    Queue queue; // of a pipeline
  };
  struct Batch {
    uint32_t at, tokens;
  };
  DecodeEngine& engine_;
  DecodeJob job_;
  std::unique_ptr<Slot> slot_;
  Timeline order_;         // the chain of copies in
  Timeline launched_;      // launches that are over
  Timeline read_;          // batches whose tokens are on this host
  Timeline marks_;         // raised token by token
  Timeline begun_;
  std::vector<Timeline> ingress_; // by stage: KV on its wafer
  uint64_t chain_ = 0;     // value of order_ that the last submitted op signals
  std::vector<Fence> fences_;
  RunState state_ = RunState::running;
  std::optional<Error> error_;
  bool begun_flag_ = false, stopped_ = false;
  uint32_t submitted_ = 0, next_batch_ = 1; // tokens asked for, and of the next launch
  std::deque<Batch> batches_;               // in flight
  uint64_t launches_ = 0, harvested_ = 0;
  std::deque<Token> times_;                 // of marks whose tokens are not back yet
  std::vector<Token> tokens_;
  std::vector<float> logits_;
  uint64_t ready_wall_ns_ = 0;
  enum class Where : uint8_t { host, coming, device, leaving };
  Where where_ = Where::host;               // of an engine that spills
  Blocks room_;                             // on the device
  uint64_t kept_ = 0, came_at_ = 0;         // tokens that this host has; submitted_ when it came
  size_t spans_seen_ = 0;
  uint32_t tag_ = 0;
};

class DecodeEngine {
 public:
  struct Shared { // the cache of a prefill engine on the same device
    const Buffer* kv;
    transport::KvLayout layout;
  };
  static Result<std::unique_ptr<DecodeEngine>> open(Shelf&, SpanLog&, const std::string& uri, const model::Model&, const EngineOptions&,
                                                    const Shared* shared);
  ~DecodeEngine();
  Result<std::unique_ptr<DecodeRun>> start(DecodeJob);
  uint32_t context() const { return context_; }
  const transport::KvLayout& layout() const { return layout_; }
  // Where KV lands: the device's own cache if other processes can map it and nothing spills, else memory of this host.
  const Buffer& landing() const { return landing_.buffer ? landing_.buffer : kv(); }
  bool copies() const { return bool(landing_.buffer); }
  BlockPool& pool() { return *pool_; } // of the landing buffer
  uint32_t stages() const { return uint32_t(stages_.size()); }
  bool spills() const { return spill_.has_value(); }
  SpillStats spilled() const;
  uint32_t device_blocks() const { return spill_ ? spill_->room.total() : pool_->total(); }
  const OpenDevice& device() const { return *device_; }
  const std::vector<int32_t>& stops() const { return stops_; }

 private:
  friend class DecodeRun;
  DecodeEngine(Shelf& shelf, SpanLog& log) : shelf_(shelf), log_(log) {}
  struct Stage {
    transport::KvLayout layout;
    Buffer kv;
    std::optional<transport::KvPlan> ingress; // from the landing buffer
    std::optional<transport::KvPlan> egress;  // to it, of an engine that spills
    Queue queue;                              // of both
  };
  struct Spill {
    explicit Spill(uint32_t blocks, uint32_t block_tokens) : room(blocks, block_tokens) {}
    BlockPool room;                 // of the device; pool_ is of this host then
    std::deque<DecodeRun*> waiting; // for room, in turn
    uint32_t leaving = 0;           // blocks that will be free
    SpillStats stats;
  };
  const Buffer& kv(size_t stage = 0) const { return shared_ ? *shared_ : stages_[stage].kv; }
  Status place(const EngineOptions&, const model::Model&, const model::Numbers&, const model::Shard&);
  uint64_t room_on(const cs3::Placement&, const EngineOptions&) const;
  void give_room();
  Result<uint32_t> blocks_with_spill(const transport::KvLayout& device, uint64_t spill_bytes) const; // of this host
  Result<std::unique_ptr<DecodeRun::Slot>> take_slot(bool logits);
  Status clear(const Buffer&, const Queue&);
  uint32_t rows() const { return launch_tokens_ ? std::min(launch_tokens_, context_) : context_; } // of a logits buffer
  Shelf& shelf_;
  SpanLog& log_;
  OpenDevice* device_ = nullptr;
  uint32_t context_ = 0, vocab_ = 0, launch_tokens_ = 0;
  std::vector<int32_t> stops_;
  transport::KvLayout layout_;
  std::optional<BlockPool> pool_;
  std::optional<Spill> spill_;
  const Buffer* shared_ = nullptr;
  std::vector<Stage> stages_;
  Staging landing_;
  Program program_;
  std::vector<std::unique_ptr<DecodeRun::Slot>> slots_;
  Queue read_back_;
  Queue queue_; // closed first
};

}  // namespace baton::runtime
