// A network that is cut: nobody ends, no connection is closed, bytes just stop. In a network namespace of this test's own, whose one
// interface is taken down.
#include "transport_child.hpp"

#include "transport/remote_timeline.hpp"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

namespace baton::transport {
namespace {

bool set_loopback(bool up) {
  Fd s(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq r{};
  std::strcpy(r.ifr_name, "lo");
  if (ioctl(s.get(), SIOCGIFFLAGS, &r)) return false;
  r.ifr_flags = short(up ? r.ifr_flags | IFF_UP : r.ifr_flags & ~IFF_UP);
  return ioctl(s.get(), SIOCSIFFLAGS, &r) == 0;
}

// Children inherit the namespace.
bool enter_own_network() {
  static const bool entered = (unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0) && set_loopback(true);
  return entered;
}

class Cut : public Far {
 public:
  Cut() : Far(enter_own_network()) {}

 protected:
  void SetUp() override {
    if (!enter_own_network()) GTEST_SKIP() << "may not make a network namespace: " << strerror(errno);
    ASSERT_TRUE(set_loopback(true));
  }
  void TearDown() override { set_loopback(true); }
};

TEST_F(Cut, ARemoteTimelineIsPoisonedWithinTheLease) {
  start();
  ask("export", "exported");
  auto far = must(RemoteTimeline::import(in, *session, "made", deadline_in_ms(kSoonMs)));
  ASSERT_OK(session->send({"signal", {{"value", 4}, {"modelled", 44}}, {}}));
  ASSERT_OK(far.timeline().wait_until(4, deadline_in_ms(kSoonMs)));
  ASSERT_TRUE(set_loopback(false));
  expect_silent(far.timeline(), 5);
}

TEST_F(Cut, ShorterThanTheLeaseItIsNotNoticed) {
  start();
  ask("export", "exported");
  auto far = must(RemoteTimeline::import(in, *session, "made", deadline_in_ms(kSoonMs)));
  ASSERT_TRUE(set_loopback(false));
  poll_until(in, [] { return false; }, kLeaseMs / 4);
  ASSERT_TRUE(set_loopback(true));
  ASSERT_OK(session->send({"signal", {{"value", 9}, {"modelled", 9}}, {}}));
  EXPECT_OK(far.timeline().wait_until(9, deadline_in_ms(kSoonMs)));
}

}  // namespace
}  // namespace baton::transport
