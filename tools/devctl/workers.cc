// workers: who is registered in a workers' file or in etcd.
#include "tools/devctl/verbs.h"
#include "transport/discovery/discovery.hpp"

#include <fmt/format.h>

namespace baton::devctl {
namespace {

using transport::Discovery;
using transport::Worker;
using transport::WorkerEvent;

json worker_row(const Worker& w) {
  json j{{"id", w.id}};
  const auto rest = transport::worker_json(w);
  for (const char* name : {"role", "state", "address", "device", "model", "layout", "capacity", "requests", "fingerprint", "epoch"})
    if (rest.contains(name)) j[name] = rest[name];
  return j;
}

const char* kind_name(WorkerEvent::Kind k) { return k == WorkerEvent::Kind::joined ? "joined" : k == WorkerEvent::Kind::left ? "left" : "changed"; }

// One line an event, until somebody interrupts.
int follow(const Context& c, const Instance& in, Discovery& d) {
  while (!interrupted()) {
    in.poll_wait(deadline_in_ms(100));
    while (auto e = d.next()) {
      json line{{"schema", "baton.devctl.workers.event/1"}, {"event", kind_name(e->kind)}, {"worker", worker_row(e->worker)}};
      if (c.out.is_json()) c.out.print(line.dump() + "\n");
      else c.out.print(fmt::format("{:<8} {} {} {} {}\n", kind_name(e->kind), e->worker.id, e->worker.role, transport::state_name(e->worker.state), e->worker.address));
    }
  }
  return kInterrupted;
}

}  // namespace

int workers(const Context& c, const WorkersCall& call) {
  auto in = Instance::create();
  if (!in) return c.out.fail(in.error());
  auto d = Discovery::open(*in, call.from);
  if (!d) return c.out.fail(d.error());
  const uint64_t until = deadline_in_ms(call.patience_ms);
  while (!d->complete() && now_ns() < until && !interrupted()) in->poll_wait(deadline_in_ms(20));
  if (!d->complete()) {
    if (Status s = d->status(); !s.ok()) return c.out.fail(s.error());
    return c.out.fail(Error(BATON_DEADLINE, fmt::format("{} did not answer in {} ms", call.from.source, call.patience_ms), "raise --timeout-ms, or look whether it runs"));
  }
  if (call.watch) return follow(c, *in, *d);
  uint64_t skipped = 0;
  for (auto& [reason, n] : d->skipped()) skipped += n;
  if (c.out.is_json()) {
    json rows = json::array(), wrong = json::object();
    for (auto& [id, w] : d->workers()) rows.push_back(worker_row(w));
    for (auto& [reason, n] : d->skipped()) wrong[reason] = n;
    c.out.document("workers", {{"source", call.from.source}, {"workers", rows}, {"skipped", wrong}});
  } else {
    Table t({"ID", "ROLE", "STATE", "ADDRESS", "DEVICE", "MODEL", "LAYOUT", "CAPACITY", "FINGERPRINT"});
    for (auto& [id, w] : d->workers())
      t.row({w.id, w.role, transport::state_name(w.state), w.address, w.device, w.model, w.layout, w.capacity ? fmt::format("{} tokens", w.capacity) : "", w.fingerprint});
    if (!t.empty()) c.out.print(t.text());
    for (auto& [reason, n] : d->skipped()) c.out.note(fmt::format("{} entr{} skipped: {}", n, n == 1 ? "y was" : "ies were", reason));
  }
  return skipped ? kFinding : kOk;
}

}  // namespace baton::devctl
