#include "hal/core/address.h"

#include <algorithm>

namespace baton::core {
namespace {

bool name_char(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_'; }

}  // namespace

Result<Uri> parse_uri(std::string_view text) {
  Uri u;
  size_t end = text.find("://");
  std::string_view scheme = text.substr(0, end == std::string_view::npos ? 0 : end);
  if (scheme.starts_with("emu+")) {
    u.emulated = true;
    scheme.remove_prefix(4);
  }
  if (end == std::string_view::npos || scheme.empty() || !std::all_of(scheme.begin(), scheme.end(), name_char))
    return Error(BATON_INVALID_ARGUMENT, "not a device address: '" + std::string(text.substr(0, 100)) + "'",
                 "write SCHEME://ADDRESS, as in host://, neuron://0, emu+cs3://0");
  u.scheme = scheme;
  u.rest = text.substr(end + 3);
  return u;
}

std::string short_uri(const std::string& uri) { return uri.substr(0, uri.find('?')); }

Result<std::vector<LayerChoice>> parse_layers(std::string_view list) {
  std::vector<LayerChoice> all;
  while (!list.empty()) {
    std::string_view part = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), part.size() + 1));
    std::string_view name = part.substr(0, part.find('='));
    if (name.empty() || !std::all_of(name.begin(), name.end(), name_char))
      return Error(BATON_INVALID_ARGUMENT, "layers: '" + std::string(part.substr(0, 100)) + "' does not begin with a layer's name",
                   "write NAME or NAME=ARGUMENT, separated by commas, as in trace=/tmp/t.json,delay=2us");
    all.push_back({std::string(name), std::string(part.substr(std::min(part.size(), name.size() + 1)))});
  }
  return all;
}

}  // namespace baton::core
