// The goldens of an independent implementation, on one device in this process.
#include "tests/pair/generate_fixture.hpp"

#include <cmath>
#include <fstream>

namespace baton::runtime {
namespace {

std::vector<float> npy(const std::string& path) {
  std::ifstream f(path, std::ios::binary);
  std::string all{std::istreambuf_iterator<char>(f), {}};
  EXPECT_GT(all.size(), 10u) << path;
  size_t header = uint8_t(all[8]) | size_t(uint8_t(all[9])) << 8;
  std::vector<float> v((all.size() - 10 - header) / 4);
  std::memcpy(v.data(), all.data() + 10 + header, v.size() * 4);
  return v;
}

struct Golden {
  std::vector<int32_t> ids, greedy;
  std::vector<float> logits;
};
std::vector<Golden> goldens() {
  auto doc = model::read_json(demo_dir() + "/golden/golden.json");
  EXPECT_TRUE(doc.ok());
  std::vector<Golden> all;
  for (auto& p : (*doc)["prompts"])
    all.push_back({p["ids"].get<std::vector<int32_t>>(), p["greedy"].get<std::vector<int32_t>>(), npy(demo_dir() + "/golden/" + p["logits_file"].get<std::string>())});
  EXPECT_EQ(all.size(), 5u);
  return all;
}

Answer run(OneDevice& one, std::span<const int32_t> ids, const Params& p) {
  auto a = one.generate(ids, p, {}, BATON_NO_DEADLINE, nullptr);
  EXPECT_TRUE(a.ok()) << a.error().text();
  return a.ok() ? *a : Answer{};
}

TEST(Golden, Fp32LogitsAndContinuation) {
  World w;
  auto one = OneDevice::open(*w.shelf, *w.log, "host://", demo(), {.precision = model::Precision::f32});
  ASSERT_TRUE(one.ok()) << one.error().text();
  double worst = 0;
  for (const Golden& g : goldens()) {
    Answer a = run(**one, g.ids, {.max_tokens = 64, .ignore_eos = true, .logits = true});
    ASSERT_EQ(a.tokens.size(), 64u);
    ASSERT_EQ(g.logits.size(), a.vocab);
    for (uint32_t i = 0; i < a.vocab; ++i) worst = std::max(worst, double(std::fabs(a.logits[i] - g.logits[i])));
    for (size_t i = 0; i < 64; ++i) EXPECT_EQ(a.tokens[i].id, g.greedy[i]) << "step " << i;
  }
  EXPECT_LT(worst, 2e-3);
  RecordProperty("worst_logit_difference", std::to_string(worst));
}

TEST(Golden, Bf16FirstSixteenTokens) {
  World w;
  auto one = OneDevice::open(*w.shelf, *w.log, "host://", demo(), {});
  ASSERT_TRUE(one.ok()) << one.error().text();
  for (const Golden& g : goldens()) {
    Answer a = run(**one, g.ids, {.max_tokens = 16, .ignore_eos = true});
    ASSERT_EQ(a.tokens.size(), 16u);
    for (size_t i = 0; i < 16; ++i) EXPECT_EQ(a.tokens[i].id, g.greedy[i]) << "step " << i;
  }
}

TEST(Golden, ChunksLaunchesAndBlocksChangeNoBit) {
  World w;
  Params p{.max_tokens = 12, .ignore_eos = true, .logits = true};
  auto ids = prompt_of(77);
  auto reference = OneDevice::open(*w.shelf, *w.log, "host://", demo(), {});
  ASSERT_TRUE(reference.ok());
  Answer want = run(**reference, ids, p);
  for (EngineOptions o : {EngineOptions{.chunk = 10}, EngineOptions{.chunk = 1}, EngineOptions{.launch_tokens = 1}, EngineOptions{.launch_tokens = 0},
                          EngineOptions{.block_tokens = 7}, EngineOptions{.order = transport::KvOrder::head_major},
                          EngineOptions{.order = transport::KvOrder::block_major, .block_tokens = 64}}) {
    auto one = OneDevice::open(*w.shelf, *w.log, "host://", demo(), o);
    ASSERT_TRUE(one.ok()) << one.error().text();
    expect_same(run(**one, ids, p), want, fmt::format("chunk {} launch {} block {} {}", o.chunk, o.launch_tokens, o.block_tokens, order_name(o.order)));
  }
}

TEST(Golden, StopTokensEndTheRun) {
  // The golden continuation, with one of its own tokens declared a stop token: the answer ends with it.
  static model::Model m = std::move(*model::Model::load(demo_dir()));
  std::vector<Golden> g = goldens();
  m.config.eos = {g[0].greedy[5]};
  size_t first = size_t(std::find(g[0].greedy.begin(), g[0].greedy.end(), g[0].greedy[5]) - g[0].greedy.begin());
  World w;
  auto one = OneDevice::open(*w.shelf, *w.log, "host://", m, {.precision = model::Precision::f32});
  ASSERT_TRUE(one.ok());
  Answer a = run(**one, g[0].ids, {.max_tokens = 64, .logits = true});
  EXPECT_EQ(a.finish, "stop");
  EXPECT_EQ(a.tokens.size(), first + 1);
  EXPECT_EQ(a.logits.size(), a.tokens.size() * a.vocab);
}

TEST(Golden, SamplingIsRepeatable) {
  World w;
  auto one = OneDevice::open(*w.shelf, *w.log, "host://", demo(), {});
  ASSERT_TRUE(one.ok());
  auto ids = prompt_of(19);
  auto tokens = [&](uint64_t seed) {
    Answer a = run(**one, ids, {.max_tokens = 24, .sampling = {0.9, 0.95, seed}, .ignore_eos = true});
    std::vector<int32_t> all;
    for (auto& t : a.tokens) all.push_back(t.id);
    return all;
  };
  EXPECT_EQ(tokens(1), tokens(1));
  EXPECT_NE(tokens(1), tokens(2));
}

TEST(Golden, ContextEdges) {
  World w;
  auto one = OneDevice::open(*w.shelf, *w.log, "host://", demo(), {});
  ASSERT_TRUE(one.ok());
  Answer full = run(**one, prompt_of(512), {.max_tokens = 10, .ignore_eos = true});
  EXPECT_EQ(full.tokens.size(), 1u);
  EXPECT_TRUE(full.context_full);
  Answer nearly = run(**one, prompt_of(510), {.max_tokens = 10, .ignore_eos = true});
  EXPECT_EQ(nearly.tokens.size(), 3u);
  auto over = (*one)->generate(prompt_of(513), {}, {}, BATON_NO_DEADLINE, nullptr);
  ASSERT_FALSE(over.ok());
  EXPECT_EQ(over.error().code, BATON_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace baton::runtime
