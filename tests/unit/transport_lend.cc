// KvLender and KvBorrower: loans in one process and between two, and whose the blocks are when either side ends.
#include "transport_child.hpp"

#include "transport/kv_lend.hpp"

namespace baton::transport {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class Lend : public testing::Test {
 protected:
  TwoEnds e;
  KvLayout layout = small_layout(KvOrder::token_major, 16, 64);
  Buffer pool = must(e.host.alloc(layout.bytes()));
  std::vector<uint64_t> back;

  std::optional<KvBorrower> borrower;
  std::optional<KvLender> lender;
  void both() {
    borrower.emplace(must(KvBorrower::create(e.in, *e.at_decode, e.host, layout, {.model = "m"})));
    lender.emplace(must(KvLender::open(e.in, *e.at_prefill, pool, layout, {.model = "m"}, deadline_in_ms(5000))));
  }
  // Why a lender with that layout and name of the model is refused.
  Error refusal(const KvLayout& l, const char* model = "m") {
    borrower.emplace(must(KvBorrower::create(e.in, *e.at_decode, e.host, layout, {.model = "m"})));
    Buffer memory = must(e.host.alloc(l.bytes()));
    auto r = KvLender::open(e.in, *e.at_prefill, memory, l, {.model = model}, deadline_in_ms(5000));
    return r.ok() ? Error() : r.error();
  }
};

TEST_F(Lend, BlocksAreReadWhereTheyAreAndComeBack) {
  both();
  ASSERT_TRUE(borrower->ready());
  std::mt19937 rng(1);
  KvLoan loan;
  for (uint32_t salt = 1; salt < 40; ++salt) {
    const auto blocks = shuffled_blocks(rng, layout, 700);
    fill_kv(pool, layout, blocks, 700, salt);
    const uint64_t id = must(lender->lend(blocks, {.tokens = 700, .tag = salt, .modelled_ns = 9}));
    ASSERT_TRUE(borrower->take(loan));
    EXPECT_EQ(loan.id, id);
    EXPECT_EQ(loan.terms.tag, salt);
    EXPECT_EQ(loan.terms.modelled_ns, 9u);
    EXPECT_EQ(loan.blocks, blocks);
    EXPECT_EQ(wrong_kv(borrower->memory(), borrower->layout(), loan.blocks, loan.terms.tokens, salt), 0u);
    EXPECT_OK(borrower->check(loan));
    EXPECT_EQ(lender->out(), 1u);
    borrower->give_back(loan);
    back.clear();
    lender->returned(back);
    EXPECT_THAT(back, ElementsAre(id));
    EXPECT_EQ(lender->out(), 0u);
    EXPECT_EQ(borrower->check(loan).error().code, BATON_CANCELLED) << "it was given back";
  }
  EXPECT_FALSE(borrower->take(loan));
}

TEST_F(Lend, WhatCannotBeReadInPlaceIsRefusedByName) {
  KvLayout l = layout;
  l.block_tokens = 32;
  EXPECT_THAT(refusal(l).what, HasSubstr("block_tokens: lender 32, borrower 16"));
  l = layout, l.order = KvOrder::head_major;
  EXPECT_THAT(refusal(l).what, HasSubstr("order: lender head_major, borrower token_major"));
  l = layout, l.head_count = 1;
  EXPECT_THAT(refusal(l).what, HasSubstr("heads held: lender [0,1), borrower [0,2)"));
  l = layout, l.head_dim = 32;
  EXPECT_THAT(refusal(l).what, HasSubstr("head_dim"));
  l = layout, l.blocks = 65;
  EXPECT_THAT(refusal(l).what, HasSubstr("blocks: lender 65, borrower 64"));
  EXPECT_THAT(refusal(layout, "other").what, HasSubstr("models differ: prefill has other, decode has m"));
  EXPECT_EQ(refusal(layout).code, BATON_OK);
}

TEST_F(Lend, WithoutABorrowerTheLenderWaitsUntilTheDeadline) {
  const uint64_t start = now_ns();
  auto r = KvLender::open(e.in, *e.at_prefill, pool, layout, {.model = "m"}, deadline_in_ms(100));
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().code, BATON_NOT_FOUND);
  EXPECT_GE(now_ns() - start, 70'000'000u);
}

TEST_F(Lend, ARecalledLoanFailsItsCheck) {
  both();
  KvLoan loan;
  const uint64_t id = must(lender->lend(std::vector<int32_t>{3, 4}, {.tokens = 20}));
  ASSERT_TRUE(borrower->take(loan));
  ASSERT_OK(borrower->check(loan));
  lender->recall(id);
  EXPECT_EQ(lender->out(), 0u);
  EXPECT_EQ(borrower->check(loan).error().code, BATON_CANCELLED);
  borrower->give_back(loan);
  lender->returned(back);
  EXPECT_TRUE(back.empty()) << "it was recalled already";
}

TEST_F(Lend, ManyLoansFillTheRingAndGoOnWhenTheyComeBack) {
  both();
  std::vector<KvLoan> held;
  uint64_t lent = 0;
  for (int round = 0; round < 3; ++round) {
    for (;;) {
      auto id = lender->lend(std::vector<int32_t>{int32_t(lent % 64)}, {.tokens = 1, .tag = lent});
      if (!id.ok()) {
        EXPECT_EQ(id.error().code, BATON_BUSY);
        break;
      }
      ++lent;
    }
    EXPECT_EQ(lender->out(), 1024u);
    for (KvLoan l; borrower->take(l);) held.push_back(l);
    ASSERT_EQ(held.size(), 1024u);
    for (const KvLoan& l : held) {
      EXPECT_EQ(l.blocks[0], int32_t(l.terms.tag % 64));
      borrower->give_back(l);
    }
    held.clear();
    back.clear();
    lender->returned(back);
    EXPECT_EQ(back.size(), 1024u);
  }
  EXPECT_EQ(lent, 3 * 1024u);
}

// 2^20 ids are the room of loans that were not taken yet; lists that would wrap begin at the front.
TEST_F(Lend, LongListsWrap) {
  layout.blocks = 1u << 17, layout.head_dim = 1, layout.layers = 1, layout.kv_heads = layout.head_count = 1, layout.block_tokens = 1;
  pool = must(e.host.alloc(layout.bytes()));
  both();
  std::vector<int32_t> blocks(100'003);
  KvLoan loan;
  for (int round = 0; round < 50; ++round) {
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = int32_t((i * 7 + size_t(round)) % layout.blocks);
    (void)must(lender->lend(blocks, {.tokens = blocks.size()}));
    ASSERT_TRUE(borrower->take(loan));
    ASSERT_EQ(loan.blocks, blocks);
    borrower->give_back(loan);
  }
  size_t untaken = 0;
  while (lender->lend(blocks, {.tokens = blocks.size()}).ok()) ++untaken;
  EXPECT_GE(untaken, 9u);
  EXPECT_LE(untaken, 10u);
  for (; borrower->take(loan); --untaken) borrower->give_back(loan);
  EXPECT_EQ(untaken, 0u);
}

TEST_F(Lend, BadListsAreRefused) {
  both();
  EXPECT_THAT(lender->lend(std::vector<int32_t>{64}, {.tokens = 1}).error().what, HasSubstr("block 64: the pool has 0..63"));
  EXPECT_THAT(lender->lend(std::vector<int32_t>{-1}, {.tokens = 1}).error().what, HasSubstr("block -1"));
  EXPECT_THAT(lender->lend(std::vector<int32_t>{1}, {.tokens = 17}).error().what, HasSubstr("1 blocks for 17 tokens, which need 2 of 16"));
}

TEST_F(Lend, AClosedBorrowerIsToldToTheLender) {
  both();
  const uint64_t id = must(lender->lend(std::vector<int32_t>{1}, {.tokens = 1}));
  borrower.reset();
  ASSERT_TRUE(poll_until(e.in, [&] { return !lender->alive().ok(); }));
  EXPECT_EQ(lender->alive().error().code, BATON_PEER_LOST);
  lender->returned(back);
  EXPECT_THAT(back, ElementsAre(id));
  EXPECT_EQ(lender->lend(std::vector<int32_t>{1}, {.tokens = 1}).error().code, BATON_PEER_LOST);
}

class LendFar : public Far {
 protected:
  std::optional<Device> host;
  std::optional<KvBorrower> borrower;
  // The child lends, and this is its loan.
  void borrow(KvLoan& loan);
};

const nlohmann::json kFar = {{"blocks", 64}, {"salt", 3}};
KvLayout far_layout() { return small_layout(KvOrder::head_major, 16, 64); }

void LendFar::borrow(KvLoan& loan) {
  start();
  host.emplace(must(in.open("host://")));
  borrower.emplace(must(KvBorrower::create(in, *session, *host, far_layout(), {.model = "m"})));
  ASSERT_OK(session->send({"lend", kFar, {}}));
  ASSERT_TRUE(poll_until(in, [&] { return borrower->take(loan); }, kSoonMs));
}

// The blocks were made, the maker is gone: the memory stays, and so do the loans.
TEST_F(LendFar, ALoanOutlivesTheLendersProcess) {
  KvLoan loan;
  borrow(loan);
  if (HasFatalFailure()) return;
  KvBorrower& b = *borrower;
  EXPECT_EQ(loan.terms.tag, 5u);
  child->kill(SIGKILL);
  ASSERT_TRUE(poll_until(in, [&] { return !session->alive().ok(); }, kSoonMs));
  EXPECT_EQ(wrong_kv(b.memory(), b.layout(), loan.blocks, loan.terms.tokens, 3), 0u);
  EXPECT_OK(b.check(loan));
}

TEST_F(LendFar, ALoanComesBackFromAnotherProcess) {
  KvLoan loan;
  borrow(loan);
  if (HasFatalFailure()) return;
  KvBorrower& b = *borrower;
  b.give_back(loan);
  std::optional<Message> m;
  ASSERT_TRUE(poll_until(in, [&] { return (m = session->receive()).has_value(); }, kSoonMs));
  EXPECT_EQ(m->type, "back");
  EXPECT_EQ(m->body["loans"], nlohmann::json({loan.id}));
}

TEST_F(LendFar, AKilledBorrowersLoansComeBackAtOnce) {
  start();
  Device host = must(in.open("host://"));
  const KvLayout l = far_layout();
  Buffer pool = must(host.alloc(l.bytes()));
  std::vector<int32_t> blocks(64);
  std::iota(blocks.begin(), blocks.end(), 0);
  fill_kv(pool, l, blocks, 1024, 3);
  ask("borrow", "borrowing", kFar);
  KvLender lender = must(KvLender::open(in, *session, pool, l, {.model = "m"}, deadline_in_ms(kSoonMs)));
  const uint64_t id = must(lender.lend(blocks, {.tokens = 1024}));
  std::optional<Message> m;
  ASSERT_TRUE(poll_until(in, [&] { return (m = session->receive()).has_value(); }, kSoonMs));
  EXPECT_EQ(m->type, "took");
  EXPECT_EQ(m->body["wrong"], 0);
  child->kill(SIGKILL);
  const uint64_t start_ns = now_ns();
  ASSERT_TRUE(poll_until(in, [&] { return !lender.alive().ok(); }, kSoonMs));
  EXPECT_LT(now_ns() - start_ns, kLeaseMs * 1'000'000);
  std::vector<uint64_t> back;
  lender.returned(back);
  EXPECT_THAT(back, ElementsAre(id));
}

}  // namespace
}  // namespace baton::transport
