// Remote timelines: both ends in one process, then another process that is killed or stopped.
#include "transport_child.hpp"

#include "transport/endpoint.hpp"
#include "transport/kv_wire.hpp"
#include "transport/remote_timeline.hpp"

#include <poll.h>

namespace baton::transport {
namespace {

using testing::HasSubstr;

struct Pair : TwoEnds { // prefill owns, decode looks
  using TwoEnds::TwoEnds;
  Timeline made = must(in.timeline("made of prefill"));
  Result<ExportedTimeline> offer(const std::string& name = "made", ExportOptions o = {}) { return ExportedTimeline::open(in, prefill, made, name, o); }
  Result<RemoteTimeline> import(const std::string& name = "made", ImportOptions o = {}) {
    return RemoteTimeline::import(in, *at_decode, name, deadline_in_ms(kSoonMs), o);
  }
  void settle() {
    for (int i = 0; i < 50; ++i) in.poll_wait(now_ns() + 200'000);
  }
};

TEST(RemoteTimeline, FollowsTheWatermarkAndItsModelledTimes) {
  Pair p;
  p.made.signal(3, 300);
  auto x = must(p.offer());
  auto far = must(p.import());
  EXPECT_EQ(*far.timeline().value(), 3u) << "known as soon as it is imported";
  EXPECT_EQ(far.timeline().modelled_ns(3), 300u);
  EXPECT_EQ(x.importers(), 1u);
  for (uint64_t v = 4; v < 20; ++v) {
    p.made.signal(v, v * 100);
    ASSERT_OK(far.timeline().wait_until(v, deadline_in_ms(kSoonMs)));
    EXPECT_EQ(far.timeline().modelled_ns(v), v * 100) << v;
  }
  EXPECT_EQ(*far.timeline().value(), 19u);
}

TEST(RemoteTimeline, ValuesThatComeAtOnceAreOne) {
  Pair p;
  auto x = must(p.offer());
  auto far = must(p.import());
  for (uint64_t v = 1; v <= 1000; ++v) p.made.signal(v, v);
  ASSERT_OK(far.timeline().wait_until(1000, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(far.timeline().modelled_ns(1000), 1000u);
  EXPECT_EQ(far.timeline().modelled_ns(1), 1000u) << "sent as one: an upper bound for those before";
}

TEST(RemoteTimeline, OpsChainOnTheMirrorWithModelledTime) {
  Pair p;
  Queue q = must(p.host.queue());
  auto x = must(p.offer());
  auto far = must(p.import());
  Timeline ready = must(p.in.timeline("ready"));
  ASSERT_OK(q.submit({nop().wait(far.timeline(), 1).signal(ready, 1), nop().wait(far.timeline(), 2).signal(ready, 2)}));
  p.settle();
  EXPECT_EQ(*ready.value(), 0u);
  p.made.signal(1, 5000);
  ASSERT_OK(ready.wait_until(1, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(*ready.value(), 1u);
  EXPECT_GE(ready.modelled_ns(1), 5000u);
  p.made.signal(2, 6000);
  ASSERT_OK(ready.wait_until(2, deadline_in_ms(kSoonMs)));
  EXPECT_GE(ready.modelled_ns(2), 6000u);
}

TEST(RemoteTimeline, AMirrorCanBeExportedFurther) {
  Pair p;
  auto x = must(p.offer());
  auto far = must(p.import());
  auto y = must(ExportedTimeline::open(p.in, p.decode, far.timeline(), "again"));
  auto third = must(RemoteTimeline::import(p.in, *p.at_prefill, "again", deadline_in_ms(kSoonMs)));
  p.made.signal(7, 70);
  ASSERT_OK(third.timeline().wait_until(7, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(third.timeline().modelled_ns(7), 70u);
  p.made.poison(Error(BATON_DEVICE_LOST, "core 3 is gone", "reset it", "neuron://0"));
  EXPECT_FALSE(third.timeline().wait_until(8, deadline_in_ms(kSoonMs)).ok());
  EXPECT_THAT(third.timeline().value().error().hop, HasSubstr("prefill > decode > prefill"));
}

TEST(RemoteTimeline, ThePoisonArrivesWithItsCauseAndTheHop) {
  Pair p;
  auto x = must(p.offer());
  auto far = must(p.import());
  p.made.signal(2);
  p.made.poison(Error(BATON_DEVICE_LOST, "core 3 is gone", "reset it", "neuron://0"));
  p.made.poison(Error(BATON_CANCELLED, "a later cause", "-"));
  const auto s = far.timeline().wait_until(3, deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_DEVICE_LOST);
  EXPECT_STREQ(s.error().what, "core 3 is gone");
  EXPECT_STREQ(s.error().device, "neuron://0");
  EXPECT_STREQ(s.error().hop, "prefill > decode");
  auto late = must(p.import()); // of a timeline that failed before
  EXPECT_EQ(late.timeline().wait_until(3, deadline_in_ms(kSoonMs)).error().code, BATON_DEVICE_LOST);
}

TEST(RemoteTimeline, AnUnknownNameIsRefusedWithWhatExists) {
  Pair p;
  auto none = p.import();
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, BATON_NOT_FOUND) << none.error().text();
  auto a = must(p.offer("layers of rank 0")), b = must(p.offer("layers of rank 1"));
  auto another = must(p.prefill.connect(p.decode.address(), deadline_in_ms(kSoonMs)));
  auto hidden = must(p.offer("for another", {.only = another.get()}));
  for (const char* name : {"layers", "for another", ""}) {
    auto r = p.import(name);
    ASSERT_FALSE(r.ok()) << name;
    EXPECT_EQ(r.error().code, BATON_NOT_FOUND);
    EXPECT_THAT(r.error().what, HasSubstr("there are: 'layers of rank 0', 'layers of rank 1'"));
    EXPECT_THAT(r.error().what, testing::EndsWith("rank 1'")) << "what this peer may not see is not listed";
    EXPECT_THAT(r.error().hop, HasSubstr("decode > prefill"));
  }
  std::vector<ExportedTimeline> many;
  for (int i = 0; i < 40; ++i) many.push_back(must(p.offer("a name of middling length, number " + std::to_string(i))));
  EXPECT_THAT(p.import("z").error().what, HasSubstr(" more"));
}

TEST(RemoteTimeline, NamesAreChecked) {
  Pair p;
  auto a = must(p.offer("one"));
  EXPECT_EQ(p.offer("one").error().code, BATON_BUSY);
  EXPECT_EQ(p.offer("").error().code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(p.offer(std::string(kMaxTimelineName + 1, 'x')).error().code, BATON_INVALID_ARGUMENT);
  { auto gone = must(p.offer("two")); }
  EXPECT_OK(p.offer("two"));
}

TEST(RemoteTimeline, WhoDoesNotHoldTheKeyLearnsNoName) {
  Pair p;
  auto x = must(ExportedTimeline::open(p.in, p.decode, p.made, "a secret name"));
  Endpoint stranger = must(Endpoint::open(p.in, {"", random_key(), "stranger"}));
  auto s = stranger.connect(p.decode.address(), deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PERMISSION);
  EXPECT_THAT(s.error().text() + s.error().next, testing::Not(HasSubstr("a secret name")));
}

TEST(RemoteTimeline, AReaderMayOnlyLook) {
  Pair p;
  auto x = must(p.offer());
  auto asked = p.import("made", {.signal = true});
  ASSERT_FALSE(asked.ok());
  EXPECT_EQ(asked.error().code, BATON_PERMISSION) << asked.error().text();
  auto far = must(p.import());
  baton_timeline_signal(far.timeline().get(), 9, 0); // what it does to its mirror stays there
  for (uint64_t to = 0; to < 64; ++to) (void)p.at_decode->impl().send_signal({to, 8, 0}); // and forged frames count for nothing
  for (uint64_t to = 0; to < 64; ++to) ASSERT_OK(send_transport(p.at_decode->impl(), "tl.poison", {{"to", to}, {"error", to_json(Error(BATON_FAILED, "forged"))}}));
  p.settle();
  EXPECT_EQ(*p.made.value(), 0u);
  EXPECT_OK(p.at_prefill->alive());
}

TEST(RemoteTimeline, GrantedItIsOneTimelineOnBothSides) {
  Pair p;
  Queue q = must(p.host.queue());
  auto x = must(p.offer("made", {.peer_may_signal = true}));
  auto far = must(p.import("made", {.signal = true}));
  auto reader = must(p.import());
  ASSERT_OK(q.submit({nop().signal(far.timeline(), 1)})); // an op there raises it here
  ASSERT_OK(p.made.wait_until(1, deadline_in_ms(kSoonMs)));
  ASSERT_OK(reader.timeline().wait_until(1, deadline_in_ms(kSoonMs)));
  baton_timeline_signal(far.timeline().get(), 2, 222);
  ASSERT_OK(p.made.wait_until(2, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(p.made.modelled_ns(2), 222u);
  p.made.signal(3, 333);
  ASSERT_OK(far.timeline().wait_until(3, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(far.timeline().modelled_ns(3), 333u);
  const Error why(BATON_CANCELLED, "the reader went home", "-");
  baton_timeline_poison(far.timeline().get(), &why);
  for (const Timeline* t : std::initializer_list<const Timeline*>{&p.made, &reader.timeline()}) {
    const auto s = t->wait_until(4, deadline_in_ms(kSoonMs));
    ASSERT_FALSE(s.ok());
    EXPECT_STREQ(s.error().what, "the reader went home");
  }
  EXPECT_STREQ(p.made.value().error().hop, "decode > prefill");
  EXPECT_STREQ(reader.timeline().value().error().hop, "decode > prefill > decode");
}

TEST(RemoteTimeline, LosingWhoMaySignalPoisonsTheOwnerClosingItDoesNot) {
  Pair p;
  auto x = must(p.offer("made", {.peer_may_signal = true}));
  { auto brief = must(p.import("made", {.signal = true})); }
  p.settle();
  EXPECT_EQ(x.importers(), 0u);
  auto reader = must(p.import());
  p.at_decode.reset();
  EXPECT_TRUE(poll_until(p.in, [&] { return x.importers() == 0; }));
  EXPECT_OK(p.made.value()); // it only looked
  p.connect();
  auto far = must(p.import("made", {.signal = true}));
  p.at_decode.reset();
  const auto s = p.made.wait_until(1, deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PEER_LOST);
  EXPECT_THAT(s.error().hop, HasSubstr("prefill > decode"));
}

TEST(RemoteTimeline, ClosingTheExportOrDestroyingTheTimelineCancels) {
  Pair p;
  Timeline other = must(p.in.timeline("other of prefill"));
  auto x = std::make_unique<ExportedTimeline>(must(p.offer()));
  auto y = must(ExportedTimeline::open(p.in, p.prefill, other, "other"));
  auto a = must(p.import()), b = must(p.import("other"));
  x.reset();
  auto s = a.timeline().wait_until(1, deadline_in_ms(kSoonMs));
  EXPECT_EQ(s.error().code, BATON_CANCELLED);
  EXPECT_THAT(s.error().what, HasSubstr("closed its export of timeline 'made'"));
  EXPECT_OK(p.made.value()); // the timeline itself goes on
  other.reset();
  s = b.timeline().wait_until(1, deadline_in_ms(kSoonMs));
  EXPECT_EQ(s.error().code, BATON_CANCELLED);
  EXPECT_THAT(s.error().what, HasSubstr("'other of prefill' was destroyed"));
  auto late = must(p.import("other"));
  EXPECT_EQ(late.timeline().wait_until(1, deadline_in_ms(kSoonMs)).error().code, BATON_CANCELLED);
}

TEST(RemoteTimeline, ALostSessionPoisonsAndANewOneImportsAgain) {
  Pair p;
  auto x = must(p.offer());
  auto far = must(p.import());
  p.made.signal(1);
  ASSERT_OK(far.timeline().wait_until(1, deadline_in_ms(kSoonMs)));
  p.at_prefill.reset();
  const auto s = far.timeline().wait_until(2, deadline_in_ms(kSoonMs));
  EXPECT_EQ(s.error().code, BATON_PEER_LOST);
  EXPECT_THAT(s.error().hop, HasSubstr("decode > prefill"));
  EXPECT_EQ(p.import().error().code, BATON_PEER_LOST) << "over a session that is lost";
  p.connect();
  auto again = must(p.import());
  p.made.signal(2);
  EXPECT_OK(again.timeline().wait_until(2, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(x.importers(), 1u);
}

TEST(RemoteTimeline, EverythingMayCloseInAnyOrder) {
  std::vector<int> order{0, 1, 2, 3, 4, 5};
  std::mt19937 rng(11);
  for (int round = 0; round < 40; ++round) {
    std::shuffle(order.begin(), order.end(), rng);
    Pair p;
    const bool grant = round % 2;
    auto x = std::make_unique<ExportedTimeline>(must(p.offer("made", {.peer_may_signal = grant})));
    auto far = std::make_unique<RemoteTimeline>(must(p.import("made", {.signal = grant})));
    auto owner = std::make_unique<Endpoint>(std::move(p.prefill)), looker = std::make_unique<Endpoint>(std::move(p.decode));
    p.made.signal(1);
    for (int what : order) {
      if (what == 0) x.reset();
      if (what == 1) far.reset();
      if (what == 2) p.made.reset();
      if (what == 3) owner.reset();
      if (what == 4) looker.reset();
      if (what == 5) (round % 3 ? p.at_decode : p.at_prefill).reset();
      if (rng() % 2) p.in.poll();
    }
    p.in.poll();
  }
}

TEST(RemoteTimeline, ImportsOfAPeerAreLimited) {
  Pair p;
  auto x = must(p.offer());
  std::vector<RemoteTimeline> all;
  for (size_t i = 0; i < kMaxImports; ++i) all.push_back(must(p.import()));
  auto over = p.import();
  ASSERT_FALSE(over.ok());
  EXPECT_EQ(over.error().code, BATON_CAPACITY) << over.error().text();
  p.made.signal(5);
  for (auto& r : all) ASSERT_OK(r.timeline().wait_until(5, deadline_in_ms(kSoonMs)));
  all.pop_back();
  p.settle();
  EXPECT_OK(p.import());
}

TEST(RemoteTimeline, MalformedMessagesAreDropped) {
  Pair p;
  auto x = must(p.offer("made", {.peer_may_signal = true}));
  auto far = must(p.import("made", {.signal = true}));
  for (const char* type : {"tl.import", "tl.accept", "tl.refuse", "tl.close", "tl.what"})
    for (const nlohmann::json& b : {nlohmann::json(nullptr), nlohmann::json::array(), nlohmann::json(3), nlohmann::json{{"to", -1}, {"from", "x"}}, nlohmann::json{{"to", 1}, {"name", 7}, {"signal", {}}}}) {
      ASSERT_OK(send_transport(p.at_decode->impl(), type, b));
      ASSERT_OK(send_transport(p.at_prefill->impl(), type, b));
    }
  p.settle();
  p.made.signal(1);
  EXPECT_OK(far.timeline().wait_until(1, deadline_in_ms(kSoonMs)));
}

TEST(RemoteTimeline, RepeatsLeakNothing) {
  Pair p;
  auto once = [&](int i) {
    auto x = must(p.offer());
    auto far = must(p.import());
    if (i % 2) p.made.signal(uint64_t(i) + 1);
    if (i % 2) ASSERT_OK(far.timeline().wait_until(uint64_t(i) + 1, deadline_in_ms(kSoonMs)));
    if (i % 10 == 0) {
      p.at_prefill.reset();
      p.at_decode.reset();
      p.connect();
    }
  };
  for (int i = 0; i < 3; ++i) once(i);
  p.settle();
  const size_t fds = open_fds(), maps = memfd_mappings();
  for (int i = 3; i < 103; ++i) once(i);
  p.settle();
  EXPECT_EQ(open_fds(), fds);
  EXPECT_EQ(memfd_mappings(), maps);
}

// ---- another process ----

TEST_F(Far, AKilledOwnerPoisonsAtOnceAlsoWhenNothingIsInFlight) {
  for (int round = 0; round < 2; ++round) { // the second over a new session with a new process
    start();
    ask("export", "exported");
    auto far = must(RemoteTimeline::import(in, *session, "made", deadline_in_ms(kSoonMs)));
    ASSERT_OK(session->send({"signal", {{"value", 4}, {"modelled", 44}}, {}}));
    ASSERT_OK(far.timeline().wait_until(4, deadline_in_ms(kSoonMs)));
    EXPECT_EQ(far.timeline().modelled_ns(4), 44u);
    child->kill(SIGKILL);
    const uint64_t start_ns = now_ns();
    const auto s = far.timeline().wait_until(5, deadline_in_ms(kSoonMs));
    EXPECT_LT(now_ns() - start_ns, kLeaseMs * 1'000'000 / 2) << "by the hang-up, not by the lease";
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().code, BATON_PEER_LOST);
    EXPECT_THAT(s.error().hop, HasSubstr("decode > source process"));
  }
}

TEST_F(FarSilent, AStoppedOwnerPoisonsWithinTheLease) {
  start();
  ask("export", "exported");
  auto far = must(RemoteTimeline::import(in, *session, "made", deadline_in_ms(kSoonMs)));
  child->kill(SIGSTOP);
  expect_silent(far.timeline(), 1);
}

// A program that sleeps on the instance's descriptor and polls once when it is readable: it hears of values, and of a peer that is silent.
TEST_F(FarSilent, AnEventLoopIsWokenForValuesAndForTheEndOfTheLease) {
  start();
  ask("export", "exported");
  auto far = must(RemoteTimeline::import(in, *session, "made", deadline_in_ms(kSoonMs)));
  uint64_t value = 0;
  auto sleep_until = [&](auto done) {
    for (const uint64_t end = deadline_in_ms(kSoonMs); !done() && now_ns() < end; in.poll()) {
      pollfd p{in.fd(), POLLIN, 0};
      if (poll(&p, 1, int(kSoonMs)) == 0) return false;
    }
    return done();
  };
  uint64_t start_ns = now_ns();
  for (uint64_t v = 1; v <= 40; ++v) {
    ASSERT_OK(session->send({"signal", {{"value", v}, {"modelled", v}}, {}}));
    ASSERT_TRUE(sleep_until([&] { return (value = must(far.timeline().value())) >= v; })) << "value " << v << " woke nobody";
  }
  EXPECT_LT(now_ns() - start_ns, lease_ms * 1'000'000 * 2) << "values wait for the ticks of the lease";
  child->kill(SIGSTOP);
  start_ns = now_ns();
  ASSERT_TRUE(sleep_until([&] { return !far.timeline().value().ok(); })) << "the end of the lease woke nobody";
  EXPECT_LT(now_ns() - start_ns, lease_ms * 1'000'000 * 3);
  child->kill(SIGCONT);
}

TEST_F(Far, OpsOfTwoProcessesWaitForEachOther) {
  start();
  Timeline there = must(in.timeline("there")), back = must(in.timeline("back"));
  auto a = must(ExportedTimeline::open(in, ep, there, "there"));
  auto b = must(ExportedTimeline::open(in, ep, back, "back", {.peer_may_signal = true}));
  ask("import", "imported");
  for (uint64_t v = 1; v <= 64; ++v) {
    there.signal(v, v * 10);
    ASSERT_OK(back.wait_until(v, deadline_in_ms(kSoonMs)));
    EXPECT_GE(back.modelled_ns(v), v * 10);
  }
  child->kill(SIGKILL);
  const auto s = back.wait_until(65, deadline_in_ms(kSoonMs));
  EXPECT_EQ(s.error().code, BATON_PEER_LOST) << "nobody else would raise it";
  EXPECT_OK(there.value());
}

}  // namespace
}  // namespace baton::transport
