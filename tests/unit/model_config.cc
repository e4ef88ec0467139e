#include "tools/model/config.hpp"

#include "tests/unit/model_fixture.hpp"

#include <cmath>
#include <functional>

namespace baton::model {
namespace {

using nlohmann::json;

TEST(ModelConfig, Demo) {
  auto c = load_config(demo_dir());
  ASSERT_TRUE(c.ok()) << c.error().text();
  EXPECT_EQ(c->hidden, 256u);
  EXPECT_EQ(c->layers, 5u);
  EXPECT_EQ(c->heads, 8u);
  EXPECT_EQ(c->kv_heads, 2u);
  EXPECT_EQ(c->head_dim, 32u);
  EXPECT_EQ(c->max_context, 512u);
  EXPECT_TRUE(c->tied);
  EXPECT_FALSE(c->qkv_bias);
  EXPECT_EQ(c->eos, std::vector<int32_t>{2047});
  EXPECT_EQ(c->bos, 2046);
  EXPECT_NEAR(double(c->parameters()), 3.8e6, 0.1e6);
  auto f = c->inv_freq();
  ASSERT_EQ(f.size(), 16u);
  EXPECT_EQ(f[0], 1.0f);
  EXPECT_FLOAT_EQ(f[8], float(std::pow(10000.0, -0.5)));
}

json base() { return demo_json("config.json"); }
Result<ModelConfig> parse(const json& j) { return parse_config("config.json", j, nullptr); }

TEST(ModelConfig, Families) {
  json j = base();
  j["architectures"] = {"Qwen2ForCausalLM"};
  j["model_type"] = "qwen2";
  j["use_sliding_window"] = false;
  j["sliding_window"] = 4096;
  auto q2 = parse(j);
  ASSERT_TRUE(q2.ok()) << q2.error().text();
  EXPECT_TRUE(q2->qkv_bias);
  EXPECT_FALSE(q2->o_bias);
  EXPECT_EQ(q2->window, std::vector<uint32_t>(5, 0));
  j["use_sliding_window"] = true;
  j["max_window_layers"] = 3;
  auto windowed = parse(j);
  ASSERT_TRUE(windowed.ok());
  EXPECT_EQ(windowed->window, (std::vector<uint32_t>{0, 0, 0, 4096, 4096}));

  j = base();
  j["architectures"] = {"Qwen3ForCausalLM"};
  j["model_type"] = "qwen3";
  auto q3 = parse(j);
  ASSERT_TRUE(q3.ok());
  EXPECT_TRUE(q3->qk_norm);
  EXPECT_FALSE(q3->qkv_bias);

  j = base();
  j["architectures"] = {"MistralForCausalLM"};
  j["model_type"] = "mistral";
  j["sliding_window"] = 128;
  j.erase("head_dim");
  j["head_dim"] = nullptr;
  auto m = parse(j);
  ASSERT_TRUE(m.ok()) << m.error().text();
  EXPECT_EQ(m->window, std::vector<uint32_t>(5, 128));
  EXPECT_EQ(m->head_dim, 32u);

  j = base();
  j.erase("architectures");
  EXPECT_TRUE(parse(j).ok());
}

TEST(ModelConfig, StopTokensOfBothFiles) {
  json j = base(), g = {{"eos_token_id", {2045, 2047}}};
  auto c = parse_config("config.json", j, &g);
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->eos, (std::vector<int32_t>{2045, 2047}));
}

TEST(ModelConfig, RopeScaling) {
  json j = base();
  j["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  auto c = parse(j);
  ASSERT_TRUE(c.ok());
  EXPECT_FLOAT_EQ(c->inv_freq()[0], 0.25f);

  // Llama 3.1: high frequencies are kept, low ones divided, the middle blended.
  j["head_dim"] = 128;
  j["rope_theta"] = 500000.0;
  j["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  c = parse(j);
  ASSERT_TRUE(c.ok()) << c.error().text();
  auto f = c->inv_freq();
  auto plain = [](int i) { return std::pow(500000.0, -2.0 * i / 128); };
  EXPECT_FLOAT_EQ(f[0], 1.0f);
  EXPECT_FLOAT_EQ(f[63], float(plain(63) / 8));
  EXPECT_LT(f[32], plain(32));
  EXPECT_GT(f[32], plain(32) / 8);

  j = base();
  j.erase("rope_theta");
  j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 20000.0}};
  c = parse(j);
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->rope.theta, 20000.0);
}

struct Refusal {
  const char* what;
  std::function<void(json&)> edit;
  int32_t code;
  const char* names;
};

TEST(ModelConfig, Refusals) {
  const Refusal all[] = {
      {"architecture", [](json& j) { j["architectures"] = {"MambaForCausalLM"}; }, BATON_UNSUPPORTED, "MambaForCausalLM"},
      {"empty architectures", [](json& j) { j["architectures"] = json::array(); }, BATON_CORRUPT, "architectures"},
      {"type", [](json& j) { j["model_type"] = "gemma"; }, BATON_UNSUPPORTED, "gemma"},
      {"hidden missing", [](json& j) { j.erase("hidden_size"); }, BATON_CORRUPT, "hidden_size"},
      {"hidden text", [](json& j) { j["hidden_size"] = "256"; }, BATON_CORRUPT, "hidden_size"},
      {"hidden zero", [](json& j) { j["hidden_size"] = 0; }, BATON_CORRUPT, "hidden_size"},
      {"layers negative", [](json& j) { j["num_hidden_layers"] = -1; }, BATON_CORRUPT, "num_hidden_layers"},
      {"layers huge", [](json& j) { j["num_hidden_layers"] = 100000; }, BATON_CORRUPT, "num_hidden_layers"},
      {"kv heads", [](json& j) { j["num_key_value_heads"] = 3; }, BATON_CORRUPT, "num_key_value_heads"},
      {"odd head_dim", [](json& j) { j["head_dim"] = 33; }, BATON_UNSUPPORTED, "head_dim"},
      {"act", [](json& j) { j["hidden_act"] = "gelu"; }, BATON_UNSUPPORTED, "hidden_act"},
      {"mlp_bias", [](json& j) { j["mlp_bias"] = true; }, BATON_UNSUPPORTED, "mlp_bias"},
      {"quantized", [](json& j) { j["quantization_config"] = {{"bits", 4}}; }, BATON_UNSUPPORTED, "quantization_config"},
      {"eps", [](json& j) { j["rms_norm_eps"] = nullptr; }, BATON_CORRUPT, "rms_norm_eps"},
      {"rope theta", [](json& j) { j["rope_theta"] = 0.0; }, BATON_CORRUPT, "rope_theta"},
      {"yarn", [](json& j) { j["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}}; }, BATON_UNSUPPORTED, "yarn"},
      {"scaling list", [](json& j) { j["rope_scaling"] = {1, 2}; }, BATON_UNSUPPORTED, "rope_scaling"},
      {"no factor", [](json& j) { j["rope_scaling"] = {{"rope_type", "linear"}}; }, BATON_CORRUPT, "factor"},
      {"partial rotary", [](json& j) { j["partial_rotary_factor"] = 0.5; }, BATON_UNSUPPORTED, "partial_rotary_factor"},
      {"eos", [](json& j) { j["eos_token_id"] = 5000; }, BATON_CORRUPT, "eos_token_id 5000"},
      {"eos text", [](json& j) { j["eos_token_id"] = "x"; }, BATON_CORRUPT, "eos_token_id"},
      {"layer types", [](json& j) { j["layer_types"] = {"full_attention"}; }, BATON_CORRUPT, "layer_types"},
      {"linear attention", [](json& j) { j["layer_types"] = json::array({"full_attention", "linear_attention", "full_attention", "full_attention", "full_attention"}); },
       BATON_UNSUPPORTED, "layer_types[1]"},
  };
  for (const Refusal& r : all) {
    json j = base();
    r.edit(j);
    auto c = parse(j);
    ASSERT_FALSE(c.ok()) << r.what;
    EXPECT_EQ(c.error().code, r.code) << r.what << ": " << c.error().text();
    EXPECT_NE(std::string(c.error().what).find(r.names), std::string::npos) << r.what << ": " << c.error().what;
    EXPECT_NE(std::string(c.error().next), "") << r.what;
    EXPECT_EQ(std::string(c.error().what).find('\n'), std::string::npos) << r.what;
  }
}

}  // namespace
}  // namespace baton::model
