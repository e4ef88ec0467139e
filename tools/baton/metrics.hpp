// metrics.hpp: what a service has done since it began, as Prometheus text and, for devctl, in the process's statistics page: requests and how they ended, tokens, bytes of KV by fabric and NIC, and how
// long first tokens, tokens and whole requests took. Wall and modelled time are apart: a histogram's label `clock` says which.
//
// Owner    a service has one.   Threads  as the Instance; text() of a registry that is locked inside.
// Cost     tens of ns a number; text() about 0.1 ms; turn() 20 us, five times a second.   Errors  none.
//
//     metrics.asked(prompt_tokens);  ...  metrics.ended(nullptr, seconds);   http.body = metrics.text();
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <memory>
#include <string>

namespace baton::runtime {

struct MetricsOf { // labels of every number
  std::string role, device, model;
};

class Metrics {
 public:
  Metrics(const Instance&, const MetricsOf&);
  ~Metrics();

  void asked(uint64_t prompt_tokens);              // a request was taken
  void ended(const Error* why, double wall_s);     // it is done; why: nullptr, or its code is the label `outcome`
  void refused(const Error& why);                  // it was not taken
  void first_token(double wall_s);                 // from the request to its first token, of a prefill side
  void token(double wall_s, double modelled_s);    // since the one before, of a decode side; wall_s < 0: it is the first; modelled_s < 0: there is no timing model
  void kv(const char* direction, const std::string& fabric, uint64_t bytes, double wall_s); // "in" or "out": a request's; wall_s < 0: not known
  struct Rail { // of a request
    std::string nic, peer_nic;
    uint64_t bytes = 0;
    uint32_t failures = 0; // of the session so far
    bool up = false;
    uint64_t down_ns = 0, silent_ns = 0; // for how long it does not work; for how long nothing of what is on its way by it was complete
  };
  void rail(const Rail&);
  void state(uint64_t in_flight, uint64_t oldest_ns, uint64_t blocks_free, uint64_t blocks_total, uint64_t sessions); // now; oldest_ns: for how long the oldest request has been in flight
  void spill(uint64_t out, uint64_t in, uint64_t bytes_out, uint64_t bytes_in, uint64_t waiting); // of the engine since it was opened; sequences, now
  bool due();  // once in 200 ms: state() and turn() are called for
  void turn(); // the page's quantiles
  std::string text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::runtime
