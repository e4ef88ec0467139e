// Two processes: moves, and what the survivor sees when the other one is killed or stopped.
#include "transport_child.hpp"

#include <sys/file.h>
#include <sys/resource.h>

namespace baton::transport {
namespace {

using testing::HasSubstr;

// This process decodes; the child is the source.
class DecodeHere : public testing::TestWithParam<std::string> {
 protected:
  Instance in = must(Instance::create());
  Device host = must(in.open("host://"));
  Key key = random_key();
  std::optional<Endpoint> ep;
  std::unique_ptr<Child> child;
  std::unique_ptr<Session> session;
  KvLayout layout = small_layout(KvOrder::token_major, 16, 12);
  std::vector<int32_t> blocks;
  Buffer landing;
  std::optional<KvSink> sink;

  void start(uint64_t lease_ms = kLeaseMs) {
    if (!ep) ep.emplace(must(Endpoint::open(in, {test_listen(), key, "decode", lease_ms * 1'000'000})));
    child = std::make_unique<Child>("source", key, ep->address(), lease_ms);
    ASSERT_TRUE(poll_until(in, [&] { return (session = ep->accept()) != nullptr; }, kSoonMs));
    landing = must(host.alloc(layout.bytes()));
    sink.emplace(must(KvSink::create(in, *ep, landing, layout, "m")));
    blocks.resize(layout.blocks);
    std::iota(blocks.begin(), blocks.end(), 0);
  }
  Incoming go(uint64_t tokens, uint32_t salt, nlohmann::json more = nlohmann::json::object()) {
    Incoming x = must(sink->expect(blocks, tokens));
    nlohmann::json b{{"ticket", x.ticket()}, {"tokens", tokens}, {"salt", salt}, {"fabric", GetParam()}, {"head_dim", layout.head_dim}, {"blocks", layout.blocks}};
    b.update(more);
    EXPECT_OK(session->send({"go", b, {}}));
    return x;
  }
  // What the child says, or "" at the deadline.
  std::string hear() {
    std::optional<Message> m;
    poll_until(in, [&] { return (m = session->receive()).has_value(); }, kSoonMs);
    return m ? m->type + m->body.value("text", "") : "";
  }
};
INSTANTIATE_TEST_SUITE_P(All, DecodeHere, testing::ValuesIn(fabrics_under_test({"mapped", "shm", "tcp"})), fabric_label);

TEST_P(DecodeHere, BytesArriveFromAnotherProcess) {
  // 4 MiB a layer. libfabric 1.17's shm sends writes of up to 4 KiB that ask for their delivery one at a time, a round trip each.
  const uint32_t n = GetParam() == "shm" ? 24 : 128;
  layout.head_dim = 256, layout.blocks = n;
  start();
  for (uint32_t salt = 1; salt < 4; ++salt) {
    Incoming x = go(n * 16 - 5, salt);
    ASSERT_OK(x.landed().wait_until(layout.layers, deadline_in_ms(kSoonMs)));
    EXPECT_EQ(wrong_kv(landing, layout, blocks, n * 16 - 5, salt), 0u);
    std::optional<Message> m;
    ASSERT_TRUE(poll_until(in, [&] { return (m = x.sealed()).has_value(); }, kSoonMs));
    EXPECT_EQ(m->body["token"], 7);
    EXPECT_TRUE(x.quiesced());
  }
}

TEST_P(DecodeHere, AKilledSourceIsLostAtOnceAndLeavesNothing) {
  const size_t before = shm_files(); // of children that an earlier test killed after its session; the next user of shm sweeps them
  start();
  Incoming x = go(100, 1, {{"only", 2}});
  ASSERT_OK(x.landed().wait_until(2, deadline_in_ms(kSoonMs)));
  ASSERT_EQ(hear(), "paused");
  child->kill(SIGKILL);
  const uint64_t start_ns = now_ns();
  const auto s = x.landed().wait_until(3, deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PEER_LOST) << s.error().text();
  EXPECT_THAT(s.error().hop, HasSubstr("decode > source process"));
  EXPECT_LT(now_ns() - start_ns, kLeaseMs * 1'000'000);
  EXPECT_TRUE(poll_until(in, [&] { return x.quiesced(); }, kSoonMs));
  // The survivor serves the next one.
  start();
  Incoming y = go(100, 2);
  ASSERT_OK(y.landed().wait_until(layout.layers, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(wrong_kv(landing, layout, blocks, 100, 2), 0u);
  child->kill(SIGKILL);
  poll_until(in, [&] { return !session->alive().ok(); }, kSoonMs);
  session.reset();
  sink.reset();
  EXPECT_TRUE(no_more_shm_files(in, before)) << shm_files() << " files left in /dev/shm, " << before << " before";
}

TEST_P(DecodeHere, ASourceKilledInFullFlightIsLost) {
  layout.head_dim = 256, layout.blocks = 128;
  start();
  Incoming x = go(128 * 16, 1);
  ASSERT_OK(x.landed().wait_until(1, deadline_in_ms(kSoonMs)));
  child->kill(SIGKILL);
  const auto s = x.landed().wait_until(layout.layers, deadline_in_ms(kSoonMs));
  if (!s.ok()) { // it may have been through already
    EXPECT_EQ(s.error().code, BATON_PEER_LOST) << s.error().text();
  }
  EXPECT_TRUE(poll_until(in, [&] { return x.quiesced(); }, kSoonMs));
}

TEST_P(DecodeHere, ASilentSourceIsLostAfterTheLease) {
  start(kSilentMs);
  Incoming x = go(100, 1, {{"only", 2}});
  ASSERT_OK(x.landed().wait_until(2, deadline_in_ms(kSoonMs)));
  ASSERT_EQ(hear(), "paused");
  child->kill(SIGSTOP);
  const uint64_t start_ns = now_ns();
  const auto s = x.landed().wait_until(3, deadline_in_ms(kSoonMs));
  const uint64_t took = now_ns() - start_ns;
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PEER_LOST);
  EXPECT_THAT(s.error().what, HasSubstr("silent"));
  EXPECT_GT(took, kSilentMs * 1'000'000 / 2); // its last heartbeat was up to a third of the lease ago
  EXPECT_LT(took, kSilentMs * 1'000'000 * 3);
  if (GetParam() == "shm") {
    poll_until(in, [] { return false; }, 20);
    EXPECT_FALSE(x.quiesced()) << "a stopped process could still write";
    EXPECT_EQ(sink->expect(blocks, 100).error().code, BATON_BUSY);
  }
  child->kill(SIGKILL);
  EXPECT_TRUE(poll_until(in, [&] { return x.quiesced(); }, kSoonMs));
  EXPECT_OK(sink->expect(blocks, 100));
}

// Both processes have the port that goes down, and each must find out for itself: by the device, or by the other's silence.
TEST_P(DecodeHere, APortThatGoesDownMidTransferIsAnErrorWithinTheLease) {
  if (!test_netdev()) GTEST_SKIP() << "no BATON_TEST_NETDEV: the network device that may be taken down";
  layout.head_dim = 256, layout.blocks = 128;
  start(kSilentMs);
  Incoming x = go(128 * 16, 1);
  ASSERT_OK(x.landed().wait_until(1, deadline_in_ms(kSoonMs)));
  ASSERT_TRUE(set_test_netdev(false));
  const uint64_t start_ns = now_ns();
  const auto s = x.landed().wait_until(layout.layers, deadline_in_ms(kSoonMs));
  const uint64_t took = now_ns() - start_ns;
  ASSERT_TRUE(set_test_netdev(true));
  if (!s.ok()) { // it may have been through already
    EXPECT_TRUE(s.error().code == BATON_IO || s.error().code == BATON_PEER_LOST) << s.error().text();
    EXPECT_LT(took, kSilentMs * 1'000'000 * 3 / 2);
  }
  child->kill(SIGKILL);
  EXPECT_TRUE(poll_until(in, [&] { return x.quiesced(); }, kSoonMs));
}

// How often this thread has gone to sleep: unlike time, no other process's work shows in it.
long sleeps() {
  rusage u{};
  getrusage(RUSAGE_THREAD, &u);
  return u.ru_nvcsw;
}

class PrefillHere : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, PrefillHere, testing::ValuesIn(fabrics_under_test({"mapped", "shm", "tcp"})), fabric_label);

TEST_P(PrefillHere, AKilledSinkFailsWhatIsQueued) {
  const Key key = random_key();
  Instance in = must(Instance::create());
  Device host = must(in.open("host://"));
  Child child("sink", key, "-");
  const std::string address = child.line();
  Endpoint ep = must(Endpoint::open(in, {"", key, "prefill", kLeaseMs * 1'000'000}));
  auto session = must(ep.connect(address, deadline_in_ms(kSoonMs)));
  ASSERT_OK(session->send({"expect", {{"tokens", 100}, {"salt", 3}}, {}}));
  std::optional<Message> m;
  ASSERT_TRUE(poll_until(in, [&] { return (m = session->receive()).has_value(); }, kSoonMs));
  const KvLayout l = small_layout(KvOrder::token_major, 16, 12);
  Buffer source = must(host.alloc(l.bytes()));
  std::vector<int32_t> blocks(l.blocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  fill_kv(source, l, blocks, 100, 3);
  auto t = std::make_unique<KvTransfer>(
      must(KvTransfer::open(in, *session, m->body["ticket"], {{&source, l, blocks}}, 100, {.fabric = GetParam(), .model = "m"}, deadline_in_ms(kSoonMs))));
  Timeline made = must(in.timeline("made")), sent = must(in.timeline("sent"));
  ASSERT_OK(t->queue().submit(Op(t->copy(0, 0)).signal(sent, 1)));
  ASSERT_OK(sent.wait_until(1, deadline_in_ms(kSoonMs)));
  ASSERT_OK(t->queue().submit(Op(t->copy(0, 1)).wait(made, 1).signal(sent, 2)));
  child.kill(SIGKILL);
  ASSERT_TRUE(poll_until(in, [&] { return !session->alive().ok(); }, kSoonMs));
  made.signal(1);
  const auto s = sent.wait_until(2, deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PEER_LOST);
  EXPECT_THAT(s.error().hop, HasSubstr("prefill > sink process"));
  const auto sealed = t->seal({"x", {}, {}}, deadline_in_ms(100));
  EXPECT_EQ(sealed.error().code, BATON_PEER_LOST);
  const long slept = sleeps();
  t.reset();
  EXPECT_LT(sleeps() - slept, 100) << "waiting for the dead"; // a second of naps of 0.2 ms
  session.reset();
}

TEST_P(PrefillHere, AnotherProcessVerifiesWhatItGot) {
  const Key key = random_key();
  Instance in = must(Instance::create());
  Device host = must(in.open("host://"));
  Child child("sink", key, "-");
  Endpoint ep = must(Endpoint::open(in, {"", key, "prefill", kLeaseMs * 1'000'000}));
  auto session = must(ep.connect(child.line(), deadline_in_ms(kSoonMs)));
  ASSERT_OK(session->send({"expect", {{"tokens", 150}, {"salt", 9}}, {}}));
  std::optional<Message> m;
  ASSERT_TRUE(poll_until(in, [&] { return (m = session->receive()).has_value(); }, kSoonMs));
  std::vector<KvLayout> l{small_layout(KvOrder::token_major, 64, 3, 0, 1), small_layout(KvOrder::head_major, 16, 12, 1, 1)};
  std::vector<Buffer> source;
  std::vector<KvSource> sources;
  for (auto& x : l) {
    source.push_back(must(host.alloc(x.bytes())));
    std::vector<int32_t> blocks(x.blocks);
    std::iota(blocks.begin(), blocks.end(), 0);
    fill_kv(source.back(), x, blocks, 150, 9);
    sources.push_back({nullptr, x, blocks});
  }
  for (size_t i = 0; i < 2; ++i) sources[i].memory = &source[i];
  auto t = must(KvTransfer::open(in, *session, m->body["ticket"], sources, 150, {.fabric = GetParam(), .model = "m"}, deadline_in_ms(kSoonMs)));
  for (uint32_t y = 0; y < 4; ++y) ASSERT_OK(t.queue().submit({t.copy(1, y), t.copy(0, y)}));
  ASSERT_OK(t.seal({"first", {}, {}}, deadline_in_ms(kSoonMs)));
  ASSERT_TRUE(poll_until(in, [&] { return (m = session->receive()).has_value(); }, kSoonMs));
  EXPECT_EQ(m->type, "result");
  EXPECT_EQ(m->body["wrong"], 0);
}

TEST(ShmFiles, OfCrashedProcessesAreSweptOthersAreNot) {
  const std::string stale = "/dev/shm/baton-00000000test-a", held = "/dev/shm/baton-00000000test-b", foreign = "/dev/shm/other-00000000test";
  for (auto& f : {stale, held, foreign}) Fd(open(f.c_str(), O_CREAT | O_RDWR, 0600));
  Fd owner(open(held.c_str(), O_RDWR | O_CLOEXEC));
  flock(owner.get(), LOCK_SH);
  usleep(3'100'000); // older than kYoungSeconds
  {
    TwoEnds e;
    const KvLayout l = small_layout(KvOrder::token_major, 16, 12);
    Buffer a = must(e.host.alloc(l.bytes())), b = must(e.host.alloc(l.bytes()));
    KvSink sink = must(KvSink::create(e.in, e.decode, a, l, "m"));
    Incoming in = must(sink.expect({0}, 5));
    ASSERT_OK(KvTransfer::open(e.in, *e.at_prefill, in.ticket(), {{&b, l, {1}}}, 5, {.fabric = "shm", .model = "m"}, deadline_in_ms(kSoonMs)));
  }
  EXPECT_NE(access(stale.c_str(), F_OK), 0);
  EXPECT_EQ(access(held.c_str(), F_OK), 0);
  EXPECT_EQ(access(foreign.c_str(), F_OK), 0);
  unlink(held.c_str());
  unlink(foreign.c_str());
}

}  // namespace
}  // namespace baton::transport
