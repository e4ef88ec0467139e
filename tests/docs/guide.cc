// The code of hal/GUIDE.md and of README.md, as it stands there, compiled and run.
#include "hal/program/program.hpp"

#include <gtest/gtest.h>

#include <cstdio>

namespace baton {
namespace {

Status tour() {
#include "GUIDE.inc"
  EXPECT_EQ(calls, 1);
  BATON_ASSIGN(void* landed_at, there.map());
  EXPECT_EQ(static_cast<float*>(landed_at)[3], 6);
  return {};
}

// One of README's "layers": out += in, 8 numbers at `offset` of the bound buffer.
Result<Program> adder(const Device& dev, const char* in, const char* out, int64_t width) {
  program::Builder b("adder");
  uint32_t x = b.value(in, program::DType::f32, program::Storage::input, {1, width});
  uint32_t y = b.value(out, program::DType::f32, program::Storage::output, {1, width});
  b.program().ops.push_back({.code = program::OpCode::add, .in = {x, x}, .out = {y}});
  BATON_ASSIGN(program::Program p, std::move(b).finish());
  return dev.load(program::serialize(p), {});
}

// README's step, with host devices in the place of Trainium and CS-3, and doubling in the place of a layer.
Status step(float* result) {
  constexpr uint64_t layers = 3, bytes = 8 * sizeof(float);
  BATON_ASSIGN(Instance in, Instance::create());
  BATON_ASSIGN(Device p, in.open("host://p"));
  BATON_ASSIGN(Device d, in.open("host://d"));
  BATON_ASSIGN(Buffer tokens, p.alloc(layers * bytes));
  BATON_ASSIGN(Buffer kv_p, p.alloc(layers * bytes));
  BATON_ASSIGN(Buffer kv_d, d.alloc(layers * bytes));
  BATON_ASSIGN(Buffer logits, d.alloc(layers * bytes));
  BATON_ASSIGN(void* source, tokens.map());
  for (uint64_t i = 0; i < layers * 8; ++i) static_cast<float*>(source)[i] = float(i);
  std::vector<Program> layer, attend;
  for (uint64_t l = 0; l < layers; ++l) {
    BATON_ASSIGN(Program a, adder(p, "tokens", "kv", layers * 8));
    BATON_ASSIGN(Program b, adder(d, "kv", "logits", layers * 8));
    layer.push_back(std::move(a));
    attend.push_back(std::move(b));
  }
  const baton_binding prefill_kv[] = {bind("tokens", tokens), bind("kv", kv_p)};
  const baton_binding decode_kv[] = {bind("kv", kv_d), bind("logits", logits)};
  BATON_ASSIGN(Queue prefill, p.queue());
  BATON_ASSIGN(Queue decode, d.queue());
  BATON_ASSIGN(Queue link, in.link(p, d));
  BATON_ASSIGN(Timeline made, in.timeline("made"));
  BATON_ASSIGN(Timeline landed, in.timeline("landed"));
  BATON_ASSIGN(Timeline ready, in.timeline("ready"));
  const uint64_t deadline = deadline_in_ms(20'000);
#include "README.inc"
  BATON_ASSIGN(void* at, logits.map());
  *result = static_cast<float*>(at)[layers * 8 - 1];
  return {};
}

TEST(Docs, TheGuideRuns) {
  Status s = tour();
  EXPECT_TRUE(s.ok()) << (s.ok() ? "" : s.error().text());
}

TEST(Docs, TheStepOfTheReadmeRuns) {
  float result = 0;
  Status s = step(&result);
  EXPECT_TRUE(s.ok()) << (s.ok() ? "" : s.error().text());
  EXPECT_EQ(result, 4 * 23);
}

}  // namespace
}  // namespace baton
