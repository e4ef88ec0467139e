// engine.hpp: what prefill and decode engines share: options, sampling, and the states of a run.
//
// A run is one request on one device: a chain of ops on timelines of its own. It is driven by polling the Instance and calling step().
// When it fails or is cancelled its timelines are poisoned at once; its memory may be used again when drained() says that the device
// has nothing of it left in flight.
#pragma once

#include "tools/model/programs.hpp"

#include <cstdint>
#include <string>

namespace baton::runtime {

struct EngineOptions {
  model::Precision precision = model::Precision::automatic;
  transport::KvOrder order = transport::KvOrder::token_major;
  uint32_t block_tokens = 16;
  uint32_t context = 0;        // tokens; 0: the model's, at most kDefaultContext
  uint32_t blocks = 0;         // of the KV-cache; 0: four contexts, less where memory is short
  uint32_t tp = 1;             // prefill: ranks
  uint32_t chunk = 2048;       // prefill: tokens of one launch
  uint32_t launch_tokens = 32; // decode: tokens of one launch, at most; 0: all
  uint32_t stages = 0;         // decode: wafers that share the layers; 0: the fewest that hold the model
  uint64_t spill_bytes = 0;    // decode: of this host's memory, for the KV of sequences that wait for room on the device; 0: none do
};
inline constexpr uint32_t kDefaultContext = 8192; // tokens: bounds the KV-cache of models with contexts of 128k; --context raises it

// Context that the options give for this model. INVALID_ARGUMENT beyond the model's.
Result<uint32_t> context_of(const model::ModelConfig&, const EngineOptions&);
// Blocks of the cache: as asked for, else four contexts or as many blocks as there is room for, at least one context.
uint32_t blocks_of(const EngineOptions&, uint32_t context, uint64_t room);
// Room for blocks in a heap that holds weights too: half of it. UINT64_MAX: not known.
uint64_t room_in(const DeviceInfo&, uint64_t block_bytes);

struct Sampling {
  double temperature = 0; // 0: greedy
  double top_p = 1;
  uint64_t seed = 0;
};

enum class RunState : uint8_t { running, done, failed };

// Completes once everything that was issued before it on the same queue has: devices execute a lane in order.
class Fence {
 public:
  void start(const Instance&, const Queue&);
  bool started() const { return bool(passed_); }
  bool passed() const; // also true if the device is lost: then nothing of it runs any more

 private:
  Timeline passed_;
};

}  // namespace baton::runtime
