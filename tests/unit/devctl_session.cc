// The session of an operator whose request is stuck (devctl_session.sh, shown in README.md): both causes and what to do are on the screen of devctl
// in five commands or fewer, and what it says helps.
#include "tests/unit/devctl_test.hpp"

#include <sstream>

namespace {

using namespace baton::test;

std::vector<std::string> commands(const std::string& session) {
  std::vector<std::string> all;
  std::istringstream in(session);
  for (std::string line; std::getline(in, line);)
    if (line.rfind("$ ", 0) == 0) all.push_back(line);
  return all;
}

// What a command printed.
std::string screen(const std::string& session, const std::string& command, bool last) {
  const std::string line = "$ " + command + "\n";
  const size_t at = last ? session.rfind(line) : session.find(line);
  if (at == std::string::npos) return "";
  const size_t from = at + line.size(), end = session.find("\n$ ", from - 1);
  return session.substr(from, end == std::string::npos ? end : end + 1 - from);
}

TEST(DevctlSession, BothCausesAndTheRemedyAreOnTheScreenInFiveCommands) {
  if (!std::filesystem::exists(plugin("baton-emu-cs3")) || !std::filesystem::exists(tool("baton"))) GTEST_SKIP();
  Process p({std::string(BATON_SOURCE_DIR) + "/tests/unit/devctl_session.sh", BATON_BUILD_DIR});
  p.close_stdin();
  const Exit e = p.wait(5 * kPatienceMs);
  ASSERT_TRUE(e.ended);
  ASSERT_EQ(e.code, 0) << p.err() << p.out();
  const std::string& session = p.out();
  SCOPED_TRACE(session);
  const auto ran = commands(session);
  EXPECT_LE(ran.size(), 5u);
  for (const std::string& line : ran) EXPECT_EQ(line.rfind("$ devctl", 0), 0u) << line;
  EXPECT_NE(screen(session, "devctl", false).find("next: devctl health\n"), std::string::npos);

  const std::string health = screen(session, "devctl health", false);
  const size_t rail = health.find("error  rail lo 127.0.0.2 > lo 127.0.0.2: is "), channel = health.find("wafer 0: channel 5 of 16 is slow: "), stuck = health.find("nothing has ended for");
  ASSERT_NE(rail, std::string::npos);
  ASSERT_NE(channel, std::string::npos);
  ASSERT_NE(stuck, std::string::npos);
  EXPECT_LT(rail, stuck) << "causes are above what comes of them";
  EXPECT_LT(channel, stuck);
  EXPECT_EQ(health.find("rail lo 127.0.0.1 >"), std::string::npos) << "the other rail works";
  EXPECT_EQ(health.find("channel 4 of"), std::string::npos);
  EXPECT_NE(health.find("--rails 127.0.0.1\n", rail), std::string::npos) << "what to do";
  EXPECT_NE(health.find("next: devctl emu fault w0 --clear", channel), std::string::npos);
  // Where this machine is so busy that the rail was given up before the look, the request goes by the other one by now.
  if (health.find("is silent", rail) != std::string::npos) {
    EXPECT_NE(health.find(" request of pid ", rail), std::string::npos) << "whose request waits";
  }
  EXPECT_NE(health.find("waiting: pid ", channel), std::string::npos);
  EXPECT_NE(screen(session, "devctl health", true).find("nothing wrong"), std::string::npos) << "and it helped";

  // README shows this session: the same commands, and both causes.
  std::ifstream file(std::string(BATON_SOURCE_DIR) + "/README.md");
  const std::string readme((std::istreambuf_iterator<char>(file)), {});
  const size_t from = readme.find("<!-- devctl_session.sh -->\n"), to = readme.find("<!-- end of devctl_session.sh -->\n");
  ASSERT_LT(from, to);
  const std::string shown = readme.substr(from, to - from);
  EXPECT_EQ(commands(shown), ran) << "make it anew: tests/unit/devctl_session.sh build/release README.md";
  EXPECT_NE(shown.find("rail lo 127.0.0.2 > lo 127.0.0.2: is "), std::string::npos);
  EXPECT_NE(shown.find("channel 5 of 16 is slow: "), std::string::npos);
}

}  // namespace
