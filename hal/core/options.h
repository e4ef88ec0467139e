// options.h: where the core looks for drivers and emulators, and which layers it puts over them. The only file of libbaton that reads
// the environment.
//
// Owner    value type.   Threads  read once, when an instance is made.   Cost  some getenv and a dladdr.
// Errors   none: a folder that does not exist is simply searched in vain, and named in the error that follows.
//
//     Options o = read_options(given);   // BATON_DRIVER_PATH, BATON_EMULATOR_PATH: ':'-separated folders; BATON_LAYERS, BATON_RUN_DIR
#pragma once

#include "hal/baton.h"

#include <optional>
#include <string>
#include <vector>

namespace baton::core {

struct Options {
  std::vector<std::string> driver_folders;
  std::vector<std::string> emulator_folders;
  std::string layers;               // "NAME[=ARGUMENT],...", as given
  std::string run_folder;           // of statistics pages; "": none
  bool layers_of_operator = false;  // they came from the environment
};

// A path in `given` (may be NULL) replaces the environment and the folder "baton" beside libbaton; so do `layers`.
Options read_options(const baton_instance_options* given);

// Takes `name` out of a list of layers: its argument ("" if it has none), or nothing if the list does not name it.
std::optional<std::string> take_layer(std::string& layers, const std::string& name);

std::string join(const std::vector<std::string>& parts, const char* separator);

}  // namespace baton::core
