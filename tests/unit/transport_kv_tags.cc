// KvTags: a block that was given to another request while it was being moved, held or read is not taken for what it was. On every fabric of this machine.
#include "transport_kv_request.hpp"

#include "transport/kv_hold.hpp"

#include <thread>

namespace baton::transport {
namespace {

using testing::HasSubstr;

constexpr uint64_t kPatienceMs = kSanitized ? 30000 : 10000;

TEST(Tags, NameTheFirstBlockThatChangedHands) {
  KvTags tags(8);
  const std::vector<int32_t> blocks{5, 2, 7}, others{0, 1}, bad{-1, 8};
  KvTagged mine(&tags, blocks), none(nullptr, blocks), outside(&tags, bad);
  EXPECT_OK(mine.intact("a"));
  tags.renew(others);
  tags.renew(bad);
  EXPECT_OK(mine.intact("a"));
  tags.renew(std::vector<int32_t>{7, 2});
  EXPECT_EQ(mine.stale(), 2);
  EXPECT_EQ(mine.stale(), 2) << "it stays so";
  EXPECT_THAT(mine.intact("source 0").error().what, HasSubstr("block 2 of source 0 was given to another request"));
  EXPECT_EQ(none.stale(), -1);
  EXPECT_EQ(outside.stale(), -1);
  KvTagged again(&tags, blocks);
  EXPECT_EQ(again.stale(), -1);
}

// Whoever reads what was written after renew() finds the tag changed: no mixture goes unseen.
TEST(Tags, AreASequenceLockBetweenThreads) {
  KvTags tags(2);
  const std::vector<int32_t> block{1};
  std::atomic<uint64_t> data[16]{}, written{0}; // written: the tag whose data is whole
  std::atomic<bool> stop{false};
  std::thread owner([&] {
    for (uint64_t v = 1; !stop; ++v) {
      tags.renew(block);
      for (auto& d : data) d.store(v, std::memory_order_relaxed);
      written.store(v, std::memory_order_release);
    }
  });
  uint64_t whole = 0, mixed = 0;
  for (uint64_t tries = 0; tries < 200'000'000 && (whole < 1000 || tries < 20'000); ++tries) {
    KvTagged mine(&tags, block);
    const uint64_t now = written.load(std::memory_order_acquire);
    if (now != tags.of(1)) continue; // it has changed hands and is being written
    bool same = true;
    for (auto& d : data) same &= d.load(std::memory_order_relaxed) == now;
    if (mine.stale() >= 0) continue;
    ++whole;
    mixed += !same;
  }
  stop = true;
  owner.join();
  EXPECT_GE(whole, 1u);
  EXPECT_EQ(mixed, 0u);
}

class Tagged : public testing::TestWithParam<std::string> {
 protected:
  TwoEnds e;
  Request r{e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::head_major, 16, 12)}, 100};
  KvTags tags{12}; // of the source's pool

  Result<KvTransfer> open(const std::string& ticket) {
    auto list = r.list();
    list[0].tagged = KvTagged(&tags, r.src_blocks[0]);
    return KvTransfer::open(e.in, *e.at_prefill, ticket, list, 100, {.fabric = GetParam(), .model = "model-a"}, deadline_in_ms(kPatienceMs));
  }
  // What a wait for the whole ends with.
  Status end(const Incoming& in) { return in.landed().wait_until(r.dst.layers_held() + 1, deadline_in_ms(kPatienceMs)); }
};
INSTANTIATE_TEST_SUITE_P(All, Tagged, testing::ValuesIn(fabrics_under_test({"mapped", "shm", "tcp"})), fabric_label);

TEST_P(Tagged, ASourcesBlockThatChangesHandsEndsTheTransferOnBothSides) {
  Incoming in = r.expect();
  auto t = open(in.ticket());
  ASSERT_OK(t);
  Timeline sent = must(e.in.timeline("sent"));
  ASSERT_OK(t->queue().submit(t->copy(0, 0).signal(sent, 1)));
  ASSERT_OK(in.landed().wait_until(1, deadline_in_ms(kPatienceMs)));
  tags.renew(std::vector<int32_t>{r.src_blocks[0][1]});
  ASSERT_OK(t->queue().submit(t->copy(0, 1).signal(sent, 2)));
  const Status at_sink = end(in), at_source = sent.wait_until(2, deadline_in_ms(kPatienceMs));
  EXPECT_EQ(at_sink.error().code, BATON_CORRUPT) << at_sink.error().text();
  EXPECT_THAT(at_sink.error().what, HasSubstr("block " + std::to_string(r.src_blocks[0][1]) + " of source 0"));
  EXPECT_EQ(at_source.error().code, BATON_CORRUPT) << at_source.error().text();
  EXPECT_EQ(t->seal({"end", {}, {}}, deadline_in_ms(kPatienceMs)).error().code, BATON_CORRUPT);
  EXPECT_TRUE(poll_until(e.in, [&] { return in.quiesced(); }, kPatienceMs));
}

TEST_P(Tagged, BlocksOfOthersMayChangeHands) {
  Incoming in = r.expect();
  auto t = open(in.ticket());
  ASSERT_OK(t);
  std::vector<int32_t> others;
  for (int32_t b = 0; b < 12; ++b)
    if (std::find(r.src_blocks[0].begin(), r.src_blocks[0].end(), b) == r.src_blocks[0].end()) others.push_back(b);
  tags.renew(others);
  r.sink.tags().renew(std::vector<int32_t>{-1, 12});
  Timeline sent = must(e.in.timeline("sent"));
  submit_all(r, *t, sent);
  ASSERT_OK(in.landed().wait_until(r.dst.layers_held(), deadline_in_ms(kPatienceMs)));
  ASSERT_OK(t->seal({"end", nlohmann::json::object(), {}}, deadline_in_ms(kPatienceMs)));
  EXPECT_TRUE(poll_until(e.in, [&] { return in.sealed().has_value(); }, kPatienceMs));
  EXPECT_EQ(r.wrong(), 0u);
  EXPECT_OK(in.intact());
}

// A pool that grants blocks twice: the first request fails, the second is right.
TEST_P(Tagged, BlocksGrantedToAnotherRequestDoNotLandForTheFirst) {
  Incoming first = r.expect();
  auto t1 = open(first.ticket());
  ASSERT_OK(t1);
  EXPECT_OK(first.intact());
  Incoming second = must(r.sink.expect(r.dst_blocks, 100));
  EXPECT_THAT(first.intact().error().what, HasSubstr("was given to another request"));
  Timeline sent = must(e.in.timeline("sent"));
  ASSERT_OK(t1->queue().submit(t1->copy(0, 0).signal(sent, 1)));
  EXPECT_EQ(end(first).error().code, BATON_CORRUPT);
  EXPECT_TRUE(poll_until(e.in, [&] { return !t1->alive().ok(); }, kPatienceMs)) << "the source is told";
  ASSERT_TRUE(poll_until(e.in, [&] { return first.quiesced(); }, kPatienceMs));
  auto t2 = open(second.ticket());
  ASSERT_OK(t2);
  Timeline sent2 = must(e.in.timeline("sent"));
  submit_all(r, *t2, sent2);
  ASSERT_OK(second.landed().wait_until(r.dst.layers_held(), deadline_in_ms(kPatienceMs)));
  EXPECT_EQ(r.wrong(), 0u);
}

// A prefix that requests share, and chunks of a prompt, are no change of hands.
TEST_P(Tagged, HeldBlocksKeepTheirTags) {
  (void)r.expect();
  Incoming chunk = must(r.sink.expect(r.dst_blocks, 37)), rest = must(r.sink.expect(r.dst_blocks, 100, 37));
  EXPECT_OK(chunk.intact());
  EXPECT_OK(rest.intact());
  r.sink.tags().renew(std::vector<int32_t>{r.dst_blocks[0]}); // freed
  EXPECT_FALSE(chunk.intact().ok());
  EXPECT_FALSE(rest.intact().ok());
}

TEST_P(Tagged, AHeldRequestWhoseBlockWasReusedIsNotPulled) {
  KvHolder holder = must(KvHolder::create(e.in, e.prefill, {.model = "model-a", .fabric = GetParam(), .lease_ns = 60'000'000'000}));
  KvPuller puller = must(KvPuller::create(e.in, e.decode));
  (void)r.expect();
  auto list = r.list();
  list[0].tagged = KvTagged(&tags, r.src_blocks[0]);
  const std::string id = must(holder.hold(list, 100));
  ASSERT_OK(puller.track(*e.at_decode, id));
  tags.renew(std::vector<int32_t>{r.src_blocks[0][3]}); // by an allocator that does not wait for ended()
  Incoming in = must(puller.pull(id, r.sink, r.dst_blocks, 100));
  ASSERT_TRUE(poll_until(e.in, [&] { (void)holder.serve(); return !in.landed().value().ok(); }, kPatienceMs));
  EXPECT_EQ(in.landed().value().error().code, BATON_CORRUPT) << in.landed().value().error().text();
  EXPECT_FALSE(in.sealed());
}

}  // namespace
}  // namespace baton::transport
