// model.hpp: a checkpoint as the runtime uses it: config, weights, tokenizer, identity.
//
// Owner    move-only; owns the mapped files.   Threads  one at a time.
// Cost     load: headers, the tokenizer's JSON, and a hash of the weights (whole up to 1 MiB a tensor, sampled above).
// Errors   as config.hpp, weights.hpp, tokenizer.hpp.
//
//     BATON_ASSIGN(Model m, Model::load("models/baton-tiny"));
//     printf("%s %s\n", m.title().c_str(), m.id.c_str());
#pragma once

#include "tools/model/config.hpp"
#include "tools/model/tokenizer.hpp"
#include "tools/model/weights.hpp"

#include <optional>
#include <string>

namespace baton::model {

struct Model {
  std::string dir;                    // as given; "synthetic" if made on the spot
  ModelConfig config;
  Weights weights;
  std::optional<Tokenizer> tokenizer; // synthetic models have none
  std::string id;                     // 16 hex digits: config, tensor names, shapes, dtypes, bytes
  std::string title() const;          // "llama 3.8M bf16"

  static Result<Model> load(const std::string& dir);
  static Result<Model> make(std::string dir, ModelConfig, Weights);
};

}  // namespace baton::model
