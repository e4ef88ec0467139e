#include "tools/model/model.hpp"

#include "tools/model/fail.hpp"

#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>

namespace baton::model {

Result<Model> Model::make(std::string dir, ModelConfig config, Weights weights) {
  std::string text = config.describe();
  uint64_t h = XXH3_64bits_withSeed(text.data(), text.size(), weights.hash());
  return Model{std::move(dir), std::move(config), std::move(weights), std::nullopt, fmt::format("{:016x}", h)};
}

Result<Model> Model::load(const std::string& dir) {
  struct stat s;
  if (::stat(dir.c_str(), &s) != 0 || !S_ISDIR(s.st_mode))
    return fail(BATON_INVALID_ARGUMENT, "name a folder with config.json, tokenizer.json and model.safetensors", "{}: no such model folder", dir);
  BATON_ASSIGN(ModelConfig config, load_config(dir));
  BATON_ASSIGN(Weights weights, Weights::open(dir));
  BATON_ASSIGN(Tokenizer tokenizer, Tokenizer::load(dir + "/tokenizer.json"));
  if (tokenizer.size() > config.vocab) {
    // Ids that the embedding does not have would be read out of bounds.
    return fail(BATON_CORRUPT, "use the tokenizer.json of this checkpoint", "{}/tokenizer.json: token id {}, but config.json's vocab_size is {}", dir,
                tokenizer.size() - 1, config.vocab);
  }
  BATON_ASSIGN(Model m, make(dir, std::move(config), std::move(weights)));
  m.tokenizer = std::move(tokenizer);
  return m;
}

std::string Model::title() const {
  double p = double(config.parameters());
  std::string size = p >= 1e9 ? fmt::format("{:.1f}B", p / 1e9) : fmt::format("{:.1f}M", p / 1e6);
  auto it = weights.all().find("model.layers.0.self_attn.q_proj.weight");
  std::string dtype = it == weights.all().end() ? "?" : it->second.dtype;
  std::transform(dtype.begin(), dtype.end(), dtype.begin(), [](char c) { return char(tolower(c)); });
  return fmt::format("{} {} {}", family_name(config.family), size, dtype);
}

}  // namespace baton::model
