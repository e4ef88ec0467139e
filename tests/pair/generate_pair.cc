// Prefill on one device, hand-over, decode on another: the same tokens and the same logits, bit for bit, as one device.
#include "tests/pair/generate_fixture.hpp"
#include "tests/support/process.h"

#include <map>

namespace baton::runtime {
namespace {

using test::Process;

constexpr int kPatience = kSanitized ? 120000 : 30000;
constexpr uint32_t kTokens = 4;
constexpr uint64_t kLease = 60'000'000'000; // deaths are tests/fault's subject; a busy machine is none

const Answer& reference(uint32_t prompt) {
  static std::map<uint32_t, Answer> known;
  static World* w = new World; // lives as long as the process: its devices are this process's memory
  static OneDevice* one = [] {
    auto opened = OneDevice::open(*w->shelf, *w->log, "host://", demo(), {});
    EXPECT_TRUE(opened.ok()) << opened.error().text();
    return opened->release();
  }();
  auto [it, fresh] = known.try_emplace(prompt);
  if (fresh) {
    auto a = one->generate(prompt_of(prompt), {.max_tokens = kTokens, .ignore_eos = true, .logits = true}, {}, BATON_NO_DEADLINE, nullptr);
    EXPECT_TRUE(a.ok()) << a.error().text();
    if (a.ok()) it->second = *a;
  }
  return it->second;
}

std::vector<uint32_t> prompts() { return kSanitized ? std::vector<uint32_t>{1, 17, 200} : std::vector<uint32_t>{1, 15, 16, 17, 200, 512}; }
std::vector<std::string> fabrics() { return {"mapped", "shm", "tcp"}; }

void every_prompt(World& w, ClientOptions o, const std::string& what) {
  o.model = model_identity(demo(), model::Precision::automatic);
  o.vocab = demo().config.vocab;
  o.lease_ns = kLease;
  for (uint32_t n : prompts()) reference(n); // not while sessions wait for their heartbeats
  for (const std::string& fabric : fabrics()) {
    o.fabric = fabric;
    o.timeout_ns = kPatience * 4 * 1'000'000ull;
    auto client = Client::connect(*w.pump, o);
    ASSERT_TRUE(client.ok()) << what << " " << client.error().text();
    for (uint32_t n : prompts()) {
      std::string name = what + " " + fabric + " prompt " + std::to_string(n);
      auto a = (*client)->generate(prompt_of(n), {.max_tokens = kTokens, .ignore_eos = true, .logits = true}, {});
      ASSERT_TRUE(a.ok()) << name << ": " << a.error().text();
      EXPECT_EQ(a->transfer.fabric, fabric) << name;
      EXPECT_GE(a->transfer.bytes, uint64_t(n) * 5 * 2 * 2 * 32 * 2) << name; // layers, k and v, KV heads, head_dim, bf16
      expect_same(*a, reference(n), name);
    }
  }
}

struct Case {
  uint32_t tp, block_tokens;
};
std::vector<Case> cases() {
  if (kSanitized) return {{1, 16}, {4, 64}};
  return {{1, 16}, {1, 64}, {2, 16}, {2, 64}, {4, 16}, {4, 64}};
}

void one_process(const std::string& prefill_uri, const std::string& decode_uri, Case c, uint32_t decode_block, transport::KvOrder decode_order) {
  World w;
  ServiceOptions o;
  o.lease_ns = kLease;
  o.key = transport::random_key();
  o.engine.tp = c.tp;
  o.engine.block_tokens = c.block_tokens;
  auto prefill = PrefillService::open(*w.shelf, *w.log, prefill_uri, demo(), o);
  ASSERT_TRUE(prefill.ok()) << prefill.error().text();
  o.engine.block_tokens = decode_block;
  o.engine.order = decode_order;
  auto decode = DecodeService::open(*w.shelf, *w.log, decode_uri, demo(), o);
  ASSERT_TRUE(decode.ok()) << decode.error().text();
  w.pump->add(**prefill);
  w.pump->add(**decode);
  std::string what = fmt::format("{} tp {} block {} > {} block {}", prefill_uri, c.tp, c.block_tokens, decode_uri, decode_block);
  every_prompt(w, {.key = o.key, .prefill = {(*prefill)->address(), "prefill"}, .decode = {(*decode)->address(), "decode"}}, what);
  for (int i = 0; i < 200 && ((*prefill)->free_blocks() != (*prefill)->total_blocks() || (*decode)->free_blocks() != (*decode)->total_blocks()); ++i) w.pump->turn(5);
  EXPECT_EQ((*prefill)->free_blocks(), (*prefill)->total_blocks());
  EXPECT_EQ((*decode)->free_blocks(), (*decode)->total_blocks());
}

TEST(Pair, HostToHost) { one_process("host://?threads=1", "host://", {1, 16}, 16, transport::KvOrder::token_major); }

TEST(Pair, OneProcess) {
  for (Case c : cases()) one_process("emu+neuron://0", "emu+cs3://0", c, c.block_tokens, transport::KvOrder::token_major);
}

TEST(Pair, LayoutsMayDiffer) {
  one_process("emu+neuron://0", "emu+cs3://0", {2, 16}, 64, transport::KvOrder::head_major);
  one_process("emu+neuron://0", "emu+cs3://0", {2, 64}, 16, transport::KvOrder::block_major);
}

struct Worker {
  Worker(const char* role, const std::string& device, const std::string& key, Case c)
      : process({test::tool("baton"), "worker", "--role", role, "--device", device, "--listen", "127.0.0.1:0", "--key-file", key, "--model", demo_dir(),
                 "--block-tokens", std::to_string(c.block_tokens), "--tp", std::to_string(c.tp), "--lease-ms", "60000"}) {
    EXPECT_TRUE(process.wait_out("\n", kPatience)) << role << ": " << process.err();
    size_t at = process.out().find("baton://");
    if (at != std::string::npos) address = process.out().substr(at + 8, process.out().find(' ', at) - at - 8);
  }
  Process process;
  std::string address;
};

TEST(Pair, TwoProcesses) {
  test::TempDir dir;
  std::string key_file = dir.path() + "/key";
  ASSERT_TRUE(transport::write_key_file(key_file).ok());
  auto key = transport::read_key_file(key_file);
  ASSERT_TRUE(key.ok());
  for (Case c : cases()) {
    Worker prefill("prefill", "emu+neuron://0", key_file, c), decode("decode", "emu+cs3://0", key_file, c);
    ASSERT_FALSE(prefill.address.empty() || decode.address.empty());
    World w;
    every_prompt(w, {.key = *key, .prefill = {prefill.address, "prefill"}, .decode = {decode.address, "decode"}},
                 fmt::format("two processes, tp {} block {}", c.tp, c.block_tokens));
    for (Worker* worker : {&prefill, &decode}) {
      worker->process.kill(SIGTERM);
      EXPECT_EQ(worker->process.wait(kPatience).code, 0) << worker->process.err();
    }
  }
}

TEST(Pair, ManyClientsAtOnce) {
  // Requests overlap: blocks, launches and transfers of one must not touch another's.
  World w;
  ServiceOptions o;
  o.lease_ns = kLease;
  o.key = transport::random_key();
  auto prefill = PrefillService::open(*w.shelf, *w.log, "host://?threads=1", demo(), o);
  auto decode = DecodeService::open(*w.shelf, *w.log, "host://", demo(), o);
  ASSERT_TRUE(prefill.ok() && decode.ok());
  w.pump->add(**prefill);
  w.pump->add(**decode);
  ClientOptions c{.key = o.key, .prefill = {(*prefill)->address(), "prefill"}, .decode = {(*decode)->address(), "decode"}};
  c.model = model_identity(demo(), model::Precision::automatic);
  c.vocab = demo().config.vocab;
  c.lease_ns = kLease;
  auto first = Client::connect(*w.pump, c), second = Client::connect(*w.pump, c);
  ASSERT_TRUE(first.ok() && second.ok());
  for (uint32_t n : {200u, 17u}) reference(n);
  // The second request begins when the first has its first token.
  std::optional<Result<Answer>> inner;
  auto outer = (*first)->generate(prompt_of(200), {.max_tokens = kTokens, .ignore_eos = true, .logits = true}, [&](const Token&) {
    if (!inner) inner.emplace((*second)->generate(prompt_of(17), {.max_tokens = kTokens, .ignore_eos = true, .logits = true}, {}));
  });
  ASSERT_TRUE(outer.ok()) << outer.error().text();
  ASSERT_TRUE(inner && inner->ok());
  expect_same(*outer, reference(200), "outer");
  expect_same(**inner, reference(17), "inner");
}

TEST(Pair, RefusalsNameNumbersAndFreeEverything) {
  World w;
  ServiceOptions o;
  o.lease_ns = kLease;
  o.key = transport::random_key();
  o.engine.blocks = 34; // one context and two blocks
  auto prefill = PrefillService::open(*w.shelf, *w.log, "host://?threads=1", demo(), o);
  auto decode = DecodeService::open(*w.shelf, *w.log, "host://", demo(), o);
  ASSERT_TRUE(prefill.ok() && decode.ok());
  w.pump->add(**prefill);
  w.pump->add(**decode);
  ClientOptions c{.key = o.key, .prefill = {(*prefill)->address(), "prefill"}, .decode = {(*decode)->address(), "decode"}};
  c.model = model_identity(demo(), model::Precision::automatic);
  c.vocab = demo().config.vocab;
  c.lease_ns = kLease;
  auto first = Client::connect(*w.pump, c), second = Client::connect(*w.pump, c);
  ASSERT_TRUE(first.ok() && second.ok());
  std::optional<Result<Answer>> inner;
  auto outer = (*first)->generate(prompt_of(400), {.max_tokens = kTokens, .ignore_eos = true, .logits = true}, [&](const Token&) {
    if (!inner) inner.emplace((*second)->generate(prompt_of(400), {.max_tokens = kTokens, .ignore_eos = true}, {}));
  });
  ASSERT_TRUE(outer.ok()) << outer.error().text();
  ASSERT_TRUE(inner && !inner->ok());
  EXPECT_EQ(inner->error().code, BATON_BUSY);
  EXPECT_NE(std::string(inner->error().what).find("of 34 are free"), std::string::npos) << inner->error().what;
  expect_same(*outer, reference(400), "the first is untouched");
  auto again = (*second)->generate(prompt_of(400), {.max_tokens = kTokens, .ignore_eos = true, .logits = true}, {});
  ASSERT_TRUE(again.ok()) << again.error().text();
  expect_same(*again, reference(400), "and the second is served afterwards");

  ClientOptions other = c;
  other.model = "0123456789abcdef/auto";
  auto mismatch = Client::connect(*w.pump, other);
  ASSERT_FALSE(mismatch.ok());
  EXPECT_EQ(mismatch.error().code, BATON_MISMATCH);
  other = c;
  other.key = transport::random_key();
  auto stranger = Client::connect(*w.pump, other);
  ASSERT_FALSE(stranger.ok());
  EXPECT_EQ(stranger.error().code, BATON_PERMISSION);
}

}  // namespace
}  // namespace baton::runtime
