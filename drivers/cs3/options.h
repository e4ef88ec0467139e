// options.h: cs3://HOST:PORT[,HOST:PORT...]?carrier=any|tcp|shm&timeout_ms=N&channels=N: all wafers of these daemons, in this order. This driver reads no
// environment.
//
// Owner    value type.   Threads  any.   Cost  string work at open.   Errors  INVALID_ARGUMENT with what is known.
//
//     BATON_ASSIGN(Options o, parse_options("cs3://10.0.0.5:9000?carrier=tcp"));
#pragma once

#include "drivers/cs3/link/socket.h"
#include "drivers/cs3/link/wire.h"

#include <string>
#include <string_view>
#include <vector>

namespace baton::cs3 {

struct Options {
  std::vector<HostPort> addresses;
  std::string shown;  // "cs3://10.0.0.5:9000"
  CarrierKind carrier = CarrierKind::any;
  uint32_t timeout_ms = 2000;  // to connect
  uint8_t channels = kMaxChannels;  // that copies go over: the first so many, without one that is slow
};

Result<Options> parse_options(std::string_view uri);

}  // namespace baton::cs3
