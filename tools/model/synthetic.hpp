// synthetic.hpp: a checkpoint of any shape, made on the spot, for benchmarks and tests: random bf16, f16 or f32 weights.
//
// The matrices are windows into one pool of random numbers, so that a model of billions of parameters costs one tensor's memory until a
// device packs its own copy. Deterministic in (config, seed).
//
// Owner    the Model owns the pool.   Threads  any.   Cost  about 1 ns a number of the largest tensor.
//
//     BATON_ASSIGN(Model m, synthetic_model(tinyllama_shape(), "BF16", 1));
#pragma once

#include "tools/model/model.hpp"

namespace baton::model {

ModelConfig tinyllama_shape(); // 1.1B: hidden 2048, 22 layers, 32 heads, 4 KV heads, ffn 5632, vocabulary 32000
// No numbers at all: names, dtypes and shapes, for programs whose time is asked for and not their result.
Result<Model> shapes_alone(const ModelConfig&, const std::string& dtype);
Result<Model> synthetic_model(const ModelConfig&, const std::string& dtype, uint64_t seed);

}  // namespace baton::model
