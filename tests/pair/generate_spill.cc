// More sequences than the wafers keep: they take turns, their KV waits in host memory, and what they make has the bits of host://.
#include "tests/pair/decode_batch.hpp"
#include "tests/support/process.h"

#include <gmock/gmock.h>

namespace baton::runtime {
namespace {

using test::Process;
using ::testing::HasSubstr;

constexpr uint64_t kPatience = kSanitized ? 240'000 : 60'000; // ms
constexpr uint32_t kContext = 64, kBlocks = kContext / 16;    // tokens, and blocks of 16 of one sequence

// A daemon whose wafers have so little SRAM that the demo model leaves room for one or two sequences of kContext.
struct Daemon {
  Daemon(int wafers, const char* sram_gb)
      : process({test::plugin("baton-emu-cs3"), "--listen", "127.0.0.1:0", "--wafers", std::to_string(wafers), "--sram-gb", sram_gb, "--fabric", "107x102"}) {
    EXPECT_TRUE(process.wait_out("\n", int(kPatience))) << process.err();
    const size_t at = process.out().find("cs3://");
    if (at != std::string::npos) uri = process.out().substr(at, process.out().find('\n', at) - at);
  }
  Process process;
  std::string uri;
};

const std::vector<Sequence>& batch() {
  static const std::vector<Sequence> all = {{1, 60}, {17, 50, {.temperature = 0.8, .top_p = 0.95, .seed = 7}}, {300, 64}, {77, 33, {.temperature = 1.2, .seed = 1}}, {5, 64},
                                            {900, 47}, {42, 1}};
  return all;
}

constexpr EngineOptions kSmall = {.context = kContext, .launch_tokens = 4, .spill_bytes = 48 * 20480}; // 48 blocks of 16 tokens of 1280 bytes

struct Machine {
  int wafers;
  const char* sram_gb;
};
class Spill : public testing::TestWithParam<Machine> {};

TEST_P(Spill, MoreSequencesThanTheWafersKeepGiveTheBitsOfHost) {
  const std::vector<Decoded> want = on_host(batch());
  Daemon d(GetParam().wafers, GetParam().sram_gb);
  World w;
  EngineOptions o = kSmall;
  o.spill_bytes = 0;
  o.blocks = 32;
  auto refused = DecodeEngine::open(*w.shelf, *w.log, d.uri, demo(), o, nullptr);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, BATON_CAPACITY) << refused.error().text();
  EXPECT_THAT(refused.error().next, HasSubstr("spill KV to host memory"));
  auto e = DecodeEngine::open(*w.shelf, *w.log, d.uri, demo(), kSmall, nullptr);
  ASSERT_TRUE(e.ok()) << e.error().text();
  ASSERT_EQ((*e)->stages(), uint32_t(GetParam().wafers)) << "the fewest that hold it";
  ASSERT_LT((*e)->device_blocks(), 2 * kBlocks) << "of two long sequences one waits";
  for (int round = 0; round < 2; ++round) { // room and buffers of the first are used again
    auto got = decode_batch(w, **e, batch(), deadline_in_ms(kPatience));
    ASSERT_TRUE(got.ok()) << got.error().text();
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ((*got)[i].tokens.size(), want[i].tokens.size()) << "sequence " << i;
      for (size_t t = 0; t < want[i].tokens.size(); ++t) ASSERT_EQ((*got)[i].tokens[t].id, want[i].tokens[t].id) << "sequence " << i << ", token " << t;
      ASSERT_EQ((*got)[i].logits.size(), want[i].logits.size());
      ASSERT_EQ(std::memcmp((*got)[i].logits.data(), want[i].logits.data(), want[i].logits.size() * sizeof(float)), 0) << "sequence " << i;
    }
    const SpillStats s = (*e)->spilled();
    EXPECT_GT(s.out, 6u) << "five long sequences, in turns of four tokens";
    EXPECT_EQ(s.out, s.in) << "what went out came back";
    EXPECT_GT(s.bytes_out, 0u);
    EXPECT_GT(s.bytes_in, s.bytes_out) << "what this host has already is not sent again";
    EXPECT_EQ(s.waiting, 0u);
    EXPECT_EQ((*e)->pool().free(), (*e)->pool().total());
  }
}

// One that is cancelled while it waits, while it has the device or on its way is out of the line, and the others go on.
TEST_P(Spill, CancelsLeaveNothingBehind) {
  Daemon d(GetParam().wafers, GetParam().sram_gb);
  World w;
  auto e = DecodeEngine::open(*w.shelf, *w.log, d.uri, demo(), kSmall, nullptr);
  ASSERT_TRUE(e.ok()) << e.error().text();
  for (const size_t after : {0u, 1u, 2u, 4u, 8u, 12u}) { // turns of the loop before one of them is cancelled
    std::vector<Blocks> blocks;
    std::vector<std::unique_ptr<DecodeRun>> runs;
    for (int i = 0; i < 3; ++i) {
      auto b = (*e)->pool().take(kBlocks);
      ASSERT_TRUE(b.ok());
      auto r = (*e)->start({.blocks = {b->ids().begin(), b->ids().end()}, .position = 0, .steps = 20, .sampling = {}, .stop = false});
      ASSERT_TRUE(r.ok()) << r.error().text();
      ASSERT_TRUE((*r)->begin(10 + i, 0, nullptr, 0).ok());
      blocks.push_back(std::move(*b));
      runs.push_back(std::move(*r));
    }
    const size_t victim = after / 2 % 3;
    const uint64_t deadline = deadline_in_ms(kPatience);
    for (size_t turn = 0; now_ns() < deadline; ++turn) {
      if (turn == after) runs[victim]->cancel(Error(BATON_CANCELLED, "enough"));
      if (turn > after && runs[victim] && runs[victim]->drained()) runs[victim].reset();
      bool all = turn > after && !runs[victim];
      for (size_t i = 0; i < 3; ++i) {
        if (i == victim && turn >= after) continue;
        const RunState s = runs[i]->step();
        ASSERT_NE(s, RunState::failed) << runs[i]->error().text();
        all = all && s == RunState::done;
      }
      if (all) break;
      w.in.poll_wait(deadline_in_ms(20));
    }
    for (size_t i = 0; i < 3; ++i) {
      if (i == victim) ASSERT_EQ(runs[i], nullptr) << "after " << after;
      else ASSERT_EQ(runs[i]->tokens().size(), 20u) << "after " << after << ", run " << i;
    }
    EXPECT_EQ((*e)->spilled().waiting, 0u);
  }
}

// Requests within requests, each handed over from a prefill side: those that find no room land in host memory, and all take turns.
TEST_P(Spill, HandOversWaitInHostMemory) {
  Daemon d(GetParam().wafers, GetParam().sram_gb);
  World host, w;
  auto one = OneDevice::open(*host.shelf, *host.log, "host://", demo(), {});
  ASSERT_TRUE(one.ok());
  ServiceOptions o;
  o.lease_ns = 60'000'000'000;
  o.key = transport::random_key();
  o.engine = kSmall;
  auto prefill = PrefillService::open(*w.shelf, *w.log, "host://?threads=1", demo(), o);
  auto decode = DecodeService::open(*w.shelf, *w.log, d.uri, demo(), o);
  ASSERT_TRUE(prefill.ok() && decode.ok()) << (decode.ok() ? "" : decode.error().text());
  w.pump->add(**prefill);
  w.pump->add(**decode);
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 3; ++i) {
    ClientOptions c{.key = o.key, .prefill = {(*prefill)->address(), "prefill"}, .decode = {(*decode)->address(), "decode"}};
    c.model = model_identity(demo(), model::Precision::automatic);
    c.vocab = demo().config.vocab;
    c.lease_ns = o.lease_ns;
    c.timeout_ns = kPatience * 1'000'000ull;
    auto client = Client::connect(*w.pump, c);
    ASSERT_TRUE(client.ok()) << client.error().text();
    clients.push_back(std::move(*client));
  }
  const Params p{.max_tokens = 30, .ignore_eos = true, .logits = true};
  const uint32_t prompts[] = {33, 17, 20};
  const std::function<void(size_t)> ask = [&](size_t i) {
    auto want = (*one)->generate(prompt_of(prompts[i]), p, {}, BATON_NO_DEADLINE, nullptr);
    bool asked = false;
    auto got = clients[i]->generate(prompt_of(prompts[i]), p, [&](const Token&) {
      if (!asked && i + 1 < clients.size()) asked = true, ask(i + 1); // while this one is on
    });
    ASSERT_TRUE(want.ok() && got.ok()) << got.error().text();
    expect_same(*got, *want, "request " + std::to_string(i));
  };
  ask(0);
  const std::string text = (*decode)->metrics_text();
  for (const char* way : {"in", "out"})
    for (const char* what : {"baton_kv_spills_total", "baton_kv_spill_bytes_total"}) {
      double value = 0;
      for (size_t line = text.find(std::string("\n") + what + "{"); line != std::string::npos; line = text.find(std::string("\n") + what + "{", line + 1)) {
        const std::string one = text.substr(line + 1, text.find('\n', line + 1) - line - 1);
        if (one.find(std::string("direction=\"") + way + "\"") != std::string::npos) value = std::stod(one.substr(one.find("} ") + 2));
      }
      EXPECT_GT(value, 0) << what << " " << way;
    }
}

INSTANTIATE_TEST_SUITE_P(Wafers, Spill, testing::Values(Machine{1, "0.0080"}, Machine{2, "0.0052"}),
                         [](const auto& m) { return std::to_string(m.param.wafers) + (m.param.wafers == 1 ? "Wafer" : "Wafers"); });

// The device's own memory is where KV lands on host://, but not if it spills.
TEST(SpillMemory, AnyDeviceMaySpill) {
  const std::vector<Decoded> want = on_host({batch()[0], batch()[2]});
  World w;
  EngineOptions o = kSmall;
  o.blocks = kBlocks;
  auto e = DecodeEngine::open(*w.shelf, *w.log, "host://?threads=1", demo(), o, nullptr);
  ASSERT_TRUE(e.ok()) << e.error().text();
  auto got = decode_batch(w, **e, {batch()[0], batch()[2]}, deadline_in_ms(kPatience));
  ASSERT_TRUE(got.ok()) << got.error().text();
  for (size_t i = 0; i < want.size(); ++i)
    EXPECT_EQ(std::memcmp((*got)[i].logits.data(), want[i].logits.data(), want[i].logits.size() * sizeof(float)), 0) << i;
  EXPECT_GT((*e)->spilled().out, 0u);
}

TEST(SpillMemory, ItsLimitsAreSaid) {
  World w;
  EngineOptions o = kSmall;
  o.blocks = kBlocks;
  o.spill_bytes = 2 * kBlocks * 20480;
  auto e = DecodeEngine::open(*w.shelf, *w.log, "host://?threads=1", demo(), o, nullptr);
  ASSERT_TRUE(e.ok()) << e.error().text();
  EXPECT_EQ((*e)->pool().total(), 3 * kBlocks);
  auto most = (*e)->pool().take(3 * kBlocks - 1);
  ASSERT_TRUE(most.ok());
  auto more = (*e)->pool().take(kBlocks);
  ASSERT_FALSE(more.ok());
  EXPECT_EQ(more.error().code, BATON_BUSY);
  EXPECT_THAT(more.error().next, HasSubstr("--spill-bytes"));
  // What no turn could have: more than the device keeps.
  auto large = (*e)->start({.blocks = std::vector<int32_t>(kBlocks + 1), .position = 0, .steps = 1});
  ASSERT_FALSE(large.ok());
  EXPECT_EQ(large.error().code, BATON_INVALID_ARGUMENT) << large.error().text();
  o.spill_bytes = 1;
  auto none = DecodeEngine::open(*w.shelf, *w.log, "host://?threads=1", demo(), o, nullptr);
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, BATON_INVALID_ARGUMENT) << none.error().text();
  o.spill_bytes = 1ull << 50;
  auto all = DecodeEngine::open(*w.shelf, *w.log, "host://?threads=1", demo(), o, nullptr);
  ASSERT_FALSE(all.ok());
  EXPECT_EQ(all.error().code, BATON_CAPACITY) << all.error().text();
  EXPECT_THAT(all.error().next, HasSubstr("lower --spill-bytes"));
  auto single = OneDevice::open(*w.shelf, *w.log, "host://", demo(), kSmall);
  ASSERT_FALSE(single.ok());
  EXPECT_EQ(single.error().code, BATON_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace baton::runtime
