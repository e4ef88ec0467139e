// neff_reader.hpp: finds the portable program and its constants inside a NEFF, in place.
//
// Owner    a view of the caller's bytes; valid as long as they are.   Threads  none of its own.
// Cost     O(archive entries); weights are not read.
// Errors   VERSION: a container version that is not known, or a compiled NEFF, which needs the device it was compiled for;
//          CORRUPT: malformed, with the field and its numbers.
//
//     BATON_ASSIGN(auto view, read_neff({bytes, size}));
#pragma once

#include "emulators/engine/engine.hpp"
#include "hal/baton.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace baton::neuron_emu {

struct NeffView {
  std::string name;
  uint32_t lnc = 0;
  std::span<const uint8_t> program;
  std::vector<std::string> names;           // of the constants
  std::vector<engine::Constant> constants;  // point into names and into the container
};
Result<NeffView> read_neff(std::span<const uint8_t> bytes);

}  // namespace baton::neuron_emu
