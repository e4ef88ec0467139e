// options.hpp: everything that the emulated runtime reads from its environment, in one place.
//
//   documented by the vendor, honoured simply
//     NEURON_RT_VISIBLE_CORES      list or range of logical cores, rising ("0-1,3"); wins over NUM_CORES
//     NEURON_RT_NUM_CORES          n cores: of a shared machine any that are free, else the first ones; 0 or unset: all
//     NEURON_LOGICAL_NC_CONFIG     1 or 2 (default and most: as the chip)
//     NEURON_RT_EXEC_TIMEOUT       seconds that one nrt_execute may take (default 600)
//     NEURON_RT_VALIDATE_HASH      0: a NEFF's hash is not looked at (default 1: checked where the header has one)
//     NEURON_RT_ROOT_COMM_ID       names the ranks that meet; on a shared machine they may be of different processes
//     NEURON_RT_LOG_LEVEL          if set, failures are logged to stderr, one line each (the vendor's default is to log errors; ours: quiet)
//   the emulator's own
//     BATON_EMU_NEURON_MACHINE     a machine of machines/*.json, as trn2.48xlarge (default: trn2.3xlarge; with CHIPS: trn2.48xlarge)
//     BATON_EMU_NEURON_CHIPS       only its first n chips
//     BATON_EMU_NEURON_FOLDER      a folder, or a name (site.hpp): processes that give the same share a machine, so each core has one owner, and
//                                  its sysfs tree is FOLDER/sys (default: each process has a machine of its own, and there is no tree)
//     BATON_EMU_NEURON_THREADS     engine threads of each loaded model (default 1)
//     BATON_EMU_NEURON_ISA         auto | scalar | avx512 | amx
//     BATON_EMU_NEURON_MODE        full | timing: compute nothing, so that a model of any size runs without its weights; outputs are not written,
//                                  ranks do not meet, and constants may be left out (default full)
//     BATON_EMU_NEURON_TIMING      none | a model's name or path: the model behind modelled costs (default: the machine's own)
//     BATON_EMU_NEURON_FAULTS      a fault plan, or the path of one (fault.hpp)
//     BATON_EMU_NEURON_STRICT      1: a load or store of device memory by the CPU ends the process (strict.hpp)
//     BATON_EMU_NEURON_NEFF        any | compiled: status 10 for the containers that Baton's driver builds, as on hardware
//     BATON_EMU_NEURON_VISIBILITY  a seed: what others write through a dma-buf is old to the device until it is fenced (mirror.hpp)
//
// Owner    a plain value.   Threads  read at the counts and at nrt_init.   Errors  one line for the first bad value.
#pragma once

#include "emulators/engine/engine.hpp"
#include "emulators/neuron/machine_data.hpp"
#include "hal/baton.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace baton::neuron_emu {

inline constexpr uint32_t kMaxThreads = 256;

struct Options {
  MachineData machine;          // what may be used of it: its first `chips` chips
  uint32_t chips = 1;
  uint32_t lnc = 2;
  std::vector<uint32_t> cores;  // visible logical cores, rising
  bool any_cores = false;       // NUM_CORES: `cores` says how many
  uint32_t threads = 1;
  engine::Isa isa{};
  std::string timing;           // "": the machine's own; "none"; a name or path
  bool numbers = true;          // false: mode=timing
  std::string folder;
  uint64_t exec_timeout_s = 600;
  bool log = false;
  bool validate_hash = true;
  bool strict = false;
  bool compiled_only = false;
  std::optional<uint64_t> visibility;
  std::string root_comm, faults;
  std::string runtime_folder;  // XDG_RUNTIME_DIR

  uint32_t logical_per_chip() const { return machine.chip.cores / lnc; }
  uint32_t total_logical() const { return chips * logical_per_chip(); }
};

Result<Options> read_options();
std::string runtime_folder(); // XDG_RUNTIME_DIR; "": unset
// The machine that `name` and a number of chips (0: all) choose.
Result<MachineData> choose_machine(std::string_view name, uint64_t chips);
// One value as the launcher and read_options() check it; `name` is the launcher's option ("threads").
Status check_option(std::string_view name, std::string_view value);

}  // namespace baton::neuron_emu
