// topo_cost.h: what a copy path costs, by short real copies, and why there is no better one.
//
// Owner    plain functions.   Threads  one.
// Cost     hop_cost: 4 MiB on each device, and some tenths of a second at most; better_paths: none.
// Errors   the devices'; CANCELLED once ctrl-C has come.
//
//     BATON_ASSIGN(json cost, hop_cost(in, trn, wafer));      // {"wall": {"small_ns": ..., "bytes_per_s": ...}, "modelled": ...}
//     json better = better_paths("staged", from, to, nics);   // [{"path": "imported", "why_not": ...}]
#pragma once

#include "tools/devctl/output.h"

namespace baton::devctl {

// Of a link from one to the other, or of the device's own queue if they are one.
Result<json> hop_cost(const Instance&, const Device& from, const Device& to);
// The paths that cost less than `path` would, and what each lacks between these two devices (as in documents).
json better_paths(const std::string& path, const json& from, const json& to, bool rdma);

}  // namespace baton::devctl
