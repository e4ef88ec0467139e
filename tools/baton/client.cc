#include "tools/baton/client.hpp"

#include "tools/model/fail.hpp"

#include <algorithm>

namespace baton::runtime {

using transport::Message;

Result<Client::Side> Client::reach(ClientOptions::Side& to, const char* role) {
  for (;;) {
    auto side = reach_one(to, role);
    if (side.ok() || to.others.empty() || now_ns() >= deadline_ns_ || (options_.stop && *options_.stop)) return side;
    to.address = to.others.front();
    to.name = std::string(role) + " baton://" + to.address;
    to.others.erase(to.others.begin());
  }
}

Result<Client::Side> Client::reach_one(const ClientOptions::Side& to, const char* role) {
  Side side;
  side.name = to.name;
  uint64_t patience_ns = 2 * options_.lease_ns;
  auto s = endpoint_->connect(to.address, std::min(deadline_ns_, now_ns() + patience_ns), {.role = options_.identity.empty() ? "" : role});
  if (!s) return with_hop(s.error(), to.name);
  side.session = std::move(*s);
  side.same_host = side.session->same_host();
  uint64_t patience = std::min(deadline_ns_, now_ns() + patience_ns);
  for (;;) {
    if (auto m = side.session->receive()) {
      if (m->type != "hello") continue;
      BATON_ASSIGN(side.hello, Hello::from(*m));
      break;
    }
    if (Status alive = side.session->alive(); !alive.ok()) return with_hop(alive.error(), to.name);
    if (now_ns() >= patience)
      return with_hop(fail(BATON_DEADLINE, "is it busy? try again", "{} took the connection but sent no hello in {} ms", to.name, patience_ns / 1'000'000), to.name);
    pump_.turn();
  }
  if (side.hello.role != role)
    return fail(BATON_INVALID_ARGUMENT, "swap --prefill and --decode?", "{} is a {} worker, not a {} worker", to.name, side.hello.role, role);
  if (side.hello.model != options_.model)
    return fail(BATON_MISMATCH, "give both sides the same --model and --precision", "{} has model {}, here it is {}", to.name, side.hello.model, options_.model);
  clock_ns_ = std::max(clock_ns_, side.hello.clock_ns);
  side.hello.leg.where = to.name.substr(to.name.find(' ') + 1);
  return side;
}

Result<std::unique_ptr<Client>> Client::connect(Pump& pump, ClientOptions options) {
  std::unique_ptr<Client> c(new Client(pump, std::move(options)));
  BATON_ASSIGN(transport::Endpoint e, transport::Endpoint::open(pump.instance(), {.listen = "",
                                                                                             .key = c->options_.key,
                                                                                             .name = "client",
                                                                                             .lease_ns = c->options_.lease_ns,
                                                                                             .identity = c->options_.identity,
                                                                                             .known_peers = c->options_.known_peers}));
  c->endpoint_.emplace(std::move(e));
  if (c->options_.timeout_ns) c->deadline_ns_ = now_ns() + c->options_.timeout_ns;
  c->options_.key = {}; // the endpoint keeps it where no dump shows it
  BATON_ASSIGN(c->decode_, c->reach(c->options_.decode, "decode"));
  BATON_ASSIGN(c->prefill_, c->reach(c->options_.prefill, "prefill"));
  return c;
}

std::vector<std::string> Client::lost() const {
  std::vector<std::string> all;
  for (auto [side, to] : {std::pair{&prefill_, &options_.prefill}, {&decode_, &options_.decode}})
    if (!side->session->alive().ok()) all.push_back(to->address);
  return all;
}

Status Client::replace_lost(const ClientOptions::Side& prefill, const ClientOptions::Side& decode) {
  for (auto [side, to, from, role] : {std::tuple{&decode_, &options_.decode, &decode, "decode"}, {&prefill_, &options_.prefill, &prefill, "prefill"}}) {
    if (side->session->alive().ok()) continue;
    *to = *from;
    BATON_ASSIGN(*side, reach(*to, role));
  }
  return {};
}

Status Client::check_time() const {
  if (options_.stop && *options_.stop) return Error(BATON_CANCELLED, "interrupted", "the request was cancelled on both sides");
  if (now_ns() >= deadline_ns_) return Error(BATON_DEADLINE, "the request took longer than --timeout", "raise --timeout, or look at the workers' logs");
  return {};
}

void Client::cancel() {
  for (Side* s : {&prefill_, &decode_}) (void)s->session->send({"cancel", {{"id", id_}}, {}}).ok();
}

Result<Answer> Client::generate(std::span<const int32_t> ids, const Params& p, const std::function<void(const Token&)>& on_token) {
  Answer a;
  a.prompt_tokens = uint32_t(ids.size());
  a.vocab = options_.vocab;
  a.began = {now_ns(), clock_ns_};
  ++id_;
  reserved_ = prefilled_ = decoded_ = false;
  held_.clear();
  held_logits_.clear();
  // By decode: the prompt but its last token is prefilled, and decoding begins with that one. A prompt of one token has nothing left to prefill.
  a.first_by_decode = awaits_decode_ = p.first_by_decode && ids.size() > 1;
  const uint32_t last = a.first_by_decode ? 1 : 0;
  Prefill ask{id_, options_.model, {ids.begin(), ids.end() - last}, p.sampling, p.logits, clock_ns_, last ? ids.back() : -1};
  Reserve reserve{id_, options_.model, a.prompt_tokens - last, p.max_tokens + last, p.sampling, p.ignore_eos, p.logits};
  if (Status s = prefill_.session->send(ask.message()); !s.ok()) return with_hop(s.error(), prefill_.name);
  if (Status s = decode_.session->send(reserve.message()); !s.ok()) return with_hop(s.error(), decode_.name);
  size_t told = 0;
  while (!(prefilled_ && decoded_)) {
    pump_.settle();
    Status s = take(a, p);
    for (; reserved_ && told < a.tokens.size(); ++told) // a refusal by the decode side must not follow a printed token
      if (on_token) on_token(a.tokens[told]);
    if (s.ok() && prefilled_ && decoded_) break;
    if (s.ok()) s = check_time();
    if (!s.ok()) {
      cancel();
      for (int i = 0; i < 3; ++i) pump_.turn(1); // lets the cancel out
      return s.error();
    }
    pump_.turn();
  }
  return a;
}

Status Client::take(Answer& a, const Params& p) {
  while (auto m = prefill_.session->receive()) BATON_TRY(prefill_message(*m, a));
  while (auto m = decode_.session->receive()) BATON_TRY(decode_message(*m, a, p));
  // A side that has said all that it had to say may go.
  for (auto [side, over] : {std::pair<Side*, bool>{&decode_, decoded_}, {&prefill_, prefilled_}}) {
    Status alive = side->session->alive();
    if (over || alive.ok()) continue;
    return with_hop(alive.error(), side->name);
  }
  return {};
}

Status Client::prefill_message(const Message& m, Answer& a) {
  auto id = u64_field(m, "id");
  if (!id.ok() || *id != id_) return {}; // of an earlier request
  if (m.type == "failed") return with_hop(error_from_json(m.body.value("error", nlohmann::json())), prefill_.name);
  if (m.type == "first") {
    Token t;
    BATON_ASSIGN(uint64_t token, u64_field(m, "token"));
    BATON_ASSIGN(t.wall_ns, u64_field(m, "wall"));
    BATON_ASSIGN(t.modelled_ns, u64_field(m, "modelled"));
    BATON_ASSIGN(a.logits, floats_of(m));
    t.id = int32_t(token);
    if (!prefill_.same_host) t.wall_ns = now_ns(); // another host's clock says nothing here
    a.tokens.insert(a.tokens.begin(), t);
    a.tokens.insert(a.tokens.end(), held_.begin(), held_.end());
    a.logits.insert(a.logits.end(), held_logits_.begin(), held_logits_.end());
    held_.clear();
    held_logits_.clear();
  }
  if (m.type == "prefilled") {
    BATON_ASSIGN(uint64_t clock, u64_field(m, "clock"));
    clock_ns_ = std::max(clock_ns_, clock);
    a.prefill = leg_from_json(m.body.value("leg", nlohmann::json()));
    a.prefill.where = prefill_.hello.leg.where;
    a.transfer = transfer_from_json(m.body.value("transfer", nlohmann::json()));
    prefilled_ = true;
  }
  return {};
}

Status Client::decode_message(const Message& m, Answer& a, const Params&) {
  auto id = u64_field(m, "id");
  if (!id.ok() || *id != id_) return {};
  if (m.type == "failed") return with_hop(error_from_json(m.body.value("error", nlohmann::json())), decode_.name);
  if (m.type == "reserved") {
    BATON_ASSIGN(std::string ticket, text_field(m, "ticket"));
    reserved_ = true;
    Handover h{id_, ticket, options_.decode.address, options_.fabric};
    if (Status s = prefill_.session->send(h.message()); !s.ok()) return with_hop(s.error(), prefill_.name);
  }
  if (m.type == "tokens") return more_tokens(m, a);
  if (m.type == "decoded") {
    BATON_ASSIGN(a.finish, text_field(m, "finish"));
    BATON_ASSIGN(uint64_t clock, u64_field(m, "clock"));
    clock_ns_ = std::max(clock_ns_, clock);
    a.context_full = m.body.value("full", false);
    a.decode = leg_from_json(m.body.value("leg", nlohmann::json()));
    a.decode.where = decode_.hello.leg.where;
    decoded_ = true;
  }
  return {};
}

Status Client::more_tokens(const Message& m, Answer& a) {
  BATON_ASSIGN(auto ids, list_field(m, "tokens"));
  BATON_ASSIGN(auto wall, list_field(m, "wall"));
  BATON_ASSIGN(auto modelled, list_field(m, "modelled"));
  BATON_ASSIGN(auto logits, floats_of(m));
  if (wall.size() != ids.size() || modelled.size() != ids.size())
    return fail(BATON_CORRUPT, "run the same version of baton on all sides", "message 'tokens': {} tokens, {} and {} times", ids.size(), wall.size(), modelled.size());
  // The decode side learns the first token from the prefill side, and may be heard before it.
  bool early = a.tokens.empty() && !awaits_decode_;
  for (size_t i = 0; i < ids.size(); ++i)
    (early ? held_ : a.tokens).push_back({int32_t(ids[i]), decode_.same_host ? wall[i] : now_ns(), modelled[i]});
  auto& rows = early ? held_logits_ : a.logits;
  rows.insert(rows.end(), logits.begin(), logits.end());
  return {};
}

}  // namespace baton::runtime
