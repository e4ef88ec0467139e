// options.hpp: the one place of this tool that reads the environment.
//
//   BATON_MODEL   the model folder, where --model is not given
//
//     std::string dir = default_model();
#pragma once

#include <string>

namespace baton::runtime {

// BATON_MODEL; else models/baton-tiny beside a folder above this program; else the demo model of the source tree.
std::string default_model();

}  // namespace baton::runtime
