// Layouts from text: what describe() writes comes back, JSON with the same names is the same, and what is odd is refused by name.
#include "transport/kv_layout_text.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace baton::transport {
namespace {

using testing::HasSubstr;

KvLayout random_layout(std::mt19937& rng) {
  auto upto = [&](uint32_t n) { return uint32_t(rng() % n); };
  for (;;) {
    KvLayout l;
    l.layers = 1 + upto(80), l.kv_heads = 1 + upto(16), l.head_dim = 1 + upto(256), l.block_tokens = 1 + upto(128), l.blocks = 1 + upto(1000);
    l.dtype = program::DType(1 + upto(6));
    l.order = KvOrder(1 + upto(3));
    l.pairing = KvPairing(1 + upto(4));
    l.scales = KvScales(upto(2));
    l.head_begin = upto(l.kv_heads), l.head_count = 1 + upto(l.kv_heads - l.head_begin);
    if (upto(2)) l.layer_begin = upto(l.layers), l.layer_count = 1 + upto(l.layers - l.layer_begin);
    l.rope_dim = upto(2) ? 0 : upto(l.head_dim);
    if (l.check().ok()) return l;
  }
}

TEST(KvLayoutText, WhatDescribeWritesComesBack) {
  std::mt19937 rng(11);
  for (int i = 0; i < 5000; ++i) {
    KvLayout l = random_layout(rng);
    auto back = parse_layout(l.describe());
    ASSERT_TRUE(back.ok()) << l.describe() << ": " << back.error().what;
    if (l.layer_count == l.layers) l.layer_begin = l.layer_count = 0; // the same, said otherwise
    EXPECT_EQ(*back, l) << l.describe();
    EXPECT_EQ(back->hash(), l.hash());
  }
}

TEST(KvLayoutText, JsonWithTheSameNames) {
  auto a = parse_layout(R"( {"layers": 8, "kv_heads": 4, "head_dim": 64, "dtype": "f8e4m3", "order": "head_major", "pairing": "token", "scales": "block_head",
                            "block_tokens": 32, "blocks": 10, "heads": [1, 3], "held_layers": [2, 8]} )");
  ASSERT_TRUE(a.ok()) << a.error().what;
  EXPECT_EQ(a->describe(), "kv/1 layers=8 kv_heads=4 head_dim=64 dtype=f8e4m3 order=head_major block_tokens=32 blocks=10 heads=[1,3) held_layers=[2,8) pairing=token scales=block_head");
  auto b = parse_layout(R"({"layers": 8, "kv_heads": 4, "head_dim": 64, "blocks": 10})");
  ASSERT_TRUE(b.ok());
  EXPECT_EQ(b->head_count, 4u);
  EXPECT_EQ(b->block_tokens, 16u);
}

TEST(KvLayoutText, WhatIsOddIsRefusedByName) {
  const std::string good = "kv/1 layers=2 kv_heads=2 head_dim=64 blocks=9 ";
  ASSERT_TRUE(parse_layout(good).ok());
  const std::pair<std::string, const char*> odd[] = {
      {"", "empty"}, {"kv/2 layers=2", "kv/2"}, {good + "blocks=9", "twice"}, {good + "order=sideways", "sideways"}, {good + "heads=[0,2]", "heads"},
      {good + "heads=[1,1)", "heads"}, {good + "heads=[0,4294967296)", "heads"}, {good + "rope_dim=-1", "rope_dim"}, {good + "colour=red", "colour"},
      {good + "naked", "naked"}, {"kv/1 layers=4294967296", "layers"}, {"[]", "kv/1"}, {"{", "JSON"}, {std::string(100, '{'), "deep"},
      {R"({"layers": 2.5})", "layers"}, {R"({"heads": [0, 1, 2]})", "heads"}, {R"({"layers": null})", "layers"}};
  for (const auto& [text, what] : odd) {
    auto r = parse_layout(text);
    ASSERT_FALSE(r.ok()) << text;
    EXPECT_EQ(r.error().code, BATON_CORRUPT) << text;
    EXPECT_THAT(r.error().what, HasSubstr(what)) << text;
  }
  auto r = parse_layout("kv/1 layers=2 kv_heads=2 head_dim=64");
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().code, BATON_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace baton::transport
