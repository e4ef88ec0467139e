#include "tests/unit/hal_test.hpp"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <thread>

namespace baton::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class RegistryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/baton-registry-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    folder = path;
  }
  void TearDown() override {
    std::string command = "rm -rf '" + folder + "'";
    EXPECT_EQ(system(command.c_str()), 0);
  }
  void script(const std::string& scheme, const std::string& text) {
    std::string path = folder + "/baton-emu-" + scheme;
    {
      std::ofstream f(path);
      f << "#!/bin/sh\n" << text << "\n";
    }
    chmod(path.c_str(), 0755);
  }
  Instance instance() { return make_instance(kDrivers, folder.c_str()); }
  // The process whose id the script wrote.
  pid_t pid(const char* name = "pid") {
    std::ifstream f(folder + "/" + name);
    pid_t p = -1;
    f >> p;
    return p;
  }
  std::string folder;
};

TEST_F(RegistryTest, AnUnknownSchemeNamesTheFoldersAndTheDrivers) {
  Instance in = instance();
  auto d = in.open("warp://0");
  EXPECT_CODE(d, BATON_NOT_FOUND);
  EXPECT_THAT(d.error().what, AllOf(HasSubstr("libbaton-driver-warp.so"), HasSubstr("/lib/baton")));
  EXPECT_THAT(d.error().next, AllOf(HasSubstr("fake"), HasSubstr("host")));
  EXPECT_STREQ(d.error().device, "warp://0");
}

TEST_F(RegistryTest, AddressesThatAreNone) {
  Instance in = instance();
  for (const char* uri : {"", "host", "host:", "://", "emu+://x", "../../etc://x", "HOST://", "ho st://"}) {
    SCOPED_TRACE(uri);
    EXPECT_CODE(in.open(uri), BATON_INVALID_ARGUMENT);
  }
}

TEST_F(RegistryTest, UnknownOptionsAreRefusedWithTheKnownOnes) {
  Instance in = instance();
  auto d = in.open("host://?thread=2");
  EXPECT_CODE(d, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(d.error().next, AllOf(HasSubstr("threads"), HasSubstr("isa")));
  EXPECT_CODE(in.open("host://?threads=0"), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(in.open("host://?threads=two"), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(in.open("host://10.0.0.1:99"), BATON_INVALID_ARGUMENT);
}

TEST_F(RegistryTest, AFileThatIsNoDriver) {
  std::ofstream(folder + "/libbaton-driver-bad.so") << "not an ELF file";
  Instance in = make_instance(folder.c_str());
  EXPECT_CODE(in.open("bad://"), BATON_FAILED);
  EXPECT_CODE(in.open("host://"), BATON_NOT_FOUND);  // a given path replaces the default
  EXPECT_TRUE(must(in.enumerate()).empty());          // a driver that cannot load is skipped
}

TEST_F(RegistryTest, ADriversRefusalIsPassedOn) {
  Instance in = instance();
  auto d = in.open("fake://refuse");
  EXPECT_CODE(d, BATON_BUSY);
  EXPECT_STREQ(d.error().what, "held by pid 1 (init)");
}

TEST_F(RegistryTest, EnumerateFindsTheHost) {
  Instance in = instance();
  auto all = must(in.enumerate());
  ASSERT_GE(all.size(), 1u);
  EXPECT_TRUE(std::any_of(all.begin(), all.end(), [](const DeviceInfo& i) { return std::string(i.uri) == "host://"; }));
}

TEST_F(RegistryTest, ALauncherPrintsAnAddressAndExits) {
  script("fake", "echo \"fake://$1-launched\"");
  Instance in = instance();
  Device d = must(in.open("emu+fake://0?map=1"));
  EXPECT_STREQ(must(d.info()).uri, "fake://0?map=1-launched");
}

TEST_F(RegistryTest, ADaemonLivesUntilTheInstanceIsGone) {
  script("fake", "echo $$ > " + folder + "/pid; echo fake://daemon; cat > /dev/null; echo bye > " + folder + "/bye");
  {
    Instance in = instance();
    Device d = must(in.open("emu+fake://0"));
    Device same = must(in.open("emu+fake://0"));  // the one that runs
    EXPECT_EQ(kill(pid(), 0), 0);
  }
  EXPECT_EQ(kill(pid(), 0), -1);  // reaped, not a zombie
  EXPECT_EQ(access((folder + "/bye").c_str(), F_OK), 0) << "end of file on stdin was not what ended it";
}

TEST_F(RegistryTest, ADaemonThatDiedIsStartedAgain) {
  script("fake", "echo $$ > " + folder + "/pid; echo fake://$$; exec cat > /dev/null");
  Instance in = instance();
  Device d = must(in.open("emu+fake://0"));
  pid_t first = pid();
  kill(first, SIGKILL);
  for (int i = 0; i < 200; ++i) {  // until the signal is delivered
    std::ifstream stat("/proc/" + std::to_string(first) + "/stat");
    std::string text;
    std::getline(stat, text);
    if (text.find(") Z") != std::string::npos) break;
    usleep(5000);
  }
  Device again = must(in.open("emu+fake://0"));
  EXPECT_NE(pid(), first);
  EXPECT_EQ(kill(first, 0), -1);  // no zombie
}

TEST_F(RegistryTest, ADaemonThatIgnoresItsStdinIsTerminated) {
  script("fake", "echo $$ > " + folder + "/pid; echo fake://x; exec sleep 60");
  {
    Instance in = instance();
    Device d = must(in.open("emu+fake://0"));
  }
  EXPECT_EQ(kill(pid(), 0), -1);
}

TEST_F(RegistryTest, ALauncherThatFailsSpeaksThroughTheError) {
  script("fake", "echo 'first line' >&2; echo 'no wafer left: 1 of 1 in use' >&2; exit 3");
  Instance in = instance();
  auto d = in.open("emu+fake://0?x=1");
  EXPECT_CODE(d, BATON_NOT_FOUND);
  EXPECT_THAT(d.error().what, AllOf(HasSubstr("exit code 3"), HasSubstr("no wafer left: 1 of 1 in use")));
  EXPECT_THAT(d.error().next, HasSubstr("0?x=1"));
  script("fake", "echo 'unknown option x' >&2; echo 'next: known options: y' >&2; exit 2");
  d = in.open("emu+fake://0?x=1");
  EXPECT_CODE(d, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(d.error().what, HasSubstr("unknown option x"));
  EXPECT_STREQ(d.error().next, "known options: y");
}

TEST_F(RegistryTest, LaunchersThatPrintNothingOrNonsense) {
  script("fake", "exit 0");
  script("silly", "echo hello");
  script("loop", "echo emu+fake://0");
  script("killed", "kill -9 $$");
  Instance in = instance();
  auto d = in.open("emu+fake://0");
  EXPECT_CODE(d, BATON_FAILED);
  EXPECT_THAT(d.error().what, HasSubstr("printed no address"));
  auto silly = in.open("emu+silly://0");
  EXPECT_CODE(silly, BATON_FAILED);
  EXPECT_THAT(silly.error().what, HasSubstr("'hello'"));
  EXPECT_CODE(in.open("emu+loop://0"), BATON_FAILED);
  auto killed = in.open("emu+killed://0");
  EXPECT_CODE(killed, BATON_FAILED);
  EXPECT_THAT(killed.error().what, HasSubstr("signal 9"));
  auto none = in.open("emu+nothing://0");
  EXPECT_CODE(none, BATON_NOT_FOUND);
  EXPECT_THAT(none.error().what, AllOf(HasSubstr("baton-emu-nothing"), HasSubstr(folder)));
}

TEST_F(RegistryTest, AnEmulatorGetsThreeDescriptorsAndNoOther) {
  script("fake", "ls /proc/self/fd > " + folder + "/fds; echo fake://x");
  FILE* held = fopen((folder + "/held").c_str(), "w");  // not close-on-exec
  Instance in = instance();
  Device d = must(in.open("emu+fake://0"));
  fclose(held);
  std::ifstream f(folder + "/fds");
  std::vector<std::string> fds;
  for (std::string s; f >> s;) fds.push_back(s);
  EXPECT_THAT(fds, ::testing::ElementsAre("0", "1", "2", "3"));  // 3 is the folder that ls reads; 1 its redirection
}

TEST_F(RegistryTest, LaunchingDoesNotHoldUpTheOtherDevices) {
  script("fake", "sleep 0.4; echo fake://slow");
  Instance in = instance();
  Device h = must(in.open("host://"));
  Queue q = must(h.queue());
  Timeline t = must(in.timeline("t"));
  std::thread opener([&] { Device slow = must(in.open("emu+fake://0")); });
  uint64_t begin = now_ns();
  for (uint64_t v = 1; v <= 100; ++v) {
    EXPECT_OK(q.submit(nop().signal(t, v)));
    EXPECT_OK(t.wait_until(v, soon()));
  }
  EXPECT_LT(now_ns() - begin, 300'000'000u);
  opener.join();
}

}  // namespace
}  // namespace baton::test
