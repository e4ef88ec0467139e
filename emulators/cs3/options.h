// options.h: how the daemon is started: emu+cs3://REST by libbaton, or --listen by an operator. Reads no environment.
//
// Owner    value type.   Threads  start only.   Cost  -
// Errors   one line what, one line next; INVALID_ARGUMENT for values, UNSUPPORTED for an ISA that this CPU lacks.
//
//     baton-emu-cs3 '0?threads=2&isa=auto'       BATON_TRY(parse_rest("0?threads=2&isa=auto", options));
//     baton-emu-cs3 --listen 0.0.0.0:9000
#pragma once

#include "drivers/cs3/link/socket.h"
#include "emulators/engine/engine.hpp"

#include <string>
#include <string_view>

namespace baton::cs3 {

struct DaemonOptions {
  HostPort listen{"127.0.0.1", "0"};
  bool watch_stdin = true;  // end when it does
  bool verbose = false;     // sessions on stderr
  uint32_t wafers = 1;
  double sram_gb = 44;      // of each wafer, 10^9 bytes; facts/cs3 2.1: vendor's headline for WSE-3
  uint32_t threads = 1;
  engine::Isa isa = engine::best_isa();
  std::string timing = "cs3";  // or "none"
  std::string faults = {};     // fault.h: JSON, or the path of a file of it
  uint32_t fabric_width = 0, fabric_height = 0;  // PEs; 0: a CS-3's
  double clock_ghz = 0;        // 0: as the timing model says
  bool numbers = true;         // false (mode=timing): nothing is computed, constants may be left out, time is as in full mode
  uint64_t sram_bytes() const { return uint64_t(sram_gb * 1e9); }
};

Status set_option(DaemonOptions&, std::string_view key, std::string_view value);  // wafers, threads, isa, sram_gb, timing, fabric, clock_ghz, mode, faults
Status parse_rest(std::string_view rest, DaemonOptions&);

}  // namespace baton::cs3
