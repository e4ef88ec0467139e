// telemetry.h: what a device's counters and instruments say, as JSON and as a line.
//
// Owner    plain functions.   Threads  any.   Cost  none.   Errors  none.
#pragma once

#include "tools/devctl/devices.h"
#include "tools/devctl/output.h"

#include <string>

namespace baton::devctl {

json telemetry_json(const Telemetry&);     // what an instrument shows, null without it
std::string condition(const json& telemetry); // "ok, ECC 3 corrected, 0 not, power 41.00 % of its most"

}  // namespace baton::devctl
