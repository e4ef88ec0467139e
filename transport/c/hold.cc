// Holds of baton_kv.h, at both ends.
#include "transport/c/handles.hpp"

using namespace baton;
using namespace baton::kv_c;
using namespace baton::transport;

namespace baton::kv_c {

void end_hold(baton_kv_hold& h, const Error& why) {
  if (h.over) return;
  h.ep->holder->end(h.id);
  h.over = why.code;
  h.cause = why;
}

void untrack(baton_kv_endpoint& ep, const baton_kv_session* s) {
  std::erase_if(ep.tracked, [&](const auto& t) {
    if (t.second != s) return false;
    ep.puller->forget(t.first);
    return true;
  });
}

} // namespace baton::kv_c

namespace {

bool forget_tracked(baton_kv_endpoint& ep, const char* hold) {
  return hold && std::erase_if(ep.tracked, [&](const auto& t) { return t.first == hold; });
}

} // namespace

int32_t baton_kv_hold_blocks(baton_kv_endpoint* ep, const baton_kv_hold_options* options, baton_kv_hold** out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!ep || !options || !out) return missing("the endpoint, the options or the result");
    const auto o = copy_in(options);
    auto h = std::make_unique<baton_kv_hold>();
    h->ep = ep;
    h->user = o.user;
    BATON_ASSIGN(auto sources, sources_of(ep, o.sources, o.source_count, h->pools));
    for (size_t i = 0; i < sources.size(); ++i)
      if (const uint64_t has = sources[i].blocks.size() * uint64_t(sources[i].layout.block_tokens); has < o.tokens)
        return Error(BATON_INVALID_ARGUMENT, "source " + std::to_string(i) + " has blocks of " + std::to_string(has) + " tokens, " + std::to_string(o.tokens) + " are held", "give every block");
    if (!ep->holder) {
      BATON_ASSIGN(KvHolder made, KvHolder::create(*ep->instance, *ep->endpoint, {}));
      ep->holder.emplace(std::move(made));
    }
    HoldOptions how;
    if (o.fabric) how.fabric = o.fabric;
    if (o.lease_ns) how.lease_ns = o.lease_ns;
    how.extend_ns = o.extend_ns;
    how.model = h->pools[0]->model;
    BATON_ASSIGN(h->id, ep->holder->hold(std::move(sources), o.tokens, std::move(how)));
    *out = ep->holds.emplace_back(std::move(h)).get();
    return {};
  });
}

const char* baton_kv_hold_id(const baton_kv_hold* h) { return h ? h->id.c_str() : ""; }

void baton_kv_hold_cancel(baton_kv_hold* h) {
  if (!h || h->over) return;
  quietly(0, [&] {
    h->ep->holder->drop(h->id);
    return 0;
  });
}

void baton_kv_hold_release(baton_kv_hold* h) {
  if (!h) return;
  quietly(0, [&] {
    end_hold(*h, Error(BATON_CANCELLED, "the hold was given up", "nothing: it was the caller's choice"));
    forget(h->ep->holds, h);
    return 0;
  });
}

int32_t baton_kv_track(baton_kv_session* s, const char* hold, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!s || !hold) return missing("the session or the hold's id");
    if (std::strlen(hold) != 32) return Error(BATON_INVALID_ARGUMENT, "the id of a hold has 32 digits, this one " + std::to_string(std::strlen(hold)), "see baton_kv_hold_id");
    baton_kv_endpoint& ep = *s->ep;
    if (!ep.puller) {
      PullOptions o;
      if (ep.hold_beat_ns) o.beat_ns = ep.hold_beat_ns;
      BATON_ASSIGN(KvPuller made, KvPuller::create(*ep.instance, *ep.endpoint, o));
      ep.puller.emplace(std::move(made));
    }
    BATON_TRY(ep.puller->track(*s->session, hold));
    forget_tracked(ep, hold); // over another session
    ep.tracked.emplace_back(hold, s);
    return {};
  });
}

void baton_kv_confirm(baton_kv_endpoint* ep, const char* hold) {
  if (!ep) return;
  quietly(0, [&] {
    if (forget_tracked(*ep, hold)) ep->puller->confirm(hold);
    return 0;
  });
}

void baton_kv_untrack(baton_kv_endpoint* ep, const char* hold) {
  if (!ep) return;
  quietly(0, [&] {
    if (forget_tracked(*ep, hold)) ep->puller->forget(hold);
    return 0;
  });
}
