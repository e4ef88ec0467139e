// What comes over the session: the agreement of a request, before anything of the memory is disclosed: models, tokens, layouts, blocks, a fabric, a slot of it.
#include "transport/kv_sink.hpp"
#include "transport/kv_wire.hpp"

#include <fmt/format.h>

namespace baton::transport {

bool KvSink::Impl::on_message(Session::Impl& s, Message& m) {
  if (m.type == "kv.open") {
    const auto it = waiting_.find(text_of(m.body, "ticket").value_or(""));
    if (it == waiting_.end()) return false;
    open(s, *it->second, m);
    return true;
  }
  if (m.type == "kv.cipher" || m.type == "kv.rail") {
    if (text_of(m.body, "sink").value_or("") != memory.id) return false;
    Status ok;
    std::vector<Note> notes;
    for (auto& l : links_)
      if (l->session == &s && l->fabric == text_of(m.body, "fabric").value_or("") && ok.ok()) ok = l->landing->heard(m, notes);
    for (const Note& n : notes) take(n);
    if (!ok.ok()) s.lose(ok.error());
    return true;
  }
  if (m.type != "kv.abort" && m.type != "kv.seal" && m.type != "kv.again") return false;
  const uint64_t id = u64_of(m.body, "id").value_or(0);
  for (auto& q : quarantine_)
    if (q.session == &s && q.transfer == id) {
      q.landing->stopped(q.slot);
      settle();
      return true;
    }
  for (Incoming::Impl* in : active_) {
    if (in->session != &s || in->transfer != id) continue;
    in->landing->stopped(in->slot);
    if (m.type == "kv.again") {
      again(s, *in, m);
    } else if (m.type == "kv.abort") {
      fail(*in, s.hop(error_from(m.body)));
    } else {
      in->seal = Message{text_of(m.body, "type").value_or(""), m.body.contains("body") ? m.body["body"] : nlohmann::json::object(), std::move(m.bytes)};
      collect();
      if (in->state == Incoming::Impl::State::active) finish_if_complete(*in);
    }
    return true;
  }
  return false;
}

void KvSink::Impl::open(Session::Impl& s, Incoming::Impl& in, const Message& m) {
  waiting_.erase(in.ticket); // single use, whatever comes of it
  in.transfer = u64_of(m.body, "id").value_or(0);
  nlohmann::json reply;
  if (Status ok = agree(s, in, m, reply); !ok.ok()) {
    (void)send_transport(s, "kv.refuse", {{"id", in.transfer}, {"error", to_json(ok.error())}});
    fail(in, s.hop(ok.error()));
    return;
  }
  in.session = &s;
  in.state = Incoming::Impl::State::active;
  in.quiet = false;
  active_.push_back(&in);
  last_event_ns_ = now_ns();
  std::vector<uint8_t> blocks;
  put_blocks(blocks, in.blocks);
  (void)send_transport(s, "kv.accept", std::move(reply), std::move(blocks)); // a failure loses the session, and on_lost ends this
  if (in.state == Incoming::Impl::State::active) plan(in); // while the other side does the same
}

// The fabric did not connect: another one, before anything was moved.
void KvSink::Impl::again(Session::Impl& s, Incoming::Impl& in, const Message& m) {
  in.landing->revoke(in.slot);
  nlohmann::json reply;
  const auto landed = in.landed.value();
  Status ok = landed.ok() && *landed ? Status(Error(BATON_CORRUPT, "a wish for another fabric after layers have landed", "run the same Baton version on both sides")) : grant(s, in, m, reply);
  if (!ok.ok()) {
    (void)send_transport(s, "kv.refuse", {{"id", in.transfer}, {"error", to_json(ok.error())}});
    fail(in, s.hop(ok.error()));
    return;
  }
  std::vector<uint8_t> blocks;
  put_blocks(blocks, in.blocks);
  (void)send_transport(s, "kv.accept", std::move(reply), std::move(blocks));
  if (in.state == Incoming::Impl::State::active) plan(in);
}

Status KvSink::Impl::agree(Session::Impl& s, Incoming::Impl& in, const Message& m, nlohmann::json& reply) {
  const auto theirs = text_of(m.body, "model");
  const auto tokens = u64_of(m.body, "tokens");
  if (!theirs || !tokens || !m.body.contains("sources") || !m.body["sources"].is_array() || m.body["sources"].empty() || m.body["sources"].size() > kMaxSources)
    return Error(BATON_CORRUPT, "a kv.open with missing or malformed fields", "run the same Baton version on both sides");
  if (*theirs != model)
    return Error(BATON_MISMATCH, fmt::format("models differ: prefill has {}, decode has {}", theirs->substr(0, 64), model.substr(0, 64)), "load the same model on both sides");
  if (*tokens != in.tokens)
    return Error(BATON_MISMATCH, fmt::format("the prefill side brings {} tokens, the ticket is for {}", *tokens, in.tokens), "agree on the prompt before asking for a ticket");
  in.checksum = m.body.contains("checksum") && m.body["checksum"] == true;
  std::vector<KvLayout> sources;
  for (const auto& j : m.body["sources"]) {
    BATON_ASSIGN(KvLayout l, layout_from(j));
    sources.push_back(l);
  }
  BATON_ASSIGN(Shares shares, KvKept::of(*ep).shares(sources, layout));
  in.tables.clear();
  std::span<const uint8_t> bytes(m.bytes);
  for (size_t i = 0; i < sources.size(); ++i) {
    auto table = take_blocks(bytes);
    if (!table) return Error(BATON_CORRUPT, fmt::format("a kv.open whose block table of source {} is malformed", i), "run the same Baton version on both sides");
    in.tables.push_back(std::move(*table));
  }
  for (uint32_t l = 0; l < in.wanted.size(); ++l) {
    in.wanted[l] = 0;
    for (size_t i = 0; i < sources.size(); ++i)
      for (const KvPlan& p : shares.plans[i]) in.wanted[l] |= uint64_t(p.has_layer(layout.layer_begin + l)) << i;
  }
  in.shares = std::move(shares);
  return grant(s, in, m, reply); // only now is anything of the memory told
}

// A slot of the first fabric of the wish that there is, and what the other side needs to write to it.
Status KvSink::Impl::grant(Session::Impl& s, Incoming::Impl& in, const Message& m, nlohmann::json& reply) {
  const auto wanted = texts_of(m.body, "fabrics");
  if (!wanted) return Error(BATON_CORRUPT, "a wish for fabrics with missing or malformed fields", "run the same Baton version on both sides");
  BATON_ASSIGN(Link * link, choose(s, *wanted, m.body.contains("rails") && m.body["rails"] == true));
  BATON_ASSIGN(nlohmann::json offer, link->landing->offer());
  in.generation = random_u64();
  BATON_ASSIGN(in.slot, link->landing->allow(in.generation, &in.moves));
  in.landing = link->landing.get();
  in.stats.fabric = link->fabric;
  reply = {{"id", in.transfer},          {"generation", in.generation}, {"slot", in.slot},      {"fabric", link->fabric},
           {"layout", to_json(layout)}, {"plan", in.shares.hash}, {"held", in.held}, {"offer", std::move(offer)}};
  return {};
}

// The same moves as the sender has, so that the landing can do a part of them. A table that does not fit its layout is the sender's to refuse.
void KvSink::Impl::plan(Incoming::Impl& in) {
  if (!in.landing->wants_moves() && !in.checksum && !in.shares.converts) return;
  in.moves.parts.clear();
  in.moves.how.clear();
  in.moves.bytes.clear();
  in.moves.first_layer = layout.layer_begin;
  for (size_t i = 0; i < in.shares.plans.size(); ++i) {
    auto& parts = in.moves.parts.emplace_back();
    auto& how = in.moves.how.emplace_back();
    in.moves.bytes.push_back(0);
    for (const KvPlan& p : in.shares.plans[i]) {
      in.moves.bytes.back() = p.src().bytes();
      if (!p.instantiate(in.tables[i], in.blocks, in.held, in.tokens, parts.emplace_back(KvKept::of(*ep).move())).ok()) return void(parts.clear());
      how.push_back(p.converts() ? Recoder(p) : Recoder());
    }
  }
}

Result<KvSink::Impl::Link*> KvSink::Impl::choose(Session::Impl& s, const std::vector<std::string>& wanted, bool rails) {
  std::string why;
  for (const std::string& f : wanted) {
    if (auto no = fabric_unusable(f, s)) {
      why += (why.empty() ? "" : "; ") + *no;
      continue;
    }
    for (auto& l : links_)
      if (l->session == &s && l->fabric == f) return l.get();
    auto landing = rails ? make_rail_landing(f, s, memory) : make_landing(f, s, memory);
    if (landing.ok()) {
      links_.push_back(std::make_unique<Link>(Link{&s, f, std::move(*landing)}));
      return links_.back().get();
    }
    if (wanted.size() == 1) return landing.error(); // with its own next step
    why += (why.empty() ? "" : "; ") + std::string(landing.error().what);
  }
  return Error(BATON_UNSUPPORTED, fmt::format("no fabric between the two sides: {}", why.empty() ? "none was asked for" : why), "choose another fabric; 'devctl topo' lists them");
}

}  // namespace baton::transport
