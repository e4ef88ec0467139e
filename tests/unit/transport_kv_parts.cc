// Requests that come in parts: prefix hits, chunks of a prompt, the way back; and many sessions at once. On every fabric of this machine.
#include "transport_kv_request.hpp"

namespace baton::transport {
namespace {

using testing::HasSubstr;

class Parts : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, Parts, testing::ValuesIn(fabrics_under_test({"mapped", "shm", "tcp"})), fabric_label);

const uint64_t kPatienceMs = (kSanitized ? 30000 : 10000) * test_slow();

void push(Request& r, Incoming& in, const std::string& fabric) {
  auto t = r.open(in.ticket(), fabric);
  ASSERT_OK(t);
  Timeline sent = must(r.e.in.timeline("sent"));
  submit_all(r, *t, sent);
  ASSERT_OK(in.landed().wait_until(r.dst.layers_held(), deadline_in_ms(kPatienceMs)));
  ASSERT_OK(t->seal({"end", nlohmann::json::object(), {}}, deadline_in_ms(kPatienceMs)));
}

TEST_P(Parts, APrefixThatIsHereDoesNotCome) {
  TwoEnds e;
  for (const uint32_t source_block : {16u, 64u})
    for (const uint64_t held : {1u, 16u, 37u, 99u}) {
      SCOPED_TRACE(testing::Message() << held << " of 100 tokens are held, blocks of " << source_block);
      Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::head_major, source_block, 12)}, 100);
      (void)r.expect(); // fills
      fill_kv(r.landing, r.dst, r.dst_blocks, held, 77); // other numbers than the source has: what comes would show
      Incoming in = must(r.sink.expect(r.dst_blocks, 100, held));
      push(r, in, GetParam());
      if (HasFatalFailure()) return;
      EXPECT_EQ(wrong_kv(r.landing, r.dst, r.dst_blocks, held, 77), 0u) << "the prefix was written to";
      fill_kv(r.landing, r.dst, r.dst_blocks, held, r.salt);
      EXPECT_EQ(r.wrong(), 0u);
      EXPECT_EQ(in.stats().bytes, (100 - held) * 2 * 2 * 16 * 2 * 4); // tokens, halves, heads, head_dim, bf16, layers
    }
}

TEST_P(Parts, ChunksOfAPromptLandAsTheyAreMade) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 32, 12)}, 150);
  (void)r.expect();
  std::vector<Incoming> chunks;
  const std::vector<uint64_t> ends{40, 41, 96, 150};
  uint64_t begin = 0;
  for (uint64_t end : ends) chunks.push_back(must(r.sink.expect(r.dst_blocks, end, std::exchange(begin, end))));
  for (size_t i : {1u, 0u, 3u, 2u}) { // no order is asked for
    r.tokens = ends[i];
    push(r, chunks[i], GetParam());
    if (HasFatalFailure()) return;
  }
  r.tokens = 150;
  EXPECT_EQ(r.wrong(), 0u);
}

// In bulk nothing lands before the last layer was submitted, and then all of it does; layers that others send are not waited for.
TEST_P(Parts, ABulkOfSeveralSourcesLandsAtOnce) {
  TwoEnds e;
  KvLayout stage = small_layout(KvOrder::token_major, 16, 12), whole = small_layout(KvOrder::head_major, 32, 12);
  stage.layer_begin = 1, stage.layer_count = 2; // so the other source sends layers 0 and 3
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {stage, whole}, 100);
  Incoming in = r.expect();
  auto t = KvTransfer::open(e.in, *e.at_prefill, in.ticket(), r.list(), 100, {.fabric = GetParam(), .model = "model-a", .bulk = TransferOptions::Bulk::always}, deadline_in_ms(kPatienceMs));
  ASSERT_OK(t);
  Timeline sent = must(e.in.timeline("sent"));
  for (uint32_t l = 0; l < 3; ++l)
    for (uint32_t s = 0; s < 2; ++s) ASSERT_OK(t->queue().submit(t->copy(s, l).signal(sent, l * 2 + s + 1)));
  poll_until(e.in, [] { return false; }, 20);
  EXPECT_EQ(*in.landed().value(), 0u);
  for (uint32_t s = 0; s < 2; ++s) ASSERT_OK(t->queue().submit(t->copy(s, 3).signal(sent, 7 + s)));
  ASSERT_OK(in.landed().wait_until(4, deadline_in_ms(kPatienceMs)));
  ASSERT_OK(sent.wait_until(8, deadline_in_ms(kPatienceMs)));
  EXPECT_EQ(r.wrong(), 0u);
  ASSERT_OK(t->seal({"end", nlohmann::json::object(), {}}, deadline_in_ms(kPatienceMs)));
}

// efa-trn2: 8 segments are posted in 5 us, less than the 15 us of a push; 56 are not.
TEST_P(Parts, TheModelChoosesBulkForShortPrompts) {
  TwoEnds e;
  for (const uint64_t tokens : {16u, 100u}) {
    Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, tokens);
    Incoming in = r.expect();
    auto t = KvTransfer::open(e.in, *e.at_prefill, in.ticket(), r.list(), tokens, {.fabric = GetParam(), .model = "model-a", .bulk = TransferOptions::Bulk::model}, deadline_in_ms(kPatienceMs));
    ASSERT_OK(t);
    EXPECT_EQ(t->stats().bulk, tokens == 16) << tokens << " tokens";
    for (uint32_t l = 0; l < 4; ++l) ASSERT_OK(t->queue().submit(t->copy(0, l)));
    ASSERT_OK(in.landed().wait_until(4, deadline_in_ms(kPatienceMs)));
    EXPECT_EQ(r.wrong(), 0u);
    ASSERT_OK(t->seal({"end", nlohmann::json::object(), {}}, deadline_in_ms(kPatienceMs)));
  }
}

TEST_P(Parts, NothingToComeIsRefused) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 20);
  EXPECT_THAT(r.sink.expect({0, 1}, 20, 20).error().what, HasSubstr("20 of 20 tokens are held"));
}

// What decoding made goes back, so that the next turn's prefill starts from it.
TEST_P(Parts, TheWayBack) {
  TwoEnds e;
  const KvLayout there = small_layout(KvOrder::head_major, 16, 12), here = small_layout(KvOrder::token_major, 64, 4);
  Buffer prefill = must(e.host.alloc(there.bytes())), decode = must(e.host.alloc(here.bytes()));
  std::mt19937 rng(3);
  const auto at_prefill = shuffled_blocks(rng, there, 130), at_decode = shuffled_blocks(rng, here, 130);
  fill_kv(decode, here, at_decode, 130, 5);
  fill_kv(prefill, there, at_prefill, 100, 5); // the prompt; 30 tokens were decoded
  KvSink sink = must(KvSink::create(e.in, e.prefill, prefill, there, "model-a"));
  Incoming in = must(sink.expect(at_prefill, 130, 100));
  auto t = KvTransfer::open(e.in, *e.at_decode, in.ticket(), {{&decode, here, at_decode}}, 130, {.fabric = GetParam(), .model = "model-a"}, deadline_in_ms(kPatienceMs));
  ASSERT_OK(t);
  for (uint32_t l = 0; l < 4; ++l) ASSERT_OK(t->queue().submit(t->copy(0, l)));
  ASSERT_OK(in.landed().wait_until(4, deadline_in_ms(kPatienceMs)));
  EXPECT_EQ(wrong_kv(prefill, there, at_prefill, 130, 5), 0u);
  ASSERT_OK(t->seal({"end", nlohmann::json::object(), {}}, deadline_in_ms(kPatienceMs)));
}

TEST_P(Parts, SixtyFourSessionsAtOnce) {
  TwoEnds e(20'000'000'000 * lease_slow());
  constexpr uint32_t kSessions = 64;
  const KvLayout one = small_layout(KvOrder::token_major, 16, 4);
  KvLayout all = one;
  all.blocks = 4 * kSessions;
  Buffer landing = must(e.host.alloc(all.bytes()));
  KvSink sink = must(KvSink::create(e.in, e.decode, landing, all, "model-a"));
  struct Peer {
    std::unique_ptr<Session> here, there;
    Buffer memory;
    std::vector<int32_t> to;
    std::optional<Incoming> in;
    std::optional<KvTransfer> t;
  };
  std::vector<Peer> peers(kSessions);
  const std::vector<int32_t> from{3, 1, 0, 2};
  for (uint32_t i = 0; i < kSessions; ++i) {
    Peer& p = peers[i];
    p.here = must(e.prefill.connect(e.decode.address(), deadline_in_ms(kPatienceMs)));
    ASSERT_TRUE(poll_until(e.in, [&] { return (p.there = e.decode.accept()) != nullptr; }, kPatienceMs));
    p.memory = must(e.host.alloc(one.bytes()));
    fill_kv(p.memory, one, from, 60, i + 1);
    for (int32_t b = 0; b < 4; ++b) p.to.push_back(int32_t(i) * 4 + 3 - b);
    p.in.emplace(must(sink.expect(p.to, 60)));
  }
  for (Peer& p : peers)
    p.t.emplace(must(KvTransfer::open(e.in, *p.here, p.in->ticket(), {{&p.memory, one, from}}, 60, {.fabric = GetParam(), .model = "model-a"}, deadline_in_ms(60'000 * test_slow()))));
  for (uint32_t l = 0; l < 4; ++l)
    for (Peer& p : peers) ASSERT_OK(p.t->queue().submit(p.t->copy(0, l)));
  for (uint32_t i = 0; i < kSessions; ++i) {
    ASSERT_OK(peers[i].in->landed().wait_until(4, deadline_in_ms(60'000 * test_slow())));
    EXPECT_EQ(wrong_kv(landing, all, peers[i].to, 60, i + 1), 0u) << "session " << i;
    ASSERT_OK(peers[i].t->seal({"end", nlohmann::json::object(), {}}, deadline_in_ms(60'000 * test_slow())));
  }
}

}  // namespace
}  // namespace baton::transport
