// KvHolder and KvPuller: blocks stay while somebody wants them, come, and are the prefill side's again when they may be.
#include "transport_kv_request.hpp"

#include "transport/kv_hold.hpp"

namespace baton::transport {
namespace {

using testing::HasSubstr;

constexpr uint64_t kLeaseNs = kSanitized ? 2'000'000'000 : 500'000'000;
constexpr uint64_t kPatienceMs = kSanitized ? 60'000 : 20'000;

class Hold : public testing::Test {
 protected:
  TwoEnds e{20'000'000'000};
  Request r{e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::head_major, 16, 12, 0, 1), small_layout(KvOrder::token_major, 32, 12, 1, 1)}, 100};
  KvHolder holder = must(KvHolder::create(e.in, e.prefill, {.model = "model-a", .lease_ns = kLeaseNs}));
  KvPuller puller = must(KvPuller::create(e.in, e.decode, {.beat_ns = kLeaseNs / 6}));
  std::vector<KvHolder::Ended> ended;
  Status served;

  std::string hold() {
    (void)r.expect(); // fills the sources
    std::memset(must(r.landing.map()), 0xee, r.landing.bytes());
    return must(holder.hold(r.list(), r.tokens));
  }
  template <class F>
  bool until(F done, uint64_t ms = kPatienceMs) {
    return poll_until(
        e.in,
        [&] {
          if (Status s = holder.serve(); !s.ok()) served = s;
          holder.ended(ended);
          return done();
        },
        ms);
  }
  // Pulls, waits for the seal, confirms.
  void pull(const std::string& id) {
    Incoming in = must(puller.pull(id, r.sink, r.dst_blocks, r.tokens));
    std::optional<Message> m;
    ASSERT_TRUE(until([&] { return (m = in.sealed()).has_value(); })) << served.error().text();
    EXPECT_EQ(m->type, "pulled");
    EXPECT_EQ(r.wrong(), 0u);
    EXPECT_TRUE(ended.empty()) << "freed before it was confirmed";
    puller.confirm(id);
    ASSERT_TRUE(until([&] { return !ended.empty(); }));
    EXPECT_EQ(ended[0].id, id);
    EXPECT_EQ(ended[0].code, BATON_OK);
    EXPECT_EQ(holder.held(), 0u);
  }
};

TEST_F(Hold, IsPulledConfirmedAndFreed) {
  const std::string id = hold();
  ASSERT_OK(puller.track(*e.at_decode, id));
  pull(id);
}

TEST_F(Hold, OfWhatNobodyWantsIsReapedByATimer) {
  (void)hold();
  const uint64_t start = now_ns();
  ASSERT_TRUE(until([&] { return !ended.empty(); }));
  EXPECT_EQ(ended[0].code, BATON_DEADLINE);
  EXPECT_GE(now_ns() - start, kLeaseNs);
}

TEST_F(Hold, IsKeptByBeatsAndLetGoWithoutThem) {
  const std::string id = hold();
  ASSERT_OK(puller.track(*e.at_decode, id));
  EXPECT_FALSE(until([&] { return !ended.empty(); }, 3 * kLeaseNs / 1'000'000)) << "it was tracked";
  puller.forget(id);
  const uint64_t start = now_ns();
  ASSERT_TRUE(until([&] { return !ended.empty(); }));
  EXPECT_EQ(ended[0].code, BATON_DEADLINE);
  EXPECT_LE(now_ns() - start, 20 * kLeaseNs);
}

TEST_F(Hold, APullOfWhatIsNotHeldFails) {
  const std::string id = hold();
  ASSERT_OK(puller.track(*e.at_decode, id));
  holder.drop(id);
  ASSERT_TRUE(until([&] { return !ended.empty(); }));
  EXPECT_EQ(ended[0].code, BATON_CANCELLED);
  Incoming in = must(puller.pull(id, r.sink, r.dst_blocks, r.tokens));
  ASSERT_TRUE(until([&] { return !in.landed().value().ok(); }));
  EXPECT_EQ(in.landed().value().error().code, BATON_NOT_FOUND);
  EXPECT_THAT(in.landed().value().error().what, HasSubstr("holds no such request"));
  EXPECT_TRUE(in.quiesced());
  EXPECT_EQ(puller.refused(id)->code, BATON_NOT_FOUND);
  EXPECT_EQ(puller.pull(id, r.sink, r.dst_blocks, r.tokens).error().code, BATON_NOT_FOUND) << "it is forgotten";
}

TEST_F(Hold, AnotherSessionPullsWhatALostOneDidNot) {
  const std::string id = hold();
  ASSERT_OK(puller.track(*e.at_decode, id));
  {
    Incoming in = must(puller.pull(id, r.sink, r.dst_blocks, r.tokens));
    e.at_prefill.reset(); // before it was served
    ASSERT_TRUE(until([&] { return !e.at_decode->alive().ok(); }));
  }
  EXPECT_EQ(puller.pull(id, r.sink, r.dst_blocks, r.tokens).error().code, BATON_NOT_FOUND);
  e.at_decode.reset();
  e.connect();
  ASSERT_OK(puller.track(*e.at_decode, id));
  pull(id);
}

TEST_F(Hold, MissingTokensAlone) {
  const std::string id = hold();
  ASSERT_OK(puller.track(*e.at_decode, id));
  fill_kv(r.landing, r.dst, r.dst_blocks, 64, r.salt);
  Incoming in = must(puller.pull(id, r.sink, r.dst_blocks, r.tokens, 64));
  ASSERT_TRUE(until([&] { return in.sealed().has_value(); }));
  EXPECT_EQ(r.wrong(), 0u);
  EXPECT_EQ(in.stats().bytes, (100 - 64) * 2 * 2 * 16 * 2 * 4u);
}

TEST_F(Hold, ManyAtOnce) {
  std::vector<std::string> ids;
  for (int i = 0; i < 200; ++i) ids.push_back(must(holder.hold(r.src_blocks.empty() ? (void(r.expect()), r.list()) : r.list(), r.tokens)));
  for (const auto& id : ids) ASSERT_OK(puller.track(*e.at_decode, id));
  std::vector<Incoming> in;
  for (const auto& id : ids) {
    in.push_back(must(puller.pull(id, r.sink, r.dst_blocks, r.tokens)));
    ASSERT_TRUE(until([&] { return in.back().sealed().has_value(); }));
    puller.confirm(id);
  }
  ASSERT_TRUE(until([&] { return ended.size() == ids.size(); }));
  EXPECT_TRUE(std::all_of(ended.begin(), ended.end(), [](const auto& x) { return x.code == BATON_OK; }));
}

}  // namespace
}  // namespace baton::transport
