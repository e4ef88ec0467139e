#include "tools/baton/service.hpp"

#include "tools/model/fail.hpp"

#include <algorithm>

namespace baton::runtime {

using transport::Message;

constexpr uint64_t kRecheckNs = 1'000'000'000; // a peer that is removed from the file is gone so soon

std::string model_identity(const model::Model& m, model::Precision p) { return m.id + "/" + model::precision_name(p); }

Status Service::listen(const Instance& in, std::string role, const OpenDevice& device, uint32_t ranks, std::vector<std::string> from) {
  model_id_ = model_identity(model_, options_.engine.precision);
  leg_ = {role, device.given, device.title(), device.info.timing, ranks, {}};
  BATON_ASSIGN(transport::Endpoint e, transport::Endpoint::open(in, {.listen = options_.listen,
                                                                              .key = options_.key,
                                                                              .name = role + " " + device.info.uri,
                                                                              .lease_ns = options_.lease_ns,
                                                                              .identity = options_.identity,
                                                                              .known_peers = options_.known_peers,
                                                                              .accept_roles = std::move(from),
                                                                              .recheck_peers_ns = kRecheckNs,
                                                                              .seal_bulk = options_.seal,
                                                                              .rails = options_.rails}));
  endpoint_.emplace(std::move(e));
  metrics_.emplace(in, MetricsOf{role, device.info.uri, model_id_});
  options_.key = {}; // the endpoint keeps it where no dump shows it
  return {};
}

std::string Service::metrics_text() {
  const uint64_t began = oldest_began_ns();
  metrics_->state(requests(), began ? now_ns() - began : 0, free_blocks(), total_blocks(), peers_.size());
  observe();
  return metrics_->text();
}

transport::Session* Service::session(uint64_t peer) {
  for (Peer& p : peers_)
    if (p.number == peer) return p.session.get();
  return nullptr;
}

void Service::send(uint64_t peer, const Message& m) {
  // A session that is gone is noticed by step(); there is nobody to tell.
  if (transport::Session* s = session(peer)) (void)s->send(m).ok();
}

Status Service::same_model(const std::string& theirs) const {
  if (theirs == model_id_) return {};
  return fail(BATON_MISMATCH, "give both sides the same --model and --precision", "the client has model {}, the {} side has {} ({})", theirs, leg_.role, model_id_, model_.title());
}

bool Service::step() {
  bool any = false;
  while (auto s = endpoint_->accept()) {
    any = true;
    Hello hello{leg_.role, model_id_, leg_, log_.clock_ns()};
    if (s->send(hello.message()).ok()) peers_.push_back({next_peer_++, std::move(s)});
  }
  for (size_t i = 0; i < peers_.size();) {
    while (auto m = peers_[i].session->receive()) {
      any = true;
      message(peers_[i], *m);
    }
    Status alive = peers_[i].session->alive();
    if (alive.ok()) {
      ++i;
      continue;
    }
    any = true;
    Peer lost = std::move(peers_[i]);
    peers_.erase(peers_.begin() + long(i));
    gone(lost.number, alive.error());
  }
  any |= advance();
  if (metrics_->due()) {
    const uint64_t began = oldest_began_ns();
    metrics_->state(requests(), began ? now_ns() - began : 0, free_blocks(), total_blocks(), peers_.size());
    observe();
    metrics_->turn();
  }
  return any;
}

}  // namespace baton::runtime
