#include "tools/baton/decode_service.hpp"

#include "tools/model/fail.hpp"

#include <algorithm>
#include <cstring>

namespace baton::runtime {

using transport::Message;

Status DecodeService::open_engine() {
  BATON_ASSIGN(engine_, DecodeEngine::open(shelf_, log_, uri_, model_, options_.engine, nullptr));
  return {};
}

// Everything that stands on the device, the sink first: its memory may be the device's.
void DecodeService::close_engine() {
  requests_.clear();
  sink_.reset();
  if (engine_ && endpoint_) transport::forget_memory(*endpoint_, engine_->landing());
  engine_.reset();
  shelf_.drop(uri_);
}

Result<std::unique_ptr<DecodeService>> DecodeService::open(Shelf& shelf, SpanLog& log, const std::string& uri, const model::Model& m, ServiceOptions o) {
  std::unique_ptr<DecodeService> s(new DecodeService(shelf, log, uri, m, std::move(o)));
  BATON_TRY(s->open_engine());
  BATON_TRY(s->listen(shelf.instance(), "decode", s->engine_->device(), 1, {"client", "prefill"}));
  BATON_ASSIGN(transport::KvSink sink, transport::KvSink::create(shelf.instance(), *s->endpoint_, s->engine_->landing(), s->engine_->layout(), s->model_id_));
  s->sink_.emplace(std::move(sink));
  return s;
}

DecodeService::~DecodeService() {
  peers_.clear();
  close_engine();
}

void DecodeService::message(Peer& peer, const Message& m) {
  if (m.type == "cancel") {
    auto id = u64_field(m, "id");
    Error why(BATON_CANCELLED, "the client cancelled the request");
    for (auto& r : requests_)
      if (id.ok() && r->peer == peer.number && r->id == *id) end(*r, &why);
    return;
  }
  if (m.type != "reserve") return;
  auto ask = Reserve::from(m);
  uint64_t id = ask.ok() ? ask->id : 0;
  Result<std::string> ticket = ask.ok() ? reserve(peer, std::move(*ask)) : Result<std::string>(ask.error());
  if (ticket.ok()) {
    send(peer.number, {"reserved", {{"id", id}, {"ticket", *ticket}}, {}});
  } else {
    metrics_->refused(ticket.error());
    say(fmt::format("decode refused: {}", ticket.error().text()));
    send(peer.number, failed_message(id, ticket.error()));
  }
}

Result<std::string> DecodeService::reserve(Peer& peer, Reserve ask) {
  BATON_TRY(same_model(ask.model));
  // The device is asked, not remembered: it may have been lost while nothing ran.
  if (engine_ && !lost_ && !engine_->device().device.info().ok()) lost_ = true;
  if (lost_ || !engine_) {
    close_engine();
    if (Status s = open_engine(); !s.ok()) { // it was there when this worker started: lost, and not back
      Error e = s.error();
      e.code = BATON_DEVICE_LOST;
      return e;
    }
    BATON_ASSIGN(transport::KvSink sink, transport::KvSink::create(shelf_.instance(), *endpoint_, engine_->landing(), engine_->layout(), model_id_));
    sink_.emplace(std::move(sink));
    lost_ = false;
  }
  uint32_t context = engine_->context();
  if (ask.prompt_tokens == 0 || ask.prompt_tokens > context)
    return fail(BATON_INVALID_ARGUMENT, "shorten the prompt", "the prompt has {} tokens, the context of {} is {}", ask.prompt_tokens, leg_.where, context);
  auto r = std::make_unique<Request>();
  r->peer = peer.number;
  r->id = ask.id;
  r->number = ++served_;
  r->began_ns = now_ns();
  uint32_t wanted = ask.max_tokens ? ask.max_tokens - 1 : 0; // the first token is the prefill's
  uint32_t steps = std::min(wanted, context - ask.prompt_tokens);
  r->full = steps < wanted;
  BATON_ASSIGN(r->blocks, engine_->pool().take(engine_->pool().blocks_for(uint64_t(ask.prompt_tokens) + steps)));
  std::vector<int32_t> blocks(r->blocks.ids().begin(), r->blocks.ids().end());
  std::vector<int32_t> landing(blocks.begin(), blocks.begin() + engine_->pool().blocks_for(ask.prompt_tokens));
  BATON_ASSIGN(r->run, engine_->start({blocks, ask.prompt_tokens, steps, ask.sampling, !ask.ignore_eos, ask.logits}));
  BATON_ASSIGN(transport::Incoming in, sink_->expect(landing, ask.prompt_tokens));
  r->incoming.emplace(std::move(in));
  if (engine_->copies()) {
    BATON_TRY(r->run->land(r->incoming->landed(), landing, ask.prompt_tokens));
  }
  r->ask = std::move(ask);
  metrics_->asked(r->ask.prompt_tokens);
  std::string ticket = r->incoming->ticket();
  requests_.push_back(std::move(r));
  return ticket;
}

void DecodeService::gone(uint64_t peer, const Error& why) {
  for (auto& r : requests_)
    if (r->peer == peer) end(*r, &why);
}

bool DecodeService::advance() {
  bool any = false;
  for (auto& r : requests_)
    if (!r->finished) any |= advance(*r);
  // A failed run keeps its blocks until neither the device nor the sender of its KV can write into them.
  size_t before = requests_.size();
  std::erase_if(requests_, [](auto& r) { return r->finished && r->run->drained() && (!r->incoming || r->incoming->quiesced()); });
  return any || requests_.size() != before;
}

bool DecodeService::advance(Request& r) {
  if (!r.begun) {
    auto landed = r.incoming->landed().value();
    Status s = !landed.ok() ? Status(landed.error()) : r.run->alive();
    if (s.ok()) s = begin_if_sealed(r);
    if (!s.ok()) {
      end(r, &s.error());
      return true;
    }
  }
  RunState state = r.run->step();
  size_t before = r.sent;
  if (state != RunState::failed) stream(r);
  if (state == RunState::running) return r.sent != before;
  end(r, state == RunState::failed ? &r.run->error() : nullptr);
  return true;
}

Status DecodeService::begin_if_sealed(Request& r) {
  std::optional<Message> m = r.incoming->sealed();
  if (!m) return {};
  BATON_ASSIGN(uint64_t token, u64_field(*m, "token"));
  BATON_ASSIGN(uint64_t modelled, u64_field(*m, "modelled"));
  if (token >= model_.config.vocab) return fail(BATON_CORRUPT, "run the same version of baton on all sides", "the prefill side sent token {}, the vocabulary has {}", token, model_.config.vocab);
  r.begun = true;
  r.kv_bytes = r.incoming->stats().bytes;
  metrics_->kv("in", r.incoming->stats().fabric, r.kv_bytes, -1);
  return r.run->begin(int32_t(token), modelled, engine_->copies() ? nullptr : &r.incoming->landed(), engine_->layout().layers);
}

void DecodeService::stream(Request& r) {
  const std::vector<Token>& all = r.run->tokens();
  if (r.sent == all.size()) return;
  Message m{"tokens", {{"id", r.id}}, {}};
  for (const char* key : {"tokens", "wall", "modelled"}) m.body[key] = nlohmann::json::array();
  size_t from = r.sent;
  for (; r.sent < all.size(); ++r.sent) {
    m.body["tokens"].push_back(uint32_t(all[r.sent].id));
    m.body["wall"].push_back(all[r.sent].wall_ns);
    m.body["modelled"].push_back(all[r.sent].modelled_ns);
    count(all, r.sent);
  }
  if (r.ask.logits) {
    uint64_t row = model_.config.vocab;
    m.bytes.resize((all.size() - from) * row * 4);
    if (!m.bytes.empty()) std::memcpy(m.bytes.data(), r.run->logits().data() + from * row, m.bytes.size());
  }
  send(r.peer, m);
}

void DecodeService::count(const std::vector<Token>& all, size_t i) {
  auto since = [](uint64_t before, uint64_t now) { return now > before ? double(now - before) / 1e9 : 0.0; };
  if (!i) metrics_->token(-1, -1);
  else metrics_->token(since(all[i - 1].wall_ns, all[i].wall_ns), leg_.timing.empty() ? -1 : since(all[i - 1].modelled_ns, all[i].modelled_ns));
}

void DecodeService::observe() {
  if (!engine_ || !engine_->spills()) return;
  const SpillStats s = engine_->spilled();
  metrics_->spill(s.out, s.in, s.bytes_out, s.bytes_in, s.waiting);
}

void DecodeService::end(Request& r, const Error* why) {
  if (r.finished) return;
  r.finished = true;
  double ms = double(now_ns() - r.began_ns) / 1e6;
  metrics_->ended(why, ms / 1e3);
  if (why) {
    r.incoming->cancel(*why);
    r.run->cancel(*why);
    if (why->code == BATON_DEVICE_LOST || !engine_->device().device.info().ok()) lost_ = true;
    say(fmt::format("decode {}: {} prompt tokens, {} made, {:.1f} ms, failed: {}", r.number, r.ask.prompt_tokens, r.sent, ms, why->text()));
    send(r.peer, failed_message(r.id, *why));
    return;
  }
  Leg leg = leg_;
  leg.spans = log_.spans(r.run->tag());
  bool stopped = r.run->stopped();
  send(r.peer, {"decoded", {{"id", r.id}, {"finish", stopped ? "stop" : "length"}, {"full", r.full && !stopped}, {"leg", to_json(leg)}, {"clock", log_.clock_ns()}}, {}});
  say(fmt::format("decode {}: {} prompt tokens, {} KV bytes in, {} made, {:.1f} ms", r.number, r.ask.prompt_tokens, r.kv_bytes, r.sent, ms));
  r.incoming.reset();
}

}  // namespace baton::runtime
