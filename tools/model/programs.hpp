// programs.hpp: a transformer as two portable programs: prefill (rows of tokens) and decode (a loop of single tokens).
//
// prefill  binds ids i32[tokens], table i32[blocks], cache, token i32[1], (logits f32[1,vocab]); args tokens, position, temperature,
//          top_p, seed; mark l+1 once layer l's K and V of these tokens are in the cache.
// decode   binds tokens i32[steps+1] (row 0: the token to continue from), table, cache, (logits f32[steps,vocab]); args position, steps,
//          temperature, top_p, seed, stop; mark n once token n of this launch is in `tokens`. One that begins with a stop token makes none.
// Both     over several layouts, each with its run of layers, bind table0, cache0, table1, ...: a device that is a pipeline cuts there.
//
// Owner    plain data.   Threads  any.   Cost  microseconds a layer.
// Errors   as shard.hpp; UNSUPPORTED: matrices of mixed dtypes, named.
//
//     BATON_ASSIGN(Numbers n, Numbers::of(model, Precision::automatic));
//     BATON_ASSIGN(program::Program p, prefill_program(model, n, shard, layout, {.max_tokens = 512, .max_context = 512}));
#pragma once

#include "tools/model/model.hpp"
#include "tools/model/shard.hpp"
#include "transport/kv_layout.hpp"

namespace baton::model {

enum class Precision : uint8_t {
  automatic, // as the checkpoint: bf16 -> bf16 activations and KV; f16 -> f32 activations, f16 KV; f32 -> f32
  f32,       // f32 activations and KV over the weights as stored
};
Result<Precision> parse_precision(std::string_view);
const char* precision_name(Precision);

struct Numbers {
  program::Act act = program::Act::f32;
  program::DType kv = program::DType::f32;
  static Result<Numbers> of(const Model&, Precision);
};

// Layers of one rank's caches, in the order of the model: one cache for all, or one for each stage of a pipeline.
using Layouts = std::vector<transport::KvLayout>;
// "cache", or "cache2" of several.
std::string binding_name(const char* what, size_t i, size_t of);
// The layout of one rank's cache.
transport::KvLayout kv_layout(const ModelConfig&, const Numbers&, const Shard&, transport::KvOrder, uint32_t block_tokens, uint32_t blocks);

struct Bounds {
  uint32_t max_tokens = 1, max_context = 0;
};
Result<program::Program> prefill_program(const Model&, const Numbers&, const Shard&, const Layouts&, Bounds);
Result<program::Program> decode_program(const Model&, const Numbers&, const Shard&, const Layouts&, Bounds);

}  // namespace baton::model
