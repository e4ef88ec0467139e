// options.h: what devctl takes from its environment; its source alone looks there.
//
// Owner  value type.   Threads  read once by main().   Cost  a few getenv, isatty, and one folder listing.   Errors  none.
//
//     BATON_SYSFS_ROOT             in place of /sys, as for the driver neuron: a captured tree
//     XDG_RUNTIME_DIR              where named emulated machines are
//     NO_COLOR                     set and not empty: no colour
//     BATON_DRIVER_PATH,
//     BATON_EMULATOR_PATH          as libbaton reads them: folders before lib/baton
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace baton::devctl {

struct Options {
  bool colour = false;                 // stdout is a terminal, and nobody objects
  std::string sysfs = "/sys";
  std::string runtime;                 // XDG_RUNTIME_DIR
  std::vector<std::string> drivers;    // schemes with a driver file: "cs3", "host", "neuron"
  std::vector<std::string> emulators;  // schemes with an emulator program: "cs3", "neuron"
};
Options read_options();
std::string emulator_program(const std::string& scheme);            // the path of baton-emu-SCHEME, "" if there is none
std::optional<std::string> variable(const char* name);              // any other, for env
void set_variable(const char* name, const std::string& value);     // for a program that takes this one's place

}  // namespace baton::devctl
