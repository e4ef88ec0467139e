// The fabric verbs below the seam of fabric.hpp: what the suites over all fabrics cannot see. Most of it needs an RDMA device: tests/vm has one.
#include "transport_kv_request.hpp"

#include "transport/endpoint.hpp"
#include "transport/kv_wire.hpp"
#include "transport/ofi.hpp"
#include "transport/verbs.hpp"

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>

namespace baton::transport {
namespace {

using testing::HasSubstr;

TEST(VerbsFabric, IsThereOrSaysWhyNot) {
  const FabricInfo f = verbs_probe();
  EXPECT_EQ(f.name, "verbs");
  if (f.available) {
    EXPECT_THAT(f.reason, HasSubstr("RoCE"));
    return;
  }
  EXPECT_THAT(f.reason, HasSubstr("RDMA"));
  TwoEnds e;
  EXPECT_EQ(make_landing("verbs", e.at_decode->impl(), {}).error().code, BATON_UNSUPPORTED);
  EXPECT_THAT(fabric_unusable("verbs", e.at_prefill->impl()).value_or(""), HasSubstr("no RDMA device: "));
}

// A landing and a sender over a session, without sink and transfer.
class Verbs : public testing::Test {
 protected:
  static constexpr uint64_t kBytes = 4u << 20;
  std::optional<TwoEnds> e;
  Buffer to, from;
  std::unique_ptr<Landing> landing;

  void SetUp() override {
    if (!verbs_probe().available) GTEST_SKIP() << verbs_probe().reason;
    e.emplace();
    to = must(e->host.alloc(kBytes));
    from = must(e->host.alloc(kBytes));
    std::memset(must(to.map()), 0, kBytes);
    for (uint64_t i = 0; i < kBytes / 8; ++i) static_cast<uint64_t*>(must(from.map()))[i] = i * 0x9e3779b97f4a7c15u;
    landing = land(to);
  }
  void TearDown() override { landing.reset(); }

  std::unique_ptr<Landing> land(const Buffer& b) {
    LandingMemory m;
    m.id = "sink";
    m.base = static_cast<uint8_t*>(must(b.map()));
    m.bytes = b.bytes();
    return must(make_landing("verbs", e->at_decode->impl(), m));
  }
  SourceMemory source() { return {static_cast<uint8_t*>(must(from.map())), kBytes, -1, 0}; }
  // Connected, or with the reason why not in state().
  std::unique_ptr<Sender> connect(const nlohmann::json& offer) {
    auto s = must(make_sender("verbs", e->at_prefill->impl(), offer));
    EXPECT_TRUE(poll_until(e->in, [&] { return s->state().has_value(); }, kSoonMs));
    return s;
  }
  static Status up(Sender& s) { return s.state().value_or(Error(BATON_DEADLINE, "not connected", "-")); }
  Batch batch(Sender& s, std::span<const KvSegment> segments) {
    Batch b;
    b.src = source().base;
    b.local = must(s.local(source()));
    b.segments = segments;
    return b;
  }
  void finish(Sender& s, Batch& b, uint64_t budget = 2u << 20) {
    EXPECT_TRUE(poll_until(e->in, [&] {
      if (!b.error) s.step(b, budget);
      s.progress();
      return b.settled();
    }, kSoonMs));
  }
  std::vector<Note> hear(size_t n) {
    std::vector<Note> all;
    uint32_t worked = 0;
    EXPECT_TRUE(poll_until(e->in, [&] { return !landing->poll(all, worked) || all.size() >= n; }, kSoonMs));
    return all;
  }
};

TEST_F(Verbs, RunsThatJoinAtTheSinkAreGatheredAndAChunkHasOneCompletion) {
  auto s = connect(must(landing->offer()));
  ASSERT_OK(up(*s));
  // 64 runs of 16 KiB from scattered places to one place: 1 MiB.
  std::vector<KvSegment> runs;
  for (uint64_t i = 0; i < 64; ++i) runs.push_back({(i * 37 % 64) * 65536, i * 16384, 16384});
  Batch b = batch(*s, runs);
  finish(*s, b);
  ASSERT_FALSE(b.error);
  const VerbsCounts c = verbs_counts(*s);
  EXPECT_EQ(c.completions, 1u);
  EXPECT_LE(c.operations, 4u) << "less than 256 KiB an operation";
  auto* p = static_cast<uint8_t*>(must(to.map()));
  Note note{};
  ASSERT_TRUE(s->notify(note));
  ASSERT_EQ(hear(1).size(), 1u);
  for (const KvSegment& g : runs) ASSERT_EQ(std::memcmp(p + g.dst, source().base + g.src, g.bytes), 0) << g.dst;
}

TEST_F(Verbs, SmallAndLargeRunsOfEveryAlignmentArrive) {
  auto s = connect(must(landing->offer()));
  ASSERT_OK(up(*s));
  std::mt19937 rng(7);
  std::vector<KvSegment> runs;
  for (uint64_t at = 1; at < kBytes - 700'000;) {
    const uint64_t n = runs.size() % 50 == 3 ? 600'000 : 1 + rng() % 3000;
    runs.push_back({rng() % (kBytes - n), at, n});
    at += n + (rng() % 3 ? 0 : 1 + rng() % 100);
  }
  Batch b = batch(*s, runs);
  finish(*s, b, 1u << 20);
  ASSERT_FALSE(b.error) << b.error->text();
  Note note{};
  note.generation = 99;
  ASSERT_TRUE(s->notify(note));
  ASSERT_EQ(hear(1).at(0).generation, 99u);
  std::vector<uint8_t> want(kBytes);
  for (const KvSegment& g : runs) std::memcpy(&want[g.dst], source().base + g.src, g.bytes);
  EXPECT_EQ(std::memcmp(want.data(), must(to.map()), kBytes), 0);
}

TEST_F(Verbs, ANoteIsNeverSeenBeforeTheBytesThatItFollows) {
  auto s = connect(must(landing->offer()));
  ASSERT_OK(up(*s));
  auto* p = static_cast<uint8_t*>(must(to.map()));
  for (int round = 0; round < 50; ++round) {
    std::memset(p, 0, kBytes);
    const KvSegment run{uint64_t(round) * 4096, 0, 1u << 20};
    Batch b = batch(*s, {&run, 1});
    while (!b.posted() && !b.error) s->step(b, 2u << 20);
    ASSERT_TRUE(s->notify(Note{}));      // behind it, without waiting
    ASSERT_EQ(hear(1).size(), 1u);       // the sender's completions are not looked at
    ASSERT_EQ(std::memcmp(p, source().base + run.src, run.bytes), 0) << "round " << round;
    finish(*s, b);
  }
}

TEST_F(Verbs, MoreNotesThanTheRingHoldsWaitForTheSinkToLook) {
  auto s = connect(must(landing->offer()));
  ASSERT_OK(up(*s));
  constexpr uint64_t kNotes = 1500;
  uint64_t sent = 0;
  std::vector<Note> all;
  uint32_t worked = 0;
  auto push = [&] {
    for (Note n{}; sent < kNotes; ++sent) {
      n.generation = sent;
      if (!s->notify(n)) return;
    }
  };
  push();
  EXPECT_LT(sent, kNotes) << "an endless queue";
  poll_until(e->in, [] { return false; }, 50); // the ring is full, and the sink does not look
  ASSERT_TRUE(poll_until(e->in, [&] {
    s->progress();
    push();
    return !landing->poll(all, worked) || all.size() >= kNotes;
  }, kSoonMs));
  ASSERT_EQ(all.size(), kNotes);
  for (uint64_t i = 0; i < kNotes; ++i) ASSERT_EQ(all[i].generation, i);
}

TEST_F(Verbs, ASleepingSinkIsWoken) {
  auto s = connect(must(landing->offer()));
  ASSERT_OK(up(*s));
  std::vector<Note> all;
  uint32_t worked = 0;
  // Until it sleeps: nothing is due but the session's heartbeats.
  poll_until(e->in, [&] { return !landing->poll(all, worked); }, 100);
  ASSERT_TRUE(all.empty());
  ASSERT_TRUE(s->notify(Note{}));
  const uint64_t start = now_ns();
  while (all.empty() && now_ns() - start < 20'000'000'000u) {
    e->in.poll_wait(now_ns() + 20'000'000'000u);
    ASSERT_TRUE(landing->poll(all, worked));
  }
  EXPECT_EQ(all.size(), 1u);
}

TEST_F(Verbs, AKeyOpensItsOwnLandingAlone) {
  Buffer other = must(e->host.alloc(kBytes));
  std::memset(must(other.map()), 0xab, kBytes);
  auto second = land(other);
  auto offer = must(landing->offer());
  const auto stolen = must(second->offer());
  offer["key"] = stolen["key"];
  offer["base"] = stolen["base"];
  auto s = connect(offer);
  ASSERT_OK(up(*s));
  const KvSegment run{0, 0, 4096};
  Batch b = batch(*s, {&run, 1});
  finish(*s, b);
  ASSERT_TRUE(b.error);
  EXPECT_EQ(b.error->code, BATON_IO) << b.error->text();
  EXPECT_THAT(b.error->what, HasSubstr("remote"));
  EXPECT_EQ(b.outstanding, 0u);
  EXPECT_FALSE(up(*s).ok());
  for (uint64_t i = 0; i < 4096; ++i) ASSERT_EQ(static_cast<uint8_t*>(must(other.map()))[i], 0xab);
  second.reset();
  // The landing takes a new sender with the next token.
  std::vector<Note> none;
  uint32_t worked = 0;
  poll_until(e->in, [&] { return !landing->poll(none, worked); }, 200);
  auto t = connect(must(landing->offer()));
  ASSERT_OK(up(*t));
  Batch again = batch(*t, {&run, 1});
  finish(*t, again);
  EXPECT_FALSE(again.error);
}

TEST_F(Verbs, ATokenWorksOnceAndAForgedOneNever) {
  const auto offer = must(landing->offer());
  auto forged = offer;
  forged["token"] = std::string(32, '0');
  auto s = connect(forged);
  ASSERT_FALSE(up(*s).ok());
  EXPECT_EQ(up(*s).error().code, BATON_PEER_LOST) << up(*s).error().text();
  auto good = connect(offer);
  ASSERT_OK(up(*good));
  EXPECT_FALSE(up(*connect(offer)).ok());
  ASSERT_TRUE(good->notify(Note{}));
  EXPECT_EQ(hear(1).size(), 1u) << "the first is not disturbed";
}

TEST_F(Verbs, AnAbandonedSenderIsReplaced) {
  for (int i = 0; i < 5; ++i) {
    auto s = connect(must(landing->offer()));
    ASSERT_OK(up(*s));
    const KvSegment run{0, 0, kBytes};
    Batch b = batch(*s, {&run, 1});
    s->step(b, 2u << 20);
    s->abandon(); // in full flight
    EXPECT_FALSE(up(*s).ok());
    Note n{};
    n.generation = uint64_t(i) + 1;
    auto t = connect(must(landing->offer()));
    ASSERT_OK(up(*t));
    ASSERT_TRUE(t->notify(n));
    EXPECT_EQ(hear(1).at(0).generation, uint64_t(i) + 1);
  }
}

TEST_F(Verbs, OffersThatMakeNoSenseAreRefused) {
  const auto offer = must(landing->offer());
  for (auto& [key, value] : offer.items()) {
    if (key == "sink") continue;
    for (nlohmann::json bad : {nlohmann::json(nullptr), nlohmann::json("x"), nlohmann::json(-1), nlohmann::json(1e300), nlohmann::json::array()}) {
      auto o = offer;
      o[key] = bad;
      auto s = make_sender("verbs", e->at_prefill->impl(), o);
      if (s.ok()) poll_until(e->in, [&] { return (*s)->state().has_value(); }, kSoonMs);
    }
  }
  auto nobody = offer;
  nobody["port"] = 1u;
  auto s = connect(nobody);
  ASSERT_FALSE(up(*s).ok());
  EXPECT_THAT(up(*s).error().what, HasSubstr("did not take the connection")) << up(*s).error().text();
}

// Root may pin what it likes. The kernel holds a change of capabilities against descriptors that are open: in a process of its own.
void lower_limit(rlim_t bytes) {
  __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct caps[2]{};
  syscall(SYS_capget, &head, caps);
  caps[0].effective &= ~(1u << CAP_IPC_LOCK);
  syscall(SYS_capset, &head, caps);
  const rlimit r{bytes, bytes};
  setrlimit(RLIMIT_MEMLOCK, &r);
}

TEST_F(Verbs, PinningBeyondTheLimitNamesItAndTheNextStep) {
  EXPECT_EXIT(
      {
        lower_limit(8u << 20); // Debian's default
        TwoEnds ends;
        Request r(ends, small_layout(KvOrder::token_major, 16, 2048), {small_layout(KvOrder::token_major, 16, 2048)}, 2000 * 16); // 16 MiB
        Incoming in = r.expect();
        auto t = r.open(in.ticket(), "verbs");
        const Error sink = in.landed().value().error();
        if (!t.ok()) fprintf(stderr, "%s | %s | %s\n", t.error().text().c_str(), t.error().next, baton_code_name(sink.code));
        _exit(t.ok());
      },
      testing::ExitedWithCode(0), "CAPACITY.*RLIMIT_MEMLOCK is 8388608 bytes.*ulimit -l.*CAPACITY");
}

TEST_F(Verbs, AChangeOfCapabilitiesIsAnErrorAndNoHang) {
  EXPECT_EXIT(
      {
        TwoEnds ends;
        Request r(ends, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
        move_once(r, "verbs");
        ends.at_prefill.reset();
        ends.connect();
        lower_limit(8u << 20);
        Incoming in = r.expect();
        auto t = r.open(in.ticket(), "verbs");
        const bool ended = poll_until(ends.in, [&] { return !in.landed().value().ok(); }, kSoonMs);
        if (!t.ok() && ended) fprintf(stderr, "prefill %s; decode %s; %s\n", baton_code_name(t.error().code), baton_code_name(in.landed().value().error().code), t.error().text().c_str());
        _exit(t.ok() || !ended);
      },
      testing::ExitedWithCode(0), "prefill IO; decode IO; IO: .*Permission denied");
}

// As if the sides were on two hosts.
TEST(VerbsAuto, IsTakenBetweenHostsThatHaveItAndTcpElsewhere) {
  TwoEnds e;
  for (const char* last : {"verbs", "tcp"}) { // when it could not connect once, it is not tried again
    e.at_prefill->impl().same_host = e.at_decode->impl().same_host = false;
    const std::string want = verbs_probe().available && test_netdev() ? last : "tcp";
    EXPECT_EQ(auto_fabrics(e.at_prefill->impl()).front(), want);
    Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
    Incoming in = r.expect();
    auto t = r.open(in.ticket(), "auto");
    ASSERT_OK(t);
    EXPECT_EQ(t->stats().fabric, want);
    Timeline sent = must(e.in.timeline("sent"));
    submit_all(r, *t, sent);
    ASSERT_OK(in.landed().wait_until(4, deadline_in_ms(kSoonMs)));
    EXPECT_EQ(r.wrong(), 0u);
    not_again(e.at_prefill->impl(), "verbs");
  }
}

// The sink has no way for the first that is asked for, says nothing of it, and takes the next.
TEST(VerbsAuto, ASinkWithoutItTakesTheNext) {
  if (ofi_probe("efa").available) GTEST_SKIP() << "this machine has EFA";
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  nlohmann::json sources = nlohmann::json::array({to_json(r.src[0])});
  std::vector<uint8_t> blocks;
  put_blocks(blocks, r.src_blocks[0]);
  ASSERT_OK(send_transport(e.at_prefill->impl(), "kv.open", {{"id", 1}, {"ticket", in.ticket()}, {"model", "model-a"}, {"tokens", 50}, {"fabrics", {"efa", "tcp"}}, {"sources", sources}}, blocks));
  ASSERT_TRUE(poll_until(e.in, [&] { return !in.stats().fabric.empty() || !in.landed().value().ok(); }));
  ASSERT_OK(in.landed().value());
  EXPECT_EQ(in.stats().fabric, "tcp");
}

// ---- the port goes down ----

class VerbsPort : public Verbs {
 protected:
  void SetUp() override {
    if (!test_netdev()) GTEST_SKIP() << "no BATON_TEST_NETDEV";
    Verbs::SetUp();
  }
  void TearDown() override {
    set_test_netdev(true);
    Verbs::TearDown();
  }
};

// For a moment only, without a poll in between: rdma_rxe of Linux 6.1 loses messages of the connection manager that are sent while the port is
// down, and is of no use after that. That a port stays down is a test of transport_process, the last in its machine.
TEST_F(VerbsPort, GoingDownMidTransferPoisonsBothSidesAndTheSessionServesTheNext) {
  KvLayout l = small_layout(KvOrder::token_major, 16, 512);
  l.head_dim = 64; // 4 layers of 2 MiB
  Request r(*e, l, {l}, 512 * 16);
  Incoming in = r.expect();
  auto t = r.open(in.ticket(), "verbs");
  ASSERT_OK(t);
  Timeline sent = must(e->in.timeline("sent"));
  submit_all(r, *t, sent);
  for (int i = 0; i < 3; ++i) e->in.poll();
  ASSERT_TRUE(set_test_netdev(false));
  usleep(20'000);
  ASSERT_TRUE(set_test_netdev(true));
  const uint64_t start = now_ns(), lease_ns = e->decode.impl().options.lease_ns;
  const auto s = sent.wait_until(1, deadline_in_ms(kSoonMs));
  const auto d = in.landed().wait_until(4, deadline_in_ms(kSoonMs));
  EXPECT_LT(now_ns() - start, lease_ns);
  ASSERT_FALSE(s.ok());
  ASSERT_FALSE(d.ok());
  EXPECT_EQ(s.error().code, BATON_IO) << s.error().text();
  EXPECT_THAT(s.error().hop, HasSubstr("prefill > decode"));
  EXPECT_EQ(d.error().code, BATON_IO) << d.error().text();
  EXPECT_TRUE(poll_until(e->in, [&] { return in.quiesced(); }, kSoonMs));
  move_once(r, "verbs");
}

}  // namespace
}  // namespace baton::transport
