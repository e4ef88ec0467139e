// verify: each rule is shown to hold by breaking it alone in a program that verifies.
#include "engine_model.h"
#include "hal/program/limits.hpp"

#include <gtest/gtest.h>

#include <functional>

namespace baton::test {
namespace {

using program::kSteps;
using program::kTokens;
using program::Op;
using program::OpCode;
using program::Value;
using program::verify;

struct Rule {
  const char* name;
  bool loop;
  uint32_t ranks;
  std::function<void(Program&)> breaks;
  const char* says; // part of the error
};

Program model(bool loop, uint32_t ranks) {
  Model m;
  m.bias = true;
  m.qk_norm = true;
  m.stops = {3};
  return build_model(m, shard(random_weights(m), 0, ranks), loop, ranks).program();
}

Op& first(Program& p, OpCode c) {
  for (Op& op : p.ops)
    if (op.code == c) return op;
  ADD_FAILURE() << "no such op";
  return p.ops[0];
}

Value& named(Program& p, const std::string& name) {
  for (Value& v : p.values)
    if (v.name == name) return v;
  ADD_FAILURE() << "no value " << name;
  return p.values[0];
}

Value& out(Program& p, OpCode c) { return p.values[first(p, c).out[0]]; }

void drop(Program& p, Arg a) { std::erase(p.args, a); }

const Rule rules[] = {
    // the program
    {"name empty", false, 1, [](Program& p) { p.name = ""; }, "program name"},
    {"name long", false, 1, [](Program& p) { p.name = std::string(256, 'x'); }, "program name"},
    {"name control", false, 1, [](Program& p) { p.name = "a\nb"; }, "program name"},
    {"ranks 0", false, 1, [](Program& p) { p.ranks = 0; }, "ranks is 0"},
    {"ranks 3", false, 1, [](Program& p) { p.ranks = 3; }, "ranks is 3"},
    {"ranks 128", false, 1, [](Program& p) { p.ranks = 128; }, "ranks is 128"},
    {"max_tokens 0", false, 1, [](Program& p) { p.max_tokens = 0; }, "max_tokens is 0"},
    {"max_tokens huge", false, 1, [](Program& p) { p.max_tokens = UINT32_MAX; }, "max_tokens"},
    {"max_steps 0", true, 1, [](Program& p) { p.max_steps = 0; }, "max_steps is 0"},
    {"max_context huge", false, 1, [](Program& p) { p.max_context = UINT32_MAX; }, "max_context"},
    {"loop with tokens", true, 1, [](Program& p) { p.max_tokens = 2; }, "one token at a time"},
    {"steps without loop", false, 1, [](Program& p) { p.max_steps = 2; }, "not a loop"},
    {"args repeated", false, 1, [](Program& p) { p.args.push_back(Arg::tokens); }, "declared twice"},
    {"args too many", false, 1, [](Program& p) { p.args.assign(8, Arg::seed); }, "8 args"},
    {"arg unknown", false, 1, [](Program& p) { p.args[0] = Arg(9); }, "no such argument"},
    {"loop without steps", true, 1, [](Program& p) { drop(p, Arg::steps); }, "'steps'"},
    {"position without context", false, 1, [](Program& p) { p.max_context = 0; }, "max_context"},
    {"no tokens arg", false, 1, [](Program& p) { drop(p, Arg::tokens); }, "'tokens'"},
    {"no position arg", false, 1, [](Program& p) { drop(p, Arg::position); }, "'position'"},
    {"no seed arg", false, 1, [](Program& p) { drop(p, Arg::seed); }, "'seed'"},
    {"no stop arg", true, 1, [](Program& p) { drop(p, Arg::stop); }, "'stop'"},
    {"steps arg outside of loop", false, 1, [](Program& p) { p.args.push_back(Arg::steps); }, "not a loop"},
    // values
    {"value name empty", false, 1, [](Program& p) { p.values[0].name = ""; }, "name of 0 bytes"},
    {"value name repeated", false, 1, [](Program& p) { p.values[1].name = p.values[0].name; }, "two values are named"},
    {"value dtype", false, 1, [](Program& p) { p.values[0].dtype = DType(7); }, "dtype 7"},
    {"value storage", false, 1, [](Program& p) { p.values[0].storage = Storage(0); }, "storage 0"},
    {"optional input", false, 1, [](Program& p) { p.values[0].optional = true; }, "optional"},
    {"no axes", false, 1, [](Program& p) { p.values[0].shape.clear(); }, "0 axes"},
    {"nine axes", false, 1, [](Program& p) { p.values[0].shape.assign(9, 1); }, "9 axes"},
    {"axis zero", false, 1, [](Program& p) { named(p, "norm").shape = {0}; }, "axis 0 is 0"},
    {"axis -3", false, 1, [](Program& p) { named(p, "norm").shape = {-3}; }, "axis 0 is -3"},
    {"axis huge", false, 1, [](Program& p) { named(p, "norm").shape = {1ll << 40}; }, "axis 0"},
    {"too many elements", false, 1, [](Program& p) { named(p, "embed").shape = {1 << 30, 1 << 30}; }, "2^40"},
    {"elements overflow", false, 1, [](Program& p) { named(p, "kv").shape = {1 << 30, 1 << 30, 1 << 30, 1 << 30}; }, "2^40"},
    {"T not first", false, 1, [](Program& p) { p.values[0].shape = {1, kTokens}; }, "only axis 0"},
    {"constant with T", false, 1, [](Program& p) { named(p, "norm").shape = {kTokens}; }, "fixed axes"},
    {"cache with T", false, 1, [](Program& p) { named(p, "kv").shape = {kTokens}; }, "fixed axes"},
    {"S outside of loop", false, 1, [](Program& p) { named(p, "logits").shape[0] = kSteps; }, "not a loop"},
    {"scratch with S", true, 1, [](Program& p) { out(p, OpCode::embed).shape[0] = kSteps; }, "scratch"},
    {"output never written", false, 1, [](Program& p) { p.values.push_back({"z", DType::f32, Storage::output, false, {1}}); }, "never written"},
    // operands
    {"opcode", false, 1, [](Program& p) { p.ops[0].code = OpCode(uint8_t(program::kLastOpCode) + 1); }, "opcode 15"},
    {"opcode 0", false, 1, [](Program& p) { p.ops[0].code = OpCode(0); }, "opcode 0"},
    {"act", false, 1, [](Program& p) { p.ops[0].act = Act(3); }, "act 3"},
    {"inputs missing", false, 1, [](Program& p) { p.ops[0].in.pop_back(); }, "1 inputs"},
    {"inputs many", false, 1, [](Program& p) { p.ops[0].in.push_back(0); }, "3 inputs"},
    {"outputs missing", false, 1, [](Program& p) { p.ops[0].out.clear(); }, "0 outputs"},
    {"value index", false, 1, [](Program& p) { p.ops[0].in[0] = 1u << 30; }, "does not exist"},
    {"out index", false, 1, [](Program& p) { p.ops[0].out[0] = UINT32_MAX; }, "does not exist"},
    {"read before written", false, 1, [](Program& p) { std::swap(p.ops[0], p.ops[1]); }, "read before it is written"},
    {"write an input", false, 1, [](Program& p) { out(p, OpCode::embed).storage = Storage::input; }, "cannot be written"},
    {"write a constant", false, 1, [](Program& p) { out(p, OpCode::embed).storage = Storage::constant; out(p, OpCode::embed).shape = {64, 64}; }, "must be an f32 value"},
    {"in place", false, 1, [](Program& p) { auto& op = first(p, OpCode::add); op.out[0] = op.in[0]; }, "both read and written"},
    {"ids not integers", false, 1, [](Program& p) { named(p, "ids").dtype = DType::f32; }, "must be an i32 value"},
    {"activation not f32", false, 1, [](Program& p) { out(p, OpCode::embed).dtype = DType::bf16; }, "must be an f32 value"},
    {"weight is i32", false, 1, [](Program& p) { named(p, "norm").dtype = DType::i32; }, "must be a constant"},
    {"weight not constant", false, 1, [](Program& p) { named(p, "norm").storage = Storage::input; }, "must be a constant"},
    {"cache is i32", false, 1, [](Program& p) { named(p, "kv").dtype = DType::i32; }, "must be a cache"},
    {"cache not a cache", false, 1, [](Program& p) { named(p, "kv").storage = Storage::inout; }, "must be a cache"},
    // embed
    {"embed rows", false, 1, [](Program& p) { named(p, "ids").shape = {5}; }, "one id for each row"},
    {"embed width", false, 1, [](Program& p) { named(p, "embed").shape[1] = 65; }, "as wide"},
    {"embed table 1-D", false, 1, [](Program& p) { named(p, "embed").shape = {64}; }, "[vocabulary, hidden]"},
    {"token buffer short", true, 1, [](Program& p) { named(p, "ids").shape = {int64_t(p.max_steps)}; }, "token buffer"},
    // rms_norm
    {"norm width", false, 1, [](Program& p) { named(p, "l0.norm1").shape = {63}; }, "divides the width"},
    {"norm eps negative", false, 1, [](Program& p) { first(p, OpCode::rms_norm).eps = -1; }, "eps"},
    {"norm eps nan", false, 1, [](Program& p) { first(p, OpCode::rms_norm).eps = NAN; }, "eps"},
    {"norm shape", false, 1, [](Program& p) { out(p, OpCode::rms_norm).shape[1] = 32; }, "same shape"},
    {"activation 1-D", false, 1, [](Program& p) { out(p, OpCode::rms_norm).shape = {64}; }, "two axes"},
    // matmul
    {"matmul K", false, 1, [](Program& p) { named(p, "l0.q").shape[1] = 32; }, "differ in K"},
    {"matmul N", false, 1, [](Program& p) { out(p, OpCode::matmul).shape[1] = 7; }, "output"},
    {"matmul rows", false, 1, [](Program& p) { out(p, OpCode::matmul).shape[0] = 1; }, "rows of input"},
    {"matmul weight 1-D", false, 1, [](Program& p) { named(p, "l0.q").shape = {64}; }, "[N, K]"},
    {"matmul bias", false, 1, [](Program& p) { named(p, "l0.q.bias").shape = {3}; }, "bias"},
    {"segments 3", false, 1, [](Program& p) { first(p, OpCode::matmul).segments = 3; }, "segments is 3"},
    {"segments 0", false, 1, [](Program& p) { first(p, OpCode::matmul).segments = 0; }, "segments is 0"},
    {"segments do not divide", false, 1, [](Program& p) { first(p, OpCode::matmul).segments = 128; }, "divides K"},
    {"segments differ", false, 1, [](Program& p) { auto& a = p.ops[p.ops.size() - 2]; a.segments = 2; }, "packed once"},
    // rope
    {"rope head_dim odd", false, 1, [](Program& p) { first(p, OpCode::rope).head_dim = 1; first(p, OpCode::rope).heads = 128; }, "even"},
    {"rope width", false, 1, [](Program& p) { first(p, OpCode::rope).heads = 7; }, "heads of"},
    {"rope heads 0", false, 1, [](Program& p) { first(p, OpCode::rope).heads = 0; }, "0 heads"},
    {"rope inv_freq", false, 1, [](Program& p) { named(p, "inv_freq").shape = {7}; }, "inv_freq"},
    {"rope inv_freq dtype", false, 1, [](Program& p) { named(p, "inv_freq").dtype = DType::bf16; }, "f32[8]"},
    {"rope scale", false, 1, [](Program& p) { first(p, OpCode::rope).scale = INFINITY; }, "scale"},
    // cache
    {"store width", false, 1, [](Program& p) { first(p, OpCode::kv_store).kv_heads = 2; }, "heads of"},
    {"store shape", false, 1, [](Program& p) { auto& op = first(p, OpCode::kv_store); op.in[1] = first(p, OpCode::embed).out[0]; op.in[0] = first(p, OpCode::rope).out[0]; }, "same shape"},
    {"layer beyond cache", false, 1, [](Program& p) { first(p, OpCode::kv_store).layer = 2; }, "holds no block"},
    {"layer huge", false, 1, [](Program& p) { first(p, OpCode::kv_store).layer = UINT32_MAX; }, "layer is"},
    {"view overlaps", false, 1, [](Program& p) { first(p, OpCode::kv_store).view.token_stride = 1; }, "nested"},
    {"view overflows", false, 1, [](Program& p) { first(p, OpCode::kv_store).view.layer_stride = 1ull << 60; }, "2^48"},
    {"view block_tokens", false, 1, [](Program& p) { first(p, OpCode::kv_store).view.block_tokens = 0; }, "block_tokens"},
    {"views differ", false, 1, [](Program& p) { first(p, OpCode::attention).view.layer_stride += 64; }, "another view"},
    {"table short", false, 1, [](Program& p) { named(p, "block_table").shape = {2}; }, "does not span"},
    {"table T", false, 1, [](Program& p) { named(p, "block_table").shape = {kTokens}; }, "does not span"},
    {"table not an input", false, 1, [](Program& p) { named(p, "block_table").storage = Storage::scratch; p.ops.insert(p.ops.begin(), {.code = OpCode::mark}); }, "block_table"},
    {"gqa uneven", false, 1, [](Program& p) { auto& op = first(p, OpCode::attention); op.kv_heads = 3; }, "share 3 kv_heads"},
    {"gqa zero", false, 1, [](Program& p) { first(p, OpCode::attention).kv_heads = 0; }, "0 kv_heads"},
    {"attention scale", false, 1, [](Program& p) { first(p, OpCode::attention).scale = NAN; }, "scale"},
    {"attention window", false, 1, [](Program& p) { first(p, OpCode::attention).window = UINT32_MAX; }, "window"},
    {"attention width", false, 1, [](Program& p) { first(p, OpCode::attention).heads = 4; }, "heads of"},
    {"head_dim huge", false, 1, [](Program& p) { first(p, OpCode::attention).head_dim = 4096; }, "head_dim"},
    // the rest
    {"silu shape", false, 1, [](Program& p) { auto& op = first(p, OpCode::silu_mul); op.in[0] = first(p, OpCode::embed).out[0]; }, "same shape"},
    {"add shape", false, 1, [](Program& p) { auto& op = first(p, OpCode::add); op.in[1] = first(p, OpCode::rope).out[0]; }, "same shape"},
    {"all_reduce alone", false, 2, [](Program& p) { p.ranks = 1; }, "one rank"},
    {"gather not as wide", false, 2, [](Program& p) { first(p, OpCode::all_reduce).code = OpCode::all_gather; }, "2 ranks as wide"},
    {"scatter not as narrow", false, 2, [](Program& p) { first(p, OpCode::all_reduce).code = OpCode::reduce_scatter; }, "2 ranks as wide"},
    {"scatter rows", false, 2, [](Program& p) { auto& op = first(p, OpCode::all_reduce); op.code = OpCode::reduce_scatter; p.values[op.out[0]].shape = {3, 32}; }, "same rows"},
    {"take_last rows", false, 1, [](Program& p) { out(p, OpCode::take_last).shape[0] = 2; }, "[1,64]"},
    {"sample rows", false, 1, [](Program& p) { first(p, OpCode::sample).in[0] = first(p, OpCode::embed).out[0]; }, "logits"},
    {"token shape", false, 1, [](Program& p) { named(p, "token").shape = {2}; }, "i32[1]"},
    {"stop beyond vocabulary", true, 1, [](Program& p) { first(p, OpCode::sample).stops = {97}; }, "stop token 97"},
    {"stop negative", true, 1, [](Program& p) { first(p, OpCode::sample).stops = {-1}; }, "stop token -1"},
    {"stops many", true, 1, [](Program& p) { first(p, OpCode::sample).stops.assign(program::kMaxStops + 1, 1); }, "1025 stop tokens"},
    {"mark with operands", false, 1, [](Program& p) { first(p, OpCode::mark).in = {0}; }, "1 inputs"},
};

class Verify : public testing::TestWithParam<Rule> {};

TEST_P(Verify, BrokenAloneIsRefused) {
  const Rule& rule = GetParam();
  Program p = model(rule.loop, rule.ranks);
  ASSERT_TRUE(verify(p).ok()) << verify(p).error().what;
  rule.breaks(p);
  Status s = verify(p);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_INVALID_ARGUMENT);
  EXPECT_NE(std::string(s.error().what).find(rule.says), std::string::npos) << s.error().what;
  EXPECT_STRNE(s.error().next, "");
  EXPECT_EQ(std::string(s.error().what).find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Rules, Verify, testing::ValuesIn(rules), [](const auto& info) {
  std::string s = info.param.name;
  for (char& c : s)
    if (!isalnum(c)) c = '_';
  return s;
});

TEST(VerifyAccepts, ATokenBufferOfFixedLengthAndACacheWithoutShape) {
  Program p = model(true, 1);
  named(p, "ids").shape = {int64_t(p.max_steps) + 1};
  named(p, "kv").shape.clear();
  Status s = verify(p);
  EXPECT_TRUE(s.ok()) << s.error().what;
}

TEST(VerifyAccepts, GreedyWithoutSamplingArguments) {
  Program p = model(true, 1);
  p.args = {Arg::steps, Arg::position, Arg::stop};
  EXPECT_TRUE(verify(p).ok());
}

TEST(VerifyAccepts, ErrorsNameOpAndValues) {
  Program p = model(false, 1);
  first(p, OpCode::matmul).segments = 3;
  EXPECT_NE(std::string(verify(p).error().what).find("op 2 matmul"), std::string::npos) << verify(p).error().what;
  EXPECT_NE(std::string(verify(p).error().what).find("l0.q"), std::string::npos);
}

}  // namespace
}  // namespace baton::test
