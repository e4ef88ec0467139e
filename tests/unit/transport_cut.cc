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
  explicit Cut(uint64_t lease_ms = kSilentMs) : Far(lease_ms, enter_own_network()) {}

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

class Blink : public Cut {
 public:
  Blink() : Cut(kLeaseMs) {}
};

TEST_F(Blink, ShorterThanTheLeaseItIsNotNoticed) {
  start();
  ask("export", "exported");
  auto far = must(RemoteTimeline::import(in, *session, "made", deadline_in_ms(kSoonMs)));
  ASSERT_TRUE(set_loopback(false));
  poll_until(in, [] { return false; }, 250);
  ASSERT_TRUE(set_loopback(true));
  ASSERT_OK(session->send({"signal", {{"value", 9}, {"modelled", 9}}, {}}));
  EXPECT_OK(far.timeline().wait_until(9, deadline_in_ms(kSoonMs)));
}

int run(const std::string& command) {
  const int rc = system(command.c_str());
  return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

// What a command printed.
std::string read_of(const std::string& command) {
  std::string out;
  FILE* f = popen(command.c_str(), "re");
  if (!f) return out;
  char buf[4096];
  for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;) out.append(buf, n);
  pclose(f);
  return out;
}

// Packets that netem has dropped on this side, by `tc -s qdisc`; 0 also if it does not say.
uint64_t dropped() {
  const std::string said = read_of("tc -s qdisc show dev baton0");
  const size_t at = said.find("dropped ");
  return at == std::string::npos ? 0 : std::stoull(said.substr(at + 8));
}

// Two network namespaces joined by a veth pair: this process in one, the source in the other.
class Veth : public testing::Test {
 protected:
  static constexpr char kHere[] = "10.77.0.1";
  Instance in = must(Instance::create());
  Device host = must(in.open("host://"));
  Key key = random_key();
  std::optional<Endpoint> ep;
  std::unique_ptr<Child> child;
  std::unique_ptr<Session> session;
  std::string there; // before a command: in the child's namespace

  void SetUp() override {
    if (run("ip -V >/dev/null 2>&1") || run("nsenter -V >/dev/null 2>&1")) GTEST_SKIP() << "no ip or no nsenter: install iproute2 and util-linux";
    if (!enter_own_network()) GTEST_SKIP() << "may not make a network namespace: " << strerror(errno);
    ASSERT_TRUE(set_loopback(true));
  }
  void TearDown() override {
    session.reset();
    child.reset(); // its end of the pair goes with its namespace
    run("ip link del baton0 2>/dev/null");
  }
  bool link(bool up) { return run(std::string("ip link set baton0 ") + (up ? "up" : "down")) == 0; }
  void start() {
    int ready[2], go[2];
    ASSERT_EQ(pipe2(ready, O_CLOEXEC) | pipe2(go, O_CLOEXEC), 0);
    const std::string address = std::string(kHere) + ":17077"; // of a namespace that is this test's own
    child = std::make_unique<Child>("source", key, address, kSilentMs, [&] {
      char c = unshare(CLONE_NEWNET) == 0;
      (void)!write(ready[1], &c, 1);
      (void)!read(go[0], &c, 1);
    });
    char c = 0;
    ASSERT_EQ(read(ready[0], &c, 1), 1);
    ASSERT_EQ(c, 1) << "the child may not make a network namespace";
    const std::string pid = std::to_string(child->pid());
    there = "nsenter -t " + pid + " -n ";
    ASSERT_EQ(run("ip link add baton0 type veth peer name baton1 netns " + pid), 0) << "no veth in this kernel";
    ASSERT_EQ(run(std::string("ip addr add ") + kHere + "/24 dev baton0 && ip link set baton0 up"), 0);
    ASSERT_EQ(run(there + "ip link set lo up && " + there + "ip addr add 10.77.0.2/24 dev baton1 && " + there + "ip link set baton1 up"), 0);
    if (!ep) ep.emplace(must(Endpoint::open(in, {.listen = address, .key = key, .name = "decode", .lease_ns = kSilentMs * 1'000'000})));
    (void)!write(go[1], &c, 1);
    for (int fd : {ready[0], ready[1], go[0], go[1]}) close(fd);
    ASSERT_TRUE(poll_until(in, [&] { return (session = ep->accept()) != nullptr; }, kSoonMs));
  }
};

TEST_F(Veth, KvIsCutInItsMiddleAndTheNextOneComes) {
  start();
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_FALSE(session->same_host()) << "another network namespace: descriptors are not handed over";
  KvLayout layout = small_layout(KvOrder::head_major, 16, 64);
  layout.head_dim = 256;
  Buffer landing = must(host.alloc(layout.bytes()));
  KvSink sink = must(KvSink::create(in, *ep, landing, layout, "m"));
  std::vector<int32_t> blocks(layout.blocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  auto ask = [&](Incoming& x, uint32_t salt) {
    ASSERT_OK(session->send({"go", {{"ticket", x.ticket()}, {"tokens", 1000}, {"salt", salt}, {"fabric", "auto"}, {"head_dim", 256}, {"blocks", 64}}, {}}));
  };
  Incoming whole = must(sink.expect(blocks, 1000));
  ask(whole, 1);
  ASSERT_OK(whole.landed().wait_until(layout.layers, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(wrong_kv(landing, layout, blocks, 1000, 1), 0u);
  EXPECT_EQ(whole.stats().fabric, "tcp");

  Incoming cut = must(sink.expect(blocks, 1000));
  ask(cut, 2);
  ASSERT_OK(cut.landed().wait_until(1, deadline_in_ms(kSoonMs)));
  ASSERT_TRUE(link(false));
  const uint64_t start_ns = now_ns();
  const Status s = cut.landed().wait_until(layout.layers, deadline_in_ms(kSoonMs));
  if (!s.ok()) { // it may have been through already
    EXPECT_EQ(s.error().code, BATON_PEER_LOST) << s.error().text();
    EXPECT_LT(now_ns() - start_ns, kSilentMs * 3'000'000);
  }
  ASSERT_TRUE(poll_until(in, [&] { return !session->alive().ok(); }, kSoonMs));
  ASSERT_TRUE(poll_until(in, [&] { return cut.quiesced(); }, kSilentMs)) << "the blocks are not free within the lease";

  session.reset();
  child.reset();
  run("ip link del baton0 2>/dev/null");
  start(); // another process, over another pair
  if (HasFatalFailure()) return;
  Incoming next = must(sink.expect(blocks, 1000));
  ask(next, 3);
  ASSERT_OK(next.landed().wait_until(layout.layers, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(wrong_kv(landing, layout, blocks, 1000, 3), 0u);
}

// Packets are lost, late, out of order, doubled and damaged, both ways. TCP mends all of it: nothing may show but the time, up to a cut.
TEST_F(Veth, APoorNetworkShowsInNoByte) {
  start();
  if (IsSkipped() || HasFatalFailure()) return;
  KvLayout layout = small_layout(KvOrder::head_major, 16, 64);
  layout.head_dim = 64;
  Buffer landing = must(host.alloc(layout.bytes()));
  KvSink sink = must(KvSink::create(in, *ep, landing, layout, "m"));
  std::vector<int32_t> blocks(layout.blocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  auto ask = [&](Incoming& x, uint32_t salt) {
    std::memset(must(landing.map()), 0xee, landing.bytes());
    ASSERT_OK(session->send({"go", {{"ticket", x.ticket()}, {"tokens", 1000}, {"salt", salt}, {"fabric", "tcp"}, {"head_dim", 64}, {"blocks", 64}, {"checksum", salt % 2 == 0}}, {}}));
  };
  auto whole = [&](uint32_t salt) {
    Incoming x = must(sink.expect(blocks, 1000));
    const uint64_t begin_ns = now_ns();
    ask(x, salt);
    EXPECT_OK(x.landed().wait_until(layout.layers, deadline_in_ms(kSoonMs)));
    const uint64_t took_ns = now_ns() - begin_ns;
    EXPECT_EQ(wrong_kv(landing, layout, blocks, 1000, salt), 0u) << "transfer " << salt;
    EXPECT_TRUE(poll_until(in, [&] { return x.sealed().has_value(); }, kSoonMs)) << "transfer " << salt;
    return took_ns;
  };
  (void)whole(1); // connects
  const std::string poor = "root netem delay 2ms 1ms loss 1% reorder 20% 50% duplicate 2% corrupt 0.5%";
  if (run("tc qdisc add dev baton0 " + poor + " 2>/dev/null")) GTEST_SKIP() << "no tc (Debian: iproute2), or no sch_netem in this kernel";
  ASSERT_EQ(run(there + "tc qdisc add dev baton1 " + poor), 0);
  uint32_t salt = 2;
  for (; salt < 6 || (!dropped() && salt < 200); ++salt) {
    EXPECT_GT(whole(salt), 3'000'000u) << "an agreement is three messages of a millisecond and more each";
    if (HasFailure()) return;
  }
  EXPECT_GT(dropped(), 0u) << "netem is not at work";
  std::printf("%u transfers, %lu packets dropped on this side\n", salt - 2, (unsigned long)dropped());

  Incoming cut = must(sink.expect(blocks, 1000));
  ask(cut, 7);
  ASSERT_OK(cut.landed().wait_until(1, deadline_in_ms(kSoonMs)));
  ASSERT_TRUE(link(false));
  const uint64_t cut_ns = now_ns();
  const Status s = cut.landed().wait_until(layout.layers, deadline_in_ms(kSoonMs));
  if (!s.ok()) { // it may have been through already
    EXPECT_EQ(s.error().code, BATON_PEER_LOST) << s.error().text();
  }
  ASSERT_TRUE(poll_until(in, [&] { return !session->alive().ok(); }, kSoonMs));
  EXPECT_EQ(session->alive().error().code, BATON_PEER_LOST);
  EXPECT_LT(now_ns() - cut_ns, kSilentMs * 3'000'000);
  ASSERT_TRUE(poll_until(in, [&] { return cut.quiesced(); }, kSilentMs)) << "the blocks are not free within the lease";
}

}  // namespace
}  // namespace baton::transport
