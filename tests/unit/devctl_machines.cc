// devctl on machines out of files: NICs, chips, what is wrong with them; snapshots of them, and the text forms, which are fixed.
#include "tests/unit/devctl_test.hpp"

#include <nlohmann/json.hpp>

#include <sstream>

namespace {

using namespace baton::test;
using nlohmann::json;

const json& named(const json& list, const std::string& name) {
  static const json none;
  for (auto& j : list)
    if (j.value("name", "") == name) return j;
  ADD_FAILURE() << name << " is not in " << list.dump();
  return none;
}

struct Machine {
  explicit Machine(const std::string& name) : env{{"BATON_SYSFS_ROOT", unpack(name, dir.path() + "/sys")}, {"BATON_RUN_DIR", dir.path() + "/run"}, {"HWLOC_PLUGINS_PATH", dir.path()}} {}
  TempDir dir;
  Env env;
};

TEST(DevctlMachines, NicsAreSeenWithoutOpeningThem) {
  Machine m("roce");
  json doc = document({"list"}, "list", m.env);
  ASSERT_EQ(doc["nics"].size(), 3u);
  EXPECT_EQ(named(doc["nics"], "mlx5_0")["kind"], "RoCE");
  EXPECT_EQ(named(doc["nics"], "mlx5_0")["location"], "0000:3b:00.0");
  EXPECT_EQ(named(doc["nics"], "mlx5_0")["numa_node"], 0);
  EXPECT_EQ(named(doc["nics"], "mlx5_0")["ports"].size(), 2u);
  EXPECT_EQ(named(doc["nics"], "mlx5_0")["ports"][0]["counters"]["port_xmit_data"], 4000) << "the file counts words of 4 bytes";
  EXPECT_EQ(named(doc["nics"], "ibp5s0")["kind"], "InfiniBand");
  EXPECT_TRUE(named(doc["nics"], "ibp5s0")["numa_node"].is_null());
  EXPECT_EQ(named(doc["nics"], "rxe0")["location"], "");
  json one = document({"info", "mlx5_0"}, "info", m.env);
  EXPECT_EQ(one["nics"].size(), 1u);
  EXPECT_TRUE(one["devices"].empty());
  const std::string text = devctl({"info", "mlx*"}, m.env).out;
  EXPECT_NE(text.find("12 symbol_error"), std::string::npos) << text;
  EXPECT_NE(devctl({"topo"}, m.env).out.find("ibp5s0  InfiniBand: INIT 400 Gb/sec"), std::string::npos);
  refused({"info", "mlx9"}, 3, "mlx9", m.env);
}

TEST(DevctlMachines, ChipsAndEfaOfATrn2) {
  Machine m("trn2-efa");
  json doc = document({"info", "all"}, "info", m.env);
  EXPECT_EQ(named(doc["nics"], "rdmap16s27")["kind"], "EFA");
  EXPECT_EQ(named(doc["nics"], "rdmap16s27")["ports"][0]["counters"]["tx_bytes"], 8589934592);
  const json& first = named(doc["devices"], "trn0")["chip"];
  EXPECT_EQ(first["executed"], 1234);
  EXPECT_EQ(first["memory_bytes_used"], 1 << 30);
  EXPECT_EQ(first["power_percent"], 41.25);
  const json& second = named(doc["devices"], "trn1")["chip"];
  EXPECT_TRUE(second["power_percent"].is_null());
  EXPECT_EQ(second["failed"]["hw_nc_ue_error"], 1);
}

TEST(DevctlMachines, HealthFindsWhatIsWrongAndSaysWhatToDo) {
  Machine m("trn2-efa");
  json doc = document({"health"}, "health", m.env, 1);
  EXPECT_EQ(doc["healthy"], false);
  auto found = [&](const std::string& subject, const std::string& check) {
    return std::any_of(doc["findings"].begin(), doc["findings"].end(), [&](auto& f) { return f["subject"] == subject && f["check"] == check && f["next"] != ""; });
  };
  EXPECT_TRUE(found("rdmap32s27", "link"));
  EXPECT_TRUE(found("rdmap32s27", "errors")) << "rx_drops";
  EXPECT_TRUE(found("trn1", "ecc"));
  EXPECT_TRUE(found("trn1", "executions"));
  EXPECT_FALSE(found("trn0", "ecc"));
  EXPECT_FALSE(found("rdmap16s27", "link"));
  const std::string text = devctl({"health"}, m.env).out;
  EXPECT_NE(text.find("error  rdmap32s27: port 1 is DOWN, physically Disabled: this rail is dead\n  next: "), std::string::npos) << text;
  Machine roce("roce");
  json slow = document({"health"}, "health", roce.env, 1);
  EXPECT_NE(slow.dump().find("runs at 25 Gb/sec (1X EDR), others of its kind faster"), std::string::npos) << slow.dump(1);
}

TEST(DevctlMachines, ASnapshotShowsTheSameAsTheMachine) {
  Machine m("trn2-efa");
  const std::string file = m.dir.path() + "/snapshot.json";
  Ran taken = devctl({"snapshot", file}, m.env);
  ASSERT_EQ(taken.code, 0) << taken.err;
  json whole = json::parse(std::ifstream(file));
  EXPECT_EQ(schema_problem(whole), "");
  const Env elsewhere = {{"BATON_RUN_DIR", m.dir.path() + "/none"}};
  for (const std::vector<std::string>& verb : std::vector<std::vector<std::string>>{{"list"}, {"info", "all"}, {"health"}, {"version"}, {"who"}}) {
    SCOPED_TRACE(testing::PrintToString(verb));
    std::vector<std::string> from = {"--from", file};
    from.insert(from.end(), verb.begin(), verb.end());
    const Ran live = devctl(verb, m.env), captured = devctl(from, elsewhere);
    EXPECT_EQ(captured.code, live.code) << captured.err;
    EXPECT_EQ(captured.out, live.out);
    from.insert(from.end(), {"-o", "json"});
    EXPECT_EQ(schema_problem(json::parse(devctl(from, elsewhere).out, nullptr, false)), "");
  }
  // What a fabric says of its copies is probed anew by each process.
  for (const char* verb : {"env", "stats", "topo", "fabric"}) EXPECT_EQ(devctl({"--from", file, verb}, elsewhere).code, 0) << verb;
  EXPECT_NE(devctl({"--from", file, "topo"}, elsewhere).out.find("trn1"), std::string::npos);
  refused({"--from", file, "topo", "trn0", "trn1"}, 6, "not opened", elsewhere);
  refused({"--from", file, "info", "trn7"}, 3, "trn7", elsewhere);
  refused({"--from", file, "stats", "--delta"}, 2, "two moments", elsewhere);
  refused({"--from", file, "key", "new", "x"}, 2, "does not read", elsewhere);
}

TEST(DevctlMachines, WhatIsNoSnapshotIsRefusedInOneLine) {
  TempDir dir;
  const std::string file = dir.path() + "/f";
  refused({"--from", file, "list"}, 3);
  for (const char* text : {"", "{", "[]", "{}", R"({"schema": 7, "documents": {}})", R"({"schema": "baton.devctl.snapshot/1", "documents": []})"}) {
    std::ofstream(file, std::ios::trunc) << text;
    refused({"--from", file, "list"}, 2);
  }
  std::ofstream(file, std::ios::trunc) << R"({"schema": "baton.devctl.snapshot/1", "documents": {"list": {"devices": 3, "nics": "x"}, "fabric": {"fabrics": [7]}, "version": {"error": {"what": "gone", "next": "wait"}}}})";
  refused({"--from", file, "list"}, 2);
  refused({"--from", file, "fabric"}, 2);
  refused({"--from", file, "health"}, 3, "has no 'health'");
  refused({"--from", file, "version"}, 1, "gone");
}

// The text forms, as they are fixed in tests/unit/golden. BATON_UPDATE_GOLDEN=1 writes them anew: then read the difference.
TEST(DevctlMachines, TextFormsAreAsTheyWere) {
  namespace fs = std::filesystem;
  const std::string folder = std::string(BATON_SOURCE_DIR) + "/tests/unit/golden/devctl";
  const std::vector<std::pair<std::string, std::vector<std::string>>> forms = {
      {"summary", {}}, {"list", {"list"}}, {"list-nic", {"list", "rdmap*"}}, {"info", {"info", "all"}}, {"topo", {"topo"}}, {"topo-path", {"topo", "host0", "host0"}}, {"fabric", {"fabric"}},
      {"health", {"health"}}, {"who", {"who"}}, {"stats", {"stats"}}, {"stats-prometheus", {"stats", "-o", "prometheus"}}, {"env", {"env"}}, {"version", {"version"}}};
  for (auto& [name, verb] : forms) {
    std::vector<std::string> call = {"--from", folder + "/machine.json"};
    call.insert(call.end(), verb.begin(), verb.end());
    const Ran r = devctl(call);
    EXPECT_EQ(r.err, "");
    const std::string file = folder + "/" + name + ".txt";
    if (const char* update = getenv("BATON_UPDATE_GOLDEN"); update && *update) std::ofstream(file) << r.out;
    std::ifstream in(file);
    std::stringstream golden;
    golden << in.rdbuf();
    EXPECT_EQ(r.out, golden.str()) << name;
  }
}

TEST(DevctlMachines, ReportIsATarWithoutSecrets) {
  Machine m("roce");
  m.env["BATON_LIBRARY"] = "";
  const std::string tar = m.dir.path() + "/r.tar";
  json made = document({"report", tar}, "report", m.env);
  EXPECT_EQ(made["bytes"], std::filesystem::file_size(tar));
  refused({"report", tar}, 5, "exists", m.env);
  refused({"report", m.dir.path() + "/no/such/r.tar"}, 1, "", m.env);
  Process list({"/bin/tar", "-xOf", tar, "baton-report/snapshot.json"});
  ASSERT_EQ(list.wait(kPatienceMs).code, 0) << list.err();
  json whole = json::parse(list.out(), nullptr, false);
  EXPECT_EQ(schema_problem(whole), "");
  EXPECT_EQ(whole["documents"]["list"]["nics"].size(), 3u);
}

TEST(DevctlMachines, TopoIsDrawn) {
  Machine m("trn2-efa");
  const std::string svg = m.dir.path() + "/t.svg";
  const std::string snapshot = std::string(BATON_SOURCE_DIR) + "/tests/unit/golden/devctl/machine.json";
  EXPECT_EQ(devctl({"--from", snapshot, "topo", "--svg", svg}).code, 0);
  std::stringstream text;
  text << std::ifstream(svg).rdbuf();
  EXPECT_EQ(text.str().rfind("<svg ", 0), 0u);
  EXPECT_NE(text.str().find(">rdmap16s27<"), std::string::npos);
  EXPECT_NE(text.str().find("</svg>"), std::string::npos);
  refused({"--from", snapshot, "topo", "--svg", m.dir.path() + "/no/t.svg"}, 1);
}

TEST(DevctlMachines, CompletionKnowsEveryVerb) {
  const std::string help = devctl({"--help"}).out;
  std::istringstream lines(help.substr(help.find("Subcommands:")));
  std::vector<std::string> verbs;
  for (std::string line; std::getline(lines, line);)
    if (line.size() > 3 && line.rfind("  ", 0) == 0 && line[2] != ' ') verbs.push_back(line.substr(2, line.find(' ', 2) - 2));
  ASSERT_GT(verbs.size(), 20u) << help;
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const Ran r = devctl({"completion", shell});
    EXPECT_EQ(r.code, 0);
    for (auto& v : verbs) EXPECT_NE(r.out.find(v), std::string::npos) << shell << " " << v;
  }
  // Bash runs it: what stands after "devctl bench ".
  TempDir dir;
  std::ofstream(dir.path() + "/t.sh") << devctl({"completion", "bash"}).out
                                      << "COMP_WORDS=(devctl bench ''); COMP_CWORD=2; _devctl; echo \"${COMPREPLY[*]}\"\n"
                                         "COMP_WORDS=(devctl list -o j); COMP_CWORD=3; _devctl; echo \"${COMPREPLY[*]}\"\n"
                                         "COMP_WORDS=(devctl hea); COMP_CWORD=1; _devctl; echo \"${COMPREPLY[*]}\"\n";
  Process bash({"/bin/bash", dir.path() + "/t.sh"});
  EXPECT_EQ(bash.wait(kPatienceMs).code, 0) << bash.err();
  EXPECT_NE(bash.out().find("copy"), std::string::npos) << bash.out();
  EXPECT_NE(bash.out().find("\njson\n"), std::string::npos) << bash.out();
  EXPECT_NE(bash.out().find("\nhealth\n"), std::string::npos) << bash.out();
  EXPECT_EQ(bash.err(), "");
  refused({"completion", "tcsh"}, 2);
}

// One description: each verb, however deep, has a page, and each option of its --help is on the page and in the completion of every shell.
TEST(DevctlMachines, EachVerbAndOptionIsInItsPageAndInCompletion) {
  TempDir dir;
  ASSERT_EQ(devctl({"completion", "man", dir.path()}).code, 0);
  refused({"completion", "man", dir.path() + "/none"}, 1);
  std::map<std::string, std::string> shells;
  for (const char* shell : {"bash", "zsh", "fish"}) shells[shell] = devctl({"completion", shell}).out;
  size_t pages = 0, options = 0;
  std::vector<std::vector<std::string>> open = {{}};
  while (!open.empty()) {
    std::vector<std::string> path = open.back();
    open.pop_back();
    SCOPED_TRACE(testing::PrintToString(path));
    std::string page;
    if (!path.empty()) {
      std::string name = "devctl";
      for (auto& p : path) name += "-" + p;
      std::ifstream in(dir.path() + "/" + name + ".1");
      ASSERT_TRUE(in) << name;
      page.assign(std::istreambuf_iterator<char>(in), {});
      EXPECT_NE(page.find(".Nm " + name + "\n"), std::string::npos);
      ++pages;
    }
    std::vector<std::string> call = path;
    call.push_back("--help");
    std::istringstream help(devctl(call).out);
    std::string section;
    for (std::string line; std::getline(help, line);) {
      if (line.size() > 1 && line[0] != ' ' && line.back() == ':') section = line;
      if (line.size() < 4 || line.compare(0, 2, "  ") || line[2] == ' ') continue;
      const std::string word = line.substr(2, line.find(' ', 2) - 2);
      if (section == "Subcommands:") {
        open.push_back(path);
        open.back().push_back(word);
        for (auto& [shell, script] : shells) EXPECT_NE(script.find(word), std::string::npos) << shell << " " << word;
      } else if (section == "Options:") {
        std::istringstream names(word);
        for (std::string one; std::getline(names, one, ',');) {
          ++options;
          EXPECT_TRUE(path.empty() || page.find("Fl " + one.substr(1)) != std::string::npos) << one;
          for (auto& [shell, script] : shells) {
            const std::string in_script = shell != "fish" ? one : one[1] == '-' ? "-l " + one.substr(2) : "-s " + one.substr(1);
            EXPECT_NE(script.find(in_script), std::string::npos) << shell << " " << one;
          }
        }
      } else if (section == "Positionals:") {
        EXPECT_NE(page.find(".It Ar " + word + "\n"), std::string::npos) << word;
      }
    }
    // As far as man and groff are there, they have nothing to say of it.
    if (!path.empty() && std::filesystem::exists("/usr/bin/groff")) {
      std::string file = dir.path() + "/devctl";
      for (auto& p : path) file += "-" + p;
      Process groff({"/usr/bin/groff", "-mdoc", "-Tascii", "-ww", "-z", file + ".1"});
      groff.close_stdin();
      EXPECT_EQ(groff.wait(kPatienceMs).code, 0);
      EXPECT_EQ(groff.err(), "");
    }
  }
  EXPECT_GT(pages, 30u);
  EXPECT_GT(options, 100u);
}

}  // namespace
