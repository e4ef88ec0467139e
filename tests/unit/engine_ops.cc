// Each op over random shapes and dtypes, on every ISA path of this CPU, against the double-precision interpreter.
#include "engine_device.h"
#include "tests/cts/reference.h"

#include <gtest/gtest.h>

namespace baton::test {
namespace {

using cts::Reference;
using program::kTokens;

// One op between an input "x" (and "x2") [T, width] and an output "y".
struct Case {
  Builder b{"op"};
  Weights w;
  std::mt19937 g;
  explicit Case(uint32_t seed, uint32_t max_tokens = 40) : g(seed) {
    b.program().args = {Arg::tokens, Arg::position};
    b.program().max_tokens = max_tokens;
    b.program().max_context = 256;
  }
  uint32_t input(const std::string& name, int64_t width) { return b.value(name, DType::f32, Storage::input, {kTokens, width}); }
  uint32_t constant(const std::string& name, DType t, std::vector<int64_t> shape, float scale = 1, float mean = 0) {
    w[name] = random_tensor(g, t, shape, scale, mean);
    return b.constant(name, t, shape);
  }
  // Ops write scratch; the last one is copied out through an add of a zero input, which is exact.
  void finish(uint32_t y) {
    const int64_t width = b.program().values[y].shape[1];
    uint32_t zero = input("zero", width);
    uint32_t out = b.add(y, zero);
    b.program().values[out].storage = Storage::output;
    b.program().values[out].name = "y";
  }
};

std::vector<float> normal(std::mt19937& g, size_t n, float scale = 1) {
  std::normal_distribution<float> d(0, scale);
  std::vector<float> v(n);
  for (float& f : v) f = d(g);
  return v;
}

// Runs the case on each path with `rows` rows and compares y; all paths must agree in bits.
void check(Case& c, uint32_t rows, double tolerance, int64_t position = 0) {
  auto p = std::move(c.b).finish();
  ASSERT_TRUE(p.ok()) << p.error().what;
  std::map<std::string, std::vector<float>> inputs;
  Reference ref(*p);
  ref.constants(c.w);
  size_t out_width = 0;
  for (const auto& v : p->values) {
    if (v.storage == Storage::input && v.dtype == DType::f32) {
      auto& x = inputs[v.name] = normal(c.g, rows * v.shape[1], v.name == "zero" ? 0 : 1);
      ref.data(v.name).assign(x.begin(), x.end());
    }
    if (v.name == "y") out_width = size_t(v.shape[1]);
  }
  ref.run({rows, position});
  std::vector<float> first;
  for (Isa isa : isas()) {
    Executable exe = load(*p, c.w, {.isa = isa});
    std::vector<float> y(rows * out_width);
    std::vector<Binding> b = {{"y", bytes_of(y)}};
    for (auto& [name, x] : inputs) b.push_back({name, bytes_of(x)});
    Status s = finish(engine::Run(exe, b, std::vector<int64_t>{rows, position}, {}));
    ASSERT_TRUE(s.ok()) << s.error().what;
    double worst = 0, scale = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      worst = std::max(worst, std::abs(double(y[i]) - ref.data("y")[i]));
      scale = std::max(scale, std::abs(ref.data("y")[i]));
    }
    EXPECT_LE(worst, tolerance * std::max(1.0, scale)) << isa_name(isa);
    EXPECT_GT(scale, 0);
    if (first.empty()) first = y;
    EXPECT_EQ(std::memcmp(first.data(), y.data(), y.size() * 4), 0) << isa_name(isa) << " differs in bits from scalar";
  }
}

class Dtypes : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, Dtypes, testing::Values(DType::f32, DType::bf16, DType::f16), [](const auto& i) { return dtype_name(i.param); });

TEST_P(Dtypes, Matmul) {
  std::mt19937 g(3);
  for (int i = 0; i < 24; ++i) {
    Case c(100 + i);
    const uint32_t segments = 1u << g() % 3, n = 1 + g() % 80, k = segments * (1 + g() % 70), rows = 1 + g() % 40;
    uint32_t x = c.input("x", k);
    const int64_t bias = g() % 2 ? int64_t(c.constant("bias", GetParam(), {n})) : -1;
    uint32_t w = c.constant("w", GetParam(), {n, k});
    c.finish(c.b.matmul(x, w, i % 2 ? Act::bf16 : Act::f32, segments, bias));
    SCOPED_TRACE(testing::Message() << "n " << n << " k " << k << " segments " << segments << " rows " << rows);
    check(c, rows, 2e-5);
  }
}

TEST_P(Dtypes, RmsNorm) {
  for (int i = 0; i < 6; ++i) {
    Case c(200 + i);
    const uint32_t d = 1 + c.g() % 70, times = 1 + c.g() % 4;
    uint32_t x = c.input("x", d * times);
    c.finish(c.b.rms_norm(x, c.constant("w", GetParam(), {d}, 0.5f, 1), i % 2 ? 1e-5f : 1e-2f));
    check(c, 1 + c.g() % 20, 2e-6);
  }
}

TEST(Ops, Rope) {
  for (uint32_t head_dim : {2u, 16u, 24u, 64u, 128u}) {
    Case c(300 + head_dim);
    uint32_t x = c.input("x", 3 * head_dim);
    uint32_t f = c.constant("inv_freq", DType::f32, {head_dim / 2}, 0.3f);
    c.finish(c.b.rope(x, f, 3, head_dim, head_dim == 24 ? 1.25f : 1.0f));
    check(c, 9, 2e-6, 100);
  }
}

TEST(Ops, SiluMulAndAdd) {
  for (uint32_t width : {1u, 15u, 16u, 17u, 200u}) {
    Case c(400 + width);
    uint32_t x = c.input("x", width), x2 = c.input("x2", width);
    c.finish(c.b.add(c.b.silu_mul(x, x2), x));
    check(c, 5, 2e-6);
  }
}

TEST_P(Dtypes, EmbedAndTakeLastFromRowsAndFromAPackedTable) {
  for (bool tied : {false, true}) {
    Builder b("embed");
    b.program().args = {Arg::tokens};
    b.program().max_tokens = 8;
    std::mt19937 g(5);
    const int64_t hidden = 44, vocabulary = 37;
    Weights w{{"table", random_tensor(g, GetParam(), {vocabulary, hidden}, 1)}};
    uint32_t ids = b.value("ids", DType::i32, Storage::input, {kTokens});
    uint32_t table = b.constant("table", GetParam(), {vocabulary, hidden});
    uint32_t x = b.embed(ids, table);
    uint32_t last = b.take_last(x);
    if (tied) b.matmul(last, table, Act::f32, 4, -1, b.value("logits", DType::f32, Storage::output, {1, vocabulary}));
    Program p = b.program();
    p.values[x].storage = p.values[last].storage = Storage::output;
    Executable exe = load(p, w, {.isa = Isa::scalar});
    EXPECT_EQ(exe.constant_bytes() > 0, true);
    std::vector<int32_t> in = {36, 0, 17};
    std::vector<float> rows(3 * hidden), one(hidden), logits(vocabulary);
    std::vector<Binding> bind = {{"ids", bytes_of(in)}, {p.values[x].name, bytes_of(rows)}, {p.values[last].name, bytes_of(one)}};
    if (tied) bind.push_back({"logits", bytes_of(logits)});
    ASSERT_TRUE(finish(engine::Run(exe, bind, std::vector<int64_t>{3}, {})).ok());
    for (int r = 0; r < 3; ++r)
      for (int i = 0; i < hidden; ++i) ASSERT_EQ(rows[r * hidden + i], w["table"].data[in[r] * hidden + i]) << tied << " " << r << " " << i;
    EXPECT_EQ(std::memcmp(one.data(), &rows[2 * hidden], hidden * 4), 0);
  }
}

// Attention and kv_store are compared inside of whole models: every order, dtype, window and head_dim.
struct Whole {
  DType dtype, kv;
  Act act;
  uint32_t head_dim, window;
  KvOrder order;
};

class WholeModel : public testing::TestWithParam<Whole> {};
INSTANTIATE_TEST_SUITE_P(
    All, WholeModel,
    testing::Values(Whole{DType::f32, DType::f32, Act::f32, 16, 0, KvOrder::token_major}, Whole{DType::f16, DType::f16, Act::f32, 16, 0, KvOrder::head_major},
                    Whole{DType::bf16, DType::bf16, Act::bf16, 16, 0, KvOrder::block_major}, Whole{DType::f32, DType::f32, Act::f32, 24, 0, KvOrder::head_major},
                    Whole{DType::f32, DType::f32, Act::f32, 64, 7, KvOrder::block_major}, Whole{DType::bf16, DType::f16, Act::f32, 32, 33, KvOrder::token_major},
                    Whole{DType::f32, DType::bf16, Act::f32, 128, 0, KvOrder::token_major}));

TEST_P(WholeModel, AgreesWithTheReference) {
  Model m;
  m.dtype = GetParam().dtype;
  m.kv_dtype = GetParam().kv;
  m.act = GetParam().act;
  m.head_dim = GetParam().head_dim;
  m.window = GetParam().window;
  m.order = GetParam().order;
  m.qk_norm = m.bias = true;
  const Weights w = random_weights(m);
  std::mt19937 g(11);
  std::vector<int32_t> ids(45);
  for (auto& i : ids) i = int32_t(g() % m.vocabulary);
  TestDevice device(m, w, 1, isas().back());
  const auto logits = device.prefill(ids, 0, ids.size());

  Program p = build_model(m, w, false).program();
  Reference ref(p);
  ref.constants(w);
  ref.ints("ids") = ids;
  ref.ints("block_table") = device.table();
  ref.data("kv").resize(m.cache_elements());
  ref.run({int64_t(ids.size()), 0, 0, 0, 0});
  // A bf16 rounding may fall to the other side of a tie after sums in another order: then results differ by parts of a bf16 step.
  const bool rounds = m.act == Act::bf16 || m.kv_dtype != DType::f32;
  double worst = 0, scale = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    worst = std::max(worst, std::abs(logits[i] - ref.data("logits")[i]));
    scale = std::max(scale, std::abs(ref.data("logits")[i]));
  }
  EXPECT_LE(worst, (rounds ? 2e-2 : 5e-5) * scale);
  RecordProperty("worst", std::to_string(worst / scale));
}

}  // namespace
}  // namespace baton::test
