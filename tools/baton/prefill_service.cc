#include "tools/baton/prefill_service.hpp"

#include "tools/model/fail.hpp"

#include <algorithm>
#include <cstring>

namespace baton::runtime {

using transport::KvTransfer;
using transport::Message;

Status PrefillService::open_engine() {
  BATON_ASSIGN(engine_, PrefillEngine::open(shelf_, log_, uri_, model_, options_.engine));
  return {};
}

Result<std::unique_ptr<PrefillService>> PrefillService::open(Shelf& shelf, SpanLog& log, const std::string& uri, const model::Model& m, ServiceOptions o) {
  std::unique_ptr<PrefillService> s(new PrefillService(shelf, log, uri, m, std::move(o)));
  BATON_TRY(s->open_engine());
  BATON_TRY(s->listen(shelf.instance(), "prefill", s->engine_->device(), s->engine_->ranks(), {"client"}));
  return s;
}

PrefillService::~PrefillService() {
  requests_.clear();
  decoders_.clear();
  peers_.clear();
  if (engine_ && endpoint_)
    for (uint32_t r = 0; r < engine_->ranks(); ++r) transport::forget_memory(*endpoint_, engine_->kv(r));
}

void PrefillService::message(Peer& peer, const Message& m) {
  auto id = u64_field(m, "id");
  Status s;
  auto mine = [&]() -> Request* {
    for (auto& r : requests_)
      if (id.ok() && r->peer == peer.number && r->ask.id == *id && !r->finished) return r.get();
    return nullptr;
  };
  if (m.type == "prefill") {
    auto ask = Prefill::from(m);
    s = ask.ok() ? accept(peer, std::move(*ask)) : Status(ask.error());
  } else if (m.type == "handover") {
    auto h = Handover::from(m);
    if (!h.ok()) s = h.error();
    else if (Request* r = mine()) r->handover = std::move(*h);
  } else if (m.type == "cancel") {
    Error why(BATON_CANCELLED, "the client cancelled the request");
    if (Request* r = mine()) end(*r, &why);
  }
  if (s.ok()) return;
  metrics_->refused(s.error());
  say(fmt::format("prefill refused: {}", s.error().text()));
  send(peer.number, failed_message(id.ok() ? *id : 0, s.error()));
}

Status PrefillService::accept(Peer& peer, Prefill ask) {
  BATON_TRY(same_model(ask.model));
  if (ask.ids.empty() || ask.ids.size() > engine_->context())
    return fail(BATON_INVALID_ARGUMENT, "shorten the prompt", "the prompt has {} tokens, the context of {} is {}", ask.ids.size(), leg_.where, engine_->context());
  if (ask.then >= 0 && uint32_t(ask.then) >= model_.config.vocab)
    return fail(BATON_INVALID_ARGUMENT, "use the tokenizer of this model", "token {} is outside the vocabulary of {}", ask.then, model_.config.vocab);
  for (int32_t id : ask.ids)
    if (id < 0 || uint32_t(id) >= model_.config.vocab)
      return fail(BATON_INVALID_ARGUMENT, "use the tokenizer of this model", "token {} is outside the vocabulary of {}", id, model_.config.vocab);
  auto r = std::make_unique<Request>();
  r->peer = peer.number;
  r->number = ++served_;
  r->ask = std::move(ask);
  r->began_ns = now_ns();
  metrics_->asked(r->ask.ids.size());
  requests_.push_back(std::move(r));
  return {};
}

void PrefillService::gone(uint64_t peer, const Error& why) {
  for (auto& r : requests_)
    if (r->peer == peer) end(*r, &why);
}

// What the metrics say of each rail; where one NIC is several of them, by its addresses too.
std::vector<Metrics::Rail> PrefillService::rails(const transport::KvTransfer& t, bool ended) {
  const std::vector<transport::RailUse>& all = t.stats().rails;
  auto name = [&](auto nic, auto address, const transport::RailUse& u) {
    const bool shared = std::count_if(all.begin(), all.end(), [&](auto& o) { return o.*nic == u.*nic; }) > 1;
    return shared ? u.*nic + " " + u.*address : u.*nic;
  };
  std::vector<Metrics::Rail> out;
  for (const transport::RailUse& u : all)
    out.push_back({name(&transport::RailUse::nic, &transport::RailUse::address, u), name(&transport::RailUse::peer_nic, &transport::RailUse::peer_address, u), ended ? u.bytes : 0, u.failures, u.up,
                   u.down_ns, u.silent_ns});
  return out;
}

// A rail that is down shows while its request still waits.
void PrefillService::observe() {
  for (auto& r : requests_)
    if (r->transfer && !r->finished)
      for (const Metrics::Rail& rail : rails(*r->transfer, false)) metrics_->rail(rail);
}

bool PrefillService::advance() {
  bool any = false;
  std::erase_if(decoders_, [](auto& d) { return !d.second->alive().ok(); });
  while (!requests_.empty()) {
    Request& r = *requests_.front();
    if (!r.finished) {
      auto moved = advance(r);
      if (!moved.ok()) end(r, &moved.error());
      any |= !moved.ok() || *moved;
    }
    if (!r.finished || (r.run && !r.run->drained())) break;
    requests_.pop_front();
    any = true;
  }
  // Those that wait and were cancelled need not wait for their turn.
  size_t before = requests_.size();
  std::erase_if(requests_, [](auto& r) { return r->finished && !r->run; });
  return any || requests_.size() != before;
}

// One request as far as it goes. True: something happened.
Result<bool> PrefillService::advance(Request& r) {
  bool any = false;
  if (!r.run) {
    BATON_TRY(start(r));
    any = true;
  }
  if (r.handover && !r.transfer) {
    BATON_TRY(hand_over(r));
    any = true;
  }
  RunState state = r.run->step();
  if (state == RunState::failed) return r.run->error();
  if (state == RunState::done && !r.told_first) {
    tell_first(r);
    any = true;
  }
  if (!r.transfer) return any;
  BATON_ASSIGN(bool sent, all_sent(r));
  BATON_TRY(r.transfer->alive());
  // Layers may end out of order, where one waits for a rail that fails: seal() would wait for it, and with it everybody else's request.
  if (state == RunState::running || !sent || !r.transfer->sent()) return any;
  BATON_TRY(seal(r));
  end(r, nullptr);
  return true;
}

Status PrefillService::start(Request& r) {
  if (lost_) { // the device, at an earlier request: open it anew
    if (engine_)
      for (uint32_t i = 0; i < engine_->ranks(); ++i) transport::forget_memory(*endpoint_, engine_->kv(i));
    engine_.reset();
    shelf_.drop(uri_);
    BATON_TRY(open_engine());
    lost_ = false;
  }
  say(fmt::format("prefill {}: {} tokens", r.number, r.ask.ids.size()));
  BATON_ASSIGN(r.blocks, engine_->pool().take(engine_->pool().blocks_for(r.ask.ids.size())));
  BATON_ASSIGN(r.run, engine_->start({r.ask.ids, r.blocks.ids(), r.ask.sampling, r.ask.logits, r.ask.start_ns}));
  return {};
}

Result<transport::Session*> PrefillService::decode_session(const std::string& address) {
  auto it = decoders_.find(address);
  if (it != decoders_.end() && it->second->alive().ok()) return it->second.get();
  auto s = endpoint_->connect(address, patience(), {.role = options_.identity.empty() ? "" : "decode"});
  if (!s) return with_hop(s.error(), "decode baton://" + address);
  return (decoders_[address] = std::move(*s)).get();
}

Status PrefillService::hand_over(Request& r) {
  BATON_ASSIGN(transport::Session * s, decode_session(r.handover->decode));
  std::vector<transport::KvSource> sources;
  for (uint32_t rank = 0; rank < engine_->ranks(); ++rank)
    sources.push_back({&engine_->kv(rank), engine_->layout(rank), {r.blocks.ids().begin(), r.blocks.ids().end()}, {}, {&engine_->pool().tags(), r.blocks.ids()}});
  transport::TransferOptions o;
  o.fabric = r.handover->fabric.empty() ? options_.fabric : r.handover->fabric;
  o.model = model_id_;
  o.bulk = transport::TransferOptions::Bulk::model;
  auto opened = KvTransfer::open(shelf_.instance(), *s, r.handover->ticket, std::move(sources), r.ask.ids.size(), o, patience());
  if (!opened) return opened.error();
  r.transfer.emplace(std::move(*opened));
  r.transfer_tag = log_.open();
  std::vector<Op> ops;
  for (uint32_t rank = 0; rank < engine_->ranks(); ++rank) {
    BATON_ASSIGN(Timeline sent, shelf_.instance().timeline("sent rank " + std::to_string(rank)));
    for (uint32_t l = 0; l < model_.config.layers; ++l) {
      Op op = r.transfer->copy(rank, l);
      ops.push_back(op.wait(r.run->made(rank), l + 1).signal(sent, l + 1).tagged(r.transfer_tag));
    }
    r.sent.push_back(std::move(sent));
  }
  return r.transfer->queue().submit(ops);
}

void PrefillService::tell_first(Request& r) {
  r.told_first = true;
  if (r.ask.then >= 0) return; // the decode side makes it
  metrics_->first_token(double(now_ns() - r.began_ns) / 1e9);
  Message m{"first", {{"id", r.ask.id}, {"token", uint32_t(r.run->token())}, {"wall", r.run->token_wall_ns()}, {"modelled", r.run->token_modelled_ns()}}, {}};
  std::span<const float> logits = r.run->logits();
  m.bytes.resize(logits.size_bytes());
  if (!m.bytes.empty()) std::memcpy(m.bytes.data(), logits.data(), logits.size_bytes());
  send(r.peer, m);
}

Result<bool> PrefillService::all_sent(const Request& r) const {
  for (const Timeline& t : r.sent) {
    BATON_ASSIGN(uint64_t v, t.value());
    if (v < model_.config.layers) return false;
  }
  return true;
}

Status PrefillService::seal(Request& r) {
  Message m{"first", {{"token", uint32_t(r.ask.then >= 0 ? r.ask.then : r.run->token())}, {"modelled", r.run->token_modelled_ns()}}, {}};
  return r.transfer->seal(m, patience());
}

void PrefillService::end(Request& r, const Error* why) {
  if (r.finished) return;
  r.finished = true;
  double ms = double(now_ns() - r.began_ns) / 1e6;
  metrics_->ended(why, ms / 1e3);
  if (r.transfer)
    for (const Metrics::Rail& rail : rails(*r.transfer, true)) metrics_->rail(rail);
  if (why) {
    if (r.transfer) r.transfer->abort(*why);
    if (r.run) r.run->cancel(*why);
    for (Timeline& t : r.sent) t.poison(*why);
    if (!engine_->device().device.info().ok()) lost_ = true;
    say(fmt::format("prefill {}: {} tokens, {:.1f} ms, failed: {}", r.number, r.ask.ids.size(), ms, why->text()));
    send(r.peer, failed_message(r.ask.id, *why));
  } else {
    Leg leg = leg_;
    leg.spans = log_.spans(r.run->tag());
    Transfer t{r.transfer->stats().fabric, r.transfer->stats().bytes, r.transfer->stats().segments, log_.spans(r.transfer_tag), {}};
    uint64_t begin = UINT64_MAX, last = 0;
    for (const auto& span : r.transfer->stats().spans) begin = std::min(begin, span.begin_ns), last = std::max(last, span.end_ns);
    metrics_->kv("out", t.fabric, t.bytes, last > begin ? double(last - begin) / 1e9 : -1);
    for (const transport::RailUse& u : r.transfer->stats().rails) t.rails.push_back({u.nic, u.peer_nic, u.bytes, u.failures});
    send(r.peer, {"prefilled", {{"id", r.ask.id}, {"leg", to_json(leg)}, {"transfer", to_json(t)}, {"clock", log_.clock_ns()}}, {}});
    say(fmt::format("prefill {}: {} tokens, {} KV bytes out by {}, {:.1f} ms", r.number, r.ask.ids.size(), t.bytes, t.fabric, ms));
  }
  r.transfer.reset();
  if (r.transfer_tag) log_.close(r.transfer_tag);
}

}  // namespace baton::runtime
