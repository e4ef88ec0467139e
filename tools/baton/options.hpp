// options.hpp: the one place of this tool that reads the environment.
//
//   BATON_MODEL   the model folder, where --model is not given
//
//     std::string dir = default_model();
#pragma once

#include <string>

namespace baton::runtime {

// BATON_MODEL; else the demo model, in ../share/baton/models of the folder that this program is in (build tree and installed tree alike).
std::string default_model();

}  // namespace baton::runtime
