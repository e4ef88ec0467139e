// What devctl measures: each figure with its yardstick, bytes and results compared where they arrive, and an interruption that leaves what was done.
#include <gtest/gtest.h>

#include <csignal>
#include <unistd.h>

#include "tests/unit/devctl_test.hpp"

namespace {

using namespace baton::test;
using nlohmann::json;

bool emulator(const std::string& scheme) { return std::filesystem::exists(plugin("baton-emu-" + scheme)); }

void in_order(const json& times) {
  EXPECT_GT(times["min_ns"].get<double>(), 0);
  EXPECT_LE(times["min_ns"], times["median_ns"]);
  EXPECT_LE(times["median_ns"], times["p99_ns"]);
  EXPECT_LE(times["p99_ns"], times["max_ns"]);
}

// A plan for the layer fault in `dir`, as the environment that loads it.
Env faulty(const TempDir& dir, const std::string& rules) {
  const std::string file = dir.path() + "/plan.json";
  std::ofstream(file) << R"({"seed": 4, "rules": [)" << rules << "]}";
  return {{"BATON_LAYERS", "fault=" + file}};
}

TEST(DevctlBench, CopyStandsBesideMemcpy) {
  json j = document({"bench", "copy", "host0", "host0", "--bytes", "1MiB", "--count", "5", "--check"}, "bench.copy");
  EXPECT_EQ(j["bytes"], 1 << 20);
  EXPECT_EQ(j["count"], 5);
  EXPECT_EQ(j["complete"], true);
  in_order(j["wall"]);
  in_order(j["memcpy"]);
  EXPECT_GT(j["memcpy"]["bytes_per_s"], 0);
  EXPECT_TRUE(j["modelled"].is_null()) << "the host has no timing model";
  EXPECT_EQ(j["check"]["bytes_compared"], 6 << 20) << "the round that warms up too";
  EXPECT_EQ(j["check"]["bytes_wrong"], 0);
  if (!emulator("neuron")) return;
  json far = document({"bench", "copy", "host0", "emu+neuron://0", "--bytes", "256KiB", "--count", "2"}, "bench.copy");
  EXPECT_EQ(far["emulated"], true);
  EXPECT_TRUE(far["check"].is_null());
  EXPECT_GT(far["modelled"]["median_ns"], 0);
}

TEST(DevctlBench, AWrongByteIsAFinding) {
  if (!emulator("cs3")) GTEST_SKIP();
  TempDir dir;
  const Env env = faulty(dir, R"({"op": "COPY", "tag": 1, "nth": 2, "action": "corrupt"})");
  // An odd number of bytes, no multiple of a word.
  const std::vector<std::string> call = {"bench", "copy", "host0", "emu+cs3://0", "--bytes", "100003", "--count", "2"};
  std::vector<std::string> checked = call;
  checked.push_back("--check");
  json j = document(checked, "bench.copy", env, 1);
  EXPECT_EQ(j["check"]["bytes_wrong"], 1);
  EXPECT_EQ(j["check"]["rounds"], 3);
  EXPECT_NE(j["check"]["first_wrong"].get<std::string>().find("round 2, byte "), std::string::npos) << j["check"];
  Ran text = devctl(checked, env);
  EXPECT_EQ(text.code, 1);
  EXPECT_NE(text.out.find("check: 1 of 300009 bytes arrived wrong"), std::string::npos) << text.out;
  EXPECT_NE(text.err.find("\nnext: "), std::string::npos) << text.err;
  EXPECT_EQ(devctl(call, env).code, 0) << "nobody looked";
}

TEST(DevctlBench, LaunchStandsBesideHostOpsAndAnEventfd) {
  std::vector<std::string> devices{"host0"};
  for (const char* scheme : {"neuron", "cs3"})
    if (emulator(scheme)) devices.push_back(std::string("emu+") + scheme + "://0");
  for (const std::string& device : devices) {
    SCOPED_TRACE(device);
    json j = document({"bench", "launch", device, "--count", "4", "--depth", "3", "--check"}, "bench.launch");
    ASSERT_EQ(j["rows"].size(), 3u);
    for (auto& r : j["rows"]) {
      in_order(r["wall"]);
      in_order(r["yardstick_wall"]);
      EXPECT_EQ(r["count"], 4);
      EXPECT_EQ(r["modelled"].is_null(), device == "host0") << r;
    }
    EXPECT_EQ(j["rows"][1]["asleep"], true);
    EXPECT_EQ(j["rows"][2]["depth"], 3);
    EXPECT_EQ(j["check"]["launches_compared"], 5) << "one, one, and three at a time";
    EXPECT_EQ(j["check"]["launches_wrong"], 0);
  }
  EXPECT_NE(devctl({"bench", "launch", "host0", "--count", "2", "--depth", "5"}).out.find("5 in flight, each"), std::string::npos);
}

TEST(DevctlBench, AWrongResultIsAFindingAndTimeAloneHasNone) {
  if (!emulator("cs3")) GTEST_SKIP();
  TempDir dir;
  const std::vector<std::string> call = {"bench", "launch", "emu+cs3://0", "--count", "1", "--depth", "2", "--check"};
  json j = document(call, "bench.launch", faulty(dir, R"({"op": "COPY", "nth": 1, "action": "corrupt", "bits": 8})"), 1);
  EXPECT_EQ(j["check"]["launches_wrong"], j["check"]["launches_compared"]) << "what they read is not what was sent";
  refused({"bench", "launch", "emu+cs3://0?mode=timing", "--check"}, 6, "mode=timing");
  EXPECT_EQ(devctl({"bench", "launch", "emu+cs3://0?mode=timing", "--count", "1"}).code, 0);
}

TEST(DevctlBench, KvStandsBesideMemcpy) {
  json j = document({"bench", "kv", "host0", "host0", "--fabric", "mapped", "--count", "1", "--check"}, "bench.kv");
  ASSERT_EQ(j["rows"].size(), 12u); // three shapes, with the receiver awake and asleep, with checksums, and lent instead of copied
  EXPECT_EQ(j["complete"], true);
  for (auto& r : j["rows"]) {
    EXPECT_TRUE(r["fabric"] == "mapped" || r["fabric"] == "mapped asleep" || r["fabric"] == "mapped checked" || r["fabric"] == "lend") << r["fabric"];
    EXPECT_EQ(r["bytes"], 64 << 20);
    EXPECT_GT(r["median_ns"], 0);
    EXPECT_LE(r["median_ns"], r["p99_ns"]);
    EXPECT_GT(r["memcpy_median_ns"], 0);
    EXPECT_GE(r["moves_compared"], r["fabric"] == "lend" ? 1 : 2) << r;
    EXPECT_EQ(r["words_wrong"], 0);
    EXPECT_TRUE(r["modelled_ns"].is_null());
  }
}

// The wafer is the other process's, and no fabric reaches it: host memory stands between, and what is compared was read from the wafer.
TEST(DevctlBench, KvOntoAWaferIsStagedAndAWrongByteThereIsAFinding) {
  if (!emulator("neuron") || !emulator("cs3")) GTEST_SKIP();
  TempDir dir;
  const std::vector<std::string> call = {"bench", "kv", "emu+neuron://0", "emu+cs3://0", "--fabric", "mapped", "--count", "1"};
  json j = document(call, "bench.kv", faulty(dir, R"({"op": "COPY", "device": "cs3://*", "nth": 2, "action": "corrupt"})"), 1);
  ASSERT_EQ(j["rows"].size(), 9u) << "no loans";
  uint64_t wrong = 0;
  for (auto& r : j["rows"]) {
    EXPECT_GT(r["modelled_ns"], 0);
    EXPECT_EQ(r["moves_compared"], 1);
    wrong += r["words_wrong"].get<uint64_t>();
  }
  EXPECT_EQ(wrong, 1u) << "the first is the pool's own, the second the first move's";
  EXPECT_GT(j["rows"][2]["modelled_ns"], j["rows"][0]["modelled_ns"]) << "a wafer's copy costs something each";
  refused({"bench", "kv", "host0", "neuron://77", "--fabric", "mapped"}, 3);
}

TEST(DevctlBench, AnInterruptionLeavesWhatWasMeasured) {
  for (const std::vector<std::string>& call : {std::vector<std::string>{"bench", "copy", "host0", "host0", "--bytes", "1MiB", "--count", "100000"},
                                               {"bench", "launch", "host0", "--count", "1000000", "--depth", "256"}, {"bench", "kv", "host0", "host0", "--fabric", "mapped", "--count", "10000"}}) {
    SCOPED_TRACE(call[1]);
    json left;
    for (useconds_t delay = call[1] == "kv" ? 1'500'000 : 300'000; left.is_null() && delay < 20'000'000; delay *= 2) {  // on a slow machine nothing was measured yet
      std::vector<std::string> args = {tool("devctl"), "-o", "json"};
      args.insert(args.end(), call.begin(), call.end());
      Process p(args, {});
      p.close_stdin();
      usleep(delay);
      p.kill(SIGINT);
      const Exit e = p.wait(kPatienceMs);
      ASSERT_TRUE(e.ended) << "hangs";
      ASSERT_EQ(e.code, 130) << p.err();
      if (!p.out().empty()) left = json::parse(p.out(), nullptr, false);
    }
    ASSERT_TRUE(left.is_object());
    EXPECT_EQ(schema_problem(left), "");
    EXPECT_EQ(left["complete"], false);
    const json count = call[1] == "copy" ? left["count"] : left["rows"][0]["count"];
    EXPECT_GE(count, 1);
    EXPECT_LT(count, left["planned"]);
  }
}

// Between two processes of this host: 64 B to 16 MiB, every byte compared.
TEST(DevctlBench, PingOverAFabric) {
  json j = document({"fabric", "ping", "--fabric", "mapped", "--count", "8"}, "fabric.ping");
  ASSERT_EQ(j["rows"].size(), 7u);
  EXPECT_TRUE(j["address"].is_null());
  uint64_t before = 0;
  for (auto& r : j["rows"]) {
    EXPECT_EQ(r["fabric"], "mapped");
    EXPECT_GT(r["bytes"], before);
    before = r["bytes"];
    EXPECT_GE(r["count"], 8);
    EXPECT_GT(r["one_way_p50_ns"], 0);
    EXPECT_LE(r["one_way_p50_ns"], r["one_way_p99_ns"]);
    EXPECT_GT(r["bytes_per_s"], 0);
    EXPECT_GT(r["memcpy_bytes_per_s"], 0);
    EXPECT_EQ(r["bytes_wrong"], 0);
  }
  EXPECT_EQ(before, 16u << 20);
}

// A second devctl answers, as on another host: by a key that both have; one that has another is refused, and that side says so.
TEST(DevctlBench, PingToAnotherDevctl) {
  TempDir dir;
  const std::string key = dir.path() + "/key", other = dir.path() + "/other";
  for (const std::string& file : {key, other}) {
    std::ofstream(file) << std::string(64, file == key ? 'a' : 'b') << "\n";
    std::filesystem::permissions(file, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  }
  Process server({tool("devctl"), "fabric", "serve", "127.0.0.1:0", "--key", key, "--once"});
  ASSERT_TRUE(server.wait_out("\nnext: ", kPatienceMs)) << server.err();
  const std::string address = server.out().substr(std::string("answers at ").size(), server.out().find('\n') - std::string("answers at ").size());
  refused({"fabric", "ping", address, "--key", other}, 4);
  json j = document({"fabric", "ping", address, "--key", key, "--fabric", "mapped", "--count", "2"}, "fabric.ping");
  EXPECT_EQ(j["address"], address);
  EXPECT_EQ(j["peer"], "devctl fabric serve");
  EXPECT_EQ(j["rows"].size(), 7u);
  const Exit e = server.wait(kPatienceMs);
  EXPECT_EQ(e.code, 0) << server.err();
  EXPECT_NE(server.err().find("a peer was refused"), std::string::npos) << server.err();
  refused({"fabric", "ping", address, "--key", key}, 7);
}

// Between two wafers: two hops, each with its cost, and every better path with what it lacks, by address, as both are called cs0.
TEST(DevctlBench, ThePathBetweenTwoWafersSaysWhatEachHopCostsAndWhyItIsNotBetter) {
  if (!emulator("cs3") || !emulator("neuron")) GTEST_SKIP();
  json j = document({"topo", "emu+cs3://0", "emu+cs3://0?threads=1"}, "topo.path");
  EXPECT_EQ(j["path"], "staged");
  ASSERT_EQ(j["hops"].size(), 2u);
  double slowest = 1e18;
  for (auto& h : j["hops"]) {
    EXPECT_GT(h["cost"]["wall"]["bytes_per_s"], 0);
    slowest = std::min(slowest, h["cost"]["modelled"]["bytes_per_s"].get<double>());
  }
  EXPECT_LE(j["whole"]["modelled"]["bytes_per_s"], slowest);
  std::vector<std::string> better;
  for (auto& b : j["better"]) better.push_back(b["path"]);
  EXPECT_EQ(better, (std::vector<std::string>{"direct", "peer to peer", "imported", "mapped"}));
  EXPECT_NE(j["better"][0]["why_not"].get<std::string>().find("cs3://"), std::string::npos) << j["better"][0];
  json pair = document({"topo", "emu+neuron://0", "emu+cs3://0"}, "topo.path");
  ASSERT_EQ(pair["better"].size(), 2u) << pair["better"];
  EXPECT_NE(pair["better"][1]["why_not"].get<std::string>().find("CS-3's memory"), std::string::npos);
  const std::string text = devctl({"topo", "emu+neuron://0", "emu+cs3://0"}).out;
  for (const char* part : {"measured (of an emulator)", "modelled", "WHY NOT"}) EXPECT_NE(text.find(part), std::string::npos) << text;
}

}  // namespace
