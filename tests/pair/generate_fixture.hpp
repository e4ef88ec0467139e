// generate_fixture.hpp: the demo model, an Instance, and requests on one device or through a hand-over, for the generate_*.cc tests.
#pragma once

#include "tools/baton/client.hpp"
#include "tools/baton/decode_service.hpp"
#include "tools/baton/one_device.hpp"
#include "tools/baton/prefill_service.hpp"
#include "tools/model/fail.hpp"
#include "tools/model/json_file.hpp"

#include <gtest/gtest.h>

#include <optional>

namespace baton::runtime {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

inline std::string demo_dir() { return std::string(BATON_SOURCE_DIR) + "/models/baton-tiny"; }

inline const model::Model& demo() {
  static model::Model* m = [] {
    auto loaded = model::Model::load(demo_dir());
    EXPECT_TRUE(loaded.ok()) << loaded.error().text();
    return new model::Model(std::move(*loaded));
  }();
  return *m;
}

// One process: an instance with its log, devices and loop.
struct World {
  Instance in;
  std::optional<SpanLog> log;
  std::optional<Shelf> shelf;
  std::optional<Pump> pump;
  World() {
    auto made = Instance::create();
    EXPECT_TRUE(made.ok()) << made.error().text();
    in = std::move(*made);
    log.emplace(in);
    shelf.emplace(in);
    pump.emplace(in);
  }
};

// A prompt of exactly so many tokens, BOS included.
inline std::vector<int32_t> prompt_of(uint32_t tokens) {
  static const std::vector<int32_t> text = [] {
    auto golden = model::read_json(demo_dir() + "/golden/golden.json");
    std::vector<int32_t> all;
    for (auto& p : (*golden)["prompts"])
      for (const char* key : {"ids", "greedy"})
        for (int32_t id : p[key].get<std::vector<int32_t>>()) all.push_back(id);
    return all;
  }();
  std::vector<int32_t> ids;
  while (ids.size() < tokens) ids.insert(ids.end(), text.begin(), text.end());
  ids.resize(tokens);
  return ids;
}

inline void expect_same(const Answer& a, const Answer& b, const std::string& what) {
  ASSERT_EQ(a.tokens.size(), b.tokens.size()) << what;
  for (size_t i = 0; i < a.tokens.size(); ++i) ASSERT_EQ(a.tokens[i].id, b.tokens[i].id) << what << ", step " << i;
  ASSERT_EQ(a.logits.size(), b.logits.size()) << what;
  ASSERT_EQ(a.logits.size(), a.tokens.size() * a.vocab) << what;
  ASSERT_EQ(std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)), 0) << what;
}

}  // namespace baton::runtime
