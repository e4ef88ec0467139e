// rails.h: the rails that a worker's transfers go by, from the values in its statistics page (baton_rail_*): which work, which are dead or silent.
//
// Owner    plain data.   Threads  any.   Cost  linear in the values.   Errors  none: a value that is not there is 0.
//
//     for (const RailState& r : rails_of(values)) if (r.dead()) puts(r.name().c_str());
#pragma once

#include "tools/devctl/output.h"

#include <string>
#include <vector>

namespace baton::devctl {

struct RailState {
  std::string nic, peer;       // with an address where one NIC is several rails
  bool up = false;
  uint64_t bytes = 0, failures = 0;
  uint64_t down_since_ns = 0;  // CLOCK_REALTIME; 0: it works
  uint64_t silent_ns = 0;      // for how long nothing of what is on its way was complete
  std::string name() const { return nic + " > " + peer; }
  std::string local() const;   // its address, or its name: what --rails takes
  bool dead() const;           // not one that has just begun to connect
  bool silent() const;
};

std::vector<RailState> rails_of(const json& values);
std::string state_text(const RailState&);  // "up", "silent for 3.1 s", "dead since 2026-11-26T17:05:00Z"

}  // namespace baton::devctl
