// baton-cts as a driver author runs it: subjects, their excuses, which verify themselves, output and exit codes; and by devctl cts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/process.h"

namespace {

using baton::test::Process;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

struct Ran {
  int code;
  std::string out, err;
};

Ran run(std::vector<std::string> args, const char* program = "baton-cts") {
  args.insert(args.begin(), baton::test::tool(program));
  Process p(args);
  p.close_stdin();
  const auto e = p.wait(240'000);
  EXPECT_TRUE(e.ended) << "hangs";
  return {e.code, p.out(), p.err()};
}

struct SubjectFile {
  baton::test::TempDir folder;
  std::string path = folder.path() + "/subject.json";
  explicit SubjectFile(const json& unsupported, const json& expected) {
    std::ofstream(path) << json({{"schema", "baton.cts.subject/1"}, {"name", "mine"}, {"uri", "host://"}, {"unsupported", unsupported}, {"expected_failures", expected}});
  }
};
json entries(const std::string& tests) { return {{{"tests", tests}, {"reason", "because"}}}; }

TEST(CtsRunner, PassesOnTheHost) {
  const Ran r = run({"host://", "--filter", "registry.*"});
  EXPECT_EQ(r.code, 0) << r.out << r.err;
  EXPECT_THAT(r.out, HasSubstr("ok    host/registry.InfoIsSane"));
  EXPECT_THAT(r.out, HasSubstr("0 failed"));
}

TEST(CtsRunner, WhatIsUnsupportedIsSkippedWithItsReason) {
  SubjectFile s(entries("registry.Info*"), json::array());
  const Ran r = run({s.path, "--filter", "registry.*", "-o", "json"});
  EXPECT_EQ(r.code, 0) << r.out << r.err;
  const json j = json::parse(r.out);
  EXPECT_EQ(j["schema"], "baton.cts/1");
  EXPECT_EQ(j["skipped"], 2);
  EXPECT_EQ(j["tests"][0]["outcome"], "skipped");
  EXPECT_EQ(j["tests"][0]["reason"], "because");
}

TEST(CtsRunner, AnExpectedFailureThatPassesIsAnError) {
  SubjectFile s(json::array(), entries("registry.InfoIsSane"));
  const Ran r = run({s.path, "--filter", "registry.InfoIsSane"});
  EXPECT_EQ(r.code, 1) << r.out;
  EXPECT_THAT(r.out, HasSubstr("remove the entry"));
}

TEST(CtsRunner, AnExpectedFailureThatFailsIsNone) {
  // No such device: each case fails, with the registry's words.
  SubjectFile s(json::array(), entries("*"));
  std::ofstream(s.path) << json({{"schema", "baton.cts.subject/1"}, {"uri", "nothing://0"}, {"expected_failures", entries("*")}});
  const Ran r = run({s.path, "--filter", "registry.InfoIsSane"});
  EXPECT_EQ(r.code, 0) << r.out;
  EXPECT_THAT(r.out, HasSubstr("1 expected failure"));
  const Ran open = run({"nothing://0", "--filter", "registry.InfoIsSane"});
  EXPECT_EQ(open.code, 1);
  EXPECT_THAT(open.out, HasSubstr("no driver for 'nothing'"));
}

TEST(CtsRunner, AnEntryThatExcusesNothingIsAnError) {
  SubjectFile s(entries("registry.NoSuchTest"), json::array());
  const Ran r = run({s.path, "--filter", "registry.InfoIsSane"});
  EXPECT_EQ(r.code, 1) << r.out;
  EXPECT_THAT(r.out, HasSubstr("matches no test"));
}

TEST(CtsRunner, ADriverFileIsASubject) {
  const std::string driver = baton::test::plugin("libbaton-driver-host.so");
  for (const char* program : {"baton-cts", "devctl"}) {
    std::vector<std::string> args = {driver, "--filter", "registry.InfoIsSane"};
    if (std::string(program) == "devctl") args.insert(args.begin(), "cts");
    const Ran r = run(args, program);
    EXPECT_EQ(r.code, 0) << r.out << r.err;
    EXPECT_THAT(r.out, HasSubstr("1 passed"));
  }
  EXPECT_EQ(run({"cts", "host0", "--filter", "registry.InfoIsSane", "-o", "json"}, "devctl").code, 0);
}

TEST(CtsRunner, DevctlRunsPairsAndFaults) {
  const Ran pair = run({"cts", "--pair", "host0", "emu+cs3://0", "--filter", "pair_copy.ThePlan*"}, "devctl");
  EXPECT_EQ(pair.code, 0) << pair.out << pair.err;
  EXPECT_THAT(pair.out, HasSubstr("host-cs3/pair_copy.ThePlanNamesPathAndEnds"));
  const Ran faults = run({"cts", "--faults", "host0", "--filter", "fault.AnOpFails*", "--patience", "30000"}, "devctl");
  EXPECT_EQ(faults.code, 0) << faults.out << faults.err;
  EXPECT_THAT(faults.out, HasSubstr("1 passed"));
  const Ran none = run({"cts", "--pair", "host0", "nobody0"}, "devctl");
  EXPECT_EQ(none.code, 3);
  EXPECT_THAT(none.err, HasSubstr("nobody0"));
  EXPECT_EQ(run({"cts"}, "devctl").code, 2);
}

TEST(CtsRunner, WrongCallsAreOneLineAndANextStep) {
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {}, {"nonsense"}, {"none.json"}, {"none.so"}, {baton::test::tool("devctl") + ".so"}, {"host://", "--colour"}, {"host://", "--filter", "no.such"}}) {
    const Ran r = run(args);
    SCOPED_TRACE(testing::PrintToString(args));
    EXPECT_EQ(r.code, 2);
    EXPECT_THAT(r.err, HasSubstr("\nnext: "));
  }
  const Ran names = run({"--list", "--filter", "reset.*"});
  EXPECT_EQ(names.code, 0);
  EXPECT_THAT(names.out, HasSubstr("reset.WhatIsInFlightFails\n"));
  EXPECT_THAT(names.out, Not(HasSubstr("memory.")));
}

}  // namespace
