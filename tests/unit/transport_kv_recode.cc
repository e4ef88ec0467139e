// What a plan converts, against the definition: element by element, over random pairs of layouts, dtypes, scales, shards and block tables.
#include "transport/kv_recode.hpp"
#include "transport/checksum.hpp"
#include "transport/kv_pack.hpp"
#include "transport/kv_wire.hpp"
#include "transport_kv_numbers.hpp"
#include "transport_kv_places.hpp"
#include "transport_kv_request.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cfloat>

namespace baton::transport {
namespace {

using program::DType;
using testing::HasSubstr;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kCases = 60;
#else
constexpr int kCases = 3000;
#endif

const DType kTypes[] = {DType::f32, DType::bf16, DType::f16, DType::f8e4m3, DType::f8e5m2};

void random_numbers(std::mt19937& rng, KvLayout& l) {
  l.dtype = kTypes[rng() % 5];
  l.scales = program::dtype_bytes(l.dtype) == 1 && rng() % 2 ? KvScales::block_head : KvScales::none;
}

uint8_t* scale_of(Side& s, uint32_t layer, uint32_t half, int32_t block, uint32_t head) {
  return &s.bytes[s.layout.scale_at(layer - s.layout.layer_begin, half, uint32_t(block), head - s.layout.head_begin)];
}
float get(const uint8_t* p) {
  float f;
  std::memcpy(&f, p, 4);
  return f;
}

// Any bits, NaN and infinity among them; or numbers such as a cache has.
void fill(std::mt19937& rng, Side& s) {
  const Format& f = format_of(s.layout.dtype);
  const uint32_t element = program::dtype_bytes(s.layout.dtype);
  const bool any = rng() % 3 == 0;
  KvLayout numbers = s.layout;
  numbers.scales = KvScales::none;
  for (uint64_t at = 0; at < numbers.bytes(); at += element) {
    const uint32_t c = any ? uint32_t(rng()) : nearest(f, float(int32_t(rng() % 20001) - 10000) / 1000.0f * (rng() % 16 ? 1.0f : 40.0f));
    std::memcpy(&s.bytes[at], &c, element);
  }
  if (s.layout.scales != KvScales::none)
    for (uint64_t at = s.layout.scale_at(0, 0, 0, 0); at < s.bytes.size(); at += 4) {
      const float scale = std::ldexp(1.0f + float(rng() % 1000) / 1000.0f, int(rng() % 24) - 12);
      std::memcpy(&s.bytes[at], &scale, 4);
    }
}

// The definition of one destination block and head: tokens [t0, t1) of a layer's half.
void want_block(Side& to, const Places& tp, Side& from, const Places& fp, uint32_t layer, uint32_t half, uint32_t head, uint64_t t0, uint64_t t1, bool carry) {
  const Format &in = format_of(from.layout.dtype), &out = format_of(to.layout.dtype);
  const uint32_t dim = to.layout.head_dim, ie = program::dtype_bytes(in.dtype), oe = program::dtype_bytes(out.dtype);
  const bool from_scaled = from.layout.scales != KvScales::none, to_scaled = to.layout.scales != KvScales::none;
  auto source_scale = [&](uint64_t t) { return from_scaled ? get(scale_of(from, layer, half, from.table[t / from.layout.block_tokens], head)) : 1.0f; };
  auto code = [&](uint64_t t, uint32_t d) { return code_at(in, &from.bytes[row_at(from, fp, layer, half, t, head) + d * ie]); };
  float inverse = 1;
  if (to_scaled) {
    float most = 0;
    for (uint64_t t = t0; t < t1; ++t)
      for (uint32_t d = 0; d < dim; ++d)
        if (const float x = std::fabs(float(value(in, code(t, d))) * source_scale(t)); std::isfinite(x)) most = std::max(most, x);
    float scale = most > 0 ? std::max(most / (out.dtype == DType::f8e4m3 ? 448.0f : 57344.0f), FLT_MIN) : 1;
    if (carry) scale = source_scale(t0);
    std::memcpy(scale_of(to, layer, half, to.table[t0 / to.layout.block_tokens], head), &scale, 4);
    inverse = 1 / scale;
  }
  for (uint64_t t = t0; t < t1; ++t)
    for (uint32_t d = 0; d < dim; ++d) {
      const uint32_t c = code(t, d);
      float x = float(value(in, c)) * (source_scale(t) * inverse);
      if (std::isnan(x)) x = std::copysign(x, c & sign_of(in) ? -1.0f : 1.0f); // a NaN keeps its sign
      const uint32_t o = carry ? c : nearest(out, x);
      std::memcpy(&to.bytes[row_at(to, tp, layer, half, t, head) + d * oe], &o, oe);
    }
}

Side want_of(const Side& empty, std::vector<Side>& from, const Shares& shares, uint64_t begin, uint64_t end) {
  Side to = empty;
  const Places tp(to.layout);
  for (size_t i = 0; i < from.size(); ++i) {
    const Places fp(from[i].layout);
    for (const KvPlan& plan : shares.plans[i])
      for (uint32_t y = plan.part().layer_begin; plan.has_layer(y); ++y)
        for (uint32_t half = 0; half < to.layout.halves(); ++half)
          for (uint32_t h = plan.part().head_begin; h < plan.part().head_begin + plan.part().head_count; ++h)
            for (uint64_t t = begin; t < end;) {
              const uint64_t next = std::min(end, (t / to.layout.block_tokens + 1) * to.layout.block_tokens);
              want_block(to, tp, from[i], fp, y, half, h, t, next, !plan.converts());
              t = next;
            }
  }
  return to;
}

void check_one(std::mt19937& rng, uint32_t& converting) {
  KvLayout m;
  m.layers = 1 + rng() % 3, m.kv_heads = 1 + rng() % 5, m.head_dim = 1 + rng() % 9;
  if (rng() % 16 == 0) m.kv_heads = 70, m.head_dim = 2; // more than are done at once
  if (rng() % 6 == 0) m.kv_heads = 1, m.pairing = KvPairing::latent;
  const uint64_t tokens = 1 + rng() % 70;
  KvLayout a = m, b = m;
  random_numbers(rng, a);
  random_numbers(rng, b);
  if (rng() % 8 == 0) b.dtype = a.dtype, b.scales = a.scales;
  auto from = random_shards(rng, a, 1 + rng() % 4, 1 + rng() % 2, tokens);
  std::vector<KvLayout> layouts;
  for (Side& s : from) {
    fill(rng, s);
    layouts.push_back(s.layout);
  }
  for (Side& to : random_shards(rng, b, 1 + rng() % 2, 1 + rng() % 2, tokens)) {
    uint64_t begin = rng() % 2 ? 0 : rng() % tokens;
    if (to.layout.scales != KvScales::none) begin -= begin % to.layout.block_tokens;
    SCOPED_TRACE(layouts[0].describe() + " to " + to.layout.describe());
    auto shares = share_heads(layouts, to.layout);
    ASSERT_TRUE(shares.ok()) << shares.error().text();
    std::fill(to.bytes.begin(), to.bytes.end(), 0xa5);
    const Side want = want_of(to, from, *shares, begin, tokens);
    Side streamed = to;
    bool all_convert = true;
    KvMove move;
    for (size_t i = 0; i < from.size(); ++i)
      for (const KvPlan& plan : shares->plans[i]) {
        auto ok = plan.instantiate(from[i].table, to.table, begin, tokens, move);
        ASSERT_TRUE(ok.ok()) << ok.error().text();
        ASSERT_EQ(move.converts(), plan.converts());
        const Recoder how(plan);
        for (uint32_t y = 0; y < m.layers; ++y) {
          if (!plan.converts()) {
            all_convert = false;
            ASSERT_EQ(move.units(y), 0u);
            uint64_t sum = 0, end = 0;
            for (const KvSegment& g : move.layer(y)) {
              ASSERT_GE(g.dst, end);
              end = g.dst + g.bytes;
              sum += g.bytes;
            }
            ASSERT_EQ(sum, move.bytes(y));
            copy_segments(to.bytes.data(), from[i].bytes.data(), move.layer(y), CopyMode::cached);
            continue;
          }
          ++converting;
          ASSERT_TRUE(move.layer(y).empty());
          ASSERT_EQ(move.units(y) > 0, plan.has_layer(y));
          const LayerUnits units{&how, &move, y};
          uint64_t bytes = 0, sum = 0;
          Checksum sent, landed;
          std::vector<uint8_t> scratch;
          const bool summed = rng() % 2;
          for (size_t next = 0; next < units.size();)
            bytes += units.step(to.bytes.data(), from[i].bytes.data(), next, rng() % 5000, rng() % 2 ? CopyMode::streaming : CopyMode::cached, summed ? &sent : nullptr, &scratch);
          copy_fence();
          Packer pack(from[i].bytes.data(), units);
          Unpacker unpack(streamed.bytes.data(), units);
          for (const uint64_t most = rng() % 3 ? 4000 : 50; !pack.done();) { // cut at any byte
            std::vector<uint8_t> chunk(1 + rng() % most, 0x5a);
            const uint64_t n = pack.pack(chunk);
            ASSERT_TRUE(n == chunk.size() || pack.done());
            ASSERT_TRUE(std::all_of(chunk.begin() + long(n), chunk.end(), [](uint8_t c) { return c == 0x5a; })) << "beyond what it said";
            const uint64_t part = rng() % (n + 1);
            ASSERT_EQ(unpack.unpack({chunk.data(), part}), part);
            ASSERT_EQ(unpack.unpack({chunk.data() + part, n - part}), n - part);
            sum += n;
          }
          ASSERT_TRUE(unpack.done());
          ASSERT_EQ(sum, move.bytes(y));
          ASSERT_EQ(bytes, move.bytes(y));
          units.add_landed(landed, to.bytes.data(), scratch);
          if (summed) { ASSERT_EQ(sent.value(), landed.value()); }
        }
      }
    ASSERT_EQ(to.bytes, want.bytes);
    if (all_convert) {
      ASSERT_EQ(streamed.bytes, want.bytes);
    }
  }
}

TEST(KvRecode, PlansConvertWhatTheDefinitionConverts) {
  std::mt19937 rng(20261126);
  uint32_t converting = 0;
  for (int i = 0; i < kCases && !testing::Test::HasFatalFailure(); ++i) {
    SCOPED_TRACE(i);
    check_one(rng, converting);
  }
  EXPECT_GT(converting, uint32_t(kCases));
}

// ---- over a link ----

KvLayout with(KvLayout l, DType dtype, KvScales scales = KvScales::none) {
  l.dtype = dtype, l.scales = scales;
  return l;
}

struct Outcome {
  Status open;
  std::vector<uint8_t> landed, want;
  uint64_t sent_bytes = 0, noted_bytes = 0;
};

// Sources of random numbers go to a sink over a fabric; what should be there is reckoned beside.
Outcome hand_over(TwoEnds& e, const KvLayout& sink_layout, const std::vector<KvLayout>& from, uint64_t tokens, const std::string& fabric, bool checksum = false) {
  std::mt19937 rng(8);
  Outcome out;
  std::vector<Side> sides;
  std::vector<Buffer> buffers;
  for (const KvLayout& l : from) {
    sides.push_back({l, shuffled_blocks(rng, l, tokens), std::vector<uint8_t>(l.bytes())});
    fill(rng, sides.back());
    buffers.push_back(must(e.host.alloc(l.bytes())));
    std::memcpy(must(buffers.back().map()), sides.back().bytes.data(), l.bytes());
  }
  std::vector<KvSource> sources;
  for (size_t i = 0; i < from.size(); ++i) sources.push_back({&buffers[i], from[i], sides[i].table});
  Side to{sink_layout, shuffled_blocks(rng, sink_layout, tokens), std::vector<uint8_t>(sink_layout.bytes(), 0xa5)};
  Buffer landing = must(e.host.alloc(sink_layout.bytes()));
  std::memset(must(landing.map()), 0xa5, landing.bytes());
  KvSink sink = must(KvSink::create(e.in, e.decode, landing, sink_layout, "m"));
  Incoming in = must(sink.expect(to.table, tokens));
  auto t = KvTransfer::open(e.in, *e.at_prefill, in.ticket(), sources, tokens, {.fabric = fabric, .model = "m", .checksum = checksum}, deadline_in_ms((kSanitized ? 20000 : 5000) * test_slow()));
  if (!t.ok()) {
    out.open = t.error();
    return out;
  }
  std::vector<Op> ops;
  for (uint32_t l = 0; l < sink_layout.layers_held(); ++l)
    for (uint32_t s = 0; s < from.size(); ++s) ops.push_back(t->copy(s, l));
  EXPECT_TRUE(t->queue().submit(ops).ok());
  EXPECT_OK(in.landed().wait_until(sink_layout.layers_held(), deadline_in_ms(kSoonMs)));
  EXPECT_OK(t->seal({"first", {}, {}}, deadline_in_ms(kSoonMs)));
  const auto* p = static_cast<const uint8_t*>(must(landing.map()));
  out.landed.assign(p, p + sink_layout.bytes());
  auto shares = share_heads(from, sink_layout);
  out.want = want_of(to, sides, *shares, 0, tokens).bytes;
  out.sent_bytes = t->stats().bytes;
  out.noted_bytes = in.stats().bytes;
  EXPECT_EQ(t->stats().segments, in.stats().segments);
  EXPECT_EQ(in.stats().fabric, fabric);
  return out;
}

class RecodeOn : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, RecodeOn, testing::ValuesIn(fabrics_under_test({"mapped", "shm", "tcp"})), fabric_label);

TEST_P(RecodeOn, BrainFloatsOfTwoRanksLandAsFp8WithScalesAndComeBack) {
  TwoEnds e;
  const std::vector<KvLayout> ranks{small_layout(KvOrder::token_major, 16, 12, 0, 1), small_layout(KvOrder::head_major, 16, 12, 1, 1)};
  const KvLayout wafer = with(small_layout(KvOrder::head_major, 64, 3), DType::f8e4m3, KvScales::block_head);
  const uint64_t tokens = 150; // a block and a half in the end
  const Outcome there = hand_over(e, wafer, ranks, tokens, GetParam(), true);
  ASSERT_OK(there.open);
  EXPECT_EQ(there.landed, there.want);
  EXPECT_EQ(there.sent_bytes, 4 * 2 * 2 * (tokens * 16 + 3 * 4)) << "layers, K and V, heads; numbers of a byte and three scales";
  EXPECT_EQ(there.noted_bytes, there.sent_bytes);
  const Outcome back = hand_over(e, small_layout(KvOrder::block_major, 16, 12), {wafer}, tokens, GetParam());
  ASSERT_OK(back.open);
  EXPECT_EQ(back.landed, back.want);
}

TEST_P(RecodeOn, LargeLayersGoInPieces) {
  TwoEnds e;
  const uint64_t tokens = kSanitized || test_slow() > 1 ? 512 : 512 * 16;
  KvLayout l = small_layout(KvOrder::token_major, 16, uint32_t(tokens / 16));
  l.layers = 2, l.head_dim = 256; // 16 MiB a layer
  const Outcome o = hand_over(e, with(l, DType::f16), {l}, tokens, GetParam());
  ASSERT_OK(o.open);
  EXPECT_TRUE(o.landed == o.want);
}

TEST_P(RecodeOn, Fp8WithItsScalesIsCopiedAsItIs) {
  TwoEnds e;
  KvLayout l = with(small_layout(KvOrder::token_major, 16, 12), DType::f8e5m2, KvScales::block_head);
  KvLayout to = l;
  to.order = KvOrder::block_major;
  const Outcome o = hand_over(e, to, {l}, 100, GetParam());
  ASSERT_OK(o.open);
  EXPECT_EQ(o.landed, o.want);
}

// ---- plans ----

TEST(KvRecodePlan, AScaleIsOfAWholeBlock) {
  KvLayout from;
  from.layers = 2, from.kv_heads = from.head_count = 2, from.head_dim = 4, from.blocks = 8;
  KvLayout to = with(from, DType::f8e4m3, KvScales::block_head);
  to.block_tokens = 32;
  auto plan = KvPlan::compile(from, to);
  ASSERT_TRUE(plan.ok());
  const std::vector<int32_t> a{0, 1, 2, 3, 4, 5}, b{2, 0, 1};
  EXPECT_THAT(plan->instantiate(a, b, 40, 96).error().text(), HasSubstr("token 40 lies within a destination block of 32 tokens, which has one scale"));
  EXPECT_THAT(plan->instantiate(a, b, 40, 96).error().next, HasSubstr("begin at token 32"));
  auto rest = plan->instantiate(a, b, 32, 70);
  ASSERT_TRUE(rest.ok());
  EXPECT_EQ(rest->units(0), 2u);
  EXPECT_EQ(rest->bytes(1), 2u * 2 * ((70 - 32) * 4 + 2 * 4));
  EXPECT_TRUE(KvPlan::compile(to, from)->instantiate(b, a, 40, 96).ok()) << "a source's scales are only read";
  KvLayout plain = with(from, DType::f8e5m2);
  EXPECT_TRUE(KvPlan::compile(from, plain)->instantiate(a, a, 5, 77).ok()) << "without scales";
  const std::vector<int32_t> twice{3, 3};
  auto odd = KvPlan::compile(from, plain)->instantiate(a, twice, 8, 20); // the end of a block, then its beginning
  ASSERT_TRUE(odd.ok());
  EXPECT_EQ(odd->units(0), 2u);
}

}  // namespace
}  // namespace baton::transport
