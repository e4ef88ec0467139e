// The daemon as a real child process, under the driver and the core: memory, copies, launches, deaths on either side.
#include "tests/unit/cs3_test.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <numeric>

namespace baton::cs3::test {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;


class Cs3 : public ::testing::Test {
 protected:
  Device open(const std::string& options = "") { return must(in.open(daemon.uri() + options)); }
  // Runs ops one after the other and waits.
  Status run(Device& d, std::vector<baton::Op> ops) {
    auto q = must(d.queue());
    auto t = must(in.timeline("run"));
    uint64_t n = 0;
    for (auto& op : ops) {
      if (n) op.wait(t, n);
      op.signal(t, ++n);
    }
    BATON_TRY(q.submit(ops));
    return t.wait_until(n, soon());
  }
  uint64_t used(Device& d) { return must(d.info()).heaps[0].bytes_used; }
  DaemonProcess daemon;
  Instance in = make_instance();
};

TEST_F(Cs3, SaysWhatItIs) {
  auto d = open();
  const auto i = must(d.info());
  EXPECT_EQ(i.emulated, 1u);
  EXPECT_STREQ(i.model, "CS-3");
  EXPECT_STREQ(i.driver, "cs3");
  EXPECT_EQ(i.lanes, 1u);
  EXPECT_EQ(i.heap_count, 1u);
  EXPECT_STREQ(i.heaps[0].name, "sram");
  EXPECT_EQ(i.heaps[0].bytes_total, 200'000'000u);
  EXPECT_EQ(i.heaps[0].bytes_used, 0u);
  EXPECT_EQ(i.progress, 1u);
  EXPECT_EQ(i.modelled, 1u);
  EXPECT_THAT(i.timing, HasSubstr("cs3"));
  EXPECT_THAT(i.firmware, HasSubstr("baton-emu-cs3"));
}

TEST_F(Cs3, AllocatesToExhaustionAndBack) {
  auto d = open();
  for (int round = 0; round < 2; ++round) {
    std::vector<Buffer> all;
    for (;;) {
      auto b = d.alloc(20 * kMiB);
      if (!b) {
        EXPECT_EQ(b.error().code, BATON_CAPACITY);
        EXPECT_STREQ(b.error().what, "alloc: a buffer of 21.0 MB + weights 0 bytes + buffers 0.2 GB is over the 0.2 GB of SRAM");
        EXPECT_THAT(b.error().next, HasSubstr("--sram-gb"));
        break;
      }
      all.push_back(std::move(*b));
    }
    EXPECT_EQ(all.size(), 9u);
    all.clear();
    EXPECT_EQ(used(d), 0u);
  }
}

class Cs3Copy : public Cs3, public ::testing::WithParamInterface<std::pair<const char*, const char*>> {};

// Both carriers; host buffers with a descriptor, and (below) without. Odd offsets and sizes around every boundary.
TEST_P(Cs3Copy, BytesArriveWhole) {
  auto d = open(GetParam().first);
  auto host = must(in.open(GetParam().second));
  for (const uint64_t bytes : {uint64_t(1), uint64_t(4095), uint64_t(4096), uint64_t(16385), kMiB - 1, kMiB + 1, 5 * kMiB + 13}) {
    auto wafer = must(d.alloc(bytes + 100));
    auto there = must(d.alloc(bytes));
    auto from = must(host.alloc(bytes + 7)), back = must(host.alloc(bytes + 9));
    const auto want = noise(bytes, uint32_t(bytes));
    std::memcpy(static_cast<uint8_t*>(must(from.map())) + 7, want.data(), bytes);
    std::memset(must(back.map()), 0, bytes + 9);
    auto q = must(in.link(host, d)), r = must(in.link(d, host));
    auto lane = must(d.queue());
    auto t = must(in.timeline("t"));
    must(q.submit(copy(from, 7, wafer, 100, bytes).signal(t, 1)));
    must(lane.submit(copy(wafer, 100, there, 0, bytes).wait(t, 1).signal(t, 2)));
    must(r.submit(copy(there, 0, back, 9, bytes).wait(t, 2).signal(t, 3)));
    must(t.wait_until(3, soon()));
    const auto* got = static_cast<const uint8_t*>(must(back.map()));
    EXPECT_EQ(std::memcmp(got + 9, want.data(), bytes), 0) << bytes;
    EXPECT_TRUE(std::all_of(got, got + 9, [](uint8_t b) { return b == 0; })) << bytes;
    EXPECT_GT(t.modelled_ns(3), t.modelled_ns(1));
  }
  EXPECT_EQ(used(d), 0u);
}
INSTANTIATE_TEST_SUITE_P(Carriers, Cs3Copy,
                         ::testing::Values(std::pair("?carrier=shm", "host://"), std::pair("?carrier=tcp", "host://"), std::pair("", "host://")));

TEST_F(Cs3, FillsWithPatterns) {
  auto d = open();
  auto host = must(in.open("host://"));
  auto b = must(d.alloc(3 * kMiB));
  auto back = must(host.alloc(3 * kMiB));
  must(run(d, {fill(b, 0, 3 * kMiB, 0xa5, 1), fill(b, 2, 6, 0x1234, 2), fill(b, 8, 2 * kMiB, 0x01020304, 4)}));
  auto r = must(in.link(d, host));
  auto t = must(in.timeline("t"));
  must(r.submit(copy(b, 0, back, 0, 3 * kMiB).signal(t, 1)));
  must(t.wait_until(1, soon()));
  const auto* p = static_cast<const uint8_t*>(must(back.map()));
  const uint8_t head[] = {0xa5, 0xa5, 0x34, 0x12, 0x34, 0x12, 0x34, 0x12, 4, 3, 2, 1};
  EXPECT_EQ(std::memcmp(p, head, sizeof head), 0);
  EXPECT_EQ(p[8 + 2 * kMiB - 1], 1);
  EXPECT_EQ(p[8 + 2 * kMiB], 0xa5);
}

struct Decode {
  Buffer tokens;
  Program program;
};

Decode load(Device& d, const TinyDecode& m, uint32_t max_steps) {
  return {must(d.alloc((max_steps + 1) * 4)), must(d.load(m.bytes, m.constants))};
}

// The same program on host:// says what the tokens are; progress comes token by token, before the launch is over.
TEST_F(Cs3, LaunchReportsEachTokenAndComputesAsTheHostDoes) {
  constexpr uint32_t kSteps = 400;
  const TinyDecode m = make_decode(kSteps, 2048);
  std::vector<int32_t> answers[3];
  const std::string uris[] = {"host://", daemon.uri() + "?carrier=shm", daemon.uri() + "?carrier=tcp"};
  for (int i = 0; i < 3; ++i) {
    auto d = must(in.open(uris[i]));
    auto host = must(in.open("host://x"));
    auto decode = load(d, m, kSteps);
    auto back = must(host.alloc((kSteps + 1) * 4));
    auto q = must(d.queue());
    auto done = must(in.timeline("done")), token = must(in.timeline("token"));
    const baton_binding bindings[] = {bind("tokens", decode.tokens)};
    const int64_t args[] = {kSteps, 0};
    must(q.submit({fill(decode.tokens, 0, (kSteps + 1) * 4, 0).signal(done, 1),
                   launch(decode.program, bindings, args).progress(token).wait(done, 1).signal(done, 2)}));
    must(token.wait_until(1, soon()));
    if (i) {
      EXPECT_LT(must(done.value()), 2u) << "the first token came with the last";
    }
    must(done.wait_until(2, soon()));
    EXPECT_EQ(must(token.value()), kSteps);
    if (i) {
      EXPECT_GT(token.modelled_ns(1), 0u);
      EXPECT_GT(token.modelled_ns(kSteps), token.modelled_ns(1));
      EXPECT_GE(done.modelled_ns(2), token.modelled_ns(kSteps));
    }
    auto r = must(in.link(d, host));
    must(r.submit(copy(decode.tokens, 0, back, 0, (kSteps + 1) * 4).signal(done, 3)));
    must(done.wait_until(3, soon()));
    const auto* p = static_cast<const int32_t*>(must(back.map()));
    answers[i].assign(p, p + kSteps + 1);
  }
  EXPECT_EQ(answers[1], answers[0]);
  EXPECT_EQ(answers[2], answers[0]);
  EXPECT_GT(std::accumulate(answers[0].begin(), answers[0].end(), 0), 0) << "the program says something";
}

// While a long launch runs: telemetry, info, alloc and load are answered, and its buffers cannot be freed.
TEST_F(Cs3, ServesWhileDecoding) {
  constexpr uint32_t kSteps = 4000;
  const TinyDecode m = make_decode(kSteps, 4096);
  auto d = open();
  auto decode = load(d, m, kSteps);
  auto q = must(d.queue());
  auto done = must(in.timeline("done")), token = must(in.timeline("token"));
  const baton_binding bindings[] = {bind("tokens", decode.tokens)};
  const int64_t args[] = {kSteps, 0};
  must(q.submit(launch(decode.program, bindings, args).progress(token).signal(done, 1)));
  must(token.wait_until(2, soon()));
  const uint64_t before = used(d);
  auto extra = must(d.alloc(kMiB));
  EXPECT_EQ(used(d), before + kMiB);
  const auto other = must(d.load(m.bytes, m.constants));
  EXPECT_EQ(must(d.telemetry()).launches, 0u);
  {
    RawClient raw(daemon);  // another client at the same time
    EXPECT_TRUE(eventually([&] { return raw.info().sessions == 2; })) << "the handshake's own connection ends a moment later";
  }
  EXPECT_LT(must(done.value()), 1u) << "the launch was over before this test asked anything: raise kSteps";
  done.poison(Error(BATON_CANCELLED, "enough"));
  q.reset();  // waits for what still runs, which progress() tells to stop
  uint64_t reached = 0;
  EXPECT_EQ(baton_timeline_query(token.get(), &reached, nullptr), BATON_CANCELLED);
  EXPECT_LT(reached, kSteps);
  EXPECT_EQ(must(d.telemetry()).launches, 0u) << "a cancelled launch does not count";
}

TEST_F(Cs3, LoadErrorsNameTheirCause) {
  auto d = open();
  TinyDecode m = make_decode(4);
  auto missing = m.constants;
  missing.pop_back();
  auto a = d.load(m.bytes, missing);
  ASSERT_FALSE(a.ok());
  EXPECT_THAT(a.error().what, HasSubstr("head"));
  auto wrong = m.constants;
  wrong[1].bytes -= 4;
  auto b = d.load(m.bytes, wrong);
  ASSERT_FALSE(b.ok());
  EXPECT_EQ(b.error().code, BATON_MISMATCH);
  EXPECT_THAT(b.error().what, HasSubstr("'wide' has 65532 bytes"));
  auto strange = m.constants;
  strange[0].name = "tabel";
  EXPECT_FALSE(d.load(m.bytes, strange).ok());
  auto torn = m.bytes;
  torn.resize(torn.size() / 2);
  EXPECT_FALSE(d.load(torn, m.constants).ok());
  EXPECT_EQ(used(d), 0u) << "a load that failed leaves nothing";
  DaemonProcess small({"0?sram_gb=0.002"});
  auto e = must(in.open(small.uri()));
  const TinyDecode big = make_decode(4, 4096);
  auto c = e.load(big.bytes, big.constants);
  ASSERT_FALSE(c.ok());
  EXPECT_EQ(c.error().code, BATON_CAPACITY);
  EXPECT_THAT(c.error().what, HasSubstr("'tiny decode' of 2.1 MB + weights 0 bytes + buffers 0 bytes is over the 2.0 MB of SRAM"));
  EXPECT_EQ(used(e), 0u);
  EXPECT_TRUE(d.load(m.bytes, m.constants).ok());
  EXPECT_EQ(used(d), 0u) << "unloaded";
}

TEST_F(Cs3, KilledInMidLaunchIsLostWithinASecond) {
  constexpr uint32_t kSteps = 100'000;
  const TinyDecode m = make_decode(kSteps, 1024);
  for (const char* options : {"?carrier=shm", "?carrier=tcp"}) {
    DaemonProcess mine({"0?sram_gb=0.2"});
    auto d = must(in.open(mine.uri() + options));
    auto decode = load(d, m, kSteps);
    auto q = must(d.queue());
    auto done = must(in.timeline("done")), token = must(in.timeline("token"));
    const baton_binding bindings[] = {bind("tokens", decode.tokens)};
    const int64_t args[] = {kSteps, 0};
    must(q.submit(launch(decode.program, bindings, args).progress(token).signal(done, 1)));
    must(token.wait_until(3, soon()));
    mine.signal(SIGKILL);
    const uint64_t begin = now_ns();
    const Status s = done.wait_until(1, soon());
    EXPECT_LT(now_ns() - begin, 1'000'000'000u);
    ASSERT_FALSE(s.ok());
    EXPECT_STREQ(baton_code_name(s.error().code), "DEVICE_LOST");
    EXPECT_THAT(s.error().what, HasSubstr(mine.uri().substr(6)));
    EXPECT_THAT(s.error().next, HasSubstr("restart it"));
    auto after = d.alloc(4096);
    ASSERT_FALSE(after.ok());
    EXPECT_STREQ(baton_code_name(after.error().code), "DEVICE_LOST");
  }
}

// Nobody has polled since the death: the submit itself finds out.
TEST_F(Cs3, SubmitToADeadDaemonFailsItsOps) {
  for (const char* options : {"?carrier=shm", "?carrier=tcp"}) {
    DaemonProcess mine({"0?sram_gb=0.1"});
    auto d = must(in.open(mine.uri() + options));
    auto b = must(d.alloc(4096));
    auto q = must(d.queue());
    auto t = must(in.timeline("t"));
    must(q.submit(fill(b, 0, 4096, 1).signal(t, 1)));
    must(t.wait_until(1, soon()));
    mine.signal(SIGKILL);
    mine.end();
    EXPECT_FALSE(d.alloc(4096).ok());  // finds out, and may not tell the core from here
    const Status submitted = q.submit({fill(b, 0, 4096, 1).signal(t, 2), nop().signal(t, 3)});
    const Status s = submitted.ok() ? t.wait_until(3, soon()) : submitted;
    ASSERT_FALSE(s.ok());
    EXPECT_STREQ(baton_code_name(s.error().code), "DEVICE_LOST");
  }
}

TEST_F(Cs3, ResetEndsEverythingAndTheDeviceGoesOn) {
  constexpr uint32_t kSteps = 100'000;
  const TinyDecode m = make_decode(kSteps, 1024);
  auto d = open();
  auto decode = load(d, m, kSteps);
  auto q = must(d.queue());
  auto done = must(in.timeline("done")), token = must(in.timeline("token"));
  const baton_binding bindings[] = {bind("tokens", decode.tokens)};
  const int64_t args[] = {kSteps, 0};
  must(q.submit(launch(decode.program, bindings, args).progress(token).signal(done, 1)));
  must(token.wait_until(1, soon()));
  RawClient other(daemon);
  const uint64_t epoch = other.info().epoch;
  must(d.reset_device());
  const Status s = done.wait_until(1, soon());
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_DEVICE_LOST);
  const InfoReply i = other.info();
  EXPECT_EQ(i.epoch, epoch + 1);
  EXPECT_EQ(i.sram_used, 0u);
  EXPECT_TRUE(other.lost) << "the other client is told";
  auto b = must(d.alloc(kMiB));
  must(run(d, {fill(b, 0, kMiB, 1), nop()}));
}

// Somebody else's reset: this device is lost; its own reset brings it back without resetting the other in turn.
TEST_F(Cs3, ResetByAnotherClientIsALoss) {
  auto d = open();
  auto q = must(d.queue());
  auto b = must(d.alloc(kMiB));
  RawClient other(daemon);
  EXPECT_EQ(other.call(other.make(Op::reset)).code, BATON_OK);
  const uint64_t epoch = other.info().epoch;
  EXPECT_TRUE(eventually([&] {
    in.poll();
    return !d.alloc(4096).ok();
  }));
  const auto lost = d.alloc(4096);
  ASSERT_FALSE(lost.ok());
  EXPECT_EQ(lost.error().code, BATON_DEVICE_LOST);
  EXPECT_THAT(lost.error().what, HasSubstr("reset by another client"));
  must(d.reset_device());
  auto c = must(d.alloc(kMiB));
  must(run(d, {fill(c, 0, kMiB, 1)}));
  EXPECT_EQ(other.info().epoch, epoch);
}

TEST_F(Cs3, ResetByAnotherClientInMidLaunchIsOneReset) {
  constexpr uint32_t kSteps = 100'000;
  const TinyDecode m = make_decode(kSteps, 1024);
  for (const char* options : {"?carrier=shm", "?carrier=tcp"}) {
    auto d = open(options);
    auto decode = load(d, m, kSteps);
    auto q = must(d.queue());
    auto done = must(in.timeline("done")), token = must(in.timeline("token"));
    const baton_binding bindings[] = {bind("tokens", decode.tokens)};
    const int64_t args[] = {kSteps, 0};
    must(q.submit(launch(decode.program, bindings, args).progress(token).signal(done, 1)));
    must(token.wait_until(1, soon()));
    RawClient other(daemon);
    EXPECT_EQ(other.call(other.make(Op::reset)).code, BATON_OK);
    const uint64_t epoch = other.info().epoch;
    const Status lost = done.wait_until(1, soon());
    ASSERT_FALSE(lost.ok());
    EXPECT_EQ(lost.error().code, BATON_DEVICE_LOST);
    EXPECT_THAT(lost.error().what, HasSubstr("reset by another client"));
    must(d.reset_device());
    EXPECT_EQ(other.info().epoch, epoch) << "it does not reset the other in turn";
  }
}

// The daemon dies and comes back on its port: reset reconnects.
TEST_F(Cs3, ResetReconnectsToARestartedDaemon) {
  auto first = std::make_unique<DaemonProcess>(std::vector<std::string>{"--listen", "127.0.0.1:0", "--sram-gb", "0.1"});
  const std::string place = first->uri().substr(6);
  auto d = must(in.open(first->uri()));
  first->signal(SIGKILL);
  first->end();
  EXPECT_FALSE(d.alloc(4096).ok());
  const Status refused = d.reset_device();
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().what, HasSubstr("nothing listens on " + place));
  DaemonProcess second({"--listen", place, "--sram-gb", "0.1"});
  ASSERT_EQ(second.uri(), "cs3://" + place);
  must(d.reset_device());
  auto b = must(d.alloc(kMiB));
  must(run(d, {fill(b, 0, kMiB, 1)}));
}

TEST_F(Cs3, ClientKilledLeavesNothingOnTheWafer) {
  RawClient watch(daemon);
  EXPECT_TRUE(eventually([&] { return watch.info().sessions == 1; })) << "the handshake's own connection has ended";
  const int fds = daemon.fds();
  for (const char* options : {"?carrier=shm", "?carrier=tcp"}) {
    int ready[2];
    ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
    const pid_t child = ::fork();
    if (child == 0) {  // a client with memory, a program and a launch in flight
      const TinyDecode m = make_decode(100'000, 1024);
      auto mine = make_instance();
      auto d = must(mine.open(daemon.uri() + options));
      auto decode = load(d, m, 100'000);
      auto big = must(d.alloc(50 * kMiB));
      auto q = must(d.queue());
      auto token = must(mine.timeline("token"));
      const baton_binding bindings[] = {bind("tokens", decode.tokens)};
      const int64_t args[] = {100'000, 0};
      must(q.submit(launch(decode.program, bindings, args).progress(token)));
      must(token.wait_until(1, soon()));
      [[maybe_unused]] const ssize_t n = ::write(ready[1], "x", 1);
      for (;;) ::pause();
    }
    ::close(ready[1]);
    char c;
    ASSERT_EQ(::read(ready[0], &c, 1), 1);
    ::close(ready[0]);
    EXPECT_GT(watch.info().sram_used, 50 * kMiB);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    EXPECT_TRUE(eventually([&] { return watch.info().sram_used == 0; }));
    EXPECT_TRUE(eventually([&] { return watch.info().sessions == 1; }));
  }
  EXPECT_TRUE(eventually([&] { return daemon.fds() == fds; })) << daemon.fds() << " descriptors, were " << fds;
}

TEST_F(Cs3, FiftyClientsLeaveNothing) {
  const TinyDecode m = make_decode(4);
  const auto visit = [&](const char* options) {
    auto d = open(options);
    auto host = must(in.open("host://"));
    auto b = must(d.alloc(2 * kMiB)), h = must(host.alloc(2 * kMiB));
    auto p = must(d.load(m.bytes, m.constants));
    auto link = must(in.link(host, d));
    auto t = must(in.timeline("t"));
    must(link.submit(copy(h, 0, b, 0, 2 * kMiB).signal(t, 1)));
    must(t.wait_until(1, soon()));
  };
  for (int i = 0; i < 4; ++i) visit(i % 2 ? "?carrier=tcp" : "");  // warm
  const int here = count_fds(), there = daemon.fds();
  const uint64_t rss = resident_kib(daemon.pid());
  for (int i = 0; i < 50; ++i) visit(i % 2 ? "?carrier=tcp" : "");
  EXPECT_EQ(count_fds(), here);
  // At most: the warm-up's last client may still have been closing when they were counted.
  EXPECT_TRUE(eventually([&] { return daemon.fds() <= there; })) << daemon.fds() << " descriptors, were " << there;
  RawClient raw(daemon);
  EXPECT_EQ(raw.info().sram_used, 0u);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(resident_kib(daemon.pid()), rss + 4096) << "a leak of 50 buffers would be 100 MiB, of 50 segments 900";
#else
  (void)rss;
#endif
}

TEST_F(Cs3, EndsCleanly) {
  int code = -1;
  daemon.close_stdin();
  EXPECT_TRUE(daemon.ended_within(3000, &code));
  EXPECT_EQ(code, 0);
  for (const int signal : {SIGTERM, SIGINT}) {
    DaemonProcess other({"--listen", "127.0.0.1:0", "--sram-gb", "0.1"});
    RawClient client(other);
    other.close_stdin();
    client.open_stream();  // an operator's daemon does not watch stdin
    other.signal(signal);
    EXPECT_TRUE(other.ended_within(3000, &code));
    EXPECT_EQ(code, 0);
  }
}

TEST_F(Cs3, OpenErrorsAreOneLineAndQuick) {
  const uint64_t begin = now_ns();
  auto refused = in.open("cs3://127.0.0.1:1");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, BATON_NOT_FOUND);
  EXPECT_THAT(refused.error().what, HasSubstr("nothing listens on 127.0.0.1:1"));
  EXPECT_THAT(refused.error().next, HasSubstr("baton-emu-cs3 --listen"));
  uint16_t port = 0;
  const Fd silent = must(listen_tcp("127.0.0.1", "0", &port));  // accepts (the backlog does), says nothing
  auto mute = in.open("cs3://127.0.0.1:" + std::to_string(port) + "?timeout_ms=100");
  ASSERT_FALSE(mute.ok());
  EXPECT_EQ(mute.error().code, BATON_DEADLINE);
  EXPECT_LT(now_ns() - begin, 2'000'000'000u);
}

TEST_F(Cs3, EmuAddressStartsADaemon) {
  auto d = must(in.open("emu+cs3://0?sram_gb=0.1&threads=2"));
  const auto i = must(d.info());
  EXPECT_EQ(i.heaps[0].bytes_total, 100'000'000u);
  EXPECT_THAT(i.firmware, HasSubstr("2 threads"));
  auto bad = in.open("emu+cs3://1?sram=4");
  ASSERT_FALSE(bad.ok());
  EXPECT_THAT(bad.error().text() + bad.error().next, HasSubstr("sram"));
}

}  // namespace
}  // namespace baton::cs3::test
