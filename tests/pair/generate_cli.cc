// The command as a person and a script see it.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sstream>

#include "tests/support/process.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <csignal>
#include <filesystem>
#include <fstream>

namespace {

using baton::test::Exit;
using baton::test::Process;
using baton::test::TempDir;
using nlohmann::json;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kPatience = 120000;
#else
constexpr int kPatience = 30000;
#endif

const std::string kModel = std::string(BATON_SOURCE_DIR) + "/models/baton-tiny";
const char* kPrompt = "It is a truth universally acknowledged, that a single man";

struct Outcome {
  int code;
  std::string out, err;
};
Outcome baton(std::vector<std::string> args, std::map<std::string, std::string> env = {}) {
  args.insert(args.begin(), baton::test::tool("baton"));
  Process p(args, env);
  p.close_stdin();
  Exit e = p.wait(kPatience);
  EXPECT_TRUE(e.ended);
  return {e.code, p.out(), p.err()};
}
std::string slurp(const std::string& path) {
  std::ifstream f(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(f), {}};
}

TEST(Cli, HelpAndVersion) {
  for (std::vector<std::string> args : {std::vector<std::string>{"--help"}, {"generate", "--help"}, {"worker", "--help"}, {"keygen", "--help"}, {"version"}, {"--version"}}) {
    Outcome o = baton(args);
    EXPECT_EQ(o.code, 0) << args[0];
    EXPECT_NE(o.out, "") << args[0];
    EXPECT_EQ(o.err, "") << args[0];
  }
}

TEST(Cli, GoldenTextOnOneDevice) {
  json golden = json::parse(slurp(kModel + "/golden/golden.json"));
  Outcome o = baton({"generate", "--device", "host://", "--precision", "f32", "--max-tokens", "64", "--ignore-eos", kPrompt});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(o.out, golden["prompts"][0]["greedy_text"].get<std::string>() + "\n");
  EXPECT_EQ(o.err, "");
}

TEST(Cli, HandOverWithEverything) {
  TempDir dir;
  std::string npy = dir.path() + "/a.npy", one = dir.path() + "/b.npy", trace = dir.path() + "/trace.json";
  Outcome o = baton({"generate", "--check", "-o", "json", "--logits", npy, "--trace", trace, "--max-tokens", "12", "--ignore-eos", "--tp", "2", kPrompt});
  ASSERT_EQ(o.code, 0) << o.err;
  json j = json::parse(o.out);
  EXPECT_EQ(j["schema"], "baton.generate/1");
  EXPECT_EQ(j["tokens"].size(), 12u);
  EXPECT_EQ(j["prompt_tokens"], 19);
  EXPECT_EQ(j["check"]["same_tokens"], true);
  EXPECT_EQ(j["check"]["same_logits"], true);
  EXPECT_EQ(j["prefill"]["ranks"], 2);
  EXPECT_GT(j["kv"]["bytes"].get<uint64_t>(), 0u);
  EXPECT_GT(j["wall"]["ttft_ms"].get<double>(), 0);
  EXPECT_FALSE(j["modelled"].is_null());

  // The trace has both clocks, each with a named lane for the two ranks, the link and the wafer.
  json t = json::parse(slurp(trace));
  std::map<int, int> lanes;
  for (auto& e : t["traceEvents"])
    if (e["name"] == "thread_name") ++lanes[e["pid"].get<int>()];
  EXPECT_GE(lanes[1], 4);
  EXPECT_GE(lanes[2], 3);

  Outcome single = baton({"generate", "--device", "host://", "-o", "json", "--logits", one, "--max-tokens", "12", "--ignore-eos", kPrompt});
  ASSERT_EQ(single.code, 0) << single.err;
  EXPECT_EQ(json::parse(single.out)["tokens"], j["tokens"]);
  EXPECT_EQ(slurp(npy), slurp(one)); // bit for bit
  EXPECT_GT(slurp(npy).size(), 12u * 2048 * 4);
}

// The same answer, whoever makes its first token; when decode does, the last token's KV does not travel.
TEST(Cli, TheFirstTokenIsMadeByEitherSide) {
  json by[2];
  for (int decode : {0, 1}) {
    Outcome o = baton({"generate", "--first-token", decode ? "decode" : "prefill", "--check", "-o", "json", "--max-tokens", "9", "--ignore-eos", "--tp", "2", kPrompt});
    ASSERT_EQ(o.code, 0) << o.err;
    by[decode] = json::parse(o.out);
    EXPECT_EQ(by[decode]["first_token"], decode ? "decode" : "prefill");
    EXPECT_EQ(by[decode]["tokens"].size(), 9u);
    EXPECT_EQ(by[decode]["check"]["same_tokens"], true);
    EXPECT_EQ(by[decode]["check"]["same_logits"], true);
    EXPECT_GT(by[decode]["wall"]["ttft_ms"].get<double>(), 0);
  }
  EXPECT_EQ(by[0]["tokens"], by[1]["tokens"]);
  EXPECT_EQ(by[0]["kv"]["bytes"].get<uint64_t>() * 18, by[1]["kv"]["bytes"].get<uint64_t>() * 19) << "a prompt of 19 tokens";
  Outcome one = baton({"generate", "--first-token", "decode", "-o", "json", "--max-tokens", "3", "--ignore-eos", "A"}); // of one token nothing is left to prefill
  EXPECT_EQ(one.code, 0) << one.err;
}

// From the loader to the last token, on both emulators, nothing is misused: validation has no word to say, and would abort at a misuse.
TEST(Cli, ValidationFindsNothing) {
  const std::map<std::string, std::string> validate = {{"BATON_LAYERS", "validate=abort"}};
  for (std::vector<std::string> args : {std::vector<std::string>{"--check"}, {"--check", "--tp", "2"}, {"--device", "host://"}}) {
    args.insert(args.begin(), "generate");
    args.insert(args.end(), {"--max-tokens", "6", "--ignore-eos", kPrompt});
    Outcome o = baton(args, validate);
    EXPECT_EQ(o.code, 0) << args[1];
    EXPECT_EQ(o.err, "") << args[1];
  }
  // And it is on: the same command with a word that it does not know.
  Outcome unknown = baton({"generate", "--device", "host://", "--max-tokens", "1", kPrompt}, {{"BATON_LAYERS", "validate=loudly"}});
  EXPECT_NE(unknown.code, 0);
  EXPECT_NE(unknown.err.find("layer validate: 'loudly'"), std::string::npos) << unknown.err;
}

TEST(Cli, StatsAndCheckForPeople) {
  Outcome o = baton({"generate", "--stats", "--check", "--max-tokens", "4", kPrompt});
  ASSERT_EQ(o.code, 0) << o.err;
  for (const char* text : {"first token, by prefill", "inter-token", "wall", "modelled", "hidden behind prefill", "segments by", "same tokens as one device"})
    EXPECT_NE(o.out.find(text), std::string::npos) << text << "\n" << o.out;
}

TEST(Cli, PromptFromFileStdinAndEnvironment) {
  TempDir dir;
  std::ofstream(dir.path() + "/prompt.txt") << kPrompt;
  std::vector<std::string> base = {"generate", "--device", "host://", "--max-tokens", "4"};
  auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> all = base;
    all.insert(all.end(), more.begin(), more.end());
    return baton(all);
  };
  std::string want = with({kPrompt}).out;
  EXPECT_EQ(with({"--file", dir.path() + "/prompt.txt"}).out, want);
  Outcome empty = with({"-"}); // standard input is closed: BOS alone
  EXPECT_EQ(empty.code, 0) << empty.err;
  Outcome other = baton({"generate", "--device", "host://", "x"}, {{"BATON_MODEL", dir.path()}});
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("config.json"), std::string::npos) << other.err;
}

TEST(Cli, InterruptEndsWith130) {
  TempDir dir;
  std::string key = dir.path() + "/key";
  ASSERT_EQ(baton({"keygen", key}).code, 0);
  EXPECT_NE(baton({"keygen", key}).code, 0); // never overwrites
  Process worker({baton::test::tool("baton"), "worker", "--role", "decode", "--device", "host://?isa=scalar", "--listen", "127.0.0.1:0", "--key-file", key});
  ASSERT_TRUE(worker.wait_out("\n", kPatience)) << worker.err();
  size_t at = worker.out().find("baton://");
  std::string address = worker.out().substr(at, worker.out().find(' ', at) - at);
  std::vector<std::string> args = {baton::test::tool("baton"), "generate", "--prefill", "host://", "--decode", address, "--key-file", key, "--ignore-eos", "--max-tokens"};
  {
    args.push_back("450");
    args.push_back(kPrompt);
    Process p(args);
    ASSERT_TRUE(p.wait_out_bytes(1, kPatience)) << p.err();
    p.kill(SIGINT);
    Exit e = p.wait(kPatience);
    EXPECT_TRUE(e.code == 130 || e.code == 0) << e.code << p.err(); // 0: it was done before the signal
  }
  args[args.size() - 2] = "4";
  Process again(args);
  EXPECT_EQ(again.wait(kPatience).code, 0) << again.err() << worker.err();
  worker.kill(SIGINT);
  EXPECT_EQ(worker.wait(kPatience).code, 130) << worker.err();
}

// GET of one path; "": nobody answers.
std::string http(const std::string& host_port, const std::string& path) {
  const size_t colon = host_port.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(uint16_t(std::stoi(host_port.substr(colon + 1))));
  inet_pton(AF_INET, host_port.substr(0, colon).c_str(), &to.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string text;
  const std::string ask = "GET " + path + " HTTP/1.0\r\nHost: x\r\n\r\n";
  if (!connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) && send(fd, ask.data(), ask.size(), MSG_NOSIGNAL) == ssize_t(ask.size())) {
    char some[4096];
    for (ssize_t n; (n = recv(fd, some, sizeof some, 0)) > 0;) text.append(some, size_t(n));
  }
  close(fd);
  return text;
}

// The number of the first line that begins with the name and has the label; -1: there is none.
double metric(const std::string& text, const std::string& name, const std::string& label) {
  std::stringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (line.rfind(name + "{", 0) == 0 && line.find(label) != std::string::npos) return std::stod(line.substr(line.rfind(' ') + 1));
  return -1;
}

TEST(Cli, WorkersTellPrometheusWhatTheyDid) {
  TempDir dir;
  const std::string key = dir.path() + "/key";
  ASSERT_EQ(baton({"keygen", key}).code, 0);
  struct Worker {
    Worker(const std::string& role, const std::string& device, const std::string& key)
        : process({baton::test::tool("baton"), "worker", "--role", role, "--device", device, "--listen", "127.0.0.1:0", "--key-file", key, "--metrics", "127.0.0.1:0"}) {
      EXPECT_TRUE(process.wait_out("\n", kPatience)) << process.err();
      const size_t at = process.out().find("baton://"), m = process.err().find("http://");
      address = process.out().substr(at, process.out().find(' ', at) - at);
      metrics = process.err().substr(m + 7, process.err().find('/', m + 7) - m - 7);
    }
    Process process;
    std::string address, metrics;
  };
  Worker decode("decode", "emu+cs3://0", key), prefill("prefill", "host://", key);
  for (int i = 0; i < 2; ++i) {
    const Outcome o = baton({"generate", "--prefill", prefill.address, "--decode", decode.address, "--key-file", key, "--ignore-eos", "--max-tokens", "9", kPrompt});
    ASSERT_EQ(o.code, 0) << o.err;
  }
  const Outcome other = baton({"generate", "--prefill", prefill.address, "--decode", decode.address, "--key-file", key, "--ignore-eos", "--max-tokens", "490", "--timeout", "0.2", kPrompt});
  EXPECT_EQ(other.code, 8);
  auto outcome = [&](const char* which) { return metric(http(decode.metrics, "/metrics"), "baton_requests_total", std::string("outcome=\"") + which + '"'); };
  for (int i = 0; i < kPatience / 50 && outcome("CANCELLED") + outcome("PEER_LOST") < 0; ++i) usleep(50'000);
  const std::string d = http(decode.metrics, "/metrics"), p = http(prefill.metrics, "/metrics");
  EXPECT_EQ(d.rfind("HTTP/1.", 0), 0u) << d;
  EXPECT_EQ(metric(d, "baton_requests_total", "outcome=\"ok\""), 2) << d;
  EXPECT_GE(metric(p, "baton_requests_total", "outcome=\"ok\""), 2) << p; // the prefill of the third may have been done
  EXPECT_GT(outcome("CANCELLED") + outcome("PEER_LOST"), -1) << d;
  EXPECT_GE(metric(d, "baton_tokens_total", ""), 16);  // the first of nine is the prefill's
  EXPECT_GE(metric(p, "baton_tokens_total", ""), 2);
  EXPECT_GE(metric(d, "baton_itl_seconds_count", "clock=\"wall\""), 14);
  EXPECT_EQ(metric(d, "baton_itl_seconds_count", "clock=\"wall\""), metric(d, "baton_itl_seconds_count", "clock=\"modelled\""));
  EXPECT_EQ(metric(p, "baton_ttft_seconds_count", ""), metric(p, "baton_tokens_total", ""));
  EXPECT_GT(metric(d, "baton_kv_bytes_total", "direction=\"in\""), 0);
  EXPECT_GT(metric(p, "baton_kv_bytes_total", "direction=\"out\""), 0);
  EXPECT_EQ(metric(d, "baton_requests_in_flight", ""), 0);
  EXPECT_EQ(metric(d, "baton_kv_blocks", ""), metric(d, "baton_kv_blocks_free", ""));
  EXPECT_NE(http(decode.metrics, "/healthz").find("\r\n\r\nok\n"), std::string::npos);
  EXPECT_NE(http(decode.metrics, "/").find("404"), std::string::npos);
  const Outcome taken = baton({"worker", "--role", "decode", "--device", "host://", "--listen", "127.0.0.1:0", "--key-file", key, "--metrics", decode.metrics});
  EXPECT_EQ(taken.code, 5) << taken.err; // BUSY
}

TEST(Cli, TimeoutEndsWith8) {
  Outcome o = baton({"generate", "--device", "host://?isa=scalar", "--ignore-eos", "--max-tokens", "490", "--timeout", "0.02", kPrompt});
  EXPECT_EQ(o.code, 8) << o.err;
  EXPECT_NE(o.err.find("DEADLINE"), std::string::npos) << o.err;
}

}  // namespace
