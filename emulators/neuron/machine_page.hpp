// machine_page.hpp: the one memory page that all processes of an emulated machine share: its shape and its counters.
//
// Owner    the Machine, and whoever reads the counters (the sysfs tree). The file FOLDER/counters belongs to the folder: it stays when
//          the last process goes, so that a killed process's counts can be read.
// Threads  any, any process (counters.hpp).   Cost  open maps a file, once.
// Errors   IO; BUSY: the folder's machine has another shape while a process holds one of its cores.
//
//     BATON_ASSIGN(auto page, MachinePage::open(folder, {.chips = 1, .cores_per_chip = 8}));   // "" : private, anonymous
//     page.core(chip, core).status[...].add(1);
#pragma once

#include "emulators/neuron/counters.hpp"
#include "hal/baton.hpp"

#include <cstdint>
#include <string>

namespace baton::neuron_emu {

struct MachineShape {
  uint32_t chips = 0, cores_per_chip = 0;  // physical cores
  bool operator==(const MachineShape&) const = default;
};

class MachinePage {
 public:
  static constexpr const char* kFile = "counters";

  // Makes the file if there is none, or if it is of another shape and no process has it open.
  static Result<MachinePage> open(const std::string& folder, MachineShape);
  // The page as it is, for a reader that does not know the shape; NOT_FOUND if the folder has none.
  static Result<MachinePage> read(const std::string& folder);
  MachinePage(MachinePage&& o) noexcept { swap(o); }
  MachinePage& operator=(MachinePage&& o) noexcept {
    swap(o);
    return *this;
  }
  ~MachinePage();

  MachineShape shape() const;
  ChipCounters& chip(uint32_t chip) const;
  CoreCounters& core(uint32_t chip, uint32_t core) const;  // physical

 private:
  struct Header;
  MachinePage() = default;
  static Result<MachinePage> map(int fd, uint64_t bytes);
  void swap(MachinePage& o) noexcept;
  Header* header_ = nullptr;
  uint64_t bytes_ = 0;
  int fd_ = -1;  // holds a shared lock for as long as the page is in use
};

}  // namespace baton::neuron_emu
