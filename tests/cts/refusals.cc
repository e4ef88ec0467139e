// Refusals: malformed programs, constants and launches get a reason; nothing crashes, and the device works on.
#include "tests/cts/launch.h"

#include <cmath>
#include <functional>

namespace baton::cts {
namespace {

using program::Act;
using program::Arg;
using program::Builder;
using program::DType;
using program::kSteps;
using program::kTokens;
using program::Storage;

struct Sample {
  program::Program program;
  Weights weights;
  std::map<std::string, Bytes> values;
  std::vector<int64_t> args;
};

// Every kind of value, most ops: y = x w, stored into a cache and attended to, a token sampled.
Sample attention_sample(Fixture& f) {
  constexpr uint32_t kWidth = 32, kBlocks = 4, kBlockTokens = 8, kRows = 5;
  Sample s;
  Builder b("sample");
  program::Program& p = b.program();
  p.args = {Arg::tokens, Arg::position, Arg::temperature, Arg::top_p, Arg::seed};
  p.max_tokens = 8;
  p.max_context = kBlocks * kBlockTokens;
  const program::KvView view{2 * kBlocks * kBlockTokens * kWidth, kBlocks * kBlockTokens * kWidth, kBlockTokens * kWidth, kWidth, 16, kBlockTokens};
  s.weights = {{"table", random_tensor(f.rng, DType::bf16, {40, kWidth}, 1)}, {"w", random_tensor(f.rng, DType::bf16, {kWidth, kWidth}, 0.2f)},
               {"norm", random_tensor(f.rng, DType::f32, {kWidth}, 0.1f, 1)}, {"inv_freq", random_tensor(f.rng, DType::f32, {8}, 0.3f)}};
  const uint32_t ids = b.value("ids", DType::i32, Storage::input, {kTokens}), table = b.constant("table", DType::bf16, {40, kWidth});
  const uint32_t blocks = b.value("blocks", DType::i32, Storage::input, {kBlocks});
  const uint32_t kv = b.value("kv", DType::bf16, Storage::cache, {2 * kBlocks * kBlockTokens * kWidth});
  const uint32_t w = b.constant("w", DType::bf16, {kWidth, kWidth});
  const uint32_t x = b.rms_norm(b.embed(ids, table), b.constant("norm", DType::f32, {kWidth}), 1e-5f);
  const uint32_t q = b.rope(b.matmul(x, w, Act::bf16), b.constant("inv_freq", DType::f32, {8}), 2, 16, 1);
  b.kv_store(q, x, blocks, kv, 0, 2, 16, view);
  const uint32_t y = b.add(b.silu_mul(b.attention(q, kv, blocks, Act::bf16, 0, 2, 2, 16, 0.25f, 0, view), x), x);
  b.mark();
  const uint32_t logits = b.matmul(b.take_last(y), table, Act::bf16, 1, -1, b.value("logits", DType::f32, Storage::output, {1, 40}));
  b.sample(logits, b.value("token", DType::i32, Storage::output, {1}, true), {});
  s.program = must(std::move(b).finish());
  s.values = {{"ids", bytes_of(std::vector<int32_t>{1, 7, 39, 0, 5})}, {"blocks", bytes_of(std::vector<int32_t>{2, 0, 3, 1})},
              {"kv", Bytes(2 * kBlocks * kBlockTokens * kWidth * 2)}, {"logits", Bytes(40 * 4)}, {"token", Bytes(4)}};
  s.args = {kRows, 0, float_arg(0), float_arg(1), 0};
  return s;
}

void expect_works(Fixture& f, const Sample& s) {
  baton::Program p = load(f, s.program, s.weights);
  Values v(f, s.values);
  must(run(f, p, v, s.args));
  const int32_t token = v.ints("token")[0];
  EXPECT_TRUE(token >= 0 && token < 40) << token;
}

// Any prefix of a program is refused, with words.
void truncated_programs_are_refused(Fixture& f) {
  const Sample s = attention_sample(f);
  expect_works(f, s);
  const std::vector<uint8_t> whole = program::serialize(s.program);
  const size_t step = std::max<size_t>(1, whole.size() * kSlower / 200);
  for (size_t n = 0; n < whole.size(); n += n < 16 ? 1 : step) {
    // A copy of exactly that size, so that a sanitizer sees a read past its end.
    const Bytes part(whole.begin(), whole.begin() + ptrdiff_t(n));
    const uint8_t none = 0;
    auto p = try_load(f, {part.empty() ? &none : part.data(), part.size()}, s.weights);
    ASSERT_FALSE(p.ok()) << n << " of " << whole.size() << " bytes were loaded";
    EXPECT_NE(p.error().what[0], 0) << n << " bytes: an error without a word";
  }
  expect_works(f, s);
}

// A flipped byte may leave a program that is right (a name, an epsilon). Otherwise it is refused, with words; never a crash.
void flipped_programs_are_refused_or_right(Fixture& f) {
  const Sample s = attention_sample(f);
  const std::vector<uint8_t> whole = program::serialize(s.program);
  int refused = 0;
  const int rounds = int(scaled(1000));
  for (int i = 0; i < rounds; ++i) {
    Bytes bad = whole;
    for (uint64_t flips = 1 + f.rng() % 3; flips; --flips) bad[f.rng() % bad.size()] ^= uint8_t(1 + f.rng() % 255);
    auto p = try_load(f, bad, s.weights);
    if (p.ok()) continue;
    ++refused;
    EXPECT_NE(p.error().what[0], 0) << "an error without a word";
  }
  EXPECT_GT(refused, rounds / 4);
  expect_works(f, s);
}

void random_bytes_are_refused(Fixture& f) {
  for (int i = 0; i < int(scaled(200)) + 5; ++i) {
    auto p = try_load(f, f.random(1 + f.rng() % 2000), {});
    EXPECT_CODE(p, BATON_CORRUPT);
  }
}

void constants_that_do_not_fit_are_refused(Fixture& f) {
  const Sample s = attention_sample(f);
  const std::vector<uint8_t> bytes = program::serialize(s.program);
  Weights none, missing = s.weights, longer = s.weights, more = s.weights;
  missing.erase("w");
  longer["w"].data.push_back(0);
  more["another"] = {DType::f32, {1}, {0.0f}};
  for (const Weights& w : {none, missing, longer, more}) {
    auto p = try_load(f, bytes, w);
    ASSERT_FALSE(p.ok());
    EXPECT_TRUE(p.error().code == BATON_INVALID_ARGUMENT || p.error().code == BATON_MISMATCH) << p.error().text();
  }
  auto p = try_load(f, bytes, missing);
  ASSERT_FALSE(p.ok());
  EXPECT_NE(p.error().text().find("'w'"), std::string::npos) << "the error does not name the constant: " << p.error().text();
  EXPECT_CODE(try_load(f, bytes, s.weights, f.info().lanes), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(try_load(f, bytes, s.weights, 0, 1, 1), BATON_INVALID_ARGUMENT);
  expect_works(f, s);
}

struct Change {
  const char* what;
  std::function<void(Sample&)> apply;
};

// Each launch fails as the caller's mistake, naming what is wrong; the next one is right.
void launches_that_do_not_fit_are_refused(Fixture& f) {
  const Sample good = attention_sample(f);
  auto int32s = [](std::initializer_list<int32_t> v) { return bytes_of(std::vector<int32_t>(v)); };
  const Change changes[] = {
      {"no ids", [](Sample& s) { s.values.erase("ids"); }},
      {"no cache", [](Sample& s) { s.values.erase("kv"); }},
      {"short ids", [&](Sample& s) { s.values["ids"] = int32s({1, 2, 3}); }},
      {"short output", [](Sample& s) { s.values["logits"] = Bytes(39 * 4); }},
      {"unknown name", [](Sample& s) { s.values["nothing"] = Bytes(64); }},
      {"a constant bound", [](Sample& s) { s.values["w"] = Bytes(4096); }},
      {"token beyond the vocabulary", [&](Sample& s) { s.values["ids"] = int32s({1, 7, 40, 0, 5}); }},
      {"negative token", [&](Sample& s) { s.values["ids"] = int32s({1, -7, 3, 0, 5}); }},
      {"block beyond the cache", [&](Sample& s) { s.values["blocks"] = int32s({4, 0, 3, 1}); }},
      {"negative block", [&](Sample& s) { s.values["blocks"] = int32s({-1, 0, 3, 1}); }},
      {"short cache", [](Sample& s) { s.values["kv"].resize(64); }},
      {"no tokens", [](Sample& s) { s.args[0] = 0; }},
      {"too many tokens", [](Sample& s) { s.args[0] = 9; }},
      {"negative position", [](Sample& s) { s.args[1] = -1; }},
      {"beyond the context", [](Sample& s) { s.args[1] = 30; }},
      {"position at the end of int64", [](Sample& s) { s.args[1] = INT64_MAX; }},
      {"temperature NaN", [](Sample& s) { s.args[2] = float_arg(NAN); }},
      {"top_p 2", [](Sample& s) { s.args[3] = float_arg(2); }},
      {"an argument too few", [](Sample& s) { s.args.pop_back(); }},
      {"an argument too many", [](Sample& s) { s.args.push_back(0); }},
  };
  baton::Program p = load(f, good.program, good.weights);
  for (const Change& c : changes) {
    SCOPED_TRACE(c.what);
    Sample bad = good;
    c.apply(bad);
    Values v(f, bad.values);
    Status st = run(f, p, v, bad.args);
    EXPECT_CODE(st, BATON_INVALID_ARGUMENT);
    EXPECT_TRUE(st.ok() || st.error().what[0]);
  }
  expect_works(f, good);
}

void a_binding_at_an_odd_offset_is_refused(Fixture& f) {
  const Sample s = attention_sample(f);
  baton::Program p = load(f, s.program, s.weights);
  Values v(f, s.values);
  Buffer longer = f.alloc(1024);
  f.fill(longer, 0);
  std::vector<baton_binding> bindings(v.bindings().begin(), v.bindings().end());
  for (baton_binding& b : bindings)
    if (std::string_view(b.name) == "logits") b = bind("logits", longer, 2);
  Queue q = f.queue();
  Timeline t = f.timeline();
  must(q.submit(launch(p, bindings, s.args).signal(t, 1)));
  EXPECT_CODE(t.wait_until(1, soon()), BATON_INVALID_ARGUMENT);
  expect_works(f, s);
}

}  // namespace

const Suite& refusals_suite() {
  static constexpr Case kCases[] = {
      {"TruncatedProgramsAreRefused", kNone, truncated_programs_are_refused},
      {"FlippedProgramsAreRefusedOrRight", kNone, flipped_programs_are_refused_or_right},
      {"RandomBytesAreRefused", kNone, random_bytes_are_refused},
      {"ConstantsThatDoNotFitAreRefused", kNone, constants_that_do_not_fit_are_refused},
      {"LaunchesThatDoNotFitAreRefused", kNone, launches_that_do_not_fit_are_refused},
      {"ABindingAtAnOddOffsetIsRefused", kNone, a_binding_at_an_odd_offset_is_refused},
  };
  static constexpr Suite kSuite{"refusals", kCases};
  return kSuite;
}

}  // namespace baton::cts
