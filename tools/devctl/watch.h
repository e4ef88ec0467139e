// watch.h: the verbs that look at what runs: who, stats, top.
//
// Owner    as verbs.h.   Threads  one.   Errors  as verbs.h.
//
//     return top(c, {.interval_ms = 1000});
#pragma once

#include "tools/devctl/verbs.h"

namespace baton::devctl {

struct StatsCall {
  bool delta = false, prometheus = false;
  uint32_t interval_ms = 1000;  // of --delta
};

struct TopCall {
  uint32_t interval_ms = 1000;
  uint32_t frames = 0;  // 0: until q
};

int who(const Context&, const std::string& selector);
int stats(const Context&, const StatsCall&);
int top(const Context&, const TopCall&);

// What happened between two documents of stats, a second.
json stats_delta(const json& before, const json& after, double seconds);
// One document of stats as Prometheus reads it (text exposition format 0.0.4).
std::string prometheus_text(const json& stats);

}  // namespace baton::devctl
