// The timing models: arithmetic against numbers worked by hand, sources, malformed files. What cs3 is compared with: cs3_calibration.cc.
#include "emulators/timing/timing.hpp"
#include "emulators/timing/wafer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>

namespace baton::test {
namespace {

using engine::CostModel;
using engine::OpWork;
using program::OpCode;
using timing::load_cost_model;
using timing::ModelFile;
using timing::parse_model_file;

std::string text_of(const std::string& name) {
  auto path = timing::find_model_file(name);
  EXPECT_TRUE(path.ok()) << path.error().what;
  std::stringstream s;
  s << std::ifstream(*path).rdbuf();
  return s.str();
}

ModelFile file(const std::string& name) {
  auto m = parse_model_file(text_of(name), name);
  EXPECT_TRUE(m.ok()) << m.error().what;
  return *m;
}

double constant(const ModelFile& m, const std::string& name) {
  for (const auto& c : m.constants)
    if (c.name == name) return c.value;
  ADD_FAILURE() << "no constant " << name;
  return 0;
}

std::unique_ptr<CostModel> load(const std::string& name) {
  auto m = load_cost_model(name);
  EXPECT_TRUE(m.ok()) << m.error().what;
  return std::move(*m);
}

TEST(Timing, EveryConstantHasAUnitAndASource) {
  for (const char* name : {"trn1", "inf2", "trn2", "trn3", "cs3"}) {
    const ModelFile m = file(name);
    EXPECT_GE(m.constants.size(), 14u);
    for (const auto& c : m.constants) {
      EXPECT_FALSE(c.unit.empty()) << c.name;
      EXPECT_GE(c.source.size(), 5u) << c.name; // "guess" at least
    }
  }
}

TEST(Timing, NamesSayThatTheyAreModels) {
  EXPECT_EQ(load("trn2")->name(), "trn2 2026-11 (modelled)");
  EXPECT_EQ(load("cs3")->name(), "cs3 2026-11 (modelled)");
}

TEST(Trn2, ByHand) {
  auto m = load("trn2");  // a lane of LNC 2: two cores
  EXPECT_DOUBLE_EQ(m->launch_ns(), 20000);
  // 2048 x 2048 bf16 for 512 rows: 2 * 2^31 flop / (158e12 * 0.35) = 77.67 us; weights 8.39 MB / (725e9 * 0.85) = 13.61 us. Compute-bound.
  OpWork w{.code = OpCode::matmul, .tokens = 512, .n = 2048, .k = 2048, .macs = 512ull * 2048 * 2048, .weight_bytes = 2048 * 2048 * 2,
           .act_bytes = 512 * 4096 * 4, .bf16 = true};
  EXPECT_NEAR(m->op_ns(w), 1500 + 77666.7, 1);
  // In f32: 2 * 2^31 / (40e12 * 0.35) = 306.8 us.
  w.bf16 = false;
  EXPECT_NEAR(m->op_ns(w), 1500 + 306783.4, 1);
  // One row: 13.612 us of HBM against 0.13 us of arithmetic. Memory-bound.
  w = {.code = OpCode::matmul, .tokens = 1, .n = 2048, .k = 2048, .macs = 2048 * 2048, .weight_bytes = 2048 * 2048 * 2, .act_bytes = 16384, .bf16 = true};
  EXPECT_NEAR(m->op_ns(w), 1500 + 13612.4, 1);
  // Activations beyond 56 MiB of SBUF spill: 100 MB - 58.72 MB = 41.28 MB / 616.25e9 = 66.98 us against 25e6 elements / 2e12 = 12.5 us.
  w = {.code = OpCode::add, .tokens = 1, .act_bytes = 100000000};
  EXPECT_NEAR(m->op_ns(w), 1500 + 66985.2, 1);
  w.bf16 = true;  // 2 bytes each: 50 MB fit
  EXPECT_NEAR(m->op_ns(w), 1500 + 12500, 1);
  w.bf16 = false;
  w.act_bytes = 40000000; // fits: 10e6 elements / 2e12 = 5 us
  EXPECT_NEAR(m->op_ns(w), 1500 + 5000, 1);
  // 12e6 exponentials of 10 flops on ScalarE at 2.4e12: 50 us, longer than VectorE's 5 us.
  w = {.code = OpCode::silu_mul, .tokens = 1, .act_bytes = 40000000, .exps = 12000000};
  EXPECT_NEAR(m->op_ns(w), 1500 + 50000, 1);
  EXPECT_NEAR(m->copy_ns(19300000, true), 15000 + 1e6, 1);
  EXPECT_NEAR(m->copy_ns(0, false), 15000, 1);
  // On the device: the DMA engines' 736 GB/s against 2 x 61.625 MB over 616.25 GB/s of HBM; a fill writes alone.
  EXPECT_NEAR(m->device_copy_ns(61625000), 1500 + 200000, 1);
  EXPECT_NEAR(m->fill_ns(61625000), 1500 + 100000, 1);
  EXPECT_EQ(m->op_ns({.code = OpCode::mark}), 0);
}

TEST(Trn2, AllReduceByHand) {
  auto m = load("trn2");
  // 4 lanes of one chip: 2 * 3 steps of 1.5 us; 2 * 736 kB * 3/4 over 736 GB/s of DMA = 1.5 us.
  EXPECT_NEAR(m->op_ns({.code = OpCode::all_reduce, .act_bytes = 2 * 736000, .ranks = 4}), 10000 + 6 * 1500 + 1500, 1);
  // 64 lanes of 16 chips: 6 + 30 steps; the same, and 2 * 736 kB * 15/16 over 614.4 GB/s of links = 2.246 us.
  EXPECT_NEAR(m->op_ns({.code = OpCode::all_reduce, .act_bytes = 2 * 736000, .ranks = 64}), 10000 + 36 * 1500 + 1500 + 2246.1, 1);
}

// Each is one of the two rings of an all_reduce; a part and the whole are what it reads and writes.
TEST(Trn2, GatherAndScatterByHand) {
  auto m = load("trn2");
  for (OpCode code : {OpCode::all_gather, OpCode::reduce_scatter}) {
    EXPECT_NEAR(m->op_ns({.code = code, .act_bytes = 736000 + 184000, .ranks = 4}), 10000 + 3 * 1500 + 750, 1);
    EXPECT_NEAR(m->op_ns({.code = code, .act_bytes = 736000 + 11500, .ranks = 64}), 10000 + 18 * 1500 + 750 + 1123.05, 1);
  }
}

TEST(Trn2, ALaneOfOneCoreHasHalfOfEverything) {
  auto whole = load("trn2");
  auto half = load_cost_model("trn2", 1);
  ASSERT_TRUE(half.ok()) << half.error().what;
  OpWork w{.code = OpCode::matmul, .tokens = 512, .n = 2048, .k = 2048, .macs = 512ull * 2048 * 2048, .weight_bytes = 1, .bf16 = true};
  EXPECT_NEAR((*half)->op_ns(w) - 1500, 2 * (whole->op_ns(w) - 1500), 1);
  w = {.code = OpCode::matmul, .tokens = 1, .macs = 1, .weight_bytes = 1 << 26, .bf16 = true};
  EXPECT_NEAR((*half)->op_ns(w) - 1500, 2 * (whole->op_ns(w) - 1500), 1);  // its half of the stack's rate
  EXPECT_NEAR((*half)->copy_ns(1 << 20, true), whole->copy_ns(1 << 20, true), 1e-6);  // the chip's
  auto nine = load_cost_model("trn2", 9);
  ASSERT_FALSE(nine.ok());
  EXPECT_NE(std::string(nine.error().what).find("9 cores on a chip of 8"), std::string::npos) << nine.error().what;
}

// On 755 x 1170 PEs, where an op of no placed program runs.
TEST(Cs3, ByHand) {
  auto m = load("cs3");
  const ModelFile f = file("cs3");
  const double fixed = constant(f, "allreduce_fixed"), hops = constant(f, "hops"), start = constant(f, "vector_start"), clock = constant(f, "clock") / 1e9;
  EXPECT_EQ(constant(f, "mac_rate"), 4);
  EXPECT_DOUBLE_EQ(m->launch_ns(), 630000);
  const double allreduce = fixed + hops * (755 + 1170) / 2;
  // One row of 2048 x 2048: tiles of 3 x 2: 2 vector operations of 3 elements at 4 MACs a cycle.
  OpWork w{.code = OpCode::matmul, .tokens = 1, .n = 2048, .k = 2048, .macs = 2048 * 2048};
  EXPECT_NEAR(m->op_ns(w), (allreduce + 2 * (start + 3.0 / 4)) / clock, 1e-6);
  // 4096 rows: as many steps as sqrt(755 * 1170) = 939.9 PEs of a side, tiles of 5, 3 and 3; far less than row by row.
  w.tokens = 4096;
  EXPECT_NEAR(m->op_ns(w), 939.867 * (constant(f, "step_fixed") + 3 * 3 * (start + 5.0 / 4)) / clock, 1);
  // 4096 keys over 1170 rows are 4, 2048 elements over 755 columns 3.
  w = {.code = OpCode::attention, .tokens = 1, .context = 4096, .n = 4096, .k = 2048};
  EXPECT_NEAR(m->op_ns(w), (4 * allreduce + 4 * (constant(f, "key_fixed") + 2 * 3.0 / 4)) / clock, 1e-6);
  w = {.code = OpCode::add, .tokens = 1, .act_bytes = 883350 * 4 * 3};
  EXPECT_NEAR(m->op_ns(w), (constant(f, "local_fixed") + 3) / clock, 1e-6);
  // A norm of heads: sums meet within 128 of 2048 elements.
  w = {.code = OpCode::rms_norm, .tokens = 1, .n = 2048, .k = 128};
  EXPECT_NEAR(m->op_ns(w), (fixed + hops * (755 + 1170) / 2 / 16) / clock, 1e-6);
  // 16 channels of 7 Gb/s = 14 GB/s, of which 0.657 inwards: 9.198 GB/s. From wafer to wafer: 5 us and all of them.
  EXPECT_NEAR(m->copy_ns(9198000, true), 200000 + 1e6, 1);
  EXPECT_NEAR(m->copy_ns(4774000, false), 200000 + 1e6, 1);
  EXPECT_NEAR(m->hop_ns(14000), 5000 + 1000, 1e-6);
  EXPECT_EQ(load("trn2")->hop_ns(14000), 0);
}

program::Program two_products() {
  program::Builder b("two");
  using program::DType, program::Storage, program::Act;
  const uint32_t x = b.value("x", DType::f32, Storage::input, {1, 512}), w = b.constant("w", DType::bf16, {256, 512}), v = b.constant("v", DType::bf16, {256, 512});
  b.matmul(x, w, Act::bf16, 1, -1, int64_t(b.value("y", DType::f32, Storage::output, {1, 256})));
  b.matmul(x, v, Act::bf16, 1, -1, int64_t(b.value("z", DType::f32, Storage::output, {1, 256})));
  auto p = std::move(b).finish();
  EXPECT_TRUE(p.ok()) << p.error().what;
  return *p;
}

TEST(Cs3, APlacedProgramGoesByItsRectangles) {
  const ModelFile f = file("cs3");
  auto m = timing::load_wafer_model("cs3", {.clock_hz = 1e9, .mac_rate = 2});
  ASSERT_TRUE(m.ok()) << m.error().what;
  const program::Program p = two_products();
  auto cost = (*m)->placed(p, {{64, 32, 0}, {64, 32, 1}});
  ASSERT_TRUE(cost.ok()) << cost.error().what;
  const double allreduce = constant(f, "allreduce_fixed") + constant(f, "hops") * 48, start = constant(f, "vector_start");
  OpWork w{.code = OpCode::matmul, .tokens = 1, .op = 0, .n = 256, .k = 512};
  // 256 over 64 and 512 over 32, or 256 over 32 and 512 over 64: 8 x 8 with 8 operations loses to 4 x 16 with 4.
  EXPECT_NEAR((*cost)->op_ns(w), allreduce + 4 * (start + 16.0 / 2), 1e-6);
  // The second product has the input of the first: their sums are brought together once. And it comes after a hop.
  w.op = 1;
  EXPECT_NEAR((*cost)->op_ns(w), 4 * (start + 16.0 / 2) + (*m)->hop_ns(512), 1e-6);
  auto apart = timing::load_wafer_model("cs3", {.clock_hz = 1e9, .mac_rate = 2, .fused = false});
  EXPECT_NEAR((*(*apart)->placed(p, {{64, 32, 0}, {64, 32, 0}}))->op_ns(w), allreduce + 4 * (start + 16.0 / 2), 1e-6);
  EXPECT_FALSE((*m)->placed(p, {{64, 32, 0}}).ok()) << "one rectangle for two ops";
  EXPECT_FALSE((*m)->placed(p, {{64, 32, 0}, {0, 32, 0}}).ok());
  EXPECT_FALSE(timing::load_wafer_model("trn2").ok()) << "another form";
}

TEST(Timing, IsDeterministicAndGrowsWithWork) {
  for (const char* name : {"trn2", "cs3"}) {
    auto a = load(name), b = load(name);
    double before = 0;
    for (uint64_t n = 1; n < 1u << 24; n *= 4) {
      const OpWork w{.code = OpCode::matmul, .tokens = 1, .n = n, .k = 64, .macs = n * 64, .weight_bytes = n * 128, .act_bytes = n * 4, .bf16 = true};
      EXPECT_EQ(a->op_ns(w), b->op_ns(w));
      EXPECT_GE(a->op_ns(w), before);
      before = a->op_ns(w);
    }
  }
}

TEST(Files, MalformedOnesGiveOneLine) {
  auto refused = [](const std::string& text, int32_t code, const char* says) {
    auto parsed = parse_model_file(text, "here.json");
    Error e;
    if (parsed.ok()) {
      auto made = timing::make_cost_model(*parsed, "here.json");
      ASSERT_FALSE(made.ok()) << says;
      e = made.error();
    } else {
      e = parsed.error();
    }
    const std::string what = e.what;
    EXPECT_EQ(e.code, code) << what;
    EXPECT_NE(what.find(says), std::string::npos) << what;
    EXPECT_NE(what.find("here.json"), std::string::npos);
    EXPECT_EQ(what.find('\n'), std::string::npos);
    EXPECT_STRNE(e.next, "");
  };
  const std::string good = text_of("trn2");
  auto edited = [&](const std::string& from, const std::string& to) {
    std::string s = good;
    const size_t at = s.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return s.replace(at, from.size(), to);
  };
  refused("", BATON_CORRUPT, "not a JSON object");
  refused("[1,2", BATON_CORRUPT, "not a JSON object");
  refused(good.substr(0, good.size() / 2), BATON_CORRUPT, "not a JSON object");
  refused("{}", BATON_CORRUPT, "'schema'");
  refused(edited("baton.timing/1", "baton.timing/2"), BATON_VERSION, "baton.timing/2");
  refused(edited("\"neuron-core\"", "\"tpu\""), BATON_CORRUPT, "form 'tpu'");
  refused(edited("\"hbm\": {\"value\"", "\"hbn\": {\"value\""), BATON_CORRUPT, "needs the constant 'hbm'");
  refused(edited("\"constants\": {", "\"constants\": {\"more\": {\"value\": 1, \"unit\": \"x\", \"source\": \"guess\"},"), BATON_CORRUPT, "knows no constant 'more'");
  refused(edited("\"unit\": \"flop/s\"", "\"unit\": \"Gflop/s\""), BATON_CORRUPT, "is in Gflop/s");
  refused(edited("\"source\": \"guess: long reads by DMA\"", "\"source\": \"\""), BATON_CORRUPT, "'source'");
  refused(edited("\"value\": 79000000000000.0", "\"value\": \"fast\""), BATON_CORRUPT, "no number");
  refused(edited("\"value\": 79000000000000.0", "\"value\": -1"), BATON_CORRUPT, "is -1");
  refused(edited("\"value\": 79000000000000.0", "\"value\": 0"), BATON_CORRUPT, "is 0");
  refused(edited("\"value\": 79000000000000.0", "\"value\": 1e999"), BATON_CORRUPT, "");
  refused(edited("{\"value\": 79000000000000.0,", "[{\"value\": 1},{"), BATON_CORRUPT, "");
}

TEST(Files, ANameThatIsNotThereOrAPathThatCannotBeRead) {
  auto name = load_cost_model("trn9");
  ASSERT_FALSE(name.ok());
  EXPECT_EQ(name.error().code, BATON_NOT_FOUND);
  auto path = load_cost_model("./no/such/file.json");
  ASSERT_FALSE(path.ok());
  EXPECT_EQ(path.error().code, BATON_NOT_FOUND);
  EXPECT_TRUE(load_cost_model(*timing::find_model_file("cs3")).ok()); // by path
}

}  // namespace
}  // namespace baton::test
