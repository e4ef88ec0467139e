// Each promise, broken on purpose (layer.cc): the suites notice, in the test that is about it, and end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/process.h"

namespace {

using baton::test::Process;
using nlohmann::json;

constexpr char kHost[] = "host://wrong", kNeuron[] = "emu+neuron://0", kCs3[] = "emu+cs3://0";

struct Broken {
  const char* what;
  const char* uri;   // of the device
  const char* test;  // that must fail
  const char* peer = nullptr;
  friend void PrintTo(const Broken& b, std::ostream* out) { *out << b.what; }
};

json run(const Broken& b, const std::string& what, int& code) {
  std::vector<std::string> args = {baton::test::tool("baton-cts"), "--filter", b.test, "--patience", "2000", "-o", "json"};
  if (b.peer) args.insert(args.end(), {"--pair", b.uri, b.peer});
  else args.push_back(b.uri);
  std::string address = b.uri;  // an emulated device's ordinary address is another
  if (address.starts_with("emu+")) address = address.substr(4, address.find("//") - 2);
  Process p(args, {{"BATON_LAYERS", "wrong=" + what + "?on=" + address + "*"}, {"BATON_DRIVER_PATH", BATON_BUILD_DIR "/tests/layers"}});
  p.close_stdin();
  const auto e = p.wait(60'000);
  EXPECT_TRUE(e.ended) << "hangs";
  code = e.code;
  const json j = json::parse(p.out(), nullptr, false);
  EXPECT_FALSE(j.is_discarded()) << p.out() << p.err();
  return j;
}

class Caught : public testing::TestWithParam<Broken> {};

TEST_P(Caught, ByTheTestThatIsAboutIt) {
  int code = 0;
  json j = run(GetParam(), "nothing", code);
  EXPECT_EQ(code, 0) << "fails with a right driver as well: " << j.dump(2);
  EXPECT_EQ(j["passed"], 1) << j.dump(2);
  j = run(GetParam(), GetParam().what, code);
  EXPECT_EQ(code, 1) << GetParam().what << " is not noticed: " << j.dump(2);
  EXPECT_EQ(j["failed"], 1);
}

INSTANTIATE_TEST_SUITE_P(, Caught, testing::Values(
  Broken{"copy-tail", kHost, "memory.CopiesOfAnyOffsetAndLength"},
  Broken{"copy-source-offset", kHost, "memory.CopiesOfAnyOffsetAndLength"},
  Broken{"copy-target-offset", kCs3, "memory.CopiesOfAnyOffsetAndLength"},
  Broken{"fill-byte", kHost, "memory.FillsOfEveryPattern"},
  Broken{"fill-offset", kNeuron, "memory.FillsOfEveryPattern"},
  Broken{"stale-memory", kHost, "memory.NewMemoryNeverShowsOldBytes"},
  Broken{"grants-too-much", kHost, "memory.MoreThanAHeapIsRefused"},
  Broken{"never-frees", kHost, "memory.AHeapCanBeUsedUpAndGivenBack"},
  Broken{"counts-no-memory", kNeuron, "memory.AHeapCanBeUsedUpAndGivenBack"},
  Broken{"map-elsewhere", kHost, "memory.WhatIsMappedIsTheMemory"},
  Broken{"export-offset", kHost, "memory.AnExportCarriesItsOffset"},
  Broken{"no-fence", "emu+neuron://0?visibility=0", "memory.AFenceShowsWhatOthersWrote"},
  Broken{"import-offset", kHost, "memory.AnImportIsTheSameMemory"},
  Broken{"import-takes-the-descriptor", kHost, "memory.AnImportIsTheSameMemory"},
  Broken{"out-of-order", kHost, "queue.OneQueueKeepsSubmitOrder"},
  Broken{"loses-completions", kHost, "queue.AMillionOps"},
  Broken{"full-is-an-error", kHost, "queue.WhatIsMoreThanTheDeviceTakesWaitsItsTurn"},
  Broken{"wakes-nobody", kCs3, "queue.ASleeperIsWoken"},
  Broken{"completes-early", kCs3, "queue.PointsOrderOpsOfTwoQueues"},
  Broken{"marks-late", kHost, "progress.AMarkIsSeenWhileTheLaunchRuns"},
  Broken{"marks-too-far", kHost, "progress.AllMarksAreThereAtTheEnd"},
  Broken{"marks-at-once", kCs3, "progress.ModelledTimeRisesFromMarkToMark"},
  Broken{"costs-nothing", kCs3, "progress.ModelledTimeBeginsAtTheLatestWait"},
  Broken{"deaf-to-cancel", kHost, "progress.PoisonStopsALaunch"},
  Broken{"launch-argument", kHost, "programs.EmbedAndTakeLast"},
  Broken{"launch-binding-offset", kHost, "programs.Matmul"},
  Broken{"launch-binding-offset", kNeuron, "programs.KvStoreAndAttention"},
  Broken{"zero-constants", kHost, "programs.Matmul"},
  Broken{"never-fails", kHost, "refusals.LaunchesThatDoNotFitAreRefused"},
  Broken{"telemetry-stands-still", kHost, "telemetry.CountersRiseByWhatWasDone"},
  Broken{"reset-does-nothing", kHost, "reset.TheMemoryOfBeforeIsGivenBack"},
  Broken{"lanes-come-and-go", kHost, "registry.InfoIsSane"},
  Broken{"leaks-descriptors", kHost, "registry.OpeningAndClosingLeavesNoDescriptor"},
  Broken{"copy-tail", kHost, "pair_copy.EverySizeAndOffset", kCs3},
  Broken{"loses-completions", kCs3, "pair_copy.ManySmallCopiesAtOnce", kHost},
  Broken{"costs-nothing", kNeuron, "pair_copy.AModelledCopyTakesItsTime", "host://b"}),
  [](const auto& p) {
    std::string name = std::string(p.param.what) + "_on_" + p.param.uri + (p.param.peer ? "_pair" : "");
    std::replace_if(name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
    return name;
  });

}  // namespace
