// system.h: one wafer of a device: its connection, which is one command stream, and what is kept for it. A device has one or several, on one
// daemon or on many: to the driver they are alike.
//
// Owner    The device.   Threads  one at a time.   Cost  -   Errors  -
//
//     for (System& s : systems_) s.carrier->flush();
#pragma once

#include "drivers/cs3/link/connect.h"
#include "drivers/cs3/regions.h"

#include <memory>
#include <string>
#include <vector>

namespace baton::cs3 {

struct System {
  HostPort address;
  uint8_t wafer = 0;              // of that daemon's
  uint8_t index = 0;              // of the device's
  DaemonInfo daemon{};
  std::unique_ptr<Carrier> carrier{};
  Regions regions{};
  bool reset_by_other = false;
  std::vector<bool> peers{};      // by index: its stages can send there
  std::string where() const { return address.host + ":" + address.port; }
  bool broken() const { return !carrier || carrier->is_broken(); }
};

struct Memory {  // a driver's memory handle
  System* system;
  uint32_t handle;
  uint32_t connection;  // which connection of this device made it
  uint64_t address, bytes;
};

struct LoadedStage {
  System* system = nullptr;
  uint32_t handle = 0;
  uint32_t marks_before = 0, marks = 0;  // of an iteration
  uint32_t in_bytes = 0, out_bytes = 0;  // of a row
  std::vector<std::string> names{};      // what it binds; empty where there is one stage: all
  bool tokens = false;
};

struct LoadedProgram {
  std::vector<LoadedStage> stages;
  uint32_t connection;
  std::string tokens;      // name of the token buffer of a loop over several stages
  int rows_arg = -1;       // which argument says how many rows a launch has; -1: it has one
  uint32_t marks() const { return stages.back().marks_before + stages.back().marks; }  // of an iteration
};

}  // namespace baton::cs3
