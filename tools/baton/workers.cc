#include "tools/baton/workers.hpp"

#include "tools/model/fail.hpp"

#include <algorithm>
#include <random>

namespace baton::runtime {

Result<transport::Discovery> read_workers(const Instance& in, const transport::DiscoveryOptions& from, uint64_t deadline_ns) {
  BATON_ASSIGN(transport::Discovery d, transport::Discovery::open(in, from));
  while (!d.complete() && now_ns() < deadline_ns) in.poll_wait(std::min(deadline_ns, deadline_in_ms(20)));
  if (d.complete()) return d;
  BATON_TRY(d.status());
  return fail(BATON_DEADLINE, "look whether it runs: devctl workers", "{} did not answer in time", from.source);
}

Result<std::vector<std::string>> ready_workers(const transport::Discovery& d, const std::string& role, const std::string& model, const std::set<std::string>& avoid) {
  std::vector<const transport::Worker*> fit;
  size_t draining = 0, others = 0, tried = 0;
  for (const auto& [id, w] : d.workers()) {
    if (w.role != role) continue;
    if (!w.model.empty() && w.model != model) ++others; // a line of a file may leave it out: the worker itself refuses another model
    else if (w.state != transport::WorkerState::ready) ++draining;
    else if (avoid.contains(w.address)) ++tried;
    else fit.push_back(&w);
  }
  if (fit.empty())
    return fail(BATON_NOT_FOUND, "start one with --register, or look with 'devctl workers'", "no {} worker is ready for model {}: {} drain, {} have another model, {} did not answer", role, model, draining,
                others, tried);
  std::shuffle(fit.begin(), fit.end(), std::mt19937_64(std::random_device()()));
  std::stable_sort(fit.begin(), fit.end(), [](const auto* a, const auto* b) { return a->requests < b->requests; });
  std::vector<std::string> addresses;
  for (const auto* w : fit) addresses.push_back(w->address);
  return addresses;
}

}  // namespace baton::runtime
