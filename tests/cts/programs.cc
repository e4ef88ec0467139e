// Programs: every primitive over random shapes and dtypes, against the double-precision reference.
#include "tests/cts/launch.h"
#include "tests/cts/reference.h"

#include <algorithm>
#include <array>
#include <memory>

namespace baton::cts {
namespace {

using program::Builder;
using program::DType;
using program::kSteps;
using program::kTokens;
using program::KvView;
using program::OpCode;
using program::Storage;

constexpr DType kFloats[] = {DType::f32, DType::bf16, DType::f16};
constexpr uint32_t kContext = 256;

// Fewer shapes where a sanitizer makes each of them slow.
constexpr int kShapes = kSlower > 1 ? 2 : 6;

uint32_t below(Fixture& f, uint32_t n) { return uint32_t(f.rng() % n); }

std::vector<float> normal(Fixture& f, size_t n, float scale = 1) {
  std::normal_distribution<float> d(0, scale);
  std::vector<float> v(n);
  for (float& x : v) x = d(f.rng);
  return v;
}

// Some ops between inputs [T, width] and the output "y". The last op's value is copied out through an add of zero, which is exact.
struct OpCase {
  Fixture& f;
  Builder b{"op"};
  Weights w;
  explicit OpCase(Fixture& fixture) : f(fixture) {
    b.program().args = {Arg::tokens, Arg::position};
    b.program().max_tokens = 40;
    b.program().max_context = kContext;
  }
  uint32_t input(const std::string& name, int64_t width) { return b.value(name, DType::f32, Storage::input, {kTokens, width}); }
  uint32_t constant(const std::string& name, DType t, std::vector<int64_t> shape, float scale = 1, float mean = 0) {
    w[name] = random_tensor(f.rng, t, shape, scale, mean);
    return b.constant(name, t, std::move(shape));
  }
  void output(uint32_t y) {
    const uint32_t out = b.add(y, input("zero", b.program().values[y].shape[1]));
    b.program().values[out].storage = Storage::output;
    b.program().values[out].name = "y";
  }
};

void expect_near(const std::vector<float>& got, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  double worst = 0, scale = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double off = std::abs(double(got[i]) - expected[i]);
    worst = off <= worst ? worst : off;  // a NaN is the worst of all
    scale = std::max(scale, std::abs(expected[i]));
  }
  EXPECT_LE(worst, tolerance * std::max(1.0, scale)) << "of values up to " << scale;
  EXPECT_GT(scale, 0) << "a test of zeros tests nothing";
}

void check(OpCase& c, uint32_t rows, double tolerance, int64_t position = 0) {
  const program::Program p = must(std::move(c.b).finish());
  Reference ref(p);
  ref.constants(c.w);
  std::map<std::string, Bytes> values;
  size_t width = 0;
  for (const program::Value& v : p.values) {
    if (v.storage == Storage::input) {
      const auto x = normal(c.f, rows * size_t(v.shape[1]), v.name == "zero" ? 0 : 1);
      ref.data(v.name).assign(x.begin(), x.end());
      values[v.name] = bytes_of(x);
    }
    if (v.name == "y") width = size_t(v.shape[1]);
  }
  values["y"] = Bytes(rows * width * sizeof(float));
  ref.run({rows, position});
  baton::Program loaded = load(c.f, p, c.w);
  Values bound(c.f, values);
  must(run(c.f, loaded, bound, {rows, position}));
  expect_near(bound.floats("y"), ref.data("y"), tolerance);
}

void matmul(Fixture& f) {
  for (DType t : kFloats)
    for (int i = 0; i < 2 * kShapes; ++i) {
      OpCase c(f);
      const uint32_t segments = 1u << below(f, 3), n = 1 + below(f, 80), k = segments * (1 + below(f, 70)), rows = 1 + below(f, 40);
      SCOPED_TRACE(testing::Message() << program::dtype_name(t) << " n " << n << " k " << k << " segments " << segments << " rows " << rows);
      const uint32_t x = c.input("x", k);
      const int64_t bias = below(f, 2) ? int64_t(c.constant("bias", t, {n})) : -1;
      c.output(c.b.matmul(x, c.constant("w", t, {n, k}), i % 2 ? Act::bf16 : Act::f32, segments, bias));
      check(c, rows, 2e-5);
    }
}

void rms_norm(Fixture& f) {
  for (DType t : kFloats)
    for (int i = 0; i < kShapes; ++i) {
      OpCase c(f);
      const uint32_t d = 1 + below(f, 70), times = 1 + below(f, 4);
      SCOPED_TRACE(testing::Message() << program::dtype_name(t) << " " << times << " x " << d);
      const uint32_t x = c.input("x", d * times);
      c.output(c.b.rms_norm(x, c.constant("w", t, {d}, 0.5f, 1), i % 2 ? 1e-5f : 1e-2f));
      check(c, 1 + below(f, 20), 2e-6);
    }
}

void rope(Fixture& f) {
  for (uint32_t head_dim : {2u, 16u, 24u, 64u, 128u}) {
    OpCase c(f);
    const uint32_t heads = 1 + below(f, 4);
    SCOPED_TRACE(testing::Message() << heads << " heads of " << head_dim);
    const uint32_t x = c.input("x", heads * head_dim);
    c.output(c.b.rope(x, c.constant("inv_freq", DType::f32, {head_dim / 2}, 0.3f), heads, head_dim, head_dim == 24 ? 1.25f : 1.0f));
    check(c, 1 + below(f, 20), 2e-6, below(f, 200));
  }
}

void silu_mul(Fixture& f) {
  for (uint32_t width : {1u, 15u, 16u, 17u, 200u}) {
    OpCase c(f);
    const uint32_t x = c.input("x", width), up = c.input("up", width);
    c.output(c.b.silu_mul(x, up));
    check(c, 1 + below(f, 20), 2e-6);
  }
}

void add(Fixture& f) {
  for (uint32_t width : {1u, 15u, 16u, 17u, 200u}) {
    OpCase c(f);
    const uint32_t x = c.input("x", width), x2 = c.input("x2", width);
    c.output(c.b.add(x, x2));
    check(c, 1 + below(f, 20), 1e-7);
  }
}

// Rows of a table in its dtype are exact in f32; so is the last of them. `tied`: the table is a matmul's weight too, and packed.
void embed_and_take_last(Fixture& f) {
  for (DType t : kFloats)
    for (bool tied : {false, true}) {
      const uint32_t hidden = 4 * (1 + below(f, 20)), vocabulary = 5 + below(f, 50), rows = 1 + below(f, 8);
      SCOPED_TRACE(testing::Message() << program::dtype_name(t) << (tied ? " tied " : " ") << vocabulary << " x " << hidden);
      Builder b("embed");
      b.program().args = {Arg::tokens};
      b.program().max_tokens = 8;
      const Weights w{{"table", random_tensor(f.rng, t, {vocabulary, hidden}, 1)}};
      const uint32_t table = b.constant("table", t, {vocabulary, hidden});
      const uint32_t x = b.embed(b.value("ids", DType::i32, Storage::input, {kTokens}), table), last = b.take_last(x);
      if (tied) b.matmul(last, table, Act::f32, 4, -1, b.value("logits", DType::f32, Storage::output, {1, vocabulary}));
      b.program().values[x].storage = b.program().values[last].storage = Storage::output;
      b.program().values[x].name = "x";
      b.program().values[last].name = "last";
      const program::Program p = must(std::move(b).finish());
      std::vector<int32_t> ids(rows);
      for (int32_t& id : ids) id = int32_t(below(f, vocabulary));
      std::map<std::string, Bytes> values{{"ids", bytes_of(ids)}, {"x", Bytes(rows * hidden * 4)}, {"last", Bytes(hidden * 4)}};
      if (tied) values["logits"] = Bytes(vocabulary * 4);
      Reference ref(p);
      ref.constants(w);
      ref.ints("ids") = ids;
      ref.run({rows});
      baton::Program loaded = load(f, p, w);
      Values bound(f, values);
      must(run(f, loaded, bound, {rows}));
      expect_near(bound.floats("x"), ref.data("x"), 0);
      expect_near(bound.floats("last"), ref.data("last"), 0);
      if (tied) expect_near(bound.floats("logits"), ref.data("logits"), 2e-5);
    }
}

// ---- the KV-cache ----

struct Cache {
  uint32_t layers = 2, heads, kv_heads, head_dim, block_tokens, window, blocks, pool;
  KvView view;
  std::vector<int32_t> table;
  uint64_t elements() const { return uint64_t(layers) * 2 * pool * block_tokens * kv_heads * head_dim; }
};

// A random geometry in one of three orders, its blocks scattered.
Cache random_cache(Fixture& f, int order) {
  Cache c;
  c.kv_heads = 1u << below(f, 3);
  c.heads = c.kv_heads << below(f, 3);
  c.head_dim = std::array{16u, 24u, 64u, 128u}[below(f, 4)];
  c.block_tokens = below(f, 2) ? 8 : 16;
  c.window = below(f, 2) ? 0 : 1 + below(f, 40);
  c.blocks = kContext / c.block_tokens;
  c.pool = c.blocks + 3;
  const uint64_t h = c.kv_heads, d = c.head_dim, t = c.block_tokens, b = c.pool, l = c.layers;
  if (order == 0) c.view = {2 * b * t * h * d, b * t * h * d, t * h * d, h * d, d, c.block_tokens};               // token-major
  if (order == 1) c.view = {2 * b * t * h * d, b * t * h * d, t * h * d, d, t * d, c.block_tokens};               // head-major
  if (order == 2) c.view = {2 * t * h * d, t * h * d, l * 2 * t * h * d, h * d, d, c.block_tokens};               // block-major
  for (uint32_t i = 0; i < c.blocks; ++i) c.table.push_back(int32_t((i * 7 + 2) % c.pool));
  if (c.pool % 7 == 0)  // then 7 would not reach every block
    for (uint32_t i = 0; i < c.blocks; ++i) c.table[i] = int32_t(c.pool - 1 - i);
  return c;
}

// The attention of layer 1 over keys that two launches have stored, and the cache itself.
void kv_store_and_attention(Fixture& f) {
  for (DType t : kFloats)
    for (int order = 0; order < 3; ++order) {
      const Cache c = random_cache(f, order);
      const Act act = t == DType::bf16 ? Act::bf16 : Act::f32;
      SCOPED_TRACE(testing::Message() << program::dtype_name(t) << " order " << order << " heads " << c.heads << "/" << c.kv_heads << " of " << c.head_dim
                                      << " window " << c.window << " blocks of " << c.block_tokens);
      Builder b("attention");
      b.program().args = {Arg::tokens, Arg::position};
      b.program().max_tokens = 40;
      b.program().max_context = kContext;
      const int64_t q_width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
      const uint32_t q = b.value("q", DType::f32, Storage::input, {kTokens, q_width}), k = b.value("k", DType::f32, Storage::input, {kTokens, kv_width}),
                     v = b.value("v", DType::f32, Storage::input, {kTokens, kv_width});
      const uint32_t table = b.value("table", DType::i32, Storage::input, {c.blocks}), kv = b.value("kv", t, Storage::cache, {int64_t(c.elements())});
      b.kv_store(v, k, table, kv, 0, c.kv_heads, c.head_dim, c.view);
      b.kv_store(k, v, table, kv, 1, c.kv_heads, c.head_dim, c.view);
      const uint32_t y = b.attention(q, kv, table, act, 1, c.heads, c.kv_heads, c.head_dim, 1 / std::sqrt(float(c.head_dim)), c.window, c.view);
      b.program().values[y].storage = Storage::output;
      b.program().values[y].name = "y";
      const program::Program p = must(std::move(b).finish());
      baton::Program loaded = load(f, p, {});
      Reference ref(p);
      ref.ints("table") = c.table;
      ref.data("kv").resize(c.elements());
      Buffer cache = f.alloc(c.elements() * program::dtype_bytes(t));
      f.fill(cache, 0);
      int64_t position = 0;
      for (uint32_t rows : {1 + below(f, 40), 1 + below(f, 40), 1u}) {
        std::map<std::string, Bytes> values{{"table", bytes_of(c.table)}, {"y", Bytes(rows * uint64_t(q_width) * 4)}};
        for (auto [name, width] : {std::pair{"q", q_width}, {"k", kv_width}, {"v", kv_width}}) {
          const auto x = normal(f, rows * uint64_t(width));
          ref.data(name).assign(x.begin(), x.end());
          values[name] = bytes_of(x);
        }
        ref.data("y").clear();
        ref.run({rows, position});
        Values bound(f, values);
        std::vector<baton_binding> bindings(bound.bindings().begin(), bound.bindings().end());
        bindings.push_back(bind("kv", cache));
        Queue lane = f.queue();
        Timeline done = f.timeline();
        const std::vector<int64_t> args{rows, position};
        must(lane.submit(launch(loaded, bindings, args).signal(done, 1)));
        must(done.wait_until(1, soon()));
        // A bf16 rounding may fall to the other side of a tie after sums in another order.
        expect_near(bound.floats("y"), ref.data("y"), act == Act::bf16 ? 2e-2 : 2e-5);
        position += rows;
      }
      std::vector<float> kept(ref.data("kv").begin(), ref.data("kv").end());
      EXPECT_TRUE(same(f.read(cache, 0, cache.bytes()), to_bytes(kept, t))) << "the cache";
    }
}

// ---- sampling, loops ----

// Greedy: the highest logit, the lowest index among equals.
void sample_greedy(Fixture& f) {
  const uint32_t vocabulary = 300;
  Builder b("greedy");
  b.sample(b.value("logits", DType::f32, Storage::input, {1, vocabulary}), b.value("token", DType::i32, Storage::output, {1}), {});
  const program::Program p = must(std::move(b).finish());
  baton::Program loaded = load(f, p, {});
  for (int i = 0; i < 2 * kShapes; ++i) {
    std::vector<float> logits = normal(f, vocabulary, 5);
    const size_t best = below(f, vocabulary), equal = below(f, vocabulary);
    logits[best] = logits[equal] = 100;
    Values bound(f, {{"logits", bytes_of(logits)}, {"token", Bytes(4)}});
    must(run(f, loaded, bound, {}));
    EXPECT_EQ(bound.ints("token")[0], int32_t(std::min(best, equal)));
  }
}

// A loop whose logits depend on the token before. All rows of the table equal: then on nothing, and each step draws anew.
program::Program loop(uint32_t vocabulary, uint32_t hidden, uint32_t max_steps, std::vector<int32_t> stops) {
  Builder b("loop");
  program::Program& p = b.program();
  p.loop = true;
  p.max_steps = max_steps;
  p.max_context = max_steps;
  p.args = {Arg::steps, Arg::position, Arg::temperature, Arg::top_p, Arg::seed, Arg::stop};
  const uint32_t ids = b.value("ids", DType::i32, Storage::inout, {kSteps});
  const uint32_t logits = b.value("logits", DType::f32, Storage::output, {kSteps, vocabulary}, true);
  const uint32_t x = b.embed(ids, b.constant("table", DType::f32, {vocabulary, hidden}));
  b.matmul(x, b.constant("w", DType::f32, {vocabulary, hidden}), Act::f32, 1, -1, logits);
  b.sample(logits, ids, std::move(stops));
  b.mark();
  return must(std::move(b).finish());
}

std::vector<int64_t> loop_args(uint32_t steps, double temperature, double top_p, int64_t seed, bool stop) {
  return {steps, 0, float_arg(temperature), float_arg(top_p), seed, stop};
}

void loops_feed_each_token_to_the_next_step(Fixture& f) {
  const uint32_t vocabulary = 80, hidden = 24, steps = 30;
  const Weights w{{"table", random_tensor(f.rng, DType::f32, {vocabulary, hidden}, 1)}, {"w", random_tensor(f.rng, DType::f32, {vocabulary, hidden}, 1)}};
  const program::Program p = loop(vocabulary, hidden, steps, {});
  Reference ref(p);
  ref.constants(w);
  std::vector<int32_t> ids(steps + 1, -1);
  ids[0] = 3;
  ref.ints("ids") = {3};
  ref.run(loop_args(steps, 0, 1, 0, false));
  baton::Program loaded = load(f, p, w);
  Values bound(f, {{"ids", bytes_of(ids)}, {"logits", Bytes(steps * vocabulary * 4)}});
  must(run(f, loaded, bound, loop_args(steps, 0, 1, 0, false)));
  EXPECT_EQ(bound.ints("ids"), ref.ints("ids"));
  expect_near(bound.floats("logits"), ref.data("logits"), 2e-5);
}

void a_stop_token_ends_the_loop(Fixture& f) {
  const uint32_t vocabulary = 40, hidden = 16, steps = 20;
  const Weights w{{"table", random_tensor(f.rng, DType::f32, {vocabulary, hidden}, 1)}, {"w", random_tensor(f.rng, DType::f32, {vocabulary, hidden}, 1)}};
  baton::Program free_running = load(f, loop(vocabulary, hidden, steps, {}), w);
  std::vector<int32_t> ids(steps + 1, -1);
  ids[0] = 1;
  Values first(f, {{"ids", bytes_of(ids)}});
  must(run(f, free_running, first, loop_args(steps, 0, 1, 0, false)));
  const std::vector<int32_t> drawn = first.ints("ids");
  const int32_t stop = drawn[steps / 2];  // may have come earlier already
  const size_t at = size_t(std::find(drawn.begin() + 1, drawn.end(), stop) - drawn.begin());
  baton::Program stopping = load(f, loop(vocabulary, hidden, steps, {stop}), w);
  for (bool armed : {true, false}) {
    Values bound(f, {{"ids", bytes_of(ids)}});
    Queue q = f.queue();
    Timeline marks = f.timeline("marks"), done = f.timeline("done");
    const auto args = loop_args(steps, 0, 1, 0, armed);
    must(q.submit(launch(stopping, bound.bindings(), args).progress(marks).signal(done, 1)));
    must(done.wait_until(1, soon()));
    EXPECT_EQ(must(marks.value()), armed ? at : steps);
    const std::vector<int32_t> got = bound.ints("ids");
    for (size_t i = 0; i <= (armed ? at : steps); ++i) ASSERT_EQ(got[i], drawn[i]) << i;
  }
}

// Drawn tokens are of the nucleus, come as often as their probabilities say, and depend on seed and position alone.
void samples_follow_temperature_and_nucleus(Fixture& f) {
  const uint32_t vocabulary = 6, hidden = 8, steps = kSlower > 1 ? 400 : 2000;
  Weights w{{"table", random_tensor(f.rng, DType::f32, {vocabulary, hidden}, 0, 1)}, {"w", random_tensor(f.rng, DType::f32, {vocabulary, hidden}, 0.4f)}};
  const program::Program p = loop(vocabulary, hidden, steps, {});
  baton::Program loaded = load(f, p, w);
  std::vector<double> logits(vocabulary);
  for (uint32_t v = 0; v < vocabulary; ++v)
    for (uint32_t i = 0; i < hidden; ++i) logits[v] += w["w"].data[v * hidden + i] * w["table"].data[i];
  auto draw = [&](double temperature, double top_p, int64_t seed) {
    Values bound(f, {{"ids", Bytes((steps + 1) * 4)}});
    must(run(f, loaded, bound, loop_args(steps, temperature, top_p, seed, false)));
    std::vector<int32_t> ids = bound.ints("ids");
    ids.erase(ids.begin());
    return ids;
  };
  for (auto [temperature, top_p] : {std::pair{1.0, 1.0}, {0.5, 1.0}, {2.0, 0.6}}) {
    SCOPED_TRACE(testing::Message() << "temperature " << temperature << " top_p " << top_p);
    std::vector<uint32_t> order(vocabulary);
    for (uint32_t v = 0; v < vocabulary; ++v) order[v] = v;
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
    std::vector<double> expected(vocabulary);
    double total = 0, kept = 0;
    for (double x : logits) total += std::exp(x / temperature);
    for (uint32_t v : order)
      if (kept < top_p) kept += expected[v] = std::exp(logits[v] / temperature) / total;
    const std::vector<int32_t> drawn = draw(temperature, top_p, 11);
    std::vector<double> seen(vocabulary);
    for (int32_t t : drawn) {
      ASSERT_TRUE(t >= 0 && t < int32_t(vocabulary)) << t;
      seen[size_t(t)] += 1.0 / steps;
    }
    for (uint32_t v = 0; v < vocabulary; ++v) {
      const double e = expected[v] / kept;
      EXPECT_LE(std::abs(seen[v] - e), 5 * std::sqrt(e * (1 - e) / steps) + 1e-9) << "token " << v << " came in " << seen[v] << " of draws, expected " << e;
    }
    EXPECT_EQ(draw(temperature, top_p, 11), drawn) << "the same seed";
    EXPECT_NE(draw(temperature, top_p, 12), drawn) << "another seed";
  }
}

// ---- several lanes ----

// One collective over ranks on lanes of their own, [rows, width] in; checks what each rank has against the sum or the whole in double.
void collective(Fixture& f, OpCode code) {
  const uint32_t ranks = f.info().lanes >= 4 ? 4 : 2, rows = 3, width = 37 * ranks;
  const uint32_t wide = code == OpCode::all_gather ? width * ranks : width, out = code == OpCode::reduce_scatter ? width / ranks : wide;
  Builder b(opcode_name(code));
  b.program().ranks = ranks;
  b.program().args = {Arg::tokens};
  b.program().max_tokens = 8;
  const uint32_t x = b.value("x", DType::f32, Storage::input, {kTokens, width}), y = b.value("y", DType::f32, Storage::output, {kTokens, out});
  b.program().ops.push_back({.code = code, .in = {x}, .out = {y}});
  const program::Program p = must(std::move(b).finish());
  std::vector<baton::Program> loaded;
  std::vector<std::unique_ptr<Values>> values;
  std::vector<Queue> queues;
  std::vector<double> expected(rows * wide);
  for (uint32_t r = 0; r < ranks; ++r) {
    const auto mine = normal(f, rows * width);
    for (uint32_t row = 0; row < rows; ++row)
      for (uint32_t c = 0; c < width; ++c) expected[row * wide + c + (code == OpCode::all_gather ? r * width : 0)] += mine[row * width + c];
    loaded.push_back(load(f, p, {}, r, r, ranks));
    values.push_back(std::make_unique<Values>(f, std::map<std::string, Bytes>{{"x", bytes_of(mine)}, {"y", Bytes(rows * out * 4)}}, r));
    queues.push_back(f.queue(r));
  }
  const std::vector<int64_t> args{rows};
  std::vector<Timeline> each;
  for (uint32_t r = 0; r < ranks; ++r) {
    each.push_back(f.timeline("rank"));
    must(queues[r].submit(launch(loaded[r], values[r]->bindings(), args).signal(each[r], 1)));
  }
  for (Timeline& t : each) must(t.wait_until(1, soon()));
  for (uint32_t r = 0; r < ranks; ++r) {
    std::vector<double> mine;
    for (uint32_t row = 0; row < rows; ++row)
      for (uint32_t c = 0; c < out; ++c) mine.push_back(expected[row * wide + c + (code == OpCode::reduce_scatter ? r * out : 0)]);
    expect_near(values[r]->floats("y"), mine, 1e-6);
    if (code != OpCode::reduce_scatter) EXPECT_TRUE(same(values[r]->bytes("y"), values[0]->bytes("y"))) << "rank " << r << " differs in bits from rank 0";
  }
}
void all_reduce(Fixture& f) { collective(f, OpCode::all_reduce); }
void all_gather(Fixture& f) { collective(f, OpCode::all_gather); }
void reduce_scatter(Fixture& f) { collective(f, OpCode::reduce_scatter); }

// Equal bits: launched again, in chunks of rows, on another lane.
void the_same_launch_gives_the_same_bits(Fixture& f) {
  const uint32_t n = 48, k = 64, rows = 20;
  Builder b("again");
  b.program().args = {Arg::tokens};
  b.program().max_tokens = rows;
  const Weights w{{"w", random_tensor(f.rng, DType::bf16, {n, k}, 1)}};
  b.matmul(b.value("x", DType::f32, Storage::input, {kTokens, k}), b.constant("w", DType::bf16, {n, k}), Act::bf16, 2, -1,
           b.value("y", DType::f32, Storage::output, {kTokens, n}));
  const program::Program p = must(std::move(b).finish());
  const auto x = normal(f, rows * k);
  Bytes first;
  for (uint32_t lane : {0u, f.info().lanes - 1}) {
    baton::Program loaded = load(f, p, w, lane);
    Values whole(f, {{"x", bytes_of(x)}, {"y", Bytes(rows * n * 4)}}, lane);
    must(run(f, loaded, whole, {rows}, lane));
    if (first.empty()) first = whole.bytes("y");
    EXPECT_TRUE(same(whole.bytes("y"), first)) << "lane " << lane;
    for (uint32_t r = 0; r < rows; r += 7) {
      const uint32_t part = std::min(7u, rows - r);
      Values chunk(f, {{"x", bytes_of(std::vector<float>(x.begin() + r * k, x.begin() + (r + part) * k))}, {"y", Bytes(part * n * 4)}}, lane);
      must(run(f, loaded, chunk, {part}, lane));
      EXPECT_TRUE(same(chunk.bytes("y"), Bytes(first.begin() + r * n * 4, first.begin() + (r + part) * n * 4))) << "rows " << r << "...";
    }
  }
}

}  // namespace

const Suite& programs_suite() {
  static constexpr Case kCases[] = {
      {"Matmul", kNone, matmul},
      {"RmsNorm", kNone, rms_norm},
      {"Rope", kNone, rope},
      {"SiluMul", kNone, silu_mul},
      {"Add", kNone, add},
      {"EmbedAndTakeLast", kNone, embed_and_take_last},
      {"KvStoreAndAttention", kNone, kv_store_and_attention},
      {"SampleGreedy", kNone, sample_greedy},
      {"LoopsFeedEachTokenToTheNextStep", kNone, loops_feed_each_token_to_the_next_step},
      {"AStopTokenEndsTheLoop", kNone, a_stop_token_ends_the_loop},
      {"SamplesFollowTemperatureAndNucleus", kNone, samples_follow_temperature_and_nucleus},
      {"AllReduce", kCollectives | kLanes, all_reduce},
      {"AllGather", kCollectives | kLanes, all_gather},
      {"ReduceScatter", kCollectives | kLanes, reduce_scatter},
      {"TheSameLaunchGivesTheSameBits", kNone, the_same_launch_gives_the_same_bits},
  };
  static constexpr Suite kSuite{"programs", kCases};
  return kSuite;
}

}  // namespace baton::cts
