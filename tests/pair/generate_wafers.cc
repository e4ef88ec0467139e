// Decode over one, two and four wafers, of one daemon and of several: the bits of host://, for several sequences in flight, and after a
// hand-over whose layers land on the wafers that own them. And what overlapping them is worth, in modelled time.
#include "tests/pair/decode_batch.hpp"
#include "tests/support/process.h"

namespace baton::runtime {
namespace {

using test::Process;

constexpr uint64_t kPatience = kSanitized ? 240'000 : 60'000; // ms

// A wafer daemon as a process of its own.
struct Daemon {
  explicit Daemon(int wafers)
      : process({test::plugin("baton-emu-cs3"), "--listen", "127.0.0.1:0", "--wafers", std::to_string(wafers), "--sram-gb", "1"}) {
    EXPECT_TRUE(process.wait_out("\n", int(kPatience))) << process.err();
    const size_t at = process.out().find("cs3://");
    if (at != std::string::npos) address = process.out().substr(at + 6, process.out().find('\n', at) - at - 6);
  }
  Process process;
  std::string address;
};

const std::vector<Sequence>& batch() {
  static const std::vector<Sequence> all = {{1, 23}, {17, 40, {.temperature = 0.8, .top_p = 0.95, .seed = 7}}, {300, 9}, {77, 33, {.temperature = 1.2, .seed = 1}}, {5, 1}};
  return all;
}

void expect_equal(const std::vector<Decoded>& got, const std::vector<Decoded>& want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].tokens.size(), want[i].tokens.size()) << what << ", sequence " << i;
    for (size_t t = 0; t < got[i].tokens.size(); ++t) ASSERT_EQ(got[i].tokens[t].id, want[i].tokens[t].id) << what << ", sequence " << i << ", token " << t;
    ASSERT_EQ(got[i].logits.size(), want[i].logits.size()) << what;
    ASSERT_EQ(std::memcmp(got[i].logits.data(), want[i].logits.data(), got[i].logits.size() * sizeof(float)), 0) << what << ", sequence " << i;
    ASSERT_EQ(got[i].stopped, want[i].stopped) << what << ", sequence " << i;
  }
}

void equals_host(const std::string& uri, uint32_t stages) {
  const std::vector<Decoded> want = on_host(batch());
  World w;
  auto e = DecodeEngine::open(*w.shelf, *w.log, uri, demo(), {.stages = stages}, nullptr);
  ASSERT_TRUE(e.ok()) << uri << ": " << e.error().text();
  ASSERT_EQ((*e)->stages(), stages);
  auto got = decode_batch(w, **e, batch(), deadline_in_ms(kPatience));
  ASSERT_TRUE(got.ok()) << uri << ": " << got.error().text();
  expect_equal(*got, want, uri);
}

TEST(Wafers, OneTwoAndFourOfOneDaemonGiveTheBitsOfHost) {
  Daemon d(4);
  for (uint32_t stages : {1u, 2u, 4u}) equals_host("cs3://" + d.address, stages);
}

TEST(Wafers, SeveralSystemsAsOneDeviceGiveTheBitsOfHost) {
  Daemon a(1), b(2), c(1);
  equals_host("cs3://" + a.address + "," + b.address + "," + c.address, 4);
  equals_host("cs3://" + a.address + "," + c.address + "?carrier=tcp", 2);
}

TEST(Wafers, TheDeviceShowsAHeapForEach) {
  Daemon a(2), b(1);
  World w;
  auto d = w.in.open("cs3://" + a.address + "," + b.address);
  ASSERT_TRUE(d.ok()) << d.error().text();
  auto info = d->info();
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->lanes, 3u);
  ASSERT_EQ(info->heap_count, 3u);
  EXPECT_STREQ(info->heaps[2].name, "sram2");
  EXPECT_EQ(info->heaps[2].bytes_total, 1'000'000'000u);
  EXPECT_STREQ(info->location, (a.address + "," + b.address).c_str());
  auto held = d->alloc(1 << 20, 2);
  ASSERT_TRUE(held.ok());
  info = d->info();
  EXPECT_EQ(info->heaps[0].bytes_used, 0u);
  EXPECT_EQ(info->heaps[1].bytes_used, 0u);
  EXPECT_EQ(info->heaps[2].bytes_used, 1u << 20);
  // What fails says on which: the device's, and of a daemon with several its own.
  auto second = d->alloc(2'000'000'000, 1), third = d->alloc(2'000'000'000, 2);
  ASSERT_FALSE(second.ok() || third.ok());
  EXPECT_NE(std::string(second.error().what).find("wafer 1 (" + a.address + ", its 1): "), std::string::npos) << second.error().what;
  EXPECT_NE(std::string(third.error().what).find("wafer 2 (" + b.address + "): "), std::string::npos) << third.error().what;
}

TEST(Wafers, TheOneThatIsLostIsNamed) {
  Daemon a(1), b(1);
  World w;
  auto d = w.in.open("cs3://" + a.address + "," + b.address);
  ASSERT_TRUE(d.ok());
  b.process.kill(SIGKILL);
  b.process.wait(int(kPatience));
  auto held = d->alloc(4096, 0);
  for (const uint64_t until = deadline_in_ms(kPatience); held.ok() && now_ns() < until; held = d->alloc(4096, 0)) w.in.poll_wait(deadline_in_ms(10));
  ASSERT_FALSE(held.ok());
  EXPECT_EQ(held.error().code, BATON_DEVICE_LOST);
  EXPECT_NE(std::string(held.error().what).find("wafer 1 (" + b.address + ")"), std::string::npos) << held.error().what;
}

// From one wafer to another, and what is bound to the wrong one is named.
TEST(Wafers, MemoryBelongsToItsWafer) {
  Daemon a(1), b(1);
  World w;
  auto d = w.in.open("cs3://" + a.address + "," + b.address);
  auto host = w.in.open("host://");
  ASSERT_TRUE(d.ok() && host.ok());
  constexpr uint64_t kBytes = 3'000'000;
  auto from = d->alloc(kBytes, 0), to = d->alloc(kBytes, 1), there = host->alloc(kBytes);
  ASSERT_TRUE(from.ok() && to.ok() && there.ok());
  auto* p = static_cast<uint8_t*>(*there->map());
  for (uint64_t i = 0; i < kBytes; ++i) p[i] = uint8_t(i * 7 + i / 1000);
  auto q = d->queue(0);
  auto t = w.in.timeline("copies");
  ASSERT_TRUE(q.ok() && t.ok());
  ASSERT_TRUE(q->submit({copy(*there, 0, *from, 0, kBytes).signal(*t, 1), copy(*from, 0, *to, 0, kBytes).wait(*t, 1).signal(*t, 2)}).ok());
  ASSERT_TRUE(t->wait_until(2, deadline_in_ms(kPatience)).ok());
  std::vector<uint8_t> want(p, p + kBytes);
  std::memset(p, 0, kBytes);
  ASSERT_TRUE(q->submit(copy(*to, 0, *there, 0, kBytes).signal(*t, 3)).ok());
  ASSERT_TRUE(t->wait_until(3, deadline_in_ms(kPatience)).ok());
  EXPECT_EQ(std::memcmp(p, want.data(), kBytes), 0);
}

// Layers land on the wafers that own them, and decode goes on as if nothing had been handed over.
TEST(Wafers, HandOverLandsOnTheWafers) {
  Daemon d(2), e(1);
  World host;
  auto one = OneDevice::open(*host.shelf, *host.log, "host://", demo(), {});
  ASSERT_TRUE(one.ok());
  for (transport::KvOrder order : {transport::KvOrder::token_major, transport::KvOrder::block_major}) {
    World w;
    ServiceOptions o;
    o.lease_ns = 60'000'000'000;
    o.key = transport::random_key();
    auto prefill = PrefillService::open(*w.shelf, *w.log, "host://?threads=1", demo(), o);
    ASSERT_TRUE(prefill.ok()) << prefill.error().text();
    o.engine.stages = 3;
    o.engine.order = order;
    auto decode = DecodeService::open(*w.shelf, *w.log, "cs3://" + d.address + "," + e.address, demo(), o);
    ASSERT_TRUE(decode.ok()) << decode.error().text();
    w.pump->add(**prefill);
    w.pump->add(**decode);
    ClientOptions c{.key = o.key, .prefill = {(*prefill)->address(), "prefill"}, .decode = {(*decode)->address(), "decode"}};
    c.model = model_identity(demo(), model::Precision::automatic);
    c.vocab = demo().config.vocab;
    c.lease_ns = 60'000'000'000;
    c.timeout_ns = kPatience * 1'000'000ull;
    auto client = Client::connect(*w.pump, c);
    ASSERT_TRUE(client.ok()) << client.error().text();
    for (uint32_t n : {1u, 33u}) {
      const Params p{.max_tokens = 12, .ignore_eos = true, .logits = true};
      auto want = (*one)->generate(prompt_of(n), p, {}, BATON_NO_DEADLINE, nullptr);
      auto got = (*client)->generate(prompt_of(n), p, {});
      ASSERT_TRUE(want.ok() && got.ok()) << got.error().text();
      expect_same(*got, *want, std::string("prompt of ") + std::to_string(n) + ", " + order_name(order));
    }
  }
}

// A stop token ends all stages, and what is queued behind.
TEST(Wafers, AStopTokenEndsEveryStage) {
  Daemon d(3);
  std::vector<Sequence> stopping;
  // A hot sampler over a small vocabulary meets the stop token now and then.
  for (uint64_t seed = 0; seed < 4; ++seed) stopping.push_back({int32_t(10 + seed), 80, {.temperature = 3.0, .seed = seed}, true, false});
  const std::vector<Decoded> want = on_host(stopping);
  World w;
  auto e = DecodeEngine::open(*w.shelf, *w.log, "cs3://" + d.address, demo(), {.launch_tokens = 8, .stages = 3}, nullptr);
  ASSERT_TRUE(e.ok()) << e.error().text();
  for (int round = 0; round < 2; ++round) { // buffers of the first are used again
    auto got = decode_batch(w, **e, stopping, deadline_in_ms(kPatience));
    ASSERT_TRUE(got.ok()) << got.error().text();
    expect_equal(*got, want, "stops");
  }
}

// Modelled tokens per second of so many sequences on `stages` wafers.
double modelled_rate(World& w, DecodeEngine& e, size_t sequences, uint32_t steps) {
  std::vector<Sequence> all;
  for (size_t i = 0; i < sequences; ++i) all.push_back({int32_t(20 + i), steps, {}, false, false});
  auto got = decode_batch(w, e, all, deadline_in_ms(kPatience));
  EXPECT_TRUE(got.ok()) << got.error().text();
  if (!got.ok()) return 0;
  uint64_t first = UINT64_MAX, last = 0;
  for (const Decoded& d : *got) {
    for (size_t i = 1; i < d.tokens.size(); ++i) EXPECT_GT(d.tokens[i].modelled_ns, d.tokens[i - 1].modelled_ns);
    first = std::min(first, d.tokens[0].modelled_ns);
    last = std::max(last, d.tokens.back().modelled_ns);
  }
  return double(sequences) * (steps - 1) / (double(last - first) / 1e9);
}

TEST(Wafers, ModelledThroughputRisesUntilThereIsASequenceForEachStage) {
  Daemon d(4);
  const auto rate_of = [&](uint32_t stages, size_t sequences) {
    World w; // its own clock
    auto e = DecodeEngine::open(*w.shelf, *w.log, "cs3://" + d.address, demo(), {.launch_tokens = 0, .stages = stages}, nullptr);
    EXPECT_TRUE(e.ok()) << e.error().text();
    return e.ok() ? modelled_rate(w, **e, sequences, 24) : 0;
  };
  const double alone = rate_of(1, 1);
  std::map<size_t, double> rate;
  for (size_t b : {1u, 2u, 4u, 8u}) rate[b] = rate_of(4, b);
  RecordProperty("tokens_per_s_modelled", fmt::format("{:.0f} {:.0f} {:.0f} {:.0f}", rate[1], rate[2], rate[4], rate[8]));
  EXPECT_LT(rate[1], alone) << "one sequence gains nothing by more wafers, and pays for the hops";
  EXPECT_GT(rate[1], alone * 0.7);
  EXPECT_GT(rate[2], rate[1] * 1.8);
  EXPECT_GT(rate[4], rate[2] * 1.3);
  EXPECT_GT(rate[4], rate[1] * 2.4) << "the stage with most work is the bound: 2 of 5 layers";
  EXPECT_LT(rate[4], rate[1] * 4);
  EXPECT_NEAR(rate[8] / rate[4], 1, 0.15) << "all wafers are at work already";
}

}  // namespace
}  // namespace baton::runtime
