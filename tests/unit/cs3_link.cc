// The wafer link's parts in one process: rings, entries, tickets and slots, segments, addresses.
#include "drivers/cs3/link/carrier.h"
#include "drivers/cs3/link/fifo.h"
#include "drivers/cs3/link/segment.h"
#include "drivers/cs3/options.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <set>
#include <thread>

namespace baton::cs3 {
namespace {

struct Entry {
  uint64_t n, twice;
};
constexpr uint32_t kEntries = 8;
struct SmallRing {
  RingControl control{};
  Entry slots[kEntries] = {};
  Producer<Entry, kEntries> tx{&control, slots};
  Consumer<Entry, kEntries> rx{&control, slots};
};

TEST(Ring, KeepsOrderAcrossManyWraps) {
  auto r = std::make_unique<SmallRing>();
  r->control.tail = r->control.head = 0;
  uint64_t in = 0, out = 0;
  for (int round = 0; round < 1000; ++round) {
    for (int i = 0; i <= round % 8; ++i, ++in) ASSERT_TRUE(r->tx.push({in, 2 * in}));
    Entry e;
    while (r->rx.pop(e) == Pop::got) {
      ASSERT_EQ(e.n, out);
      ASSERT_EQ(e.twice, 2 * out++);
    }
  }
  EXPECT_EQ(in, out);
}

TEST(Ring, FullRefusesAndLosesNothing) {
  auto r = std::make_unique<SmallRing>();
  for (uint64_t i = 0; i < kEntries; ++i) ASSERT_TRUE(r->tx.push({i, 0}));
  EXPECT_FALSE(r->tx.push({99, 0}));
  EXPECT_EQ(r->tx.room(), 0u);
  Entry e;
  ASSERT_EQ(r->rx.pop(e), Pop::got);
  EXPECT_EQ(e.n, 0u);
  EXPECT_EQ(r->tx.room(), 1u);
  EXPECT_TRUE(r->tx.push({8, 0}));
  for (uint64_t i = 1; i <= 8; ++i) {
    ASSERT_EQ(r->rx.pop(e), Pop::got);
    EXPECT_EQ(e.n, i);
  }
  EXPECT_EQ(r->rx.pop(e), Pop::none);
}

TEST(Ring, ImpossibleIndicesAreNotFollowed) {
  auto r = std::make_unique<SmallRing>();
  Entry e;
  for (const uint32_t tail : {9u, 1000u, 0x80000000u, 0xffffffffu}) {
    r->control.tail = tail;
    EXPECT_EQ(r->rx.pop(e), Pop::broken) << tail;
  }
  for (const uint32_t head : {1u, 1000u, 0x80000000u}) {
    r->control.head = head;  // beyond what was ever pushed
    EXPECT_EQ(r->tx.room(), 0u) << head;
  }
}

TEST(Ring, ArmedConsumerIsRungOnce) {
  auto r = std::make_unique<SmallRing>();
  EXPECT_FALSE(r->tx.bell());
  EXPECT_TRUE(r->rx.arm());
  EXPECT_TRUE(r->rx.armed());
  r->tx.push({1, 2});
  EXPECT_FALSE(r->rx.armed());
  EXPECT_TRUE(r->tx.bell());
  r->tx.push({2, 4});
  EXPECT_FALSE(r->tx.bell());
  EXPECT_FALSE(r->rx.arm()) << "something is there";
  r->tx.push({3, 6});
  EXPECT_FALSE(r->tx.bell()) << "a consumer that did not sleep needs no bell";
}

// Two threads, both of which sleep on bells: every entry arrives whole and in order, and nobody sleeps for ever.
TEST(Ring, TwoThreadsSleepAndWake) {
  constexpr uint64_t kCount = 40'000;
  auto r = std::make_unique<SmallRing>();
  const Fd bell(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  std::thread producer([&] {
    for (uint64_t i = 0; i < kCount; ++i) {
      while (!r->tx.push({i, 2 * i})) std::this_thread::yield();
      if (r->tx.bell()) ring(bell.get());
    }
  });
  uint64_t expected = 0, sleeps = 0;
  while (expected < kCount) {
    Entry e;
    if (r->rx.pop(e) == Pop::got) {
      ASSERT_EQ(e.n, expected);
      ASSERT_EQ(e.twice, 2 * expected++);
      continue;
    }
    drain(bell.get());
    if (!r->rx.arm()) continue;
    ++sleeps;
    pollfd p{bell.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&p, 1, 20'000), 1) << "a wake-up was lost at " << expected;
    r->rx.disarm();
  }
  producer.join();
  EXPECT_GT(sleeps, 0u);
}

Submission good(Op op) {
  Submission s{};
  s.id = 1 << 16;
  s.op = uint16_t(op);
  s.arg1 = 1;
  return s;
}

TEST(Wire, EntriesThatCannotBeAreNamed) {
  EXPECT_EQ(check(good(Op::nop)), nullptr);
  EXPECT_EQ(check(good(Op::fill)), nullptr);
  const auto wrong = [](auto change, Op op = Op::nop) {
    Submission s = good(op);
    change(s);
    return check(s) != nullptr;
  };
  EXPECT_TRUE(wrong([](Submission& s) { s.id = 0; }));
  EXPECT_TRUE(wrong([](Submission& s) { s.op = 0; }));
  EXPECT_TRUE(wrong([](Submission& s) { s.op = uint16_t(Op::clock) + 1; }));
  EXPECT_TRUE(wrong([](Submission& s) { s.op = uint16_t(Op::receive) + 1; }));
  EXPECT_TRUE(wrong([](Submission& s) { s.where = 3; }));
  EXPECT_TRUE(wrong([](Submission& s) { s.zero = 1; }));
  EXPECT_TRUE(wrong([](Submission& s) { s.zero1 = 1; }));
  EXPECT_TRUE(wrong([](Submission& s) { s.payload_bytes = 8; }));
  EXPECT_TRUE(wrong([](Submission& s) { s.payload_offset = 8; }));
  EXPECT_TRUE(wrong([](Submission& s) { s.where = uint8_t(Where::region), s.region = 1; }));
  EXPECT_TRUE(wrong([](Submission& s) { s.arg1 = 3; }, Op::fill));
  const auto copy = [](Submission& s) { s.where = uint8_t(Where::arena), s.bytes = s.total = s.payload_bytes = 64; };
  EXPECT_FALSE(wrong(copy, Op::memcpy_h2d));
  EXPECT_TRUE(wrong([&](Submission& s) { copy(s), s.payload_offset = kArenaBytes - 63; }, Op::memcpy_h2d));
  EXPECT_TRUE(wrong([&](Submission& s) { copy(s), s.payload_offset = UINT64_MAX - 8; }, Op::memcpy_h2d));
  EXPECT_TRUE(wrong([&](Submission& s) { copy(s), s.bytes = s.total = UINT64_MAX; }, Op::memcpy_d2h));
  EXPECT_TRUE(wrong([&](Submission& s) { copy(s), s.total = 63; }, Op::memcpy_d2h));
  EXPECT_TRUE(wrong([&](Submission& s) { copy(s), s.element_bits = 8; }, Op::memcpy_d2h));
  EXPECT_TRUE(wrong([&](Submission& s) { copy(s), s.channels = 17; }, Op::memcpy_d2h));
  EXPECT_TRUE(wrong([](Submission& s) { s.bytes = s.total = 64; }, Op::memcpy_d2h)) << "no host memory";
  EXPECT_TRUE(wrong([](Submission& s) { s.bytes = s.total = 64; }, Op::send)) << "no host memory";
  EXPECT_FALSE(wrong([&](Submission& s) { copy(s), s.flags = kAlongRows; }, Op::memcpy_h2d));
  EXPECT_TRUE(wrong([&](Submission& s) { copy(s), s.flags = kAlongRows | kAlongColumns; }, Op::memcpy_h2d));
  EXPECT_TRUE(wrong([&](Submission& s) { copy(s), s.flags = kAlongColumns; }, Op::memcpy_d2h)) << "a broadcast from the wafer";
  EXPECT_TRUE(wrong([](Submission& s) { s.arg0 = 2; }, Op::fault));
  EXPECT_TRUE(wrong([](Submission& s) { s.arg0 = 2; }, Op::port));
  Completion c{};
  c.id = 1;
  c.kind = uint8_t(Kind::done);
  EXPECT_EQ(check(c), nullptr);
  c.text_bytes = kTextBytes + 1;
  EXPECT_NE(check(c), nullptr);
  c.text_bytes = 0;
  c.kind = 4;
  EXPECT_NE(check(c), nullptr);
  c.kind = uint8_t(Kind::lost);
  EXPECT_NE(check(c), nullptr) << "lost has no command";
  c.kind = uint8_t(Kind::progress);
  c.payload_bytes = 8;
  EXPECT_NE(check(c), nullptr);
}

TEST(Fifo, KeepsOrderWhileItGrowsWrapsAndLosesItsMiddle) {
  Fifo<int> q;
  std::vector<int> model;
  for (int i = 0; i < 5000; ++i) {
    if (i % 3 != 2 || model.empty()) {
      q.push(i);
      model.push_back(i);
    } else {
      const size_t at = size_t(i * 7) % model.size() / 2;
      ASSERT_EQ(q.take(at), model[at]);
      model.erase(model.begin() + ptrdiff_t(at));
    }
    ASSERT_EQ(q.size(), model.size());
    ASSERT_EQ(q.front(), model.front());
    ASSERT_EQ(q[model.size() - 1], model.back());
  }
  q.clear();
  EXPECT_TRUE(q.empty());
}

// A carrier whose daemon says what the test wants.
class FakeCarrier : public Carrier {
 public:
  explicit FakeCarrier(uint8_t* arena) : Carrier(arena) {}
  Status watch(int) override { return {}; }
  bool arm() override { return true; }
  bool armed() override { return true; }
  void check_alive() override {}
  bool pass_fd(int, uint32_t) override { return false; }
  const char* name() const override { return "fake"; }
  Completion say{};
  bool silent = true;

 protected:
  void send(Ticket&) override {}
  Pop receive(Completion& c, std::string_view&) override {
    if (silent) return Pop::none;
    silent = true;
    c = say;
    return Pop::got;
  }
};

TEST(Carrier, TicketsAndSlotsRunOutAndComeBack) {
  auto arena = std::make_unique_for_overwrite<uint8_t[]>(kArenaBytes);
  FakeCarrier c(arena.get());
  for (int round = 0; round < 3; ++round) {
    std::set<std::pair<uint8_t*, uint8_t*>> taken;
    std::vector<Ticket*> all;
    const auto take = [&](uint32_t bytes) {
      Ticket* t = c.begin(bytes);
      if (!t) return false;
      all.push_back(t);
      if (bytes) {
        EXPECT_GE(t->payload, arena.get());
        EXPECT_LE(t->payload + bytes, arena.get() + kArenaBytes);
        for (const auto& [b, e] : taken) EXPECT_TRUE(t->payload >= e || t->payload + bytes <= b) << "slots overlap";
        taken.insert({t->payload, t->payload + bytes});
      }
      return true;
    };
    EXPECT_FALSE(take(kMaxPayload + 1));
    for (uint32_t i = 0; i < kLargeSlots; ++i) EXPECT_TRUE(take(kMaxPayload));
    EXPECT_FALSE(take(kMaxPayload));
    for (uint32_t i = 0; i < kSmallSlots; ++i) EXPECT_TRUE(take(kSmallBytes));
    EXPECT_FALSE(take(1));
    while (take(0)) {}
    EXPECT_EQ(c.in_flight(), kSqEntries);
    for (Ticket* t : all) c.end(*t);
    EXPECT_EQ(c.in_flight(), 0u);
  }
}

TEST(Carrier, AnswersToNobodyBreakTheLink) {
  auto arena = std::make_unique_for_overwrite<uint8_t[]>(kArenaBytes);
  for (const uint64_t id : {uint64_t(1), uint64_t(0xffff), uint64_t(1) << 40, uint64_t(kSqEntries)}) {
    FakeCarrier c(arena.get());
    Ticket* t = c.begin(0);
    Submission s = good(Op::nop);
    c.push(*t, s);
    const uint64_t stale = t->id;
    c.end(*t);
    Event ev;
    c.say = {};
    c.say.kind = uint8_t(Kind::done);
    c.say.id = id == 1 ? stale : id;  // first: a command that is over already
    c.silent = false;
    EXPECT_EQ(c.pop(ev), Pop::broken) << id;
    EXPECT_EQ(c.broken().code, BATON_CORRUPT);
    EXPECT_EQ(c.pop(ev), Pop::broken) << "for good";
  }
}

TEST(Segment, OnlySealedAndRightSizedOnesAreMapped) {
  auto made = Segment::create();
  ASSERT_TRUE(made.ok());
  EXPECT_TRUE(Segment::open(Fd(::dup(made->fd()))).ok());
  EXPECT_NE(::ftruncate(made->fd(), 4096), 0) << "sealed";
  Fd loose(::memfd_create("t", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(loose.get(), sizeof(SegmentLayout)), 0);
  EXPECT_FALSE(Segment::open(Fd(::dup(loose.get()))).ok()) << "it could shrink under us";
  Fd small(::memfd_create("t", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(small.get(), 4096), 0);
  ::fcntl(small.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
  EXPECT_FALSE(Segment::open(std::move(small)).ok());
}

TEST(Socket, DescriptorsBeyondThreeAreClosedNotLeaked) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const Fd a(pair[0]), b(pair[1]);
  const int next = ::dup(0);
  ::close(next);
  const int three[] = {a.get(), b.get(), a.get()};
  ASSERT_TRUE(send_with_fds(a.get(), "x", 1, three));
  ASSERT_TRUE(send_with_fds(a.get(), "y", 1, {}));
  char c;
  {
    Fd fds[kMaxFds];
    size_t count = 0;
    ASSERT_EQ(receive_with_fds(b.get(), &c, 1, fds, &count), 1);
    EXPECT_EQ(count, 3u);
  }
  const int now = ::dup(0);
  EXPECT_EQ(now, next) << "received descriptors were closed";
  ::close(now);
}

TEST(Address, OptionsAreCheckedAndKnownOnesListed) {
  auto o = parse_options("cs3://10.0.0.5:9000?carrier=tcp&timeout_ms=50");
  ASSERT_TRUE(o.ok());
  EXPECT_EQ(o->addresses[0].host, "10.0.0.5");
  EXPECT_EQ(o->addresses[0].port, "9000");
  EXPECT_EQ(o->shown, "cs3://10.0.0.5:9000");
  EXPECT_EQ(o->carrier, CarrierKind::tcp);
  EXPECT_EQ(o->timeout_ms, 50u);
  EXPECT_EQ(o->channels, 16);
  EXPECT_EQ(parse_options("cs3://h:1?channels=5")->channels, 5);
  auto six = parse_options("cs3://[::1]:9000");
  ASSERT_TRUE(six.ok());
  EXPECT_EQ(six->addresses[0].host, "::1");
  for (const char* bad : {"cs3://", "cs3://host", "cs3://:9000", "cs3://host:", "cs3://host:99999", "cs3://host:9x", "cs3://h:1?carrier=usb",
                          "cs3://h:1?timeout_ms=0", "cs3://h:1?timeout_ms=1s", "cs3://h:1?channels=0", "cs3://h:1?channels=17", "cs3://h:1?channels=5x", "tcp://h:1"}) {
    auto r = parse_options(bad);
    ASSERT_FALSE(r.ok()) << bad;
    EXPECT_EQ(r.error().code, BATON_INVALID_ARGUMENT) << bad;
    EXPECT_NE(r.error().next[0], 0) << bad;
  }
  auto unknown = parse_options("cs3://h:1?lanes=4");
  ASSERT_FALSE(unknown.ok());
  EXPECT_STREQ(unknown.error().next, "options of cs3://: carrier, timeout_ms, channels");
}

}  // namespace
}  // namespace baton::cs3
