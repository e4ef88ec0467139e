// Nothing is left behind: descriptors, mappings, processes.
#include "tests/unit/hal_test.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <fstream>

namespace baton::test {
namespace {

int mappings() {
  std::ifstream f("/proc/self/maps");
  int n = 0;
  for (std::string line; std::getline(f, line);)
    if (line.find("memfd:baton") != std::string::npos) ++n;
  return n;
}

void once() {
  Instance in = make_instance();
  Device h = must(in.open("host://")), f = must(in.open("fake://f")), g = must(in.open("fake://g"));
  Buffer a = must(h.alloc(1 << 20)), b = must(f.alloc(1 << 20)), c = must(g.alloc(1 << 20));
  auto x = must(a.export_fd());
  Buffer imported = must(h.import_fd(x.fd, x.offset, 1 << 20));
  close(x.fd);
  Queue q = must(h.queue()), to = must(in.link(h, f)), staged = must(in.link(f, g));
  Timeline t = must(in.timeline("t"));
  EXPECT_OK(to.submit(copy(imported, 0, b, 0, 1 << 20).signal(t, 1)));
  EXPECT_OK(staged.submit(copy(b, 0, c, 0, 1 << 20).wait(t, 1).signal(t, 2)));
  EXPECT_OK(t.wait_until(2, soon()));
  (void)in.open("nothing://0");
  (void)in.open("fake://refuse");
}

TEST(Hygiene, AHundredRoundsLeaveNoDescriptorAndNoMapping) {
  once();  // loads drivers
  int fds = open_descriptors(), maps = mappings();
  for (int i = 0; i < 100; ++i) once();
  EXPECT_EQ(open_descriptors(), fds);
  EXPECT_EQ(mappings(), maps);
}

TEST(Hygiene, EveryDescriptorIsClosedOnExec) {
  bool of_the_parent[64];
  for (int fd = 3; fd < 64; ++fd) of_the_parent[fd] = fcntl(fd, F_GETFD) >= 0;
  Instance in = make_instance();
  Device h = must(in.open("host://"));
  Buffer a = must(h.alloc(4096));
  Queue q = must(h.queue());
  auto x = must(a.export_fd());
  int seen = 0;
  for (int fd = 3; fd < 64; ++fd) {
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0 || of_the_parent[fd]) continue;
    ++seen;
    char path[64], target[256] = {};
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (readlink(path, target, sizeof target - 1) < 0) continue;
    EXPECT_TRUE(flags & FD_CLOEXEC) << fd << " " << target;
  }
  EXPECT_GT(seen, 3) << "the instance's, the queue's, the export";
  close(x.fd);
}

TEST(Hygiene, CodesHaveStableNames) {
  EXPECT_STREQ(baton_code_name(BATON_OK), "OK");
  EXPECT_STREQ(baton_code_name(BATON_DEVICE_LOST), "DEVICE_LOST");
  EXPECT_STREQ(baton_code_name(BATON_INTERNAL), "INTERNAL");
  EXPECT_STREQ(baton_code_name(17), "UNKNOWN");
  EXPECT_STREQ(baton_code_name(-1), "UNKNOWN");
}

}  // namespace
}  // namespace baton::test
