#include "tools/baton/commands.hpp"
#include "tools/baton/decode_service.hpp"
#include "tools/baton/exit_code.hpp"
#include "tools/baton/metrics_server.hpp"
#include "tools/baton/options.hpp"
#include "tools/baton/prefill_service.hpp"
#include "tools/baton/pump.hpp"
#include "tools/baton/signals.hpp"
#include "tools/model/fail.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <utility>

namespace baton::runtime {

namespace {

constexpr uint64_t kPatienceMs = 10'000; // with etcd
constexpr uint64_t kTellNs = 500'000'000; // how often it tells how much it has to do, at most

struct Flags {
  EngineFlags engine;
  ProofFlags proof;
  RegisterFlags registered;
  std::string role, device, listen, fabric = "auto", metrics;
  uint64_t lease_ms = kLeaseNs / 1'000'000;
};

// Registered while it serves. The first signal drains: others see it, what runs is finished, then the entry goes. A second one ends it at once.
Status serve_registered(const Flags& f, Service& service, Pump& pump) {
  transport::DiscoveryOptions to = f.registered.to;
  to.lease_ns = f.registered.lease_s * 1'000'000'000;
  BATON_ASSIGN(transport::Discovery d, transport::Discovery::open(pump.instance(), to));
  transport::Worker me;
  me.id = f.registered.id.empty() ? f.role + "@" + service.address() : f.registered.id;
  me.role = f.role, me.address = service.address(), me.device = service.leg().where.substr(0, 63), me.model = service.model_id();
  me.layout = fmt::format("{:016x}", service.layout_hash());
  me.fingerprint = service.endpoint().fingerprint(), me.epoch = service.endpoint().epoch(), me.capacity = service.capacity_tokens();
  BATON_TRY(d.announce(me, deadline_in_ms(kPatienceMs)));
  std::fprintf(stderr, "registered as %s in %s\n", me.id.c_str(), to.source.c_str());
  for (uint64_t next_ns = 0; !Signals::stop;) {
    pump.turn();
    if (service.requests() == me.requests || now_ns() < next_ns) continue;
    me.requests = service.requests(); // those that choose a worker take the one with the fewest
    (void)d.announce(me).ok();
    next_ns = now_ns() + kTellNs;
  }
  const int signal = std::exchange(Signals::stop, 0);
  me.state = transport::WorkerState::draining;
  (void)d.announce(me).ok(); // a file's keeper has to say so himself
  std::fprintf(stderr, "draining: %zu requests\n", service.requests());
  const uint64_t until = deadline_in_ms(kPatienceMs);
  while (!Signals::stop && (service.requests() || (!d.announced() && now_ns() < until))) pump.turn();
  Status gone = d.withdraw(deadline_in_ms(kPatienceMs));
  if (!Signals::stop) Signals::stop = signal;
  return gone;
}

Status serve(const Flags& f) {
  ServiceOptions o;
  o.seal = f.proof.seal;
  o.rails = f.proof.rails;
  BATON_ASSIGN(Proof proof, f.proof.read());
  o.key = std::exchange(proof.key, {});
  o.identity = proof.identity;
  o.known_peers = proof.known_peers;
  BATON_ASSIGN(o.engine, f.engine.options());
  o.listen = f.listen;
  o.fabric = f.fabric;
  o.lease_ns = f.lease_ms * 1'000'000;
  o.log = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  BATON_ASSIGN(model::Model m, model::Model::load(f.engine.model_dir.empty() ? default_model() : f.engine.model_dir));
  BATON_ASSIGN(Instance in, Instance::create());
  SpanLog log(in);
  Shelf shelf(in);
  std::unique_ptr<Service> service;
  if (f.role == "prefill") { BATON_ASSIGN(service, PrefillService::open(shelf, log, f.device, m, o)); }
  else { BATON_ASSIGN(service, DecodeService::open(shelf, log, f.device, m, o)); }
  o.key = {}; // the endpoint has it
  std::unique_ptr<MetricsServer> http;
  if (!f.metrics.empty()) {
    BATON_ASSIGN(http, MetricsServer::open(f.metrics, [&service] { return service->metrics_text(); }));
    std::fprintf(stderr, "metrics at http://%s/metrics\n", http->address().c_str());
  }
  std::printf("ready baton://%s %s on %s, model %s %s\n", service->address().c_str(), f.role.c_str(), service->leg().title.c_str(), m.title().c_str(), m.id.c_str());
  std::fflush(stdout);
  Pump pump(in);
  pump.add(*service);
  if (http) pump.each_turn([&http] { http->turn(); });
  if (f.registered.to.source.empty()) {
    while (!Signals::stop) pump.turn();
    return {};
  }
  return serve_registered(f, *service, pump);
}

}  // namespace

Run add_worker(CLI::App& app) {
  auto f = std::make_shared<Flags>();
  CLI::App* c = app.add_subcommand("worker", "Serve one side of the hand-over until SIGINT or SIGTERM");
  c->add_option("--role", f->role, "prefill or decode")->required()->check(CLI::IsMember({"prefill", "decode"}));
  c->add_option("--device", f->device, "the device to serve")->required();
  c->add_option("--listen", f->listen, "HOST:PORT; port 0: any")->required();
  f->proof.add(*c);
  f->registered.add(*c);
  c->add_option("--fabric", f->fabric, "mapped, shm, tcp, verbs, ofi-verbs, efa or auto, where the client does not say")->check(CLI::IsMember({"mapped", "shm", "tcp", "verbs", "ofi-verbs", "efa", "auto"}));
  c->add_option("--metrics", f->metrics, "HOST:PORT to serve numbers for Prometheus at, without authentication: http://HOST:PORT/metrics; port 0: any");
  c->add_option("--lease-ms", f->lease_ms, "a peer silent for so long is lost")->check(CLI::Range(10, 3600000))->capture_default_str();
  f->engine.add(*c);
  return [f] {
    Signals::install();
    Status s = serve(*f);
    if (!s.ok()) return report_error(s.error());
    return Signals::stop == SIGINT ? 130 : 0;
  };
}

Run add_keygen(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  CLI::App* c = app.add_subcommand("keygen", "Write a new random key file, mode 0600");
  c->add_option("file", *path, "the file; it must not exist")->required();
  return [path] {
    Status s = transport::write_key_file(*path);
    if (!s.ok()) return report_error(s.error());
    std::printf("%s\n", path->c_str());
    return 0;
  };
}

Run add_version(CLI::App& app) {
  app.add_subcommand("version", "Print the version");
  return [] {
    std::printf("baton %s\n", baton_version());
    return 0;
  };
}

}  // namespace baton::runtime
