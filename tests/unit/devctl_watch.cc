// who, stats, top, reset, diag: what devctl says of processes that run, and of one that was killed.
#include "hal/baton.hpp"
#include "tests/unit/devctl_test.hpp"

#include <nlohmann/json.hpp>

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace baton::test;
using nlohmann::json;
using baton::deadline_in_ms;

// This process works with the host; devctl, another process, looks on.
class Watched : public testing::Test {
 protected:
  void SetUp() override { setenv("BATON_RUN_DIR", (dir.path() + "/run").c_str(), 1); }
  void TearDown() override { unsetenv("BATON_RUN_DIR"); }
  TempDir dir;
  Env env() const { return {{"BATON_RUN_DIR", dir.path() + "/run"}, {"XDG_RUNTIME_DIR", dir.path()}, {"BATON_SYSFS_ROOT", dir.path() + "/sys"}}; }
  json of_mine(const json& doc) const {
    for (auto& p : doc["processes"])
      if (p["pid"] == getpid()) return p;
    ADD_FAILURE() << "this process is not in " << doc.dump(1);
    return {};
  }
};

TEST_F(Watched, WhoAndStatsShowWhatThisProcessDoes) {
  for (auto& holder : document({"who"}, "who", env())["holders"]) EXPECT_NE(holder["pid"], getpid()); // cores of emulated chips may be held by tests beside
  baton::Instance in = must(baton::Instance::create());
  EXPECT_EQ(in.stats_folder(), dir.path() + "/run");
  baton::Device d = must(in.open("host://"));
  baton::Buffer b = must(d.alloc(1 << 20));
  baton::Queue q = must(d.queue());
  baton::Timeline t = must(in.timeline("t"));
  for (uint64_t i = 0; i < 5; ++i) ASSERT_TRUE(q.submit(baton::fill(b, 0, 1 << 20, 1).signal(t, i + 1)).ok());
  ASSERT_TRUE(t.wait_until(5, deadline_in_ms(20'000)).ok());
  baton::Timeline never = must(in.timeline("never"));
  ASSERT_TRUE(q.submit(baton::fill(b, 0, 4096, 1).wait(never, 1)).ok());
  *in.stats_value("baton_requests") = 3;
  *in.stats_value("baton_itl_wall_seconds{quantile=\"0.5\"}") = 2'500'000;
  EXPECT_EQ(in.stats_value("baton_requests"), in.stats_value("baton_requests"));

  json who = document({"who"}, "who", env());
  ASSERT_EQ(who["holders"].size(), 1u);
  EXPECT_EQ(who["holders"][0]["pid"], getpid());
  EXPECT_EQ(who["holders"][0]["device"], "host://");
  EXPECT_EQ(who["holders"][0]["memory_bytes"], 1 << 20);
  EXPECT_EQ(who["holders"][0]["queues"], 1);
  EXPECT_EQ(who["holders"][0]["in_flight"], 1);
  EXPECT_NE(who["holders"][0]["command"].get<std::string>().find("watch"), std::string::npos);
  EXPECT_EQ(document({"who", "host0"}, "who", env())["holders"].size(), 1u);
  refused({"who", "trn9"}, 3, "trn9", env());

  const json stats = of_mine(document({"stats"}, "stats", env()));
  ASSERT_EQ(stats["queues"].size(), 1u);
  EXPECT_EQ(stats["queues"][0]["queue"], "host:// lane 0");
  EXPECT_EQ(stats["queues"][0]["submitted"], 6);
  EXPECT_EQ(stats["queues"][0]["done"], 5);
  EXPECT_EQ(stats["queues"][0]["bytes"], 5 << 20);
  EXPECT_EQ(stats["values"]["baton_requests"], 3);
  const std::string prometheus = devctl({"stats", "-o", "prometheus"}, env()).out;
  EXPECT_NE(prometheus.find("# TYPE baton_queue_ops_total counter\n"), std::string::npos) << prometheus;
  EXPECT_NE(prometheus.find(",quantile=\"0.5\"} 0.002500000\n"), std::string::npos) << prometheus;
  refused({"health", "-o", "prometheus"}, 2, "no numbers", env());
  refused({"stats", "-o", "prometheus", "--delta"}, 2, "without --delta", env());
  json delta = of_mine(document({"stats", "--delta", "--interval-ms", "50"}, "stats.delta", env()));
  EXPECT_EQ(delta["queues"][0]["ops_per_s"], 0.0);
  EXPECT_EQ(delta["queues"][0]["open"], 1);

  // An op that nothing ends is found, with who waits.
  json health;
  for (int i = 0; i < 100; ++i) {
    health = json::parse(devctl({"health", "-o", "json"}, env()).out, nullptr, false);
    if (health.dump().find("\"stuck\"") != std::string::npos) break;
    usleep(100'000);
  }
  EXPECT_NE(health.dump().find("1 op of pid " + std::to_string(getpid())), std::string::npos) << health.dump(1);
  refused({"reset", "host0"}, 5, "held by process " + std::to_string(getpid()), env());
  never.poison(baton::Error(BATON_CANCELLED, "over", ""));
}

TEST_F(Watched, PagesGoWithTheirInstanceAndStayAfterAKill) {
  { baton::Instance in = must(baton::Instance::create()); }
  EXPECT_TRUE(document({"stats"}, "stats", env())["processes"].empty());
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    baton::Instance in = must(baton::Instance::create());
    baton::Device d = must(in.open("host://"));
    baton::Queue q = must(d.queue());
    baton::Timeline never = must(in.timeline("never"));
    (void)q.submit(baton::nop().wait(never, 1)).ok();
    (void)!write(ready[1], "x", 1);
    pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  json before = document({"who"}, "who", env());
  ASSERT_EQ(before["holders"].size(), 1u);
  EXPECT_EQ(before["holders"][0]["alive"], true);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  json after = document({"who"}, "who", env());
  ASSERT_EQ(after["holders"].size(), 1u);
  EXPECT_EQ(after["holders"][0]["pid"], child);
  EXPECT_EQ(after["holders"][0]["alive"], false);
  EXPECT_EQ(after["holders"][0]["in_flight"], 1);
  EXPECT_NE(devctl({"health"}, env()).out.find("ended without closing, ops open: 1"), std::string::npos) << devctl({"health"}, env()).out;
  EXPECT_EQ(devctl({"reset", "host0", "--dry-run"}, env()).code, 0) << "the dead hold nothing";
  // The last few stay, the rest is swept.
  for (int i = 0; i < 12; ++i) {
    const pid_t p = fork();
    if (p == 0) {
      baton::Instance in = must(baton::Instance::create());
      _exit(0);
    }
    waitpid(p, nullptr, 0);
  }
  baton::Instance in = must(baton::Instance::create());
  size_t files = 0;
  for (auto& e : std::filesystem::directory_iterator(dir.path() + "/run")) files += e.is_regular_file();
  EXPECT_LE(files, 9u);
}

TEST_F(Watched, AFolderThatCannotBeIsNoPage) {
  for (const std::string& folder : {std::string(""), std::string("/proc/none/x"), dir.path() + "/file"}) {
    std::ofstream(dir.path() + "/file") << "x";
    setenv("BATON_RUN_DIR", folder.c_str(), 1);
    baton::Instance in = must(baton::Instance::create());
    EXPECT_EQ(in.stats_folder(), "");
    *in.stats_value("baton_x") = 1;
    EXPECT_EQ(*in.stats_value("baton_x"), 1u);
  }
}

TEST_F(Watched, PagesThatAreNoneAreSkipped) {
  std::filesystem::create_directories(dir.path() + "/run");
  std::ofstream(dir.path() + "/run/1.0") << "x";
  std::ofstream(dir.path() + "/run/2.0") << std::string(200'000, '\xff');
  std::filesystem::create_symlink("/dev/zero", dir.path() + "/run/3.0");
  EXPECT_TRUE(document({"stats"}, "stats", env())["processes"].empty());
}

TEST_F(Watched, MoreQueuesThanRowsAreCountedTogether) {
  baton::Instance in = must(baton::Instance::create());
  baton::Device d = must(in.open("host://"));
  std::vector<baton::Queue> queues;
  for (int i = 0; i < 500; ++i) queues.push_back(must(d.queue()));
  baton::Timeline t = must(in.timeline("t"));
  ASSERT_TRUE(queues.back().submit(baton::nop().signal(t, 1)).ok());
  EXPECT_TRUE(t.wait_until(1, deadline_in_ms(20'000)).ok());
  EXPECT_EQ(of_mine(document({"stats"}, "stats", env()))["queues"].size(), 447u);
}

TEST_F(Watched, DiagFromSoftwareToSoak) {
  json list = document({"diag", "--list"}, "diag.list", env());
  EXPECT_EQ(list["tests"].size(), 8u);
  json one = document({"diag", "drivers", "emulators"}, "diag", env());
  EXPECT_EQ(one["complete"], true);
  EXPECT_EQ(one["failed"], 0);
  json two = document({"diag", "-l", "2", "memory", "queue", "--device", "host0"}, "diag", env());
  ASSERT_EQ(two["tests"].size(), 2u);
  for (auto& t : two["tests"]) EXPECT_EQ(t["outcome"], "ok") << t.dump();
  json four = document({"diag", "soak", "memory", "--device", "host0", "--seconds", "1"}, "diag", env());
  EXPECT_EQ(four["tests"].back()["test"], "soak");
  EXPECT_EQ(four["tests"].back()["outcome"], "ok") << four.dump(1);
  refused({"diag", "nonsense"}, 2, "nonsense", env());
  refused({"diag", "-l", "5"}, 2, "", env());
  refused({"diag", "-l", "2", "--device", "trn9"}, 3, "trn9", env());
}

TEST_F(Watched, DiagOfEmulatorsReachesThePath) {
  if (!std::filesystem::exists(plugin("baton-emu-neuron")) || !std::filesystem::exists(plugin("baton-emu-cs3"))) GTEST_SKIP();
  json three = document({"diag", "memory", "copy", "--device", "emu+neuron://0?threads=1", "--device", "emu+cs3://0"}, "diag", env());
  ASSERT_EQ(three["tests"].size(), 4u);
  for (auto& t : three["tests"]) EXPECT_EQ(t["outcome"], "ok") << t.dump();
}

TEST_F(Watched, CtrlCEndsDiagWithWhatWasDone) {
  Process p({tool("devctl"), "diag", "soak", "memory", "--device", "host0", "--seconds", "600", "-o", "json"}, env());
  p.close_stdin();
  // It is at work once its page shows ops.
  for (int i = 0; i < 300; ++i) {
    json stats = json::parse(devctl({"stats", "-o", "json"}, env()).out, nullptr, false);
    if (!stats["processes"].empty() && !stats["processes"][0]["devices"].empty()) break;
    usleep(50'000);
  }
  p.kill(SIGINT);
  EXPECT_EQ(p.wait(kPatienceMs).code, 130);
  json doc = json::parse(p.out(), nullptr, false);
  EXPECT_EQ(schema_problem(doc), "");
  EXPECT_EQ(doc["complete"], false);
  EXPECT_EQ(p.err(), "") << "no bar where there is no terminal";
}

TEST_F(Watched, ResetOfADeviceThatNobodyHolds) {
  json dry = document({"reset", "host0", "--dry-run"}, "reset", env());
  EXPECT_EQ(dry["devices"][0]["reset"], false);
  refused({"reset", "trn9"}, 3, "trn9", env());
  if (!std::filesystem::exists(plugin("baton-emu-neuron"))) return;
  json done = document({"reset", "emu+neuron://0"}, "reset", env());
  EXPECT_EQ(done["devices"][0]["reset"], true);
}

TEST_F(Watched, RecordRunsAProgramWhoseCallsAreReplayed) {
  const std::string file = dir.path() + "/calls.jsonl";
  Ran r = devctl({"record", file, "--", tool("devctl"), "bench", "copy", "host0", "host0", "--bytes", "64k", "--count", "2"}, env());
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_GT(document({"replay", file}, "replay", env())["calls"], 0);
  refused({"record", file, "--", "/no/such/program"}, 3, "", env());
  refused({"record", file}, 2, "", env());
}

TEST_F(Watched, EmulatedSystemsAreBroughtUpAndDown) {
  EXPECT_TRUE(document({"emu", "ls"}, "emu.ls", env())["systems"].empty());
  if (!std::filesystem::exists(plugin("baton-emu-neuron")) || !std::filesystem::exists(plugin("baton-emu-cs3"))) GTEST_SKIP();
  json cs3 = document({"emu", "up", "emu+cs3://0?threads=1", "--name", "w"}, "emu.up", env());
  const std::string address = cs3["address"];
  EXPECT_EQ(document({"info", address}, "info", env())["devices"][0]["driver"], "cs3");
  refused({"emu", "up", "emu+cs3://0", "--name", "w"}, 5, "up already", env());
  json neuron = document({"emu", "up", "emu+neuron://0?machine=trn2.3xlarge"}, "emu.up", env());
  EXPECT_EQ(neuron["name"], "neuron-0");
  EXPECT_EQ(document({"emu", "ls"}, "emu.ls", env())["systems"].size(), 2u);
  const json up = document({"list"}, "list", env())["up"]; // and their names are devices
  ASSERT_EQ(up.size(), 2u);
  EXPECT_EQ(up[1]["name"], "w");
  EXPECT_EQ(up[1]["uri"], address);
  EXPECT_EQ(document({"info", "w"}, "info", env())["devices"][0]["uri"], address);
  EXPECT_EQ(document({"info", "neuron-0"}, "info", env())["devices"][0]["driver"], "neuron");
  EXPECT_EQ(document({"topo", "neuron-0", "w"}, "topo.path", env())["to"]["uri"], address);
  // Another process holds a core of it: who says so, and it may not go.
  setenv("BATON_RUN_DIR", "", 1);
  {
    baton::Instance in = must(baton::Instance::create());
    baton::Device d = must(in.open(neuron["address"]));
    Env at = env();
    at["BATON_SYSFS_ROOT"] = neuron["folder"].get<std::string>() + "/sys";
    json holders = document({"who"}, "who", at)["holders"];
    ASSERT_FALSE(holders.empty());
    EXPECT_EQ(holders[0]["via"], "emulator");
    EXPECT_EQ(holders[0]["pid"], getpid());
    refused({"emu", "down", "neuron-0"}, 5, "held by process " + std::to_string(getpid()), env());
  }
  kill(cs3["pid"].get<int>(), SIGKILL);
  for (int i = 0; i < 200 && document({"emu", "ls"}, "emu.ls", env())["systems"][1]["alive"] == true; ++i) usleep(20'000);
  EXPECT_EQ(document({"emu", "ls"}, "emu.ls", env())["systems"][1]["alive"], false);
  refused({"info", "w"}, 3, "no device here is called 'w'", env());
  EXPECT_EQ(document({"emu", "down", "all"}, "emu.down", env())["ended"].size(), 2u);
  EXPECT_FALSE(std::filesystem::exists(neuron["folder"].get<std::string>()));
  refused({"emu", "down", "w"}, 3, "w", env());
  refused({"emu", "up", "cs3"}, 2, "", env());
  refused({"emu", "up", "emu+none://0"}, 3, "none", env());
  refused({"emu", "up", "emu+cs3://0?nonsense=1"}, 1, "", env());
  refused({"emu", "up", "emu+cs3://0", "--name", "a/b"}, 2, "", env());
  refused({"emu"}, 2, "", env());
}

// A real terminal, of 80x24 and of another size, driven by tmux.
class Terminal {
 public:
  Terminal(const std::string& socket, const std::string& size, const std::string& command) : socket_(socket) {
    const size_t x = size.find('x');
    run({"-f", "/dev/null", "new-session", "-d", "-x", size.substr(0, x), "-y", size.substr(x + 1), command});
  }
  ~Terminal() { run({"kill-server"}); }
  std::string screen() { return run({"capture-pane", "-p"}); }
  void key(const std::string& k) { run({"send-keys", k}); }
  bool shows(const std::string& text) {
    for (int i = 0; i < 600; ++i) {
      last = screen();
      if (last.find(text) != std::string::npos) return true;
      usleep(50'000);
    }
    return false;
  }
  std::string last;

 private:
  std::string run(std::vector<std::string> args) {
    args.insert(args.begin(), {"/usr/bin/tmux", "-S", socket_});
    Process p(args, {{"TERM", "xterm-256color"}});
    p.close_stdin();
    p.wait(kPatienceMs);
    return p.out();
  }
  std::string socket_;
};

TEST_F(Watched, TopOnATerminal) {
  refused({"top"}, 6, "none", env());
  if (!std::filesystem::exists("/usr/bin/tmux")) GTEST_SKIP() << "no tmux";
  baton::Instance in = must(baton::Instance::create());
  baton::Device d = must(in.open("host://"));
  baton::Buffer b = must(d.alloc(64 << 20));
  baton::Queue q = must(d.queue());
  *in.stats_value("baton_requests") = 7;
  *in.stats_value("baton_itl_wall_seconds{quantile=\"0.99\"}") = 12'345'678;
  const std::string command = "BATON_RUN_DIR=" + dir.path() + "/run XDG_RUNTIME_DIR=" + dir.path() + " " + tool("devctl") + " top --interval-ms 200; echo status $?; sleep 600";
  for (const char* size : {"80x24", "132x40"}) {
    SCOPED_TRACE(size);
    Terminal t(dir.path() + "/tmux" + size, size, command);
    ASSERT_TRUE(t.shows("DEVICE")) << t.last;
    EXPECT_TRUE(t.shows("host:// lane 0")) << t.last;
    EXPECT_NE(t.last.find("64 MiB"), std::string::npos) << t.last;
    EXPECT_NE(t.last.find("7 requests"), std::string::npos) << t.last;
    EXPECT_NE(t.last.find("12.35 ms"), std::string::npos) << t.last;
    EXPECT_NE(t.last.find("q quit"), std::string::npos) << t.last;
    t.key("?");
    EXPECT_TRUE(t.shows("pause, go on")) << t.last;
    t.key("?");
    EXPECT_TRUE(t.shows("DEVICE")) << t.last;
    t.key("p");
    EXPECT_TRUE(t.shows("PAUSED")) << t.last;
    t.key("q");
    EXPECT_TRUE(t.shows("status 0")) << t.last;
    EXPECT_EQ(t.last.find("DEVICE"), std::string::npos) << "the screen is put back\n" << t.last;
  }
}

}  // namespace
