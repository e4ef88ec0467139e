// neff_reader.hpp: finds the portable program and its constants inside a NEFF, in place.
//
// Owner    a view of the caller's bytes; valid as long as they are.   Threads  none of its own.
// Cost     O(archive entries); weights are not read, unless the header has a hash of what follows it (Baton's driver leaves it zero: a
//          container that it builds goes straight into the runtime).
// Errors   VERSION: a container version that is not known, or a compiled NEFF, which needs the device it was compiled for;
//          CORRUPT: malformed, with the field and its numbers; another hash.
//
//     BATON_ASSIGN(auto view, read_neff({bytes, size}));
#pragma once

#include "emulators/engine/engine.hpp"
#include "hal/baton.hpp"

#include <array>
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
  std::vector<std::string> inputs;          // constants that each launch binds
  bool portable = false;                    // Baton's driver has built it, no compiler
};
Result<NeffView> read_neff(std::span<const uint8_t> bytes, bool validate_hash = true);
// Of what follows the header: SHA-256 in package version 2, in those before MD5 and then zeros (which version has which: guess).
std::array<uint8_t, 32> neff_hash(std::span<const uint8_t> archive, uint64_t package);

}  // namespace baton::neuron_emu
