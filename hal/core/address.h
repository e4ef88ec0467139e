// address.h: which plug-ins a text names: a device address SCHEME://ADDRESS (emu+SCHEME: emulated), a list of layers NAME[=ARGUMENT],...
//
// Owner    value types.   Threads  any.   Cost  a scan.
// Errors   INVALID_ARGUMENT. Schemes and names have lower-case letters, digits, '-' and '_' alone: they become part of a file's name.
//
//     BATON_ASSIGN(Uri u, parse_uri("emu+cs3://0"));   // scheme "cs3", emulated, rest "0"
#pragma once

#include "hal/baton.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace baton::core {

struct Uri {
  std::string scheme;   // "neuron"; of "emu+neuron://0" too
  bool emulated = false;  // it had the prefix emu+
  std::string rest;     // after "://"
};
Result<Uri> parse_uri(std::string_view text);
// Without "?key=value...": short enough to be shown as a hop.
std::string short_uri(const std::string& uri);

struct LayerChoice {
  std::string name, argument;
};
// "NAME[=ARGUMENT],..."; an argument holds no comma.
Result<std::vector<LayerChoice>> parse_layers(std::string_view list);

}  // namespace baton::core
