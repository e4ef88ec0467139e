// stats.hpp: an Answer as the figures of a run, on two clocks: what the wall said and what the timing models said.
//
// Owner    plain data.   Threads  any.   Cost  linear in spans.
//
//     Stats s = stats_of(answer);   printf("%.1f ms\n", s.wall.ttft_ms);
#pragma once

#include "tools/baton/answer.hpp"

namespace baton::runtime {

struct ClockStats {
  bool prefill = false, decode = false; // known: on the modelled clock only where a timing model is below that side
  double ttft_ms = 0;           // request to first token
  double prefill_ms = 0;        // compute alone: first launch to last
  double itl_median_ms = 0, itl_p99_ms = 0;
  double prefill_per_s = 0, decode_per_s = 0; // tokens
  double transfer_ms = 0;       // while at least one push was under way
  double hidden = 0;            // share of that time before prefill's last op ended
};

struct Stats {
  ClockStats wall, modelled;
  uint64_t kv_bytes = 0, kv_segments = 0;
  std::string fabric;
};
Stats stats_of(const Answer&);

}  // namespace baton::runtime
