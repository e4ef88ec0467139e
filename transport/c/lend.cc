// Lenders and borrowers of baton_kv.h.
#include "transport/c/handles.hpp"

using namespace baton;
using namespace baton::kv_c;
using namespace baton::transport;

namespace {

constexpr uint64_t kAgreeNs = 5'000'000'000;

LendOptions named(const char* model, const char* name) {
  LendOptions o;
  o.model = text(model);
  if (name) o.name = name;
  return o;
}

KvLoan* find(const baton_kv_borrower& b, uint64_t loan) {
  const auto it = std::find_if(b.loans.begin(), b.loans.end(), [&](const auto& l) { return l->id == loan; });
  return it == b.loans.end() ? nullptr : it->get();
}

} // namespace

namespace baton::kv_c {

void end_lender(baton_kv_lender& l, const Error& why) {
  l.lender.reset();
  l.back.clear();
  if (l.failed) return;
  l.failed = true;
  l.cause = why;
}

} // namespace baton::kv_c

int32_t baton_kv_lender_open(baton_kv_session* s, baton_kv_pool* pool, const char* name, uint64_t deadline_ns, baton_kv_lender** out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!s || !pool || !out) return missing("the session, the pool or the result");
    if (s->ep != pool->ep) return Error(BATON_INVALID_ARGUMENT, "the session is of another endpoint than the pool", "register the pool with that one");
    auto l = std::make_unique<baton_kv_lender>();
    l->ep = s->ep;
    l->pool = pool;
    l->agree_ns = deadline_ns ? deadline_ns : now_ns() + kAgreeNs;
    BATON_ASSIGN(KvLender lender, KvLender::begin(*s->session, pool->memory, pool->layout, named(pool->model.c_str(), name), l->agree_ns));
    l->lender.emplace(std::move(lender));
    *out = l->ep->lenders.emplace_back(std::move(l)).get();
    return {};
  });
}

int32_t baton_kv_lend(baton_kv_lender* l, const int32_t* blocks, uint64_t block_count, uint64_t tokens, uint64_t user, uint64_t* loan, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!l || !blocks || !loan) return missing("the lender, the blocks or the result");
    if (!l->lender) return l->cause;
    BATON_ASSIGN(*loan, l->lender->lend({blocks, block_count}, {.tokens = tokens, .tag = user}));
    return {};
  });
}

void baton_kv_recall(baton_kv_lender* l, uint64_t loan) {
  if (!l || !l->lender) return;
  quietly(0, [&] {
    l->lender->recall(loan);
    return 0;
  });
}

void baton_kv_lender_close(baton_kv_lender* l) {
  if (!l) return;
  quietly(0, [&] {
    forget(l->ep->lenders, l);
    return 0;
  });
}

int32_t baton_kv_borrower_open(baton_kv_session* s, const baton_kv_layout* layout, const char* model, const char* name, baton_kv_borrower** out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!s || !layout || !out) return missing("the session, the layout or the result");
    BATON_ASSIGN(KvBorrower borrower, KvBorrower::create(*s->session, layout_in(layout), named(model, name)));
    *out = s->ep->borrowers.emplace_back(new baton_kv_borrower{.ep = s->ep, .borrower = std::move(borrower), .loans = {}, .spare = {}}).get();
    return {};
  });
}

int32_t baton_kv_borrower_memory(const baton_kv_borrower* b, const void** base, baton_kv_layout* layout, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!b) return missing("the borrower");
    if (!b->borrower.ready()) return Error(BATON_BUSY, "no lender of that name has come yet", "poll until READY");
    if (base) *base = b->borrower.base();
    if (layout) copy_out(layout, layout_out(b->borrower.layout()));
    return {};
  });
}

int32_t baton_kv_loan_check(const baton_kv_borrower* b, uint64_t loan, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!b) return missing("the borrower");
    const KvLoan* l = find(*b, loan);
    if (!l) return Error(BATON_NOT_FOUND, "loan " + std::to_string(loan) + " is not out", "ask before baton_kv_loan_return");
    return b->borrower.check(*l);
  });
}

void baton_kv_loan_return(baton_kv_borrower* b, uint64_t loan) {
  if (!b) return;
  quietly(0, [&] {
    KvLoan* l = find(*b, loan);
    if (!l) return 0;
    b->borrower.give_back(*l);
    const auto it = std::find_if(b->loans.begin(), b->loans.end(), [&](const auto& x) { return x.get() == l; });
    std::swap(*it, b->loans.back());
    b->spare.push_back(std::move(b->loans.back()));
    b->loans.pop_back();
    return 0;
  });
}

void baton_kv_borrower_close(baton_kv_borrower* b) {
  if (!b) return;
  quietly(0, [&] {
    for (const auto& l : b->loans) b->borrower.give_back(*l);
    forget(b->ep->borrowers, b);
    return 0;
  });
}
