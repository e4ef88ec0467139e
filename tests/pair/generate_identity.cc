// Workers and clients that know each other by key pairs, and workers that are registered in etcd, as a person runs them.
#include "tests/support/process.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <unistd.h>

namespace {

using baton::test::Exit;
using baton::test::Process;
using baton::test::TempDir;
using nlohmann::json;

constexpr int kPatience = 120000;

struct Outcome {
  int code;
  std::string out, err;
};
Outcome run(const char* tool, std::vector<std::string> args) {
  args.insert(args.begin(), baton::test::tool(tool));
  Process p(args);
  p.close_stdin();
  const Exit e = p.wait(kPatience);
  EXPECT_TRUE(e.ended);
  return {e.code, p.out(), p.err()};
}

struct Identities : testing::Test {
  std::string identity(const std::string& name) {
    const Outcome o = run("devctl", {"key", "new", dir.path() + "/" + name, "-o", "json"});
    EXPECT_EQ(o.code, 0) << o.err;
    return json::parse(o.out)["public_key"];
  }
  std::string known(const std::string& name, const std::string& text) {
    const std::string path = dir.path() + "/" + name;
    std::ofstream(path, std::ios::trunc) << text;
    std::filesystem::permissions(path, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
    return path;
  }
  std::string file(const std::string& name) { return dir.path() + "/" + name; }
  // Starts a worker and gives its baton:// address.
  std::string start(std::optional<Process>& worker, const std::string& role, const std::string& name, std::vector<std::string> more = {}) {
    std::vector<std::string> args{baton::test::tool("baton"), "worker", "--role", role, "--device", "host://?isa=scalar", "--listen", "127.0.0.1:0"};
    if (!name.empty()) args.insert(args.end(), {"--identity", file(name + ".id"), "--known-peers", file(name + ".known")});
    args.insert(args.end(), more.begin(), more.end());
    worker.emplace(args);
    EXPECT_TRUE(worker->wait_out("\n", kPatience)) << worker->err();
    const size_t at = worker->out().find("baton://");
    return at == std::string::npos ? "" : worker->out().substr(at, worker->out().find(' ', at) - at);
  }
  TempDir dir;
};

TEST_F(Identities, HandOverBetweenThoseThatKnowEachOtherAndNobodyElse) {
  const std::string decode = identity("decode.id"), prefill = identity("prefill.id"), client = identity("client.id");
  const std::string other = identity("other.id");
  known("decode.known", "prefill-1 " + prefill + " roles=prefill\nclient-1 " + client + " roles=client\n");
  known("prefill.known", "decode-1 " + decode + " roles=decode\nclient-1 " + client + " roles=client\n");
  const std::string both = known("client.known", "decode-1 " + decode + " roles=decode\nprefill-1 " + prefill + " roles=prefill\n");
  std::optional<Process> d, p;
  const std::string at_d = start(d, "decode", "decode"), at_p = start(p, "prefill", "prefill");
  const auto generate = [&](const std::string& id, const std::string& peers, std::vector<std::string> sides) {
    std::vector<std::string> args{"generate", "--ignore-eos", "--max-tokens", "4", "--identity", file(id), "--known-peers", peers};
    args.insert(args.end(), sides.begin(), sides.end());
    args.push_back("It is");
    return run("baton", args);
  };
  const Outcome alone = run("baton", {"generate", "--device", "host://?isa=scalar", "--ignore-eos", "--max-tokens", "4", "It is"});
  const Outcome good = generate("client.id", both, {"--prefill", at_p, "--decode", at_d});
  EXPECT_EQ(good.code, 0) << good.err << d->err() << p->err();
  EXPECT_EQ(good.out, alone.out);
  // One side in the client's own process: the two ends of one identity know each other, and the decode worker knows the client.
  const Outcome half = generate("client.id", both, {"--prefill", "host://?isa=scalar", "--decode", at_d});
  EXPECT_EQ(half.code, 0) << half.err << d->err();
  const Outcome unknown = generate("other.id", both, {"--prefill", at_p, "--decode", at_d});
  EXPECT_EQ(unknown.code, 4) << unknown.err;
  EXPECT_NE(unknown.err.find("does not know this side's key, fingerprint"), std::string::npos) << unknown.err;
  EXPECT_NE(unknown.err.find("NAME " + other), std::string::npos) << unknown.err;
  const Outcome swapped = generate("client.id", both, {"--prefill", at_d, "--decode", at_p});
  EXPECT_EQ(swapped.code, 4) << swapped.err;
  EXPECT_NE(swapped.err.find("does not give the role decode"), std::string::npos) << swapped.err;
  const Outcome none = run("baton", {"generate", "--decode", at_d, "x"});
  EXPECT_EQ(none.code, 2) << none.err;
  EXPECT_NE(none.err.find("--identity"), std::string::npos) << none.err;
  // A client that is taken off the list is refused at its next connect, without a restart.
  known("decode.known", "prefill-1 " + prefill + " roles=prefill\n");
  const Outcome removed = generate("client.id", both, {"--prefill", at_p, "--decode", at_d});
  EXPECT_EQ(removed.code, 4) << removed.err;
  EXPECT_NE(removed.err.find("does not know this side's key"), std::string::npos) << removed.err;
}

// Of the workers in a file: one is gone, one drains, one has another model, one is loaded.
TEST_F(Identities, WorkersAreChosenFromThoseThatAreRegistered) {
  ASSERT_EQ(run("baton", {"keygen", file("key")}).code, 0);
  std::optional<Process> d[4], p[2];
  std::string at_d[4], at_p[2];
  const std::vector<std::string> key = {"--key-file", file("key")};
  for (int i = 0; i < 4; ++i) at_d[i] = start(d[i], "decode", "", i < 3 ? key : std::vector<std::string>{"--key-file", file("key"), "--precision", "f32"});
  for (int i = 0; i < 2; ++i) at_p[i] = start(p[i], "prefill", "", key);
  const auto entry = [&](const std::string& id, const std::string& role, const std::string& at, const std::string& model, const std::string& state, int requests) {
    return json{{"id", id}, {"role", role}, {"address", at.substr(8)}, {"model", model}, {"state", state}, {"requests", requests}};
  };
  const auto write = [&](const json& list) { std::ofstream(file("workers.json"), std::ios::trunc) << json{{"workers", list}}.dump(); };
  const auto generate = [&](std::vector<std::string> more = {}) {
    std::vector<std::string> args{"generate", "--ignore-eos", "--max-tokens", "4", "--key-file", file("key"), "--workers", file("workers.json"), "-o", "json", "It is"};
    args.insert(args.end(), more.begin(), more.end());
    return run("baton", args);
  };
  // The model's identity, from the refusal of one that is none.
  write(json::array({entry("d", "decode", at_d[0], "none", "ready", 0)}));
  const Outcome nobody = generate();
  EXPECT_EQ(nobody.code, 3) << nobody.err;
  const size_t at = nobody.err.find("for model ");
  ASSERT_NE(at, std::string::npos) << nobody.err;
  EXPECT_NE(nobody.err.find("1 have another model"), std::string::npos) << nobody.err;
  const std::string model = nobody.err.substr(at + 10, nobody.err.find(':', at) - at - 10);

  // What a person writes: who, what and where. The model is the worker's to refuse.
  write(json::array({json{{"id", "d"}, {"role", "decode"}, {"address", at_d[0].substr(8)}}, json{{"id", "p"}, {"role", "prefill"}, {"address", at_p[0].substr(8)}}}));
  const Outcome plain = generate();
  EXPECT_EQ(plain.code, 0) << plain.err;

  d[0]->kill(SIGKILL);
  d[0]->wait(kPatience);
  const json all = json::array({entry("gone", "decode", at_d[0], model, "ready", 0),      entry("drains", "decode", at_d[1], model, "draining", 0),
                    entry("loaded", "decode", at_d[2], model, "ready", 9),    entry("f32", "decode", at_d[3], "another", "ready", 0),
                    entry("idle", "prefill", at_p[0], model, "ready", 1),     entry("busy", "prefill", at_p[1], model, "ready", 2)});
  write(all);
  const Outcome good = generate();
  ASSERT_EQ(good.code, 0) << good.err;
  EXPECT_NE(good.out.find(at_d[2]), std::string::npos) << "the one that is there, drains not and has the model: " << good.out;
  EXPECT_NE(good.out.find(at_p[0]), std::string::npos) << "the less loaded: " << good.out;
  const Outcome alone = run("baton", {"generate", "--device", "host://?isa=scalar", "--ignore-eos", "--max-tokens", "4", "-o", "json", "It is"});
  EXPECT_EQ(json::parse(good.out)["text"], json::parse(alone.out)["text"]);
  // A side that is given is not chosen.
  const Outcome half = generate({"--prefill", "host://?isa=scalar"});
  EXPECT_EQ(half.code, 0) << half.err;
  EXPECT_NE(half.out.find(at_d[2]), std::string::npos) << half.out;
  // The decode side answers no more, though it is listed and takes connections: the other one does, when it no longer drains.
  json again = all;
  again[1]["state"] = "ready";
  write(again);
  d[2]->kill(SIGKILL);
  d[2]->wait(kPatience);
  const Outcome other = generate();
  ASSERT_EQ(other.code, 0) << other.err;
  EXPECT_NE(other.out.find(at_d[1]), std::string::npos) << other.out;
  write(json::array({entry("gone", "decode", at_d[0], model, "ready", 0)}));
  EXPECT_EQ(generate({"--prefill", "host://?isa=scalar"}).code, 7) << "nobody is left";
}

// One that dies while it works for a request of which no token was told: another does it.
TEST_F(Identities, AWorkerThatDiesIsReplaced) {
  ASSERT_EQ(run("baton", {"keygen", file("key")}).code, 0);
  std::optional<Process> d, p[2];
  const std::vector<std::string> key = {"--key-file", file("key")};
  const std::string at_d = start(d, "decode", "", key);
  const std::string at_p[2] = {start(p[0], "prefill", "", key), start(p[1], "prefill", "", key)};
  const Outcome probe = [&] {
    std::ofstream(file("workers.json"), std::ios::trunc) << R"({"workers": []})";
    return run("baton", {"generate", "--key-file", file("key"), "--workers", file("workers.json"), "x"});
  }();
  const size_t at = probe.err.find("for model ");
  ASSERT_NE(at, std::string::npos) << probe.err;
  const std::string model = probe.err.substr(at + 10, probe.err.find(':', at) - at - 10);
  json list = json::array({{{"id", "d"}, {"role", "decode"}, {"address", at_d.substr(8)}, {"model", model}}});
  for (int i = 0; i < 2; ++i) list.push_back({{"id", "p" + std::to_string(i)}, {"role", "prefill"}, {"address", at_p[i].substr(8)}, {"model", model}, {"requests", i}});
  std::ofstream(file("workers.json"), std::ios::trunc) << json{{"workers", list}}.dump();
  p[0]->kill(SIGSTOP); // takes the connection, and says nothing
  std::string prompt;
  for (int i = 0; i < 30; ++i) prompt += "It is a truth universally acknowledged. ";
  Process client({baton::test::tool("baton"), "generate", "--ignore-eos", "--max-tokens", "4", "--key-file", file("key"), "--workers", file("workers.json"), "-o", "json", prompt});
  client.close_stdin();
  usleep(300'000); // the client has begun with that one, or is about to: either way it is the first
  p[0]->kill(SIGKILL);
  const Exit e = client.wait(kPatience);
  ASSERT_TRUE(e.ended);
  EXPECT_EQ(e.code, 0) << client.err();
  EXPECT_NE(client.out().find(at_p[1]), std::string::npos) << client.out();
}

TEST_F(Identities, ARegisteredWorkerIsListedDrainsAndIsGone) {
  if (std::system("command -v etcd >/dev/null 2>&1")) GTEST_SKIP() << "etcd is not installed (Debian: etcd-server)";
  // Ports of this process's choice: taken by another meanwhile, etcd ends, and others are tried.
  std::string url;
  std::optional<Process> etcd;
  for (int attempt = 0; attempt < 5 && url.empty(); ++attempt) {
    const int port = 20000 + (getpid() * 7 + attempt * 131) % 40000;
    const std::string c = "http://127.0.0.1:" + std::to_string(port), p = "http://127.0.0.1:" + std::to_string(port + 1);
    etcd.emplace(std::vector<std::string>{"/bin/sh", "-c", "exec setpriv --pdeathsig KILL etcd --name t --data-dir " + file("etcd" + std::to_string(attempt)) + " --listen-client-urls " + c + " --advertise-client-urls " + c +
                                              " --listen-peer-urls " + p + " --initial-advertise-peer-urls " + p + " --initial-cluster t=" + p + " >/dev/null 2>&1"});
    for (int i = 0; i < 100 && url.empty() && !etcd->wait(1).ended; ++i)
      if (run("devctl", {"workers", c, "--timeout-ms", "1000"}).code == 0) url = c;
  }
  ASSERT_FALSE(url.empty());
  ASSERT_EQ(run("baton", {"keygen", file("key")}).code, 0);
  std::optional<Process> d;
  const std::string address = start(d, "decode", "", {"--key-file", file("key"), "--register", url, "--id", "decode-1"});
  ASSERT_TRUE(d->wait_err("registered as decode-1", kPatience)) << d->err();
  const auto list = [&] { return json::parse(run("devctl", {"workers", url, "-o", "json"}).out, nullptr, false)["workers"]; };
  json workers = list();
  ASSERT_EQ(workers.size(), 1u) << workers.dump();
  EXPECT_EQ(workers[0]["id"], "decode-1");
  EXPECT_EQ("baton://" + workers[0]["address"].get<std::string>(), address);
  EXPECT_EQ(workers[0]["state"], "ready");
  EXPECT_GT(workers[0]["capacity"], 0);
  EXPECT_EQ(workers[0]["layout"].get<std::string>().size(), 16u);
  d->kill(SIGTERM);
  EXPECT_EQ(d->wait(kPatience).code, 0) << d->err();
  EXPECT_NE(d->err().find("draining: 0 requests"), std::string::npos) << d->err();
  EXPECT_TRUE(list().empty());
}

}  // namespace
