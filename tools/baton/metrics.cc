#include "tools/baton/metrics.hpp"

#include "tools/baton/metrics_page.hpp"

#include <fmt/format.h>

#include <map>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <chrono>

namespace baton::runtime {

namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using Buckets = Histogram::BucketBoundaries;

// Seconds; a factor of about 2 from step to step.
const Buckets kTokens = {20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1, 5};
const Buckets kRequests = {1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 300};

uint64_t realtime_ns() { return uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count()); }

}  // namespace

struct Metrics::Impl {
  Impl(const Instance& in, const MetricsOf& of) : page(in), labels{{"role", of.role}, {"device", of.device}, {"model", of.model}} {}

  MetricsPage page;
  prometheus::Registry registry;
  const prometheus::Labels labels;

  prometheus::Family<Counter>& counter(const char* name, const char* help) { return prometheus::BuildCounter().Name(name).Help(help).Labels(labels).Register(registry); }
  prometheus::Family<Gauge>& gauge(const char* name, const char* help) { return prometheus::BuildGauge().Name(name).Help(help).Labels(labels).Register(registry); }
  prometheus::Family<Histogram>& histogram(const char* name, const char* help) { return prometheus::BuildHistogram().Name(name).Help(help).Labels(labels).Register(registry); }

  prometheus::Family<Counter>& requests = counter("baton_requests_total", "Requests that ended, by outcome: ok, or the code of the error");
  prometheus::Family<Counter>& kv_bytes = counter("baton_kv_bytes_total", "Bytes of KV-cache of complete requests, by direction and fabric");
  prometheus::Family<Counter>& rail_bytes = counter("baton_rail_bytes_total", "Bytes of KV-cache that a NIC carried");
  prometheus::Family<Gauge>& rail_failures = gauge("baton_rail_failures", "How often a NIC has failed in the session that the last request used");
  prometheus::Family<Gauge>& rail_up = gauge("baton_rail_up", "1: the last request left the NIC in use; 0: it is left out");
  Counter& prompt_tokens = counter("baton_prompt_tokens_total", "Tokens of prompts that were taken").Add({});
  Counter& tokens = counter("baton_tokens_total", "Tokens that were made").Add({});
  Gauge& in_flight = gauge("baton_requests_in_flight", "Requests that are not done").Add({});
  Gauge& blocks_free = gauge("baton_kv_blocks_free", "Blocks of the KV-cache that no request has").Add({});
  Gauge& blocks_total = gauge("baton_kv_blocks", "Blocks of the KV-cache").Add({});
  Gauge& sessions = gauge("baton_sessions", "Peers that are connected").Add({});
  Histogram& request_s = histogram("baton_request_seconds", "From a request to its end").Add({{"clock", "wall"}}, kRequests);
  Histogram& first_s = histogram("baton_ttft_seconds", "From a request to its first token").Add({{"clock", "wall"}}, kRequests);
  Histogram& kv_s = histogram("baton_kv_transfer_seconds", "From the first layer on its way to the last one there").Add({{"clock", "wall"}}, kRequests);
  prometheus::Family<Histogram>& itl = histogram("baton_itl_seconds", "From a token to the next of its request; clock: wall, or as the device's timing model has it");
  Histogram& itl_wall = itl.Add({{"clock", "wall"}}, kTokens);
  Histogram* itl_modelled = nullptr; // none without a timing model
  prometheus::Family<Counter>& spills = counter("baton_kv_spills_total", "How often a sequence's KV went to host memory (out) or from there (in), because sequences take turns on the device");
  prometheus::Family<Counter>& spill_bytes = counter("baton_kv_spill_bytes_total", "Bytes of KV that went to host memory (out) or from there (in)");
  Gauge& waiting = gauge("baton_requests_waiting", "Requests whose KV is in host memory until the device has room").Add({});

  // A total of an engine that may have been opened again since.
  void rise(prometheus::Family<Counter>& family, const char* name, const char* direction, uint64_t to) {
    uint64_t& was = totals[std::string(name) + direction];
    const uint64_t more = to >= was ? to - was : to;
    was = to;
    family.Add({{"direction", direction}}).Increment(double(more));
    page.add(fmt::format("{}{{direction=\"{}\"}}", name, direction), more);
  }
  std::map<std::string, uint64_t> totals;
};

Metrics::Metrics(const Instance& in, const MetricsOf& of) : impl_(std::make_unique<Impl>(in, of)) {
  for (const char* name : {"baton_requests", "baton_requests_total", "baton_requests_failed_total", "baton_tokens_total", "baton_kv_bytes_total"}) impl_->page.add(name, 0);
}
Metrics::~Metrics() = default;

void Metrics::asked(uint64_t prompt_tokens) {
  impl_->prompt_tokens.Increment(double(prompt_tokens));
  impl_->page.add("baton_requests_total", 1);
}

void Metrics::ended(const Error* why, double wall_s) {
  impl_->requests.Add({{"outcome", why ? baton_code_name(why->code) : "ok"}}).Increment();
  impl_->request_s.Observe(wall_s);
  if (why) impl_->page.add("baton_requests_failed_total", 1);
}

void Metrics::refused(const Error& why) { impl_->requests.Add({{"outcome", baton_code_name(why.code)}}).Increment(); }

void Metrics::first_token(double wall_s) {
  impl_->tokens.Increment();
  impl_->first_s.Observe(wall_s);
  impl_->page.add("baton_tokens_total", 1);
  impl_->page.ttft_wall.add(uint64_t(wall_s * 1e9));
}

void Metrics::token(double wall_s, double modelled_s) {
  impl_->tokens.Increment();
  impl_->page.add("baton_tokens_total", 1);
  if (wall_s >= 0) {
    impl_->itl_wall.Observe(wall_s);
    impl_->page.itl_wall.add(uint64_t(wall_s * 1e9));
  }
  if (modelled_s < 0) return;
  impl_->page.itl_modelled.add(uint64_t(modelled_s * 1e9));
  if (!impl_->itl_modelled) impl_->itl_modelled = &impl_->itl.Add({{"clock", "modelled"}}, kTokens);
  impl_->itl_modelled->Observe(modelled_s);
}

void Metrics::kv(const char* direction, const std::string& fabric, uint64_t bytes, double wall_s) {
  impl_->kv_bytes.Add({{"direction", direction}, {"fabric", fabric}}).Increment(double(bytes));
  if (wall_s >= 0) impl_->kv_s.Observe(wall_s);
  impl_->page.add("baton_kv_bytes_total", bytes);
}

void Metrics::rail(const Rail& r) {
  const prometheus::Labels which{{"nic", r.nic}, {"peer_nic", r.peer_nic}};
  impl_->rail_bytes.Add(which).Increment(double(r.bytes));
  impl_->rail_failures.Add(which).Set(r.failures);
  impl_->rail_up.Add(which).Set(r.up);
  const std::string labels = fmt::format("{{nic=\"{}\",peer=\"{}\"}}", r.nic, r.peer_nic);
  MetricsPage& page = impl_->page;
  page.set("baton_rail_up" + labels, r.up);
  page.set("baton_rail_failures_total" + labels, r.failures);
  page.set("baton_rail_down_timestamp_seconds" + labels, r.down_ns ? realtime_ns() - r.down_ns : 0); // since then
  page.set("baton_rail_silent_seconds" + labels, r.silent_ns);
  page.add("baton_rail_bytes_total" + labels, r.bytes);
}

void Metrics::state(uint64_t in_flight, uint64_t oldest_ns, uint64_t blocks_free, uint64_t blocks_total, uint64_t sessions) {
  impl_->in_flight.Set(double(in_flight));
  impl_->blocks_free.Set(double(blocks_free));
  impl_->blocks_total.Set(double(blocks_total));
  impl_->sessions.Set(double(sessions));
  impl_->page.set("baton_requests", in_flight);
  impl_->page.set("baton_request_oldest_seconds", oldest_ns);
  impl_->page.set("baton_blocks_free", blocks_free);
  impl_->page.set("baton_blocks", blocks_total);
}

void Metrics::spill(uint64_t out, uint64_t in, uint64_t bytes_out, uint64_t bytes_in, uint64_t waiting) {
  impl_->rise(impl_->spills, "baton_kv_spills_total", "out", out);
  impl_->rise(impl_->spills, "baton_kv_spills_total", "in", in);
  impl_->rise(impl_->spill_bytes, "baton_kv_spill_bytes_total", "out", bytes_out);
  impl_->rise(impl_->spill_bytes, "baton_kv_spill_bytes_total", "in", bytes_in);
  impl_->waiting.Set(double(waiting));
  impl_->page.set("baton_requests_waiting", waiting);
}

bool Metrics::due() { return impl_->page.due(); }
void Metrics::turn() { impl_->page.refresh(); }

std::string Metrics::text() const { return prometheus::TextSerializer().Serialize(impl_->registry.Collect()); }

}  // namespace baton::runtime
