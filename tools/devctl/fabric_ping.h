// fabric_ping.h: a ping-pong between two processes over a fabric, on the transport's public API: what a message takes, and what a stream of them carries.
//
// A KV-cache of many layers goes each way, a layer a message: the pinger submits layer i, the ponger sees it landed and submits its own layer i. So a message
// is what a layer of a hand-over is: posted, moved, made visible, told. Both sides poll without sleeping. What arrived is compared with what was sent.
//
// Owner    the caller owns endpoint and session; sinks and transfers live within a call.   Threads  one.
// Cost     a size: a second or two at most, twice 64 MiB on each side at most.
// Errors   of the session and the fabric; CANCELLED once ctrl-C has come, DEADLINE for a message that does not come.
//
//     other process: BATON_TRY(pong(in, endpoint, *session));
//     this one:      BATON_ASSIGN(PingRow r, ping(in, endpoint, *session, {.fabric = "tcp", .bytes = 4096}));
#pragma once

#include "transport/kv_link.hpp"

#include <vector>

namespace baton::devctl {

struct PingOptions {
  std::string fabric = {};
  uint64_t bytes = 64;     // of a message: a multiple of 64, at most 16 MiB
  uint32_t count = 200;    // messages each way that are timed, and as many at once; fewer where they take more than a second
};

struct PingRow {
  std::string fabric;      // that it went by
  uint64_t bytes = 0;
  std::vector<double> one_way_ns;  // half of each round trip
  double bytes_per_s = 0;  // of messages that were submitted at once, until the answer to the last
  uint64_t wrong = 0;      // bytes that were not what was sent, of both directions
};

Result<PingRow> ping(const Instance&, transport::Endpoint&, transport::Session&, const PingOptions&);
// Answers until the pinger ends or the session does: OK both times.
Status pong(const Instance&, transport::Endpoint&, transport::Session&);
Status ping_end(transport::Session&);  // tells the ponger

}  // namespace baton::devctl
