// connect.h: from HOST:PORT to a Carrier: TCP, handshake, and on the same host the upgrade to shared memory.
//
// Owner    the caller owns the carrier.   Threads  any.
// Cost     two round trips; blocks until the deadline at most.
// Errors   NOT_FOUND (nothing listens), DEADLINE, VERSION (names both versions), MISMATCH (something else listens), what the daemon says.
//
//     BATON_ASSIGN(auto link, connect({"127.0.0.1", "9000"}, CarrierKind::any, deadline_in_ms(2000)));
//     link.carrier->push(...); link.daemon.pid;
#pragma once

#include "drivers/cs3/link/carrier.h"
#include "drivers/cs3/link/socket.h"

#include <memory>

namespace baton::cs3 {

struct DaemonInfo { // what the handshake said
  uint64_t instance = 0, epoch = 0, capabilities = 0;
  uint32_t pid = 0;
  uint16_t minor = 0;  // of its version; what came later than that must not be sent
  uint8_t wafers = 1;  // of that daemon
  bool emulated = false, same_host = false;
};

struct Link {
  std::unique_ptr<Carrier> carrier;
  DaemonInfo daemon;
};

// One connection is one wafer's.
Result<Link> connect(const HostPort&, CarrierKind, uint64_t deadline_ns, uint8_t wafer = 0);

Hello make_hello(CarrierKind, uint8_t wafer = 0);
// What the answer of `where` says: nothing wrong, or the refusal, or that it is no wafer daemon of this version.
Status judge(const Welcome&, const std::string& where);
// "the daemon speaks wafer link 2.0, this side 1.0"
std::string version_skew(const char* who, uint16_t their_major, uint16_t their_minor);

}  // namespace baton::cs3
