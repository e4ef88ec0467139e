// serialize / parse: round trips, and bytes that are not a program.
#include "engine_model.h"
#include "hal/program/limits.hpp"
#include "hal/program/program_generated.h"

#include <gtest/gtest.h>

#include <random>

namespace baton::test {
namespace {

using program::dump;
using program::parse;
using program::serialize;

Program model(bool loop, uint32_t ranks = 1) {
  Model m;
  m.bias = m.qk_norm = true;
  m.stops = {3, 5};
  m.layers = 1;
  return build_model(m, shard(random_weights(m), 0, ranks), loop, ranks).program();
}

TEST(Serialize, RoundTrips) {
  for (bool loop : {false, true})
    for (uint32_t ranks : {1u, 2u}) {
      Program p = model(loop, ranks);
      auto bytes = serialize(p);
      EXPECT_EQ(bytes, serialize(p)); // deterministic
      auto q = parse(bytes);
      ASSERT_TRUE(q.ok()) << q.error().what;
      EXPECT_EQ(dump(*q), dump(p));
      EXPECT_EQ(serialize(*q), bytes);
    }
}

TEST(Serialize, FieldsThatDumpDoesNotShowRoundTripToo) {
  Program p = model(true);
  p.ops[0].window = 7; // embed gives it no meaning, but it is not lost
  p.ops[0].eps = 0.25f;
  auto q = parse(serialize(p));
  ASSERT_TRUE(q.ok());
  EXPECT_EQ(q->ops[0].window, 7u);
  EXPECT_EQ(q->ops[0].eps, 0.25f);
}

TEST(Parse, BytesNeedNoAlignment) {
  Program p = model(false);
  auto bytes = serialize(p);
  std::vector<uint8_t> shifted(bytes.size() + 8);
  for (size_t by = 0; by < 8; ++by) {
    std::copy(bytes.begin(), bytes.end(), shifted.begin() + by);
    auto q = parse(std::span(shifted).subspan(by, bytes.size()));
    ASSERT_TRUE(q.ok()) << by << ": " << q.error().what;
    EXPECT_EQ(dump(*q), dump(p));
  }
}

TEST(Parse, TruncatedAnywhereIsCorruptOrInvalidAndNeverReadsBeyond) {
  auto bytes = serialize(model(false));
  size_t refused = 0;
  for (size_t n = 0; n < bytes.size(); ++n) {
    std::vector<uint8_t> cut(bytes.begin(), bytes.begin() + n); // its own allocation: ASan sees a byte beyond it
    auto p = parse(cut);
    if (p.ok()) continue; // the tail may be padding
    ++refused;
    EXPECT_TRUE(p.error().code == BATON_CORRUPT || p.error().code == BATON_INVALID_ARGUMENT);
    EXPECT_STRNE(p.error().what, "");
  }
  EXPECT_GT(refused, bytes.size() - 16);
}

TEST(Parse, RandomBitFlipsNeverCrash) {
  std::mt19937 g(7);
  const auto bytes = serialize(model(true));
  size_t refused = 0;
  for (int i = 0; i < 10000; ++i) {
    auto bad = bytes;
    for (int flips = 1 + int(g() % 4); flips-- > 0;) bad[g() % bad.size()] ^= uint8_t(1u << g() % 8);
    auto p = parse(bad);
    if (!p.ok()) ++refused;
  }
  EXPECT_GT(refused, 4000u); // most flips hit an offset, a length, a shape or an index; some only a name or an eps
}

TEST(Parse, RandomBytesAreCorrupt) {
  std::mt19937 g(8);
  for (int i = 0; i < 1000; ++i) {
    std::vector<uint8_t> noise(16 + g() % 500);
    for (auto& b : noise) b = uint8_t(g());
    if (i % 2) std::memcpy(&noise[4], "BTNP", 4);
    auto p = parse(noise);
    ASSERT_FALSE(p.ok());
    EXPECT_TRUE(p.error().code == BATON_CORRUPT || p.error().code == BATON_VERSION) << p.error().what;
  }
}

TEST(Parse, AnotherFormatSaysSo) {
  auto p = parse(std::vector<uint8_t>(100, 'x'));
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.error().code, BATON_CORRUPT);
  EXPECT_NE(std::string(p.error().what).find("BTNP"), std::string::npos);
}

// Writes tables by hand, as a hostile sender would.
std::vector<uint8_t> finish(flatbuffers::FlatBufferBuilder& b, flatbuffers::Offset<program::wire::Program> root) {
  program::wire::FinishProgramBuffer(b, root);
  return {b.GetBufferPointer(), b.GetBufferPointer() + b.GetSize()};
}

TEST(Parse, AnotherVersionNamesBoth) {
  flatbuffers::FlatBufferBuilder b;
  auto name = b.CreateString("p");
  auto p = parse(finish(b, program::wire::CreateProgram(b, 99, name)));
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.error().code, BATON_VERSION);
  EXPECT_NE(std::string(p.error().what).find("99"), std::string::npos);
  EXPECT_NE(std::string(p.error().what).find("version 1"), std::string::npos);
}

TEST(Parse, SharedListsDoNotMultiplyMemory) {
  // 100,000 ops that all name one vector of 100,000 inputs: 1 MB of bytes, 40 GB if each were copied.
  flatbuffers::FlatBufferBuilder b;
  auto list = b.CreateVector(std::vector<uint32_t>(100000));
  std::vector<flatbuffers::Offset<program::wire::Op>> ops;
  for (int i = 0; i < 100000; ++i) ops.push_back(program::wire::CreateOp(b, 1, list, list));
  auto name = b.CreateString("p");
  auto all = b.CreateVector(ops);
  auto p = parse(finish(b, program::wire::CreateProgram(b, 1, name, 1, false, 1, 1, 0, 0, 0, all)));
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.error().code, BATON_CORRUPT);
}

TEST(Parse, SharedStopsAreBounded) {
  flatbuffers::FlatBufferBuilder b;
  auto stops = b.CreateVector(std::vector<int32_t>(1000));
  std::vector<flatbuffers::Offset<program::wire::Op>> ops;
  for (int i = 0; i < 1000; ++i) ops.push_back(program::wire::CreateOp(b, 11, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, nullptr, stops));
  auto name = b.CreateString("p");
  auto all = b.CreateVector(ops);
  auto p = parse(finish(b, program::wire::CreateProgram(b, 1, name, 1, false, 1, 1, 0, 0, 0, all)));
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.error().code, BATON_CORRUPT);
}

TEST(Parse, LongNameIsCorrupt) {
  flatbuffers::FlatBufferBuilder b;
  auto name = b.CreateString(std::string(300, 'n'));
  auto p = parse(finish(b, program::wire::CreateProgram(b, 1, name)));
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.error().code, BATON_CORRUPT);
}

TEST(Parse, AProgramThatDoesNotVerifyIsInvalid) {
  Program p = model(false);
  p.ops[0].in[0] = 12345;
  auto q = parse(serialize(p));
  ASSERT_FALSE(q.ok());
  EXPECT_EQ(q.error().code, BATON_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace baton::test
