// Pairs, losses: poison travels over a link with its hops named; an end that is lost in mid-copy fails the copy, and only that.
#include "tests/cts/pair.h"

#include <gmock/gmock.h>

#include <dirent.h>

namespace baton::cts {
namespace {

using testing::HasSubstr;

constexpr uint64_t kLong = 20 << 20;  // many chunks by any path: in flight until somebody polls

std::string shown(const DeviceInfo& i) { return std::string(i.uri).substr(0, std::string(i.uri).find('?')); }

int open_descriptors() {
  int n = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (readdir(dir)) ++n;
  closedir(dir);
  return n;
}

void poison_travels_with_its_hops(Fixture& f) {
  Ends e(f);
  Buffer src = e.filled(e.from, Bytes(4096, 1)), dst = e.filled(e.to, Bytes(4096, 2));
  Timeline made = f.timeline("made"), landed = f.timeline("landed"), ready = f.timeline("ready");
  Queue q = must(e.to.queue());
  must(q.submit(nop().wait(landed, 1).signal(ready, 1)));
  must(e.link.submit(copy(src, 0, dst, 0, 4096).wait(made, 1).signal(landed, 1)));
  made.poison(Error(BATON_PEER_LOST, "the one who made it is gone", "ask another"));
  const Status s = ready.wait_until(1, soon());
  EXPECT_CODE(s, BATON_PEER_LOST);
  if (s.ok()) return;
  EXPECT_STREQ(s.error().what, "the one who made it is gone");
  EXPECT_STREQ(s.error().next, "ask another");
  const std::string link = "link " + shown(f.info()) + " -> " + shown(f.peer_info());
  EXPECT_EQ(std::string(s.error().hop), link + " > " + shown(f.peer_info()));
  EXPECT_TRUE(same(e.bytes(e.to, dst), Bytes(4096, 2))) << "a copy whose wait failed has written";
  EXPECT_OK(e.arrives(e.link, copy(src, 0, dst, 0, 4096)));  // the link goes on
  EXPECT_TRUE(same(e.bytes(e.to, dst), Bytes(4096, 1)));
}

// The copy is cancelled from outside: its end does not come late into the timeline, and the link goes on.
void a_poisoned_signal_ends_the_copy(Fixture& f) {
  Ends e(f);
  Buffer src = e.filled(e.from, Bytes(kLong, 1)), dst = must(e.to.alloc(kLong));
  Timeline landed = f.timeline("landed");
  must(e.link.submit(copy(src, 0, dst, 0, kLong).signal(landed, 1)));
  landed.poison(Error(BATON_CANCELLED, "the request is over"));
  EXPECT_CODE(landed.wait_until(1, soon()), BATON_CANCELLED);
  EXPECT_OK(e.arrives(e.link, copy(src, 0, dst, 0, kLong)));
  EXPECT_TRUE(same(e.bytes(e.to, dst, kLong - 100, 100), Bytes(100, 1)));
}

// One end is reset in mid-copy.
void lose(Fixture& f, bool first) {
  Ends e(f);
  const Device &lost = first ? e.from : e.to, &other = first ? e.to : e.from;
  const std::string name = shown(first ? f.info() : f.peer_info());
  Buffer src = e.filled(e.from, Bytes(kLong, 1)), dst = must(e.to.alloc(kLong)), of_other = e.filled(other, Bytes(100, 3));
  Timeline landed = f.timeline("landed"), after = f.timeline("after");
  Queue q = must(other.queue());
  must(e.link.submit({copy(src, 0, dst, 0, kLong).signal(landed, 1), copy(src, 0, dst, 0, kLong).wait(landed, 1).signal(after, 1)}));
  must(lost.reset_device());
  const Status s = landed.wait_until(1, soon()), t = after.wait_until(1, soon());
  EXPECT_CODE(s, BATON_DEVICE_LOST);
  EXPECT_CODE(t, BATON_DEVICE_LOST);
  // Nothing that was on its way reaches memory of the new epoch.
  Buffer whole = e.filled(lost, Bytes(kLong, 9));
  EXPECT_TRUE(same(e.bytes(lost, whole), Bytes(kLong, 9)));
  if (s.ok()) return;
  EXPECT_THAT(std::string(s.error().what), HasSubstr(name));
  EXPECT_THAT(std::string(s.error().hop), HasSubstr("link " + shown(f.info()) + " -> " + shown(f.peer_info())));
  const Status stale = e.link.submit(copy(src, 0, dst, 0, 64));
  EXPECT_CODE(stale, BATON_DEVICE_LOST);
  EXPECT_THAT(stale.ok() ? "" : std::string(stale.error().what), HasSubstr("epoch"));
  // The other end has kept everything: its buffers, its queues; and the link serves the new epoch.
  EXPECT_TRUE(same(e.bytes(other, of_other), Bytes(100, 3)));
  EXPECT_OK(e.arrives(q, nop()));
  e.expect_usable(lost);
  Buffer anew = e.filled(e.from, Bytes(5000, 9)), there = e.filled(e.to, Bytes(5000, 0));
  EXPECT_OK(e.arrives(e.link, copy(anew, 0, there, 0, 5000)));
  EXPECT_TRUE(same(e.bytes(e.to, there), Bytes(5000, 9)));
}
void the_source_is_lost_in_mid_copy(Fixture& f) { lose(f, true); }
void the_target_is_lost_in_mid_copy(Fixture& f) { lose(f, false); }

void closing_cancels_what_is_in_flight(Fixture& f) {
  Ends e(f);
  Buffer src = e.filled(e.from, Bytes(kLong, 1)), dst = must(e.to.alloc(kLong));
  Timeline never = f.timeline("never"), landed = f.timeline("landed"), waiting = f.timeline("waiting");
  must(e.link.submit({copy(src, 0, dst, 0, kLong).signal(landed, 1), copy(src, 0, dst, 0, 64).wait(never, 1).signal(waiting, 1)}));
  f.in().poll(1);
  const uint64_t began = now_ns();  // children before or after their devices, in any order
  f.device.reset();
  src.reset();
  e.link.reset();
  f.peer.reset();
  dst.reset();
  EXPECT_LT(now_ns() - began, 4'000'000'000 * kSlower);
  const Status w = waiting.wait_until(1, soon());
  EXPECT_CODE(w, BATON_CANCELLED);
  const Status s = landed.wait_until(1, soon());  // what was on its way may have arrived
  if (!s.ok()) EXPECT_CODE(s, BATON_CANCELLED);
}

void a_hundred_links_leave_nothing_behind(Fixture& f) {
  Buffer src = Ends(f).filled(f.device, Bytes(3000, 1)), dst = Ends(f).filled(f.peer, Bytes(3000, 2));
  auto once = [&] {
    Ends e(f);
    must(e.arrives(e.link, copy(src, 0, dst, 0, 3000)));
  };
  once();
  const int before = open_descriptors();
  for (uint64_t i = 0; i < scaled(100) + 5; ++i) once();
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace

const Suite& pair_loss_suite() {
  static constexpr Case kCases[] = {
      {"PoisonTravelsWithItsHops", kNone, poison_travels_with_its_hops},
      {"APoisonedSignalEndsTheCopy", kNone, a_poisoned_signal_ends_the_copy},
      {"TheSourceIsLostInMidCopy", kNone, the_source_is_lost_in_mid_copy},
      {"TheTargetIsLostInMidCopy", kNone, the_target_is_lost_in_mid_copy},
      {"ClosingCancelsWhatIsInFlight", kNone, closing_cancels_what_is_in_flight},
      {"AHundredLinksLeaveNothingBehind", kNone, a_hundred_links_leave_nothing_behind},
  };
  static constexpr Suite kSuite{"pair_loss", kCases, About::pair};
  return kSuite;
}

}  // namespace baton::cts
