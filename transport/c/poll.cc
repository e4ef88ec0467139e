// What happened, found by looking: sessions, grants, pushes, holds and loans, each as far as the caller's array goes.
#include "transport/c/handles.hpp"
#include "transport/kv_wire.hpp"

using namespace baton;
using namespace baton::kv_c;
using namespace baton::transport;

namespace {

// The caller's array, whose elements have the size that he knows.
class Events {
 public:
  Events(baton_kv_event* at, uint32_t count) : at_(reinterpret_cast<uint8_t*>(at)), left_(at ? count : 0), stride_(at && count && at->struct_size ? at->struct_size : sizeof(baton_kv_event)) {}
  bool full() const { return !left_; }
  uint32_t taken() const { return taken_; }
  void put(baton_kv_event e) {
    e.struct_size = stride_;
    std::memcpy(at_, &e, std::min<size_t>(stride_, sizeof e));
    at_ += stride_;
    ++taken_;
    --left_;
  }

 private:
  uint8_t* at_;
  uint32_t left_, stride_, taken_ = 0;
};

baton_kv_event event(baton_kv_event_kind kind) {
  baton_kv_event e{};
  e.kind = kind;
  return e;
}

void put_bytes(baton_kv_event& e, const std::vector<uint8_t>& b) {
  e.bytes = b.empty() ? nullptr : b.data();
  e.byte_count = b.size();
}

// ---- sessions ----

// Of the session's own messages; false: there is nothing to show.
bool show(baton_kv_endpoint& ep, baton_kv_session& s, Message& m, baton_kv_event& e) {
  if (m.type == kRefuse) {
    const uint64_t id = u64_of(m.body, "id").value_or(0);
    for (auto& g : ep.grants)
      if (id && g->pull == id && g->session == &s && !g->complete) g->incoming->cancel(error_from(m.body)); // seen below as FAILED
    return false;
  }
  e = event(BATON_KV_EVENT_NOTE);
  e.session = &s;
  if (m.type == kPull) {
    const auto id = u64_of(m.body, "id"), tokens = u64_of(m.body, "tokens"), held = u64_of(m.body, "held");
    auto ticket = text_of(m.body, "ticket");
    if (!id || !tokens || !held || !ticket || ticket->size() > 64 || m.bytes.size() > BATON_KV_NOTE_BYTES) return false; // the peer's bug: its grant has a deadline, or its session ends
    e.kind = BATON_KV_EVENT_PULL;
    e.id = *id, e.tokens = *tokens, e.held_tokens = *held;
    m.type = std::move(*ticket);
  } else if (m.type.starts_with(kReserved)) {
    return false; // of a later version
  }
  const Message& kept = ep.held.emplace_back(std::move(m));
  e.text = kept.type.c_str();
  put_bytes(e, kept.bytes);
  return true;
}

void look(baton_kv_endpoint& ep, baton_kv_session& s, Events& out) {
  while (!out.full()) {
    auto m = s.session->receive();
    if (!m) break;
    baton_kv_event e{};
    if (show(ep, s, *m, e)) out.put(e);
  }
  for (size_t i = 0; i < ep.tracked.size() && !out.full();) {
    auto why = ep.tracked[i].second == &s ? ep.puller->refused(ep.tracked[i].first) : std::nullopt;
    if (!why) {
      ++i;
      continue;
    }
    baton_kv_event e = event(BATON_KV_EVENT_UNHELD);
    e.session = &s;
    e.text = ep.held.emplace_back(Message{std::move(ep.tracked[i].first), {}, {}}).type.c_str();
    e.error = &ep.causes.emplace_back(std::move(*why));
    out.put(e);
    ep.tracked.erase(ep.tracked.begin() + ptrdiff_t(i));
  }
  if (out.full() || s.lost_told) return;
  const Status alive = s.session->alive();
  if (alive.ok()) return;
  s.lost_told = true;
  s.cause = alive.error();
  for (auto& g : ep.grants)
    if (g->session == &s && !g->complete) g->incoming->cancel(s.cause); // one that nobody has begun to fill
  baton_kv_event e = event(BATON_KV_EVENT_PEER_LOST);
  e.session = &s;
  e.error = &s.cause;
  out.put(e);
}

// ---- grants ----

baton_kv_event of(baton_kv_grant& g, baton_kv_event_kind kind) {
  baton_kv_event e = event(kind);
  e.grant = &g;
  e.user = g.user;
  return e;
}

void look(baton_kv_endpoint& ep, baton_kv_grant& g, Events& out) {
  if (g.complete || g.quiet_told) return;
  if (!g.failed) {
    uint64_t landed = 0;
    Error why;
    if (g.deadline_ns && now_ns() > g.deadline_ns) g.incoming->cancel(Error(BATON_DEADLINE, "the grant was not filled before its deadline", "see the prefill side"));
    if (baton_timeline_query(g.incoming->landed().get(), &landed, &why)) {
      g.failed = true;
      g.cause = why;
      baton_kv_event e = of(g, BATON_KV_EVENT_FAILED);
      e.error = &g.cause;
      return out.put(e);
    }
    if (landed > g.told) {
      g.told = landed;
      baton_kv_event e = of(g, BATON_KV_EVENT_LANDED);
      e.layers = landed;
      out.put(e);
    }
    if (out.full()) return;
    if (auto m = g.incoming->sealed()) {
      g.complete = true;
      baton_kv_event e = of(g, BATON_KV_EVENT_COMPLETE);
      put_bytes(e, ep.held.emplace_back(std::move(*m)).bytes);
      out.put(e);
    }
  } else if (g.incoming->quiesced()) {
    g.quiet_told = true;
    out.put(of(g, BATON_KV_EVENT_QUIET));
  }
}

// ---- pushes ----

baton_kv_event of(baton_kv_push& p, baton_kv_event_kind kind) {
  baton_kv_event e = event(kind);
  e.push = &p;
  e.user = p.user;
  return e;
}

void look(baton_kv_endpoint&, baton_kv_push& p, Events& out) {
  constexpr uint64_t kFailureTold = UINT64_MAX;
  if (p.complete || p.told == kFailureTold) return;
  if (p.transfer && p.ready == baton_kv_push::Ready::no) {
    if (const auto opened = p.transfer->opened(); opened && !opened->ok()) end_push(p, opened->error());
    else if (opened) p.ready = baton_kv_push::Ready::untold, agreed(p);
  }
  if (!p.failed && p.ready == baton_kv_push::Ready::untold) {
    p.ready = baton_kv_push::Ready::told;
    baton_kv_event e = of(p, BATON_KV_EVENT_READY);
    e.layers = p.layers;
    out.put(e);
    if (out.full()) return;
  }
  if (p.transfer && p.ready == baton_kv_push::Ready::told) {
    count_sent(p);
    Error why;
    if (const Status s = p.transfer->alive(); !s.ok()) end_push(p, s.error());
    else if (baton_timeline_query(p.points.get(), nullptr, &why)) end_push(p, why); // a wait of a layer's was poisoned
  }
  if (!p.failed && p.sent > p.told) {
    p.told = p.sent;
    baton_kv_event e = of(p, BATON_KV_EVENT_SENT);
    e.layers = p.sent;
    out.put(e);
    if (out.full()) return;
  }
  if (!p.failed && p.seal && p.ready == baton_kv_push::Ready::told && p.sent == p.pushed.size()) {
    const Status s = p.transfer->seal({"seal", nlohmann::json::object(), std::move(*p.seal)}, now_ns());
    p.complete = s.ok();
    end_push(p, s.ok() ? Error() : s.error()); // the pools are free, its fabric too
    if (p.complete) return out.put(of(p, BATON_KV_EVENT_COMPLETE));
  }
  if (p.failed) {
    p.told = kFailureTold;
    baton_kv_event e = of(p, BATON_KV_EVENT_FAILED);
    e.error = &p.cause;
    out.put(e);
  }
}

// ---- holds and loans ----

void serve_holds(baton_kv_endpoint& ep) {
  if (!ep.holder) return;
  (void)ep.holder->serve(); // a pull that fails is the puller's to hear of
  std::vector<KvHolder::Ended> ended;
  ep.holder->ended(ended);
  for (const auto& x : ended)
    for (auto& h : ep.holds)
      if (h->id == x.id) h->over = x.code;
}

void look(baton_kv_endpoint&, baton_kv_hold& h, Events& out) {
  if (!h.over || h.told) return;
  h.told = true;
  baton_kv_event e = event(*h.over == BATON_OK ? BATON_KV_EVENT_COMPLETE : BATON_KV_EVENT_FAILED);
  e.hold = &h;
  e.user = h.user;
  if (*h.over == BATON_DEADLINE) h.cause = Error(BATON_DEADLINE, "nobody kept the hold until the end of its lease", "see the decode side");
  if (*h.over == BATON_CANCELLED && !h.cause.code) h.cause = Error(BATON_CANCELLED, "the hold was cancelled", "nothing: it was the caller's choice");
  if (*h.over != BATON_OK) e.error = &h.cause;
  out.put(e);
}

void look(baton_kv_endpoint&, baton_kv_lender& l, Events& out) {
  if (l.told) return;
  baton_kv_event e = event(BATON_KV_EVENT_READY);
  e.lender = &l;
  if (l.lender && !l.ready) {
    const auto opened = l.lender->opened();
    if (!opened) return;
    if (opened->ok()) l.ready = true, out.put(e);
    else end_lender(l, opened->error());
  }
  if (l.lender) {
    l.lender->returned(l.back);
    e.kind = BATON_KV_EVENT_RETURNED;
    size_t told = 0;
    for (; told < l.back.size() && !out.full(); ++told) {
      e.id = l.back[told];
      out.put(e);
    }
    l.back.erase(l.back.begin(), l.back.begin() + ptrdiff_t(told));
    if (out.full()) return;
    if (const Status s = l.lender->alive(); !s.ok()) end_lender(l, s.error());
  }
  if (!l.failed || out.full()) return;
  l.told = true;
  e.kind = BATON_KV_EVENT_FAILED;
  e.id = 0;
  e.error = &l.cause;
  out.put(e);
}

void look(baton_kv_endpoint&, baton_kv_borrower& b, Events& out) {
  if (!b.borrower.ready()) return;
  baton_kv_event e = event(BATON_KV_EVENT_READY);
  e.borrower = &b;
  if (!std::exchange(b.ready_told, true)) out.put(e);
  while (!out.full()) {
    if (b.spare.empty()) b.spare.push_back(std::make_unique<KvLoan>());
    if (!b.borrower.take(*b.spare.back())) return;
    const KvLoan& loan = *b.loans.emplace_back(std::move(b.spare.back()));
    b.spare.pop_back();
    e.kind = BATON_KV_EVENT_LOAN;
    e.id = loan.id, e.tokens = loan.terms.tokens, e.user = loan.terms.tag;
    e.blocks = loan.blocks.data(), e.block_count = loan.blocks.size();
    out.put(e);
  }
}

template <class T>
void look_at_each(baton_kv_endpoint& ep, std::vector<std::unique_ptr<T>>& all, Events& out) {
  for (size_t i = 0; i < all.size() && !out.full(); ++i) look(ep, *all[i], out);
}

uint32_t collect(baton_kv_endpoint& ep, baton_kv_event* events, uint32_t count) {
  Events out(events, count);
  ep.held.clear();
  ep.causes.clear();
  serve_holds(ep);
  constexpr uint32_t kLists = 6;
  for (uint32_t k = 0; k < kLists && !out.full(); ++k) {
    switch ((ep.turn + k) % kLists) {
      case 0: look_at_each(ep, ep.sessions, out); break;
      case 1: look_at_each(ep, ep.grants, out); break;
      case 2: look_at_each(ep, ep.pushes, out); break;
      case 3: look_at_each(ep, ep.holds, out); break;
      case 4: look_at_each(ep, ep.lenders, out); break;
      default: look_at_each(ep, ep.borrowers, out);
    }
  }
  if (out.full()) ++ep.turn; // else a stream of notes would hide what landed
  return out.taken();
}

} // namespace

uint32_t baton_kv_poll(baton_kv_endpoint* ep, baton_kv_event* events, uint32_t count) {
  if (!ep) return 0;
  return quietly(0u, [&] {
    baton_poll(ep->instance->get(), 64);
    return collect(*ep, events, count);
  });
}

uint32_t baton_kv_wait(baton_kv_endpoint* ep, baton_kv_event* events, uint32_t count, uint64_t deadline_ns) {
  if (!ep) return 0;
  return quietly(0u, [&] {
    baton_poll(ep->instance->get(), 64);
    for (;;) {
      const uint32_t n = collect(*ep, events, count);
      if (n || !events || !count || now_ns() >= deadline_ns) return n; // without room there is nothing to wait for
      uint64_t until = deadline_ns;
      for (const auto& g : ep->grants)
        if (!g->complete && !g->failed && g->deadline_ns) until = std::min(until, g->deadline_ns + 1'000);
      for (const auto& p : ep->pushes)
        if (p->ready == baton_kv_push::Ready::no && !p->failed) until = std::min(until, p->agree_ns + 1'000);
      for (const auto& l : ep->lenders)
        if (!l->ready && !l->failed) until = std::min(until, l->agree_ns + 1'000);
      baton_poll_wait(ep->instance->get(), until);
    }
  });
}
