// emu fault, emu clock, and what health, info, stats and top say of channels and rails that do not do as the others.
#include "hal/baton.hpp"
#include "tests/unit/devctl_test.hpp"

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <chrono>

namespace {

using namespace baton::test;
using nlohmann::json;
using baton::deadline_in_ms;

// An emulated wafer that is up, as an operator has it.
class Faults : public testing::Test {
 protected:
  void SetUp() override {
    setenv("BATON_RUN_DIR", (dir.path() + "/run").c_str(), 1);
    if (!std::filesystem::exists(plugin("baton-emu-cs3"))) GTEST_SKIP();
  }
  void TearDown() override {
    devctl({"emu", "down", "all"}, env());
    unsetenv("BATON_RUN_DIR");
  }
  std::string up(const std::string& uri = "emu+cs3://0?sram_gb=0.1", const std::string& name = "w") { return document({"emu", "up", uri, "--name", name}, "emu.up", env())["address"]; }
  // A MiB to the wafer: every channel carries a part.
  void copy(const baton::Instance& in, const baton::Device& d) {
    auto host = must(in.open("host://"));
    auto from = must(host.alloc(1 << 20)), to = must(d.alloc(1 << 20));
    std::memset(must(from.map()), 1, 1 << 20);
    auto link = must(in.link(host, d));
    auto t = must(in.timeline("t"));
    ASSERT_TRUE(link.submit(baton::copy(from, 0, to, 0, 1 << 20).signal(t, 1)).ok());
    ASSERT_TRUE(t.wait_until(1, deadline_in_ms(kPatienceMs)).ok());
  }
  json findings(int code, const std::string& check) {
    const json all = document({"health"}, "health", env(), code)["findings"];
    json kept = json::array();
    for (auto& f : all)
      if (f["check"] == check) kept.push_back(f);
    return kept;
  }
  TempDir dir;
  Env env() const { return {{"BATON_RUN_DIR", dir.path() + "/run"}, {"XDG_RUNTIME_DIR", dir.path()}, {"BATON_SYSFS_ROOT", dir.path() + "/sys"}}; }
};

TEST_F(Faults, APlanIsShownSetAndCleared) {
  const std::string address = up("emu+cs3://0?sram_gb=0.1&wafers=2");
  const json none = document({"emu", "fault", "w"}, "emu.fault", env());
  EXPECT_EQ(none["written"], false);
  EXPECT_EQ(none["address"], address);
  ASSERT_EQ(none["wafers"].size(), 2u);
  EXPECT_TRUE(none["wafers"][0]["plan"]["rules"].empty());
  EXPECT_NE(devctl({"emu", "fault", "w"}, env()).out.find("wafer 1  nothing is planned"), std::string::npos);
  const json set = document({"emu", "fault", "w", R"({"dead_channels": [3], "rules": [{"call": "launch", "nth": 2, "action": "fail"}]})", "--wafer", "1"}, "emu.fault", env());
  ASSERT_EQ(set["wafers"].size(), 1u);
  EXPECT_EQ(set["wafers"][0]["wafer"], 1);
  EXPECT_EQ(set["wafers"][0]["plan"]["dead_channels"], json({3}));
  const Ran text = devctl({"emu", "fault", address}, env());
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("wafer 0  nothing is planned"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("wafer 1  dead_channels [3]\n"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("met 0, went wrong 0"), std::string::npos) << text.out;
  std::ofstream(dir.path() + "/plan.json") << R"({"slow_ingress": 4})";
  EXPECT_EQ(document({"emu", "fault", "w", dir.path() + "/plan.json"}, "emu.fault", env())["wafers"][1]["plan"]["slow_ingress"], 4.0);
  EXPECT_EQ(document({"emu", "fault", "w", "--clear"}, "emu.fault", env())["written"], true);
  EXPECT_EQ(document({"emu", "fault", "w", "none"}, "emu.fault", env())["wafers"][0]["plan"]["slow_ingress"], 1.0);

  refused({"emu", "fault", "w", R"({"dead_channels": [16]})"}, 2, "16 in the fault plan", env());
  refused({"emu", "fault", "w", "{"}, 2, "no JSON", env());
  refused({"emu", "fault", "w", dir.path() + "/no-such-file"}, 2, "neither a plan nor", env());
  refused({"emu", "fault", "w", "none", "--clear"}, 2, "", env());
  refused({"emu", "fault", "w", "--wafer", "2"}, 3, "no wafer 2", env());
  refused({"emu", "fault", "v"}, 3, "up: w", env());
  refused({"emu", "fault", "cs3://127.0.0.1:1"}, 3, "", env());
  refused({"emu", "fault", "emu+cs3://0"}, 6, "no running daemon", env());
  refused({"emu", "fault"}, 2, "", env());
  if (!std::filesystem::exists(plugin("baton-emu-neuron"))) return;
  document({"emu", "up", "emu+neuron://0?machine=trn2.3xlarge", "--name", "n"}, "emu.up", env());
  refused({"emu", "fault", "n", "--clear"}, 6, "each process emulates", env());
  refused({"emu", "clock", "n"}, 6, "each process emulates", env());
}

TEST_F(Faults, TheClockIsShownAndChanged) {
  up();
  EXPECT_EQ(document({"emu", "clock", "w"}, "emu.clock", env())["clocks"][0]["hz"], 750'000'000);
  EXPECT_EQ(document({"emu", "clock", "w", "1.1e9"}, "emu.clock", env())["clocks"][0]["hz"], 1'100'000'000);
  EXPECT_NE(devctl({"emu", "clock", "w"}, env()).out.find("1.1 GHz"), std::string::npos);
  refused({"emu", "clock", "w", "5"}, 2, "5 Hz", env());
  refused({"emu", "clock", "w", "-1"}, 2, "", env());
  refused({"emu", "clock", "w", "fast"}, 2, "", env());
  refused({"emu", "clock", "v"}, 3, "up: w", env());
  up("emu+cs3://0?sram_gb=0.1&timing=none", "untimed");
  refused({"emu", "clock", "untimed"}, 6, "no timing model", env());
}

TEST_F(Faults, AChannelThatIsSlowOrDeadIsNamedWithWhatItCosts) {
  const std::string address = up();
  baton::Instance in = must(baton::Instance::create());
  baton::Device d = must(in.open(address));
  copy(in, d);
  EXPECT_TRUE(document({"health"}, "health", env())["healthy"]);
  document({"emu", "fault", "w", R"({"slow_channels": {"5": 100}})"}, "emu.fault", env());
  copy(in, d);
  json slow = findings(1, "channel");
  ASSERT_EQ(slow.size(), 1u) << slow.dump(1);
  EXPECT_EQ(slow[0]["severity"], "error");
  EXPECT_EQ(slow[0]["subject"], address + " (w) wafer 0");
  EXPECT_NE(slow[0]["what"].get<std::string>().find("channel 5 of 16 is slow: "), std::string::npos) << slow[0]["what"];
  EXPECT_NE(slow[0]["what"].get<std::string>().find("(modelled)"), std::string::npos) << slow[0]["what"];
  EXPECT_NE(slow[0]["next"].get<std::string>().find("devctl emu fault w --clear"), std::string::npos);
  EXPECT_NE(slow[0]["next"].get<std::string>().find("?channels=5"), std::string::npos);
  EXPECT_EQ(document({}, "summary", env())["next"], "devctl health");

  const json info = document({"info", address}, "info", env())["devices"][0];
  ASSERT_EQ(info["wafers"].size(), 1u);
  const json& channels = info["wafers"][0]["channels"];
  ASSERT_EQ(channels.size(), 16u);
  EXPECT_NEAR(channels[6]["rate"].get<double>() / channels[5]["rate"].get<double>(), 100, 1);
  EXPECT_GT(info["wafers"][0]["waited_ns"], 0);
  EXPECT_NE(devctl({"info", address}, env()).out.find("5 is slow: "), std::string::npos);
  EXPECT_NE(devctl({"stats"}, env()).out.find("5 is slow: "), std::string::npos);

  // What health says to do helps: fewer channels, without the slow one.
  const uint64_t waited = document({"stats"}, "stats", env())["wafers"][0]["waited_ns"];
  baton::Device few = must(in.open(address + "?channels=5"));
  copy(in, few);
  const json after = document({"stats"}, "stats", env())["wafers"][0];
  EXPECT_EQ(after["waited_ns"], waited);
  EXPECT_EQ(after["channels"][5]["bytes"], channels[5]["bytes"]);
  EXPECT_GT(after["channels"][4]["bytes"], channels[4]["bytes"]);

  document({"emu", "fault", "w", R"({"dead_channels": [0, 9]})"}, "emu.fault", env());
  copy(in, d);
  const json dead = findings(1, "channel");
  ASSERT_EQ(dead.size(), 2u) << dead.dump(1);
  EXPECT_EQ(dead[1]["severity"], "warning");
  EXPECT_NE(dead[1]["what"].get<std::string>().find("channel 9 of 16 is dead"), std::string::npos);
  const std::string prometheus = devctl({"stats", "-o", "prometheus"}, env()).out;
  EXPECT_NE(prometheus.find(",channel=\"9\"} 0\n"), std::string::npos) << prometheus;
  EXPECT_NE(prometheus.find("# TYPE baton_wafer_channel_bytes_total counter\n"), std::string::npos);
  document({"emu", "fault", "w", "--clear"}, "emu.fault", env());
  EXPECT_TRUE(findings(0, "channel").empty());

  document({"emu", "fault", "w", R"({"rules": [{"call": "memcpy_h2d", "action": "lose_wafer"}]})"}, "emu.fault", env());
  auto host = must(in.open("host://"));
  auto from = must(host.alloc(4096)), to = must(d.alloc(4096));
  auto t = must(in.timeline("lost"));
  ASSERT_TRUE(must(in.link(host, d)).submit(baton::copy(from, 0, to, 0, 4096).signal(t, 1)).ok());
  EXPECT_FALSE(t.wait_until(1, deadline_in_ms(kPatienceMs)).ok());
  const json lost = findings(1, "lost");
  ASSERT_FALSE(lost.empty());
}

// A daemon that hangs costs a look its patience, and is named.
TEST_F(Faults, ADaemonThatDoesNotAnswerIsAFinding) {
  const std::string address = up();
  const pid_t pid = document({"emu", "ls"}, "emu.ls", env())["systems"][0]["pid"];
  ASSERT_EQ(kill(pid, SIGSTOP), 0);
  const json silent = findings(1, "daemon");
  kill(pid, SIGCONT);
  ASSERT_EQ(silent.size(), 1u);
  EXPECT_EQ(silent[0]["severity"], "warning");
  EXPECT_NE(silent[0]["what"].get<std::string>().find("could not be asked: "), std::string::npos) << silent[0]["what"];
}

// How much is reset is said, and said before; what has no such level refuses.
TEST_F(Faults, ResetByLevelSaysWhatEnds) {
  const std::string address = up("emu+cs3://0?sram_gb=0.1&wafers=2");
  const auto epochs = [&] {
    const json wafers = document({"stats"}, "stats", env())["wafers"];
    return std::pair(wafers[0]["epoch"].get<int>(), wafers[1]["epoch"].get<int>());
  };
  const json dry = document({"reset", "w", "--level", "wafer", "--wafer", "1", "--dry-run"}, "reset", env());
  EXPECT_EQ(dry["level"], "wafer");
  EXPECT_NE(dry["devices"][0]["ends"].get<std::string>().find("programs of wafer 1, epoch 1"), std::string::npos) << dry;
  EXPECT_EQ(epochs(), std::pair(1, 1)) << "nothing has ended";
  EXPECT_EQ(document({"reset", address, "--level", "wafer", "--wafer", "1"}, "reset", env())["devices"][0]["epoch"], 2);
  EXPECT_EQ(epochs(), std::pair(1, 2));
  document({"reset", "w"}, "reset", env());
  EXPECT_EQ(epochs(), std::pair(2, 3)) << "the device is all of its wafers";
  {
    baton::Instance in = must(baton::Instance::create());
    baton::Device d = must(in.open(address));
    for (const char* level : {"wafer", "device", "daemon"}) refused({"reset", "w", "--level", level}, 5, "held by process " + std::to_string(getpid()), env());
    // By a process that this host's pages do not show, too.
    Env elsewhere = env();
    elsewhere["BATON_RUN_DIR"] = dir.path() + "/other";
    refused({"reset", address, "--level", "wafer"}, 5, "1 client on other hosts", elsewhere);
  }
  document({"emu", "fault", "w", R"({"slow_ingress": 4})"}, "emu.fault", env());
  const json before = document({"emu", "ls"}, "emu.ls", env())["systems"][0];
  EXPECT_NE(devctl({"reset", "w", "--level", "daemon", "--dry-run"}, env()).out.find("its fault plan and its clock"), std::string::npos);
  EXPECT_EQ(document({"reset", "w", "--level", "daemon"}, "reset", env())["devices"][0]["reset"], true);
  const json after = document({"emu", "ls"}, "emu.ls", env())["systems"][0];
  EXPECT_EQ(after["alive"], true);
  EXPECT_EQ(after["address"], address);
  EXPECT_NE(after["pid"], before["pid"]);
  EXPECT_EQ(epochs(), std::pair(1, 1)) << "a new process, with as many wafers";
  EXPECT_EQ(document({"emu", "fault", "w"}, "emu.fault", env())["wafers"][0]["plan"]["slow_ingress"], 1.0);

  refused({"reset", "w", "--level", "core"}, 6, "no level 'core'", env());
  refused({"reset", "host0", "--level", "wafer"}, 6, "levels of it: device", env());
  refused({"reset", "host0", "--level", "daemon"}, 6, "no level 'daemon'", env());
  refused({"reset", "w", "--wafer", "1"}, 2, "--level wafer", env());
  refused({"reset", "w", "--level", "wafer", "--wafer", "7"}, 3, "no wafer 7", env());
  refused({"reset", "w", "--level", "all"}, 2, "", env());
  refused({"reset", "cs3://127.0.0.1:1", "--level", "daemon"}, 6, "not started by devctl", env());
  refused({"reset", "cs3://127.0.0.1:1"}, 3, "", env());
  if (!std::filesystem::exists(plugin("baton-emu-neuron"))) return;
  refused({"reset", "emu+neuron://0", "--level", "wafer"}, 6, "levels of it: core, device", env());
  EXPECT_EQ(document({"reset", "emu+neuron://0", "--level", "core"}, "reset", env())["level"], "core");
}

// Rails as a worker publishes them.
TEST_F(Faults, RailsThatAreDeadOrSilentAreNamedWithWhatToDo) {
  baton::Instance in = must(baton::Instance::create());
  const auto set = [&](const std::string& metric, const std::string& nic, const std::string& peer, uint64_t v) {
    *in.stats_value(metric + "{nic=\"" + nic + "\",peer=\"" + peer + "\"}") = v;
  };
  const uint64_t now = uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
  for (const char* nic : {"eth0", "eth1", "lo 127.0.0.2"}) set("baton_rail_up", nic, "ens1", 1), set("baton_rail_down_timestamp_seconds", nic, "ens1", 0), set("baton_rail_silent_seconds", nic, "ens1", 0);
  EXPECT_TRUE(findings(0, "rail").empty());
  set("baton_rail_up", "eth1", "ens1", 0), set("baton_rail_failures_total", "eth1", "ens1", 3), set("baton_rail_down_timestamp_seconds", "eth1", "ens1", now - 60'000'000'000);
  *in.stats_value("baton_requests") = 2;
  *in.stats_value("baton_request_oldest_seconds") = 61'000'000'000;
  const json dead = findings(1, "rail");
  ASSERT_EQ(dead.size(), 1u);
  EXPECT_EQ(dead[0]["subject"], "rail eth1 > ens1");
  const std::string what = dead[0]["what"], next = dead[0]["next"];
  EXPECT_NE(what.find("is dead since 20"), std::string::npos) << what;
  EXPECT_NE(what.find("failed 3 times; 2 requests of pid " + std::to_string(getpid()) + " in flight, the oldest for 61.00 s"), std::string::npos) << what;
  EXPECT_NE(next.find("ip link show eth1"), std::string::npos) << next;
  EXPECT_NE(next.find("--rails eth0,127.0.0.2"), std::string::npos) << next;
  set("baton_rail_silent_seconds", "eth0", "ens1", 3'000'000'000);
  const json both = findings(1, "rail");
  ASSERT_EQ(both.size(), 2u);
  EXPECT_NE(both.dump().find("is silent"), std::string::npos);
  EXPECT_NE(both[0]["next"].get<std::string>().find("--rails 127.0.0.2"), std::string::npos);
  const std::string stats = devctl({"stats"}, env()).out, value = "baton_rail_down_timestamp_seconds{nic=\"eth1\",peer=\"ens1\"}";
  const size_t at = stats.find(value);
  ASSERT_NE(at, std::string::npos);
  EXPECT_EQ(stats.compare(stats.find_first_not_of(' ', at + value.size()), 2, "20"), 0) << "a day, not a duration\n" << stats;
}

}  // namespace
