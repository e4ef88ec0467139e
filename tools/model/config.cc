#include "tools/model/config.hpp"

#include "tools/model/fail.hpp"
#include "tools/model/json_file.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace baton::model {

using nlohmann::json;

namespace {

constexpr const char* kFamilies = "Baton runs LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM";

struct Known {
  const char *architecture, *model_type;
  Family family;
};
constexpr Known kKnown[] = {{"LlamaForCausalLM", "llama", Family::llama},
                            {"MistralForCausalLM", "mistral", Family::mistral},
                            {"Qwen2ForCausalLM", "qwen2", Family::qwen2},
                            {"Qwen3ForCausalLM", "qwen3", Family::qwen3}};

Error unsupported(const std::string& where, const std::string& field, const std::string& value, const std::string& supported) {
  return fail(BATON_UNSUPPORTED, supported, "{}: {} = {} is not supported", where, field, value.substr(0, 80));
}

Result<Family> parse_family(const std::string& where, const json& doc) {
  Fields f(where, doc);
  BATON_ASSIGN(std::string type, f.string("model_type", ""));
  std::string architecture;
  if (const json* a = f.find("architectures")) {
    if (!a->is_array() || a->empty() || !(*a)[0].is_string())
      return fail(BATON_CORRUPT, kFamilies, "{}: field 'architectures' is not a list of names", where);
    architecture = (*a)[0].get<std::string>();
  }
  if (architecture.empty() && type.empty())
    return fail(BATON_CORRUPT, kFamilies, "{}: neither 'architectures' nor 'model_type' is there", where);
  for (const Known& k : kKnown) {
    bool by_name = architecture == k.architecture, by_type = type == k.model_type;
    if (by_name && (by_type || type.empty())) return k.family;
    if (architecture.empty() && by_type) return k.family;
    if (by_name) return unsupported(where, "model_type", type, fmt::format("{} has model_type {}", architecture, k.model_type));
  }
  if (!architecture.empty()) return unsupported(where, "architectures", architecture, kFamilies);
  return unsupported(where, "model_type", type, kFamilies);
}

Result<Rope> parse_rope(const std::string& where, const json& doc) {
  Rope r;
  Fields f(where, doc);
  // transformers 5 moved rope_theta and rope_scaling into rope_parameters.
  const json* modern = f.find("rope_parameters");
  const json* s = modern ? modern : f.find("rope_scaling");
  BATON_ASSIGN(r.theta, f.number("rope_theta", 10000.0));
  if (s && !s->is_object()) return unsupported(where, modern ? "rope_parameters" : "rope_scaling", s->dump(), "an object or null");
  if (s) {
    Fields g(where + (modern ? ": rope_parameters" : ": rope_scaling"), *s);
    BATON_ASSIGN(std::string old_type, g.string("type", "default"));
    BATON_ASSIGN(r.scaling, g.string("rope_type", old_type));
    if (modern) { BATON_ASSIGN(r.theta, g.number("rope_theta", r.theta)); }
    if (r.scaling != "default" && r.scaling != "linear" && r.scaling != "llama3")
      return unsupported(where, modern ? "rope_parameters.rope_type" : "rope_scaling.rope_type", r.scaling,
                         "default, linear and llama3 are supported");
    if (r.scaling != "default") { BATON_ASSIGN(r.factor, g.number("factor")); }
    if (r.scaling == "llama3") {
      BATON_ASSIGN(r.low_freq_factor, g.number("low_freq_factor"));
      BATON_ASSIGN(r.high_freq_factor, g.number("high_freq_factor"));
      BATON_ASSIGN(r.original_context, g.u64("original_max_position_embeddings"));
      if (r.original_context == 0 || r.high_freq_factor <= r.low_freq_factor)
        return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: rope_scaling llama3 needs high_freq_factor over low_freq_factor and a context over 0", where);
    }
    if (r.factor < 1) return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: rope_scaling factor {} is under 1", where, r.factor);
  }
  if (r.theta <= 1) return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: rope_theta {} is not over 1", where, r.theta);
  BATON_ASSIGN(double partial, f.number("partial_rotary_factor", 1.0));
  if (partial != 1.0) return unsupported(where, "partial_rotary_factor", fmt::format("{}", partial), "1 is supported");
  return r;
}

// Which layers look back over a window only.
Result<std::vector<uint32_t>> parse_window(const std::string& where, const json& doc, const ModelConfig& c) {
  Fields f(where, doc);
  std::vector<uint32_t> by_layer(c.layers, 0);
  BATON_ASSIGN(uint64_t window, f.u64("sliding_window", 0));
  bool qwen = c.family == Family::qwen2 || c.family == Family::qwen3;
  BATON_ASSIGN(bool use, f.boolean("use_sliding_window", !qwen));
  if (c.family == Family::llama || !use) window = 0;
  if (window > UINT32_MAX) return unsupported(where, "sliding_window", std::to_string(window), "at most 4294967295 tokens");
  BATON_ASSIGN(uint64_t first, f.u64("max_window_layers", 0));
  for (uint64_t l = qwen ? first : 0; l < c.layers; ++l) by_layer[l] = uint32_t(window);
  if (const json* types = f.find("layer_types")) {
    if (!types->is_array() || types->size() != c.layers)
      return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: layer_types does not have {} entries", where, c.layers);
    for (uint32_t l = 0; l < c.layers; ++l) {
      const json& t = (*types)[l];
      bool sliding = t == "sliding_attention";
      if (!sliding && t != "full_attention")
        return unsupported(where, fmt::format("layer_types[{}]", l), t.dump(), "full_attention and sliding_attention are supported");
      if (sliding && window == 0)
        return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: layer_types[{}] is sliding_attention, but there is no sliding_window", where, l);
      by_layer[l] = sliding ? uint32_t(window) : 0;
    }
  }
  return by_layer;
}

Result<std::vector<int32_t>> parse_ids(const std::string& where, const json& doc, const char* key) {
  std::vector<int32_t> ids;
  const json* j = Fields(where, doc).find(key);
  if (!j) return ids;
  json list = j->is_array() ? *j : json::array({*j});
  for (const json& id : list) {
    if (!is_u64(id) || id.get<uint64_t>() > INT32_MAX)
      return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: field '{}' is {}, not a token id or a list of them", where, key, j->dump().substr(0, 40));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

Status parse_tokens(const std::string& where, const json& doc, const json* generation, ModelConfig& c) {
  if (generation) { BATON_ASSIGN(c.eos, parse_ids("generation_config.json", *generation, "eos_token_id")); }
  BATON_ASSIGN(auto more, parse_ids(where, doc, "eos_token_id"));
  for (int32_t id : more)
    if (std::find(c.eos.begin(), c.eos.end(), id) == c.eos.end()) c.eos.push_back(id);
  for (int32_t id : c.eos)
    if (uint32_t(id) >= c.vocab)
      return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: eos_token_id {} is outside the vocabulary of {}", where, id, c.vocab);
  BATON_ASSIGN(auto bos, parse_ids(where, doc, "bos_token_id"));
  c.bos = bos.empty() ? -1 : bos[0];
  return {};
}

struct Dimension {
  const char* key;
  uint32_t ModelConfig::*to;
  uint64_t limit;
};
// Limits refuse nonsense before anything is allocated by it; the largest known checkpoints are far below.
constexpr Dimension kDimensions[] = {{"hidden_size", &ModelConfig::hidden, 1 << 20},
                                     {"num_hidden_layers", &ModelConfig::layers, 4096},
                                     {"num_attention_heads", &ModelConfig::heads, 65536},
                                     {"intermediate_size", &ModelConfig::ffn, 1 << 24},
                                     {"vocab_size", &ModelConfig::vocab, 1 << 24},
                                     {"max_position_embeddings", &ModelConfig::max_context, 1ull << 31}};

Status parse_dimensions(const std::string& where, const json& doc, ModelConfig& c) {
  Fields f(where, doc);
  auto put = [&](const char* key, uint32_t ModelConfig::*to, uint64_t limit, std::optional<uint64_t> fallback) -> Status {
    BATON_ASSIGN(uint64_t v, f.u64(key, fallback));
    if (v == 0 || v > limit)
      return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: {} = {} is outside 1..{}", where, key, v, limit);
    c.*to = uint32_t(v);
    return {};
  };
  for (const Dimension& d : kDimensions) BATON_TRY(put(d.key, d.to, d.limit, {}));
  BATON_TRY(put("num_key_value_heads", &ModelConfig::kv_heads, c.heads, c.heads));
  if (c.heads % c.kv_heads)
    return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: num_attention_heads {} is not a multiple of num_key_value_heads {}", where, c.heads, c.kv_heads);
  if (!f.find("head_dim") && c.hidden % c.heads)
    return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: hidden_size {} is not a multiple of num_attention_heads {}, and head_dim is not given", where, c.hidden, c.heads);
  BATON_TRY(put("head_dim", &ModelConfig::head_dim, 1024, std::max(1u, c.hidden / c.heads)));
  if (c.head_dim % 2) return unsupported(where, "head_dim", std::to_string(c.head_dim), "head_dim is even (rotary pairs)");
  return {};
}

}  // namespace

const char* family_name(Family f) {
  switch (f) {
    case Family::llama: return "llama";
    case Family::mistral: return "mistral";
    case Family::qwen2: return "qwen2";
    case Family::qwen3: return "qwen3";
  }
  return "?";
}

Result<ModelConfig> parse_config(const std::string& where, const json& doc, const json* generation) {
  ModelConfig c;
  Fields f(where, doc);
  BATON_ASSIGN(c.family, parse_family(where, doc));
  BATON_TRY(parse_dimensions(where, doc, c));
  BATON_ASSIGN(std::string act, f.string("hidden_act", "silu"));
  if (act != "silu") return unsupported(where, "hidden_act", act, "silu is supported");
  if (const json* q = f.find("quantization_config"))
    return unsupported(where, "quantization_config", q->dump(), "use a checkpoint in bf16, f16 or f32");
  BATON_ASSIGN(bool mlp_bias, f.boolean("mlp_bias", false));
  if (mlp_bias) return unsupported(where, "mlp_bias", "true", "false is supported");
  BATON_ASSIGN(double eps, f.number("rms_norm_eps"));
  if (eps < 0 || eps > 1) return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: rms_norm_eps {} is outside 0..1", where, eps);
  c.rms_eps = float(eps);
  BATON_ASSIGN(c.tied, f.boolean("tie_word_embeddings", false));
  BATON_ASSIGN(bool bias, f.boolean("attention_bias", false));
  c.qkv_bias = c.family == Family::qwen2 || bias;  // Qwen2 always has q, k, v biases and never one on o
  c.o_bias = c.family != Family::qwen2 && bias;
  c.qk_norm = c.family == Family::qwen3;
  BATON_ASSIGN(c.rope, parse_rope(where, doc));
  BATON_ASSIGN(c.window, parse_window(where, doc, c));
  BATON_TRY(parse_tokens(where, doc, generation, c));
  return c;
}

Result<ModelConfig> load_config(const std::string& dir) {
  std::string path = dir + "/config.json";
  BATON_ASSIGN(json doc, read_json(path));
  std::string generation_path = dir + "/generation_config.json";
  if (!file_exists(generation_path)) return parse_config(path, doc, nullptr);
  BATON_ASSIGN(json generation, read_json(generation_path));
  return parse_config(path, doc, &generation);
}

std::vector<float> ModelConfig::inv_freq() const {
  std::vector<float> out(head_dim / 2);
  for (uint32_t i = 0; i < out.size(); ++i) {
    double freq = std::pow(rope.theta, -2.0 * i / head_dim);
    if (rope.scaling == "linear") freq /= rope.factor;
    if (rope.scaling == "llama3") {
      // Long wavelengths are stretched by `factor`, short ones kept, and those between blended (Llama 3.1 model card).
      double wavelength = 2 * std::numbers::pi / freq;
      double longest = double(rope.original_context) / rope.low_freq_factor;
      double shortest = double(rope.original_context) / rope.high_freq_factor;
      double blend = (double(rope.original_context) / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      if (wavelength > longest) freq /= rope.factor;
      else if (wavelength > shortest) freq = (1 - blend) * freq / rope.factor + blend * freq;
    }
    out[i] = float(freq);
  }
  return out;
}

uint64_t ModelConfig::parameters() const {
  uint64_t q = uint64_t(heads) * head_dim, kv = uint64_t(kv_heads) * head_dim;
  uint64_t layer = 2ull * hidden + hidden * (2 * q + 2 * kv) + 3ull * hidden * ffn;
  if (qkv_bias) layer += q + 2 * kv;
  if (o_bias) layer += hidden;
  if (qk_norm) layer += 2 * head_dim;
  return uint64_t(layers) * layer + hidden + uint64_t(vocab) * hidden * (tied ? 1 : 2);
}

std::string ModelConfig::describe() const {
  std::string s = fmt::format("{} hidden={} layers={} heads={}/{}x{} ffn={} vocab={} context={} eps={} rope={}:{}:{}:{}:{}:{} tied={} bias={}{} qknorm={} window=",
                              family_name(family), hidden, layers, heads, kv_heads, head_dim, ffn, vocab, max_context, rms_eps, rope.theta,
                              rope.scaling, rope.factor, rope.low_freq_factor, rope.high_freq_factor, rope.original_context, tied, qkv_bias,
                              o_bias, qk_norm);
  for (uint32_t w : window) s += fmt::format("{},", w);
  return s;
}

}  // namespace baton::model
