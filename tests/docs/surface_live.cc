// What hal/HOST_SURFACE.md says of the core, the host driver and emu+cs3, seen from inside a process: descriptors, threads, signals,
// children, environment.
#include "hal/baton.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

extern char** environ;

namespace baton {
namespace {

using ::testing::UnorderedElementsAre;

std::vector<std::string> entries(const char* folder) {
  std::vector<std::string> all;
  DIR* dir = opendir(folder);
  const int own = dirfd(dir);
  while (dirent* e = readdir(dir))
    if (e->d_name[0] != '.' && std::string(e->d_name) != std::to_string(own)) all.push_back(e->d_name);
  closedir(dir);
  return all;
}

// What each descriptor is: "anon_inode:[eventpoll]", "/memfd:baton-dram (deleted)", "socket", "pipe".
std::multiset<std::string> descriptors() {
  std::multiset<std::string> all;
  for (const std::string& fd : entries("/proc/self/fd")) {
    char target[256] = {};
    if (readlink(("/proc/self/fd/" + fd).c_str(), target, sizeof target - 1) < 0) continue;
    std::string what = target;
    all.insert(what.starts_with("socket:") ? "socket" : what.starts_with("pipe:") ? "pipe" : what);
  }
  return all;
}

std::vector<std::string> added(const std::multiset<std::string>& before) {
  std::multiset<std::string> now = descriptors();
  for (const std::string& was : before)
    if (auto it = now.find(was); it != now.end()) now.erase(it);
  return {now.begin(), now.end()};
}

std::string children() {
  std::ifstream f("/proc/self/task/" + std::to_string(getpid()) + "/children");
  std::string line;
  std::getline(f, line);
  return line;
}

// What must never change.
struct Still {
  size_t threads = entries("/proc/self/task").size();
  std::vector<std::string> handlers, environment;
  Still() {
    for (int s = 1; s < NSIG; ++s) {
      struct sigaction a {};
      const int rc = sigaction(s, nullptr, &a);
      handlers.push_back(std::to_string(rc) + " " + std::to_string(reinterpret_cast<uintptr_t>(a.sa_handler)) + " " + std::to_string(a.sa_flags));
    }
    sigset_t blocked{};
    sigprocmask(SIG_BLOCK, nullptr, &blocked);
    handlers.emplace_back(reinterpret_cast<const char*>(&blocked), NSIG / 8);  // the rest is not the kernel's
    for (char** e = environ; *e; ++e) environment.push_back(*e);
  }
  bool operator==(const Still&) const = default;
  friend void PrintTo(const Still& s, std::ostream* os) { *os << s.threads << " threads, " << s.environment.size() << " variables"; }
};

template <class T>
T must(Result<T> r) {
  if (!r) {
    ADD_FAILURE() << r.error().text();
    std::abort();
  }
  return std::move(*r);
}

constexpr char kEpoll[] = "anon_inode:[eventpoll]", kEvent[] = "anon_inode:[eventfd]";

TEST(Surface, TheCoreAndTheHostDriverTouchWhatThePageSays) {
  const Still still;
  const auto none = descriptors();
  {
    Instance in = must(Instance::create());
    EXPECT_THAT(added(none), UnorderedElementsAre(kEpoll, kEvent));
    EXPECT_EQ(Still(), still);
    auto before = descriptors();
    Device dev = must(in.open("host://"));
    EXPECT_THAT(added(before), UnorderedElementsAre()) << "an open host device";
    Timeline t = must(in.timeline("t"));
    EXPECT_THAT(added(before), UnorderedElementsAre()) << "a timeline";
    Queue q = must(dev.queue());
    EXPECT_THAT(added(before), UnorderedElementsAre(kEvent)) << "a queue";
    before = descriptors();
    Buffer b = must(dev.alloc(4096));
    EXPECT_THAT(added(before), UnorderedElementsAre("/memfd:baton-dram (deleted)")) << "an allocation";
    before = descriptors();
    Status s = q.submit(fill(b, 0, 4096, 1).signal(t, 1));
    EXPECT_TRUE(s.ok() && t.wait_until(1, deadline_in_ms(20'000)).ok());
    EXPECT_THAT(added(before), UnorderedElementsAre()) << "an op";
    EXPECT_EQ(Still(), still) << "a thread, a signal or the environment changed";
    EXPECT_EQ(children(), "");
  }
  EXPECT_THAT(added(none), UnorderedElementsAre());
  EXPECT_EQ(Still(), still);
}

TEST(Surface, AnEmulatorIsOneChildAndThreeDescriptorsAndADeviceItsLink) {
  const Still still;
  const auto none = descriptors();
  {
    Instance in = must(Instance::create());
    Device dev = must(in.open("emu+cs3://0"));
    Timeline t = must(in.timeline("t"));
    EXPECT_THAT(added(none), UnorderedElementsAre(kEpoll, kEvent, "pipe", "pipe", "/memfd:baton-emulator-stderr (deleted)",  //
                                                  "socket", kEpoll, kEpoll, kEvent, kEvent, kEvent));
    EXPECT_NE(children(), "");
    EXPECT_EQ(Still(), still);
  }
  EXPECT_THAT(added(none), UnorderedElementsAre());
  EXPECT_EQ(children(), "");
  EXPECT_EQ(Still(), still);
}

}  // namespace
}  // namespace baton
