// Every verb of devctl, run as a person or a script would: help, text, JSON, wrong names, wrong calls.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/unit/devctl_test.hpp"

namespace {

using namespace baton::test;
using nlohmann::json;

bool emulator(const std::string& scheme) { return std::filesystem::exists(baton::test::plugin("baton-emu-" + scheme)); }

const std::vector<std::vector<std::string>> kVerbs = {{}, {"list"}, {"info"}, {"topo"}, {"bench"}, {"bench", "copy"}, {"bench", "launch"}, {"bench", "kv"}, {"replay"}, {"cts"}, {"model"}, {"artifacts"}, {"place"}, {"fabric"}, {"fabric", "ping"}, {"fabric", "serve"}, {"key"}, {"key", "new"}, {"key", "show"}, {"key", "known"}, {"workers"}, {"explain"}, {"version"}, {"who"}, {"stats"}, {"top"}, {"health"}, {"diag"}, {"reset"}, {"record"}, {"report"}, {"env"}, {"snapshot"}, {"completion"}, {"emu"}, {"emu", "up"}, {"emu", "ls"}, {"emu", "down"}, {"emu", "fault"}, {"emu", "clock"}};


TEST(DevctlVerbs, EachHasHelp) {
  for (auto verb : kVerbs) {
    verb.push_back("--help");
    Ran r = devctl(verb);
    EXPECT_EQ(r.code, 0) << testing::PrintToString(verb) << r.err;
    EXPECT_NE(r.out.find("--help"), std::string::npos) << testing::PrintToString(verb);
    EXPECT_EQ(r.err, "");
  }
  EXPECT_EQ(devctl({"--version"}).code, 0);
}

TEST(DevctlVerbs, EachPrintsText) {
  for (const std::vector<std::string>& verb : std::vector<std::vector<std::string>>{
           {}, {"list"}, {"list", "all"}, {"list", "host*"}, {"info", "host0"}, {"info", "host://"}, {"topo"}, {"topo", "host0", "host0"}, {"fabric"}, {"explain"}, {"explain", "busy"}, {"version"},
           {"bench", "copy", "host0", "host0", "--bytes", "64k", "--count", "3"}}) {
    Ran r = devctl(verb);
    EXPECT_EQ(r.code, 0) << testing::PrintToString(verb) << r.err;
    EXPECT_NE(r.out, "") << testing::PrintToString(verb);
    EXPECT_EQ(r.err, "") << testing::PrintToString(verb);
    EXPECT_EQ(r.out.find('\x1b'), std::string::npos) << "colour without a terminal";
  }
}

// Published: Llama-3.3-70B on a trn2.48xlarge, TP 64, bf16, 10k in and 1.5k out: TTFT 814 ms, TPOT 19.6 ms.
TEST(DevctlVerbs, ModelIsNearThePublishedRunWithoutItsWeights) {
  if (!emulator("neuron")) GTEST_SKIP();
  const std::string folder = std::string(BATON_SOURCE_DIR) + "/models/llama-3.3-70b";
  const std::vector<std::string> call = {"model", folder, "--tp", "64", "--input", "10000", "--output", "1500"};
  json j = document(call, "model");
  EXPECT_NEAR(j["ttft_ns"].get<double>() / 814e6, 1, 0.15);
  EXPECT_NEAR(j["tpot_ns"].get<double>() / 19.6e6, 1, 0.15);
  EXPECT_EQ(j["modelled"], true);
  EXPECT_NE(j["timing"].get<std::string>().find("trn2"), std::string::npos);
  EXPECT_GT(j["weight_bytes_per_lane"].get<uint64_t>(), 2'000'000'000u);
  json again = document(call, "model");
  EXPECT_EQ(j["ttft_ns"], again["ttft_ns"]);
  EXPECT_EQ(j["tpot_ns"], again["tpot_ns"]);
  EXPECT_NE(devctl({"model", folder, "--tp", "64", "--output", "2"}).out.find("(modelled)"), std::string::npos);
  refused({"model", folder, "--device", "host://"}, 6);
  refused({"model", folder, "--tp", "3"}, 2);
  refused({"model", "/nonexistent"}, 2);
}

// A wafer decodes by its own: all tokens in one launch. Vendor: Llama-3.1-8B at 1,800 token/s.
TEST(DevctlVerbs, ModelOfAWafer) {
  if (!emulator("cs3")) GTEST_SKIP();
  const std::string shapes = std::string(BATON_SOURCE_DIR) + "/models/llama-3.3-70b", folder = testing::TempDir() + "llama-8b", wafer = "emu+cs3://0?mode=timing";
  json config = json::parse(std::ifstream(shapes + "/config.json"));
  for (auto [key, value] : {std::pair("hidden_size", 4096), {"intermediate_size", 14336}, {"num_attention_heads", 32}, {"num_hidden_layers", 32}}) config[key] = value;
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json") << config;
  json j = document({"model", folder, "--device", wafer, "--decode", "--output", "256"}, "model");
  EXPECT_NEAR(1e9 / j["tpot_ns"].get<double>() / 1800, 1, 0.25);
  EXPECT_TRUE(j["ttft_ns"].is_null());
  EXPECT_EQ(j["per_launch_tokens"], 256);
  json one = document({"model", folder, "--device", wafer, "--decode", "--output", "4", "--per-launch", "1"}, "model");
  EXPECT_GT(one["tpot_ns"].get<double>(), j["tpot_ns"].get<double>() + 500'000) << "a launch from the host costs more than a token";
  json faster = document({"model", folder, "--device", wafer + "&clock_ghz=1.5", "--decode", "--output", "256"}, "model");
  EXPECT_NEAR(faster["tpot_ns"].get<double>() / j["tpot_ns"].get<double>(), 0.5, 0.02) << "time is cycles, but for the launch";
  EXPECT_GT(document({"model", folder, "--device", wafer, "--input", "512", "--output", "2"}, "model")["ttft_ns"].get<double>(), 0) << "prefill beside decode: 32 GB of weights";
  const Ran one_wafer = devctl({"model", shapes, "--device", wafer, "--decode"});
  EXPECT_EQ(one_wafer.code, 5) << one_wafer.err;
  EXPECT_NE(one_wafer.err.find("next: 4 wafers"), std::string::npos) << one_wafer.err;
}

// A 70B does not fit on three wafers; on four it runs, with as much KV as `devctl place` says.
TEST(DevctlVerbs, ModelOverSeveralWafers) {
  if (!emulator("cs3")) GTEST_SKIP();
  const std::string shapes = std::string(BATON_SOURCE_DIR) + "/models/llama-3.3-70b", three = "emu+cs3://0?mode=timing&wafers=3", four = "emu+cs3://0?mode=timing&wafers=4";
  const Ran refused = devctl({"model", shapes, "--device", three, "--decode"});
  EXPECT_EQ(refused.code, 5) << refused.err;
  EXPECT_NE(refused.err.find("next: 4 wafers"), std::string::npos) << refused.err;
  json j = document({"model", shapes, "--device", four, "--decode", "--input", "1024", "--output", "64"}, "model");
  EXPECT_NEAR(1e9 / j["tpot_ns"].get<double>() / 450, 1, 0.25) << "the vendor's figure";
  const uint64_t tokens = document({"place", shapes, "--wafers", "4"}, "place")["kv_tokens"].get<uint64_t>() / 16 * 16;  // whole blocks
  json full = document({"model", shapes, "--device", four, "--decode", "--input", std::to_string(tokens - 8), "--output", "8"}, "model");
  EXPECT_GT(full["tpot_ns"].get<double>(), j["tpot_ns"].get<double>());
  EXPECT_EQ(full["kv_bytes_per_lane"].get<uint64_t>(), tokens * 327'680);
  const Ran beyond = devctl({"model", shapes, "--device", four, "--decode", "--input", std::to_string(tokens), "--output", "8"});
  EXPECT_EQ(beyond.code, 5) << beyond.err;
}

TEST(DevctlVerbs, ArtifactsOfAModelAreListed) {
  const json j = document({"artifacts", std::string(BATON_SOURCE_DIR) + "/models/baton-tiny"}, "artifacts");
  ASSERT_EQ(j["programs"].size(), 2u);
  EXPECT_NE(j["programs"][0]["fingerprint"], j["programs"][1]["fingerprint"]);
  EXPECT_TRUE(j["programs"][0]["found"].is_null()) << "no folder is named";
  refused({"artifacts", "/nowhere"}, 2);
}

TEST(DevctlVerbs, ModelBesidePublishedFigures) {
  if (!emulator("cs3")) GTEST_SKIP();
  Ran r = devctl({"model", "--calibration", "cs3", "-o", "json"});
  EXPECT_EQ(r.code, 0) << r.err;
  const json j = json::parse(r.out, nullptr, false);
  ASSERT_TRUE(j.is_object()) << r.out;
  EXPECT_EQ(j["schema"], "baton.calibration/1");
  EXPECT_GE(j["cases"].size(), 18u);
  EXPECT_NE(devctl({"model", "--calibration", "cs3"}).out.find("(modelled)"), std::string::npos);
  refused({"model"}, 2);
  refused({"model", "--calibration", "trn2"}, 2);
}

TEST(DevctlVerbs, PlaceSaysWhatFitsDrawsItAndRefusesWithNumbers) {
  const std::string folder = std::string(BATON_SOURCE_DIR) + "/models/llama-3.3-70b", svg = testing::TempDir() + "place.svg";
  json j = document({"place", folder, "--wafers", "4", "--svg", svg}, "place");
  ASSERT_EQ(j["wafers"].size(), 4u);
  const uint64_t tokens = j["kv_tokens"];
  uint64_t layers = 0;
  for (const json& w : j["wafers"]) {
    layers += w["layers"].get<uint64_t>();
    EXPECT_GE(w["kv_tokens_fit"].get<uint64_t>(), tokens);
    EXPECT_LE(w["weight_bytes"].get<uint64_t>() + w["scratch_bytes"].get<uint64_t>() + w["kv_bytes"].get<uint64_t>(), w["capacity_bytes"].get<uint64_t>());
  }
  EXPECT_EQ(layers, 80u);
  EXPECT_EQ(document({"place", folder}, "place")["wafers"].size(), 4u) << "the fewest";
  EXPECT_EQ(document({"place", folder, "--wafers", "auto", "--context", std::to_string(tokens)}, "place")["wafers"].size(), 4u);
  EXPECT_EQ(document({"place", folder, "--wafers", "auto", "--context", std::to_string(tokens + 1)}, "place")["wafers"].size(), 5u);
  std::ifstream file(svg);
  const std::string drawn((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(drawn.rfind("<svg ", 0), 0u);
  EXPECT_NE(drawn.find("</svg>"), std::string::npos);
  EXPECT_NE(drawn.find("wafer 3: layers 61-79"), std::string::npos);
  Ran text = devctl({"place", folder, "--wafers", "4", "--bad-rows", "7,100-103", "--kv", "concat"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("61-79"), std::string::npos) << text.out;
  refused({"place", folder, "--wafers", "3"}, 5);
  EXPECT_NE(devctl({"place", folder, "--wafers", "3"}).err.find("next: 4 wafers"), std::string::npos);
  refused({"place", folder, "--wafers", "4", "--context", std::to_string(tokens + 1)}, 5);
  refused({"place", folder, "--wafers", "81"}, 2);
  refused({"place", folder, "--wafers", "few"}, 2);
  refused({"place", folder, "--bad-rows", "9-7"}, 2);
  EXPECT_GT(document({"place", folder, "--fabric", "762x1200"}, "place")["kv_tokens"].get<uint64_t>(), tokens);
  refused({"place", folder, "--fabric", "762"}, 2);
  refused({"place", folder, "--wafer", "cs9"}, 3);
  refused({"place", folder, "--svg", "/nonexistent/place.svg"}, 4);
  refused({"place", "/nonexistent"}, 2);
}

TEST(DevctlVerbs, SummaryNamesTheNextCommand) {
  json j = document({}, "summary");
  EXPECT_EQ(j["next"].get<std::string>().rfind("devctl ", 0), 0u);
  EXPECT_NE(devctl({}).out.find("\nnext: " + j["next"].get<std::string>() + "\n"), std::string::npos);
}

TEST(DevctlVerbs, ListShowsTheHostAndWhatCanBeStarted) {
  json j = document({"list"}, "list");
  auto host = std::find_if(j["devices"].begin(), j["devices"].end(), [](auto& d) { return d["name"] == "host0"; });
  ASSERT_NE(host, j["devices"].end());
  EXPECT_EQ((*host)["emulated"], false);
  EXPECT_EQ((*host)["driver"], "host");
  ASSERT_FALSE((*host)["heaps"].empty());
  EXPECT_EQ((*host)["heaps"][0]["name"], "dram");
  for (std::string scheme : {"neuron", "cs3"}) {
    if (!emulator(scheme)) continue;
    auto& s = j["startable"];
    EXPECT_TRUE(std::any_of(s.begin(), s.end(), [&](auto& e) { return e["uri"] == "emu+" + scheme + "://0"; })) << scheme;
    EXPECT_NE(devctl({"list"}).out.find("emu+" + scheme + "://0"), std::string::npos);
  }
}

TEST(DevctlVerbs, NoEmulatorsIsAnEmptyList) {
  baton::test::TempDir empty;
  Ran r = devctl({"list", "-o", "json"}, {{"BATON_EMULATOR_PATH", empty.path()}});
  EXPECT_EQ(r.code, 0);
  json j = json::parse(r.out, nullptr, false);
  ASSERT_TRUE(j.is_object()) << r.out;
  EXPECT_TRUE(j["startable"].is_array());
}

TEST(DevctlVerbs, SelectorsMeanTheSameEverywhere) {
  EXPECT_EQ(document({"list", "host0"}, "list")["devices"].size(), 1u);
  EXPECT_EQ(document({"list", "ho*"}, "list")["devices"].size(), 1u);
  EXPECT_EQ(document({"list", "host://"}, "list")["devices"].size(), 1u);
  EXPECT_EQ(document({"info", "all"}, "info")["devices"].size(), document({"list", "all"}, "list")["devices"].size());
}

TEST(DevctlVerbs, AUriStartsAnEmulatorForTheCall) {
  for (std::string scheme : {"neuron", "cs3"}) {
    if (!emulator(scheme)) continue;
    json j = document({"info", "emu+" + scheme + "://0"}, "info");
    ASSERT_EQ(j["devices"].size(), 1u);
    EXPECT_EQ(j["devices"][0]["emulated"], true);
    EXPECT_EQ(j["devices"][0]["driver"], scheme);
    EXPECT_NE(devctl({"info", "emu+" + scheme + "://0"}).out.find("(emulated)"), std::string::npos);
  }
}

TEST(DevctlVerbs, TopoShowsThePathOfACopy) {
  json all = document({"topo"}, "topo");
  EXPECT_GE(all["machine"]["cores"], 1);
  json one = document({"topo", "host0", "host0"}, "topo.path");
  EXPECT_EQ(one["path"], "direct");
  ASSERT_EQ(one["hops"].size(), 1u);
  EXPECT_TRUE(one["better"].empty());
  EXPECT_GT(one["whole"]["wall"]["bytes_per_s"], 0);
  EXPECT_TRUE(one["whole"]["modelled"].is_null());
  if (!emulator("neuron")) return;
  json far = document({"topo", "host0", "emu+neuron://0"}, "topo.path");
  EXPECT_NE(far["path"], "");
  ASSERT_EQ(far["hops"].size(), 1u);
  EXPECT_GT(far["hops"][0]["cost"]["wall"]["small_ns"], 0);
  EXPECT_GT(far["hops"][0]["cost"]["modelled"]["bytes_per_s"], 0);
  EXPECT_EQ(far["whole"], far["hops"][0]["cost"]);
  ASSERT_EQ(far["better"].size(), 1u) << "a device that reads host memory by itself";
  EXPECT_EQ(far["better"][0]["path"], "direct");
  json three = document({"topo", "host0", "emu+neuron://0", "host://?threads=2"}, "topo");
  EXPECT_EQ(three["devices"].size(), 3u);
  EXPECT_EQ(three["paths"].size(), 9u);
}

TEST(DevctlVerbs, FabricExplainVersion) {
  json fabrics = document({"fabric"}, "fabric")["fabrics"];
  EXPECT_TRUE(std::any_of(fabrics.begin(), fabrics.end(), [](auto& f) { return f["name"] == "mapped"; }));
  const auto tcp = std::find_if(fabrics.begin(), fabrics.end(), [](auto& f) { return f["name"] == "tcp"; });
  ASSERT_NE(tcp, fabrics.end());
  const json nics = (*tcp)["nics"];
  const auto lo = std::find_if(nics.begin(), nics.end(), [](auto& n) { return n["name"] == "lo"; });
  ASSERT_NE(lo, nics.end());
  EXPECT_EQ((*lo)["usable"], false);
  EXPECT_NE((*lo)["reason"], "");
  EXPECT_EQ(document({"explain", "7"}, "explain")["codes"][0]["name"], "DEVICE_LOST");
  EXPECT_EQ(document({"explain"}, "explain")["codes"].size(), 17u);
  EXPECT_EQ(document({"version"}, "version")["abi"], 1);
}

TEST(DevctlVerbs, KeysAreMadeShownAndListed) {
  baton::test::TempDir dir;
  const std::string id = dir.path() + "/me.id", known = dir.path() + "/known";
  json made = document({"key", "new", id}, "key.new");
  EXPECT_EQ(made["public_key"].get<std::string>().size(), 64u);
  json shown = document({"key", "show", id}, "key.show");
  EXPECT_EQ(shown["fingerprint"], made["fingerprint"]);
  EXPECT_NE(devctl({"key", "show", id}).out.find(made["fingerprint"].get<std::string>()), std::string::npos);
  std::string secret;
  std::ifstream(id) >> secret >> secret;
  ASSERT_EQ(secret.size(), 64u);
  for (auto& r : {devctl({"key", "show", id}), devctl({"key", "known", id}), devctl({"key", "new", id})}) EXPECT_EQ((r.out + r.err).find(secret), std::string::npos);
  refused({"key", "new", id}, 5);
  refused({"key", "show", dir.path() + "/none"}, 3);
  std::ofstream(known) << "me " << made["public_key"].get<std::string>() << " roles=decode # a\n";
  std::filesystem::permissions(known, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  json list = document({"key", "known", known}, "key.known");
  ASSERT_EQ(list["peers"].size(), 1u);
  EXPECT_EQ(list["peers"][0]["name"], "me");
  EXPECT_EQ(list["peers"][0]["fingerprint"], made["fingerprint"]);
  EXPECT_NE(devctl({"key", "known", known}).out.find("me "), std::string::npos);
  std::ofstream(known) << "me\n";
  refused({"key", "known", known}, 2);
}

TEST(DevctlVerbs, WorkersOfAFileAreListed) {
  baton::test::TempDir dir;
  const std::string file = dir.path() + "/workers.json";
  std::ofstream(file) << R"({"workers": [{"id": "decode-1", "role": "decode", "address": "10.0.0.5:7001", "capacity": 4096}, {"id": "p", "role": "prefill", "address": "h:1", "state": "draining"}]})";
  json list = document({"workers", file}, "workers");
  ASSERT_EQ(list["workers"].size(), 2u);
  EXPECT_EQ(list["workers"][0]["id"], "decode-1");
  EXPECT_EQ(list["workers"][0]["capacity"], 4096);
  EXPECT_EQ(list["workers"][1]["state"], "draining");
  EXPECT_TRUE(list["skipped"].empty());
  const std::string text = devctl({"workers", file}).out;
  EXPECT_NE(text.find("10.0.0.5:7001"), std::string::npos);
  std::ofstream(file) << R"({"workers": [{"id": "x", "role": "root", "address": "h:1"}]})";
  Ran wrong = devctl({"workers", file});
  EXPECT_EQ(wrong.code, 1);
  EXPECT_NE(wrong.err.find("1 entry was skipped: role"), std::string::npos) << wrong.err;
  std::ofstream(file) << "{}";
  refused({"workers", file}, 2);
  refused({"workers", dir.path() + "/none"}, 3);
  refused({"workers", "http://127.0.0.1:1", "--timeout-ms", "300"}, 1);
}

TEST(DevctlVerbs, AWrongNameIsThree) {
  for (auto& args : std::vector<std::vector<std::string>>{{"list", "trn99"}, {"info", "nothing"}, {"info", "zz*"}, {"info", "nodriver://0"}, {"topo", "trn99"},
                                                          {"topo", "trn99", "host0"}, {"bench", "copy", "host0", "trn99"}, {"bench", "launch", "trn99"}, {"bench", "kv", "host0", "trn99"}})
    refused(args, 3);
}

TEST(DevctlVerbs, AWrongCallIsTwo) {
  for (auto& args : std::vector<std::vector<std::string>>{{"frobnicate"}, {"info"}, {"bench"}, {"key"}, {"key", "new"}, {"bench", "copy"}, {"bench", "copy", "host0"}, {"bench", "launch"}, {"fabric", "serve"}, {"fabric", "ping", "--fabric", "pigeon"}, {"fabric", "ping", "127.0.0.1:1"}, {"bench", "kv", "host0"}, {"bench", "kv", "host0", "host0", "--fabric", "pigeon"}, {"list", "-o", "xml"}, {"list", "--bogus"},
                                                          {"explain", "NO_SUCH_CODE"}, {"bench", "copy", "host0", "host0", "--bytes", "0"},
                                                          {"bench", "copy", "host0", "host0", "--bytes", "many"}, {"bench", "copy", "host0", "host0", "--count", "0"},
                                                          {"info", "Bad Scheme://0"}, {"info", "host://?nonsense=1"}})
    refused(args, 2);
}

TEST(DevctlVerbs, NextOfAWrongCallNamesTheVerb) {
  EXPECT_NE(devctl({"bench", "copy"}).err.find("next: devctl bench copy --help"), std::string::npos);
}

}  // namespace
