// A process that the fault layer kills in mid-work, on each device: it dies at that op, its emulator with it, nothing of it stays in shared
// memory, and the next process does the same work.
#include "tests/support/process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>

namespace baton::test {
namespace {

constexpr int kDeadlineMs = 60'000;

class LayerKill : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Devices, LayerKill, ::testing::Values("host", "neuron", "cs3"), [](auto& i) { return std::string(i.param); });

Exit work(const std::string& subject, std::map<std::string, std::string> env) {
  Process p({tool("baton-cts"), std::string(BATON_SOURCE_DIR "/tests/cts/subjects/") + subject + ".json", "--filter", "queue.OneQueueKeepsSubmitOrder"},
            std::move(env));
  const Exit e = p.wait(kDeadlineMs);
  EXPECT_TRUE(e.ended) << p.err();
  return e;
}

TEST_P(LayerKill, DiesAtTheOpAndLeavesNothing) {
  TempDir dir;
  const std::string plan = dir.path() + "/plan.json";
  for (const char* when : {R"("FILL", "nth": 1)", R"("FILL", "nth": 40)", R"("COPY", "nth": 1)", R"("alloc", "nth": 1)", R"("queue_open", "nth": 1)"}) {
    SCOPED_TRACE(when);
    std::ofstream(plan) << R"({"rules": [{"action": "kill", "op": )" << when << "}]}";
    const int shared = dev_shm_entries();
    EXPECT_EQ(work(GetParam(), {{"BATON_LAYERS", "fault=" + plan}}).code, 128 + SIGKILL);
    EXPECT_EQ(work(GetParam(), {}).code, 0);
    for (int i = 0; i < 500 && dev_shm_entries() > shared; ++i) usleep(10'000);  // an emulator ends on its own, a little later
    EXPECT_LE(dev_shm_entries(), shared);
  }
}

}  // namespace
}  // namespace baton::test
