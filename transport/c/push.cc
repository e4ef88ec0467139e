// Pushes of baton_kv.h: the prefill side.
#include "transport/c/handles.hpp"

#include <cmath>

using namespace baton;
using namespace baton::kv_c;
using namespace baton::transport;

namespace {

constexpr uint64_t kAgreeNs = 5'000'000'000;

Error given_up(const baton_error* why) { return why ? Error(copy_in(why)) : Error(BATON_CANCELLED, "the prefill side gave it up", "nothing: it was its choice"); }

Status standing(const baton_kv_push& p) {
  if (p.failed) return p.cause;
  return p.transfer->alive();
}

Error pushed_already(uint32_t source, uint32_t layer) {
  return Error(BATON_INVALID_ARGUMENT, "layer " + std::to_string(layer) + " of source " + std::to_string(source) + " was pushed already", "push each layer once");
}
Error no_such(const baton_kv_push& p, uint32_t source, uint32_t layer) {
  return Error(BATON_INVALID_ARGUMENT, "layer " + std::to_string(layer) + " of source " + std::to_string(source) + ": there are " + std::to_string(p.layers) + " layers of " + std::to_string(p.sources) + " sources",
               "see baton_kv_push_layers");
}

Status submit(baton_kv_push& p, uint32_t source, uint32_t layer, const baton_point* wait) {
  const uint32_t index = source * p.layers + layer;
  Op op = p.transfer->copy(source, layer);
  op.baton_op::signal[0] = {p.points.get(), p.pushes + 1};
  if (wait) op.baton_op::wait[0] = *wait;
  BATON_TRY(p.transfer->queue().submit(op));
  ++p.pushes;
  p.pushed[index] = 1;
  p.waiting.push_back(index); // reserved
  return {};
}

Status submit_all(baton_kv_push& p) {
  for (uint32_t l = 0; l < p.layers; ++l)
    for (uint32_t s = 0; s < p.sources; ++s)
      if (!p.pushed[size_t(s) * p.layers + l]) BATON_TRY(submit(p, s, l, nullptr));
  return {};
}

Result<std::unique_ptr<baton_kv_push>> begin(baton_kv_session* s, const baton_kv_push_options* options) {
  const auto o = copy_in(options);
  if (!o.ticket) return missing("the ticket");
  if (o.bulk > BATON_KV_BULK_ALWAYS) return Error(BATON_INVALID_ARGUMENT, "bulk " + std::to_string(o.bulk), "one of baton_kv_bulk");
  auto p = std::make_unique<baton_kv_push>();
  p->ep = s->ep;
  BATON_ASSIGN(auto sources, sources_of(s->ep, o.sources, o.source_count, p->pools));
  BATON_ASSIGN(p->points, p->ep->instance->timeline("push"));
  TransferOptions how;
  if (o.fabric) how.fabric = o.fabric;
  how.checksum = o.checksum;
  how.bulk = TransferOptions::Bulk(o.bulk);
  how.model = p->pools[0]->model;
  p->agree_ns = o.deadline_ns ? o.deadline_ns : now_ns() + kAgreeNs;
  BATON_ASSIGN(KvTransfer t, KvTransfer::begin(*p->ep->instance, *s->session, o.ticket, std::move(sources), o.tokens, how, p->agree_ns));
  p->transfer.emplace(std::move(t));
  p->sources = o.source_count;
  p->user = o.user;
  return p;
}

} // namespace

namespace baton::kv_c {

Result<std::vector<KvSource>> sources_of(const baton_kv_endpoint* ep, const baton_kv_source* list, uint32_t count, std::vector<baton_kv_pool*>& pools) {
  std::vector<KvSource> all;
  if (!list || !count) return missing("the list of sources");
  for (uint32_t i = 0; i < count; ++i) {
    const baton_kv_source& s = list[i];
    const std::string name = "source " + std::to_string(i);
    if (!s.pool || (s.block_count && !s.blocks)) return missing((name + "'s pool or its list of blocks").c_str());
    if (s.pool->ep != ep) return Error(BATON_INVALID_ARGUMENT, name + " is of another endpoint", "register it with this one");
    if (s.pool->model != list[0].pool->model)
      return Error(BATON_MISMATCH, name + " has model '" + s.pool->model + "', source 0 has '" + list[0].pool->model + "'", "push one model at a time");
    for (uint64_t k = 0; k < s.block_count; ++k)
      if (s.blocks[k] < 0 || uint32_t(s.blocks[k]) >= s.pool->layout.blocks)
        return Error(BATON_INVALID_ARGUMENT, name + ": block " + std::to_string(s.blocks[k]) + " of a pool of " + std::to_string(s.pool->layout.blocks), "pass this pool's blocks");
    pools.push_back(s.pool);
    all.push_back({.memory = nullptr, .layout = s.pool->layout, .blocks = std::vector<int32_t>(s.blocks, s.blocks + s.block_count), .host = s.pool->memory, .tagged = KvTagged(&*s.pool->tags, {s.blocks, s.block_count})});
  }
  return all;
}

void agreed(baton_kv_push& p) {
  p.layers = p.transfer->layers();
  p.pushed.resize(size_t(p.sources) * p.layers);
  p.waiting.reserve(p.pushed.size());
  for (const auto& e : std::exchange(p.early, {})) {
    const Status s = e.layer < p.layers ? submit(p, e.source, e.layer, e.wait.timeline ? &e.wait : nullptr) : Status(no_such(p, e.source, e.layer));
    if (!s.ok()) return end_push(p, s.error());
  }
  if (!p.early_all) return;
  if (const Status s = submit_all(p); !s.ok()) end_push(p, s.error());
}

void count_sent(baton_kv_push& p) {
  const auto& spans = p.transfer->stats().spans;
  for (size_t i = 0; i < p.waiting.size();) {
    if (spans[p.waiting[i]].end_ns) {
      ++p.sent;
      p.waiting[i] = p.waiting.back();
      p.waiting.pop_back();
    } else {
      ++i;
    }
  }
}

void end_push(baton_kv_push& p, const Error& why) {
  if (p.transfer) {
    count_sent(p);
    p.last = p.transfer->stats();
    if (!p.complete && !p.failed) p.transfer->abort(why);
    p.transfer.reset();
  }
  if (p.complete || p.failed) return;
  p.failed = true;
  p.cause = why;
}

} // namespace baton::kv_c

int32_t baton_kv_push_begin(baton_kv_session* s, const baton_kv_push_options* options, baton_kv_push** out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!s || !options || !out) return missing("the session, the options or the result");
    BATON_ASSIGN(auto p, begin(s, options));
    *out = p->ep->pushes.emplace_back(std::move(p)).get();
    return {};
  });
}

int32_t baton_kv_push_open(baton_kv_session* s, const baton_kv_push_options* options, baton_kv_push** out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!s || !options || !out) return missing("the session, the options or the result");
    BATON_ASSIGN(auto p, begin(s, options));
    std::optional<Status> opened;
    while (!(opened = p->transfer->opened())) baton_poll_wait(p->ep->instance->get(), std::min(p->agree_ns, now_ns() + 10'000'000));
    BATON_TRY(*opened);
    agreed(*p);
    p->ready = baton_kv_push::Ready::told;
    *out = p->ep->pushes.emplace_back(std::move(p)).get();
    return {};
  });
}

uint32_t baton_kv_push_layers(const baton_kv_push* p) { return p ? p->layers : 0; }

int32_t baton_kv_push_layer(baton_kv_push* p, uint32_t source, uint32_t layer, const baton_point* wait, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!p) return missing("the push");
    BATON_TRY(standing(*p));
    if (p->ready == baton_kv_push::Ready::no) {
      if (source >= p->sources || layer >= p->pools[source]->layout.layers) return no_such(*p, source, layer);
      if (p->early_all || std::any_of(p->early.begin(), p->early.end(), [&](const auto& e) { return e.source == source && e.layer == layer; })) return pushed_already(source, layer);
      p->early.push_back({source, layer, wait ? *wait : baton_point{}});
      return {};
    }
    if (source >= p->sources || layer >= p->layers) return no_such(*p, source, layer);
    if (p->pushed[size_t(source) * p->layers + layer]) return pushed_already(source, layer);
    return submit(*p, source, layer, wait);
  });
}

int32_t baton_kv_push_all(baton_kv_push* p, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!p) return missing("the push");
    BATON_TRY(standing(*p));
    if (p->ready != baton_kv_push::Ready::no) return submit_all(*p);
    p->early_all = true;
    return {};
  });
}

int32_t baton_kv_push_seal(baton_kv_push* p, const void* bytes, uint64_t count, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!p || (count && !bytes)) return missing("the push or the bytes");
    if (count > BATON_KV_NOTE_BYTES) return Error(BATON_INVALID_ARGUMENT, std::to_string(count) + " bytes in a seal", "at most BATON_KV_NOTE_BYTES");
    if (p->seal || p->complete) return Error(BATON_BUSY, "the push is sealed already", "seal once");
    BATON_TRY(standing(*p));
    const auto* b = static_cast<const uint8_t*>(bytes);
    p->seal.emplace(b, b + count);
    return {};
  });
}

void baton_kv_push_cancel(baton_kv_push* p, const baton_error* why) {
  if (!p || p->complete || p->failed) return;
  quietly(0, [&] {
    p->transfer->abort(given_up(why)); // the next poll tells
    return 0;
  });
}

void baton_kv_push_release(baton_kv_push* p) {
  if (!p) return;
  quietly(0, [&] {
    forget(p->ep->pushes, p);
    return 0;
  });
}

int32_t baton_kv_link_cost(const char* link, uint64_t bytes, uint64_t segments, uint64_t* ns, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!ns) return missing("the result");
    BATON_ASSIGN(const LinkModel model, link_model(link ? link : TransferOptions().link_model));
    *ns = uint64_t(std::llround(model.cost_ns(bytes, segments)));
    return {};
  });
}

int32_t baton_kv_push_stats(const baton_kv_push* p, baton_kv_stats* out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!p || !out) return missing("the push or the result");
    baton_kv_stats s{};
    const KvTransfer::Stats& from = p->transfer ? p->transfer->stats() : p->last;
    s.bytes = from.bytes, s.segments = from.segments, s.layers = p->sent, s.bulk = from.bulk;
    s.rails = uint32_t(std::count_if(from.rails.begin(), from.rails.end(), [](const RailUse& r) { return r.bytes != 0; }));
    put(s.fabric, from.fabric);
    copy_out(out, s);
    return {};
  });
}
