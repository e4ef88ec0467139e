// Grants of baton_kv.h: the decode side.
#include "transport/c/handles.hpp"
#include "transport/kv_wire.hpp"

using namespace baton;
using namespace baton::kv_c;
using namespace baton::transport;

namespace {

Error given_up(const baton_error* why, const char* who) {
  return why ? Error(copy_in(why)) : Error(BATON_CANCELLED, std::string("the ") + who + " gave it up", "nothing: it was its choice");
}

Error another_endpoint() { return Error(BATON_INVALID_ARGUMENT, "the session is of another endpoint than the pool", "register the pool with that one"); }

} // namespace

int32_t baton_kv_grant_blocks(baton_kv_pool* pool, const baton_kv_grant_options* options, baton_kv_grant** out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!pool || !options || !out) return missing("the pool, the options or the result");
    const auto o = copy_in(options);
    if (!o.blocks && o.block_count) return missing("the list of blocks");
    if (o.session && o.session->ep != pool->ep) return another_endpoint();
    if (o.block_count > pool->layout.blocks) return Error(BATON_INVALID_ARGUMENT, std::to_string(o.block_count) + " blocks of a pool of " + std::to_string(pool->layout.blocks), "give each block once");
    if (!pool->sink) {
      BATON_ASSIGN(KvSink sink, KvSink::create(*pool->ep->instance, *pool->ep->endpoint, pool->memory, pool->layout, pool->model));
      pool->sink.emplace(std::move(sink));
    }
    BATON_ASSIGN(Incoming in, pool->sink->expect(std::vector<int32_t>(o.blocks, o.blocks + o.block_count), o.tokens, o.held_tokens));
    pool->tags->renew({o.blocks, o.block_count}); // what was pushed from them is not there any more
    auto g = std::make_unique<baton_kv_grant>();
    g->ep = pool->ep;
    g->pool = pool;
    g->session = o.session;
    g->incoming.emplace(std::move(in));
    g->tokens = o.tokens, g->held = o.held_tokens, g->user = o.user, g->deadline_ns = o.deadline_ns;
    *out = pool->ep->grants.emplace_back(std::move(g)).get();
    return {};
  });
}

const char* baton_kv_grant_ticket(const baton_kv_grant* g) { return g ? g->incoming->ticket().c_str() : ""; }
baton_timeline* baton_kv_grant_landed(const baton_kv_grant* g) { return g ? g->incoming->landed().get() : nullptr; }

int32_t baton_kv_pull(baton_kv_grant* g, baton_kv_session* s, const void* bytes, uint64_t count, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!g || !s || (count && !bytes)) return missing("the grant, the session or the bytes");
    if (count > BATON_KV_NOTE_BYTES) return Error(BATON_INVALID_ARGUMENT, std::to_string(count) + " bytes in a pull", "at most BATON_KV_NOTE_BYTES");
    if (g->ep != s->ep) return another_endpoint();
    if (g->pull) return Error(BATON_BUSY, "the grant was asked for already", "grant again");
    const auto* b = static_cast<const uint8_t*>(bytes);
    const uint64_t id = g->ep->next_pull++;
    BATON_TRY(s->session->send({kPull, {{"id", id}, {"ticket", g->incoming->ticket()}, {"tokens", g->tokens}, {"held", g->held}}, std::vector<uint8_t>(b, b + count)}));
    g->pull = id;
    g->session = s;
    return {};
  });
}

int32_t baton_kv_pull_hold(baton_kv_grant* g, const char* hold, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!g || !hold) return missing("the grant or the hold's id");
    if (g->pull) return Error(BATON_BUSY, "the grant was asked for already", "grant again");
    const auto it = std::find_if(g->ep->tracked.begin(), g->ep->tracked.end(), [&](const auto& t) { return t.first == hold; });
    if (it == g->ep->tracked.end()) return Error(BATON_NOT_FOUND, "the hold is not tracked", "baton_kv_track it, over a session to its holder");
    BATON_TRY(g->ep->puller->pull(hold, *g->incoming));
    g->pull = g->ep->next_pull++;
    g->session = it->second;
    return {};
  });
}

int32_t baton_kv_refuse(baton_kv_session* s, uint64_t id, const baton_error* why, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!s) return missing("the session");
    return s->session->send({kRefuse, {{"id", id}, {"error", to_json(given_up(why, "prefill side"))}}, {}});
  });
}

void baton_kv_grant_cancel(baton_kv_grant* g, const baton_error* why) {
  if (!g || g->complete) return;
  quietly(0, [&] {
    g->incoming->cancel(given_up(why, "decode side"));
    return 0;
  });
}

uint32_t baton_kv_grant_quiet(baton_kv_grant* g) {
  if (!g) return 0;
  return quietly(0u, [&] { return uint32_t((g->complete || g->failed || !g->incoming->landed().value().ok()) && g->incoming->quiesced()); });
}

int32_t baton_kv_grant_intact(baton_kv_grant* g, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!g) return missing("the grant");
    return g->incoming->intact();
  });
}

void baton_kv_grant_release(baton_kv_grant* g) {
  if (!g) return;
  quietly(0, [&] {
    forget(g->ep->grants, g);
    return 0;
  });
}

int32_t baton_kv_grant_stats(const baton_kv_grant* g, baton_kv_stats* out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!g || !out) return missing("the grant or the result");
    baton_kv_stats s{};
    const Incoming::Stats& from = g->incoming->stats();
    s.bytes = from.bytes, s.segments = from.segments;
    (void)baton_timeline_query(g->incoming->landed().get(), &s.layers, nullptr); // filled though it be poisoned
    put(s.fabric, from.fabric);
    copy_out(out, s);
    return {};
  });
}
