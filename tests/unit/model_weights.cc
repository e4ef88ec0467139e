#include "tools/model/weights.hpp"

#include "tests/unit/model_fixture.hpp"

namespace baton::model {
namespace {

using nlohmann::json;

std::string safetensors(const std::string& header, const std::string& data) {
  uint64_t n = header.size();
  return std::string(reinterpret_cast<char*>(&n), 8) + header + data;
}
std::string one(const json& entry, size_t data = 16) { return safetensors(json({{"w", entry}}).dump(), std::string(data, 'x')); }
json entry(const char* dtype, json shape, uint64_t begin, uint64_t end) { return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, end}}}; }

TEST(ModelWeights, Demo) {
  auto w = Weights::open(demo_dir());
  ASSERT_TRUE(w.ok()) << w.error().text();
  auto t = w->tensor("model.embed_tokens.weight", {2048, 256});
  ASSERT_TRUE(t.ok());
  EXPECT_EQ(t->type(), program::DType::bf16);
  EXPECT_EQ(t->data.size(), 1048576u);
  auto again = Weights::open(demo_dir());
  EXPECT_EQ(w->hash(), again->hash());
}

TEST(ModelWeights, TensorRefusals) {
  auto w = Weights::open(demo_dir());
  ASSERT_TRUE(w.ok());
  auto missing = w->tensor("lm_head.weight", {2048, 256});
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(std::string(missing.error().what).find("'lm_head.weight' [2048, 256] is missing"), std::string::npos) << missing.error().what;
  auto shape = w->tensor("model.norm.weight", {512});
  ASSERT_FALSE(shape.ok());
  EXPECT_NE(std::string(shape.error().what).find("has shape [256], config.json asks for [512]"), std::string::npos) << shape.error().what;
}

struct Bad {
  const char* what;
  std::string bytes;
  const char* says;
};

TEST(ModelWeights, Malformed) {
  std::string good = one(entry("F32", {2, 2}, 0, 16));
  json overlap = {{"a", entry("F32", {2}, 0, 8)}, {"b", entry("F32", {2}, 4, 12)}};
  uint64_t huge = 1ull << 60;
  const Bad all[] = {
      {"empty", "", "0 bytes"},
      {"short", "abc", "3 bytes"},
      {"length only", std::string(8, '\0'), "not JSON"},
      {"header too long", std::string(reinterpret_cast<char*>(&huge), 8) + "{}", "header of 1152921504606846976 bytes"},
      {"truncated header", good.substr(0, 20), "truncated"},
      {"truncated data", good.substr(0, good.size() - 1), "0..16 lie outside the file's 15 bytes"},
      {"not JSON", safetensors("{nope", ""), "not JSON"},
      {"list", safetensors("[]", ""), "not an object"},
      {"entry is a number", safetensors("{\"w\":1}", ""), "'w'"},
      {"no shape", one({{"dtype", "F32"}, {"data_offsets", {0, 16}}}), "without dtype, shape or data_offsets"},
      {"unknown dtype", one(entry("Q4", {2, 2}, 0, 16)), "unknown dtype Q4"},
      {"negative", one(entry("F32", {-2, 2}, 0, 16)), "shape is not a list of sizes"},
      {"overflow", one(entry("F32", {1ull << 62, 1ull << 62}, 0, 16)), "overflows"},
      {"backwards", one(entry("F32", {2, 2}, 16, 0)), "16..0"},
      {"wrong size", one(entry("F32", {2, 3}, 0, 16)), "F32 [2, 3] needs 24 bytes, data_offsets give 16"},
      {"text offsets", one({{"dtype", "F32"}, {"shape", {4}}, {"data_offsets", {"0", "16"}}}), "not two numbers"},
      {"overlap", safetensors(overlap.dump(), std::string(12, 'x')), "'a' and 'b' overlap at byte 4"},
  };
  for (const Bad& b : all) {
    Folder dir;
    dir.file("model.safetensors", b.bytes);
    auto w = Weights::open(dir.path());
    ASSERT_FALSE(w.ok()) << b.what;
    EXPECT_EQ(w.error().code, BATON_CORRUPT) << b.what;
    EXPECT_NE(std::string(w.error().what).find(b.says), std::string::npos) << b.what << ": " << w.error().what;
    EXPECT_NE(std::string(w.error().what).find("model.safetensors"), std::string::npos) << b.what;
    EXPECT_NE(std::string(w.error().next), "") << b.what;
  }
  Folder dir;
  EXPECT_EQ(Weights::open(dir.path()).error().code, BATON_INVALID_ARGUMENT);
}

TEST(ModelWeights, WrongDtypeIsRefusedWhenUsed) {
  Folder dir;
  dir.file("model.safetensors", one(entry("I32", {2, 2}, 0, 16)));
  auto w = Weights::open(dir.path());
  ASSERT_TRUE(w.ok());
  auto t = w->tensor("w", {2, 2});
  ASSERT_FALSE(t.ok());
  EXPECT_NE(std::string(t.error().what).find("'w' has dtype I32"), std::string::npos);
}

TEST(ModelWeights, SeveralFiles) {
  Folder dir;
  dir.file("a.safetensors", safetensors(json({{"x", entry("F32", {1}, 0, 4)}, {"stray", entry("F32", {1}, 4, 8)}}).dump(), "abcdefgh"));
  dir.file("b.safetensors", safetensors(json({{"y", entry("BF16", {2}, 0, 4)}}).dump(), "ijkl"));
  auto index = [&](json map) { dir.file("model.safetensors.index.json", json({{"weight_map", map}}).dump()); };
  index({{"x", "a.safetensors"}, {"y", "b.safetensors"}});
  auto w = Weights::open(dir.path());
  ASSERT_TRUE(w.ok()) << w.error().text();
  EXPECT_TRUE(w->has("x"));
  EXPECT_FALSE(w->has("stray"));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(w->tensor("y", {2})->data.data()), 4), "ijkl");

  index({{"x", "a.safetensors"}, {"z", "b.safetensors"}});
  EXPECT_NE(std::string(Weights::open(dir.path()).error().what).find("'z' is not in b.safetensors"), std::string::npos);
  index({{"x", "c.safetensors"}});
  EXPECT_NE(std::string(Weights::open(dir.path()).error().what).find("c.safetensors"), std::string::npos);
  index({{"x", "../a.safetensors"}});
  EXPECT_NE(std::string(Weights::open(dir.path()).error().what).find("not a file name"), std::string::npos);
}

TEST(ModelWeights, MisalignedDataIsCopied) {
  Folder dir;
  std::string header = json({{"w", entry("F32", {2}, 0, 8)}}).dump();
  while ((8 + header.size()) % 4 != 1) header += ' ';
  float v[2] = {1.5f, -2.0f};
  dir.file("model.safetensors", safetensors(header, std::string(reinterpret_cast<char*>(v), 8)));
  auto w = Weights::open(dir.path());
  ASSERT_TRUE(w.ok());
  auto t = w->tensor("w", {2});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(t->data.data()) % 4, 0u);
  EXPECT_EQ(reinterpret_cast<const float*>(t->data.data())[1], -2.0f);
}

TEST(ModelWeights, HashSeesAByte) {
  Folder a, b;
  std::string bytes = one(entry("F32", {2, 2}, 0, 16));
  a.file("model.safetensors", bytes);
  bytes.back() = 'y';
  b.file("model.safetensors", bytes);
  EXPECT_NE(Weights::open(a.path())->hash(), Weights::open(b.path())->hash());
}

}  // namespace
}  // namespace baton::model
