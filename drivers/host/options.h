// options.h: what may stand in a host:// address.
//
// Owner    value type.   Threads  any.   Cost  open only.   Errors  INVALID_ARGUMENT, UNSUPPORTED, with the keys that are known.
//
//     host://                     this process
//     host://left?threads=2       a label tells two host devices apart in errors and traces
//     host://?isa=scalar          scalar | avx512 | amx | auto: the path of the engine (all give equal bits)
#pragma once

#include "emulators/engine/engine.hpp"

#include <string>
#include <string_view>

namespace baton::host_driver {

struct Options {
  std::string label;
  uint32_t threads = 1;  // that a program computes with, the polling thread included
  engine::Isa isa = engine::best_isa();
};

Result<Options> parse_options(std::string_view uri);

}  // namespace baton::host_driver
