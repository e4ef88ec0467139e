// config.hpp: config.json (and generation_config.json) of a Hugging Face checkpoint as the numbers that Baton needs.
//
// Families: Llama, Mistral, Qwen2, Qwen3 (dense). What would change the numbers and is not implemented is refused, never ignored.
//
// Owner    plain data.   Threads  any.   Cost  two small files.
// Errors   UNSUPPORTED: architecture or field that is not implemented, named; CORRUPT: missing or contradictory fields.
//
//     BATON_ASSIGN(ModelConfig c, load_config("models/baton-tiny"));
#pragma once

#include "hal/baton.hpp"
#include "hal/program/program.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace baton::model {

enum class Family : uint8_t { llama = 1, mistral, qwen2, qwen3 };
const char* family_name(Family);

// Rotary embedding. `inv_freq` has head_dim/2 entries, scaling applied.
struct Rope {
  double theta = 10000;
  std::string scaling = "default"; // "default" | "linear" | "llama3"
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  uint64_t original_context = 0;   // tokens
};

struct ModelConfig {
  Family family = Family::llama;
  uint32_t hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0;
  uint32_t max_context = 0;        // tokens
  float rms_eps = 0;
  Rope rope;
  bool tied = false;               // lm_head is the embedding table
  bool qkv_bias = false, o_bias = false;
  bool qk_norm = false;            // rms_norm of each head of q and k (Qwen3)
  std::vector<uint32_t> window;    // by layer: sliding window in tokens, 0: full attention
  std::vector<int32_t> eos;        // stop tokens, generation_config.json's first
  int32_t bos = -1;                // -1: none

  std::vector<float> inv_freq() const;
  uint64_t parameters() const;
  std::string describe() const;    // one line, stable: part of the model's identity
};

// `where` is shown in errors. `generation` may be null.
Result<ModelConfig> parse_config(const std::string& where, const nlohmann::json& config, const nlohmann::json* generation);
Result<ModelConfig> load_config(const std::string& dir);

}  // namespace baton::model
