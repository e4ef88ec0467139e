#include "drivers/neuron/options.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>

namespace baton::neuron {
namespace {

constexpr std::string_view kScheme = "neuron://";
constexpr char kKnown[] = "known options: libnrt=PATH, sysfs=PATH, artifacts=FOLDER, env.NAME=VALUE";

Error bad(std::string_view uri, const std::string& what) { return Error(BATON_INVALID_ARGUMENT, what, kKnown, uri); }

bool variable_name(std::string_view s) {
  if (s.empty()) return false;
  for (char c : s)
    if (!((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_')) return false;
  return true;
}

bool number(std::string_view s, uint32_t& out) {
  auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), out);
  return ec == std::errc() && end == s.data() + s.size() && !s.empty();
}

Status add_option(Options& o, std::string_view uri, std::string_view pair) {
  size_t eq = pair.find('=');
  std::string_view key = pair.substr(0, eq);
  if (eq == std::string_view::npos) return bad(uri, "option '" + std::string(key) + "' has no value");
  std::string value(pair.substr(eq + 1));
  if (key == "libnrt") {
    o.libnrt = value;
  } else if (key == "sysfs") {
    o.sysfs = value;
  } else if (key == "artifacts") {
    o.artifacts = value;
  } else if (key.starts_with("env.") && variable_name(key.substr(4))) {
    o.env[std::string(key.substr(4))] = value;
  } else {
    return bad(uri, "unknown option '" + std::string(key) + "'");
  }
  return {};
}

}  // namespace

Result<Options> parse_uri(std::string_view uri) {
  Options o;
  std::string_view rest = uri;
  if (rest.starts_with(kScheme)) rest.remove_prefix(kScheme.size());
  std::string_view chip = rest.substr(0, rest.find('?'));
  if (!number(chip, o.chip)) return bad(uri, fmt::format("'{}' is no chip number: neuron://0 is the first chip", chip));
  if (chip.size() == rest.size()) return o;
  rest.remove_prefix(chip.size() + 1);
  while (!rest.empty()) {
    std::string_view pair = rest.substr(0, rest.find('&'));
    BATON_TRY(add_option(o, uri, pair));
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
  }
  return o;
}

std::string sysfs_root() {
  const char* root = std::getenv("BATON_SYSFS_ROOT");
  return root && *root ? root : "/sys";
}

std::string artifacts_folder() {
  const char* folder = std::getenv("BATON_NEURON_ARTIFACTS");
  return folder ? folder : "";
}

Result<std::vector<uint32_t>> parse_cores(std::string_view list) {
  std::vector<uint32_t> cores;
  std::string text(list);
  while (!list.empty()) {
    std::string_view item = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), item.size() + 1));
    size_t dash = item.find('-');
    uint32_t first = 0, last = 0;
    bool good = number(item.substr(0, dash), first);
    last = first;
    if (dash != std::string_view::npos) good = good && number(item.substr(dash + 1), last);
    good = good && last >= first && last - first < 4096 && (cores.empty() || first > cores.back());
    if (!good)
      return Error(BATON_INVALID_ARGUMENT, "'" + text + "' is no core list", "NEURON_RT_VISIBLE_CORES takes rising ids and ranges, as in 0-3 or 3-5,6");
    for (uint32_t c = first; c <= last; ++c) cores.push_back(c);
  }
  return cores;
}

Result<std::vector<uint32_t>> visible_cores(uint32_t count) {
  std::vector<uint32_t> cores;
  const char* list = std::getenv("NEURON_RT_VISIBLE_CORES");
  if (list && *list) {
    BATON_ASSIGN(cores, parse_cores(list));
    if (cores.size() != count)
      return Error(BATON_MISMATCH, "NEURON_RT_VISIBLE_CORES=" + std::string(list) + " names " + std::to_string(cores.size()) +
                                       " cores, the runtime shows " + std::to_string(count), "name cores that this machine has");
    return cores;
  }
  for (uint32_t c = 0; c < count; ++c) cores.push_back(c);
  return cores;
}

Result<std::vector<uint32_t>> chosen_cores(uint32_t total) {
  const char *list = std::getenv("NEURON_RT_VISIBLE_CORES"), *count = std::getenv("NEURON_RT_NUM_CORES");
  if (list && *list) return parse_cores(list);
  uint32_t n = 0;
  if (!count || !number(count, n) || !n || n > total) n = total;
  std::vector<uint32_t> cores;
  for (uint32_t c = 0; c < n; ++c) cores.push_back(c);
  return cores;
}

uint32_t logical_config(uint32_t fallback) {
  const char* text = std::getenv("NEURON_LOGICAL_NC_CONFIG");
  uint32_t lnc = 0;
  return text && number(text, lnc) && lnc ? lnc : fallback;
}

void Environment::apply(const std::map<std::string, std::string>& variables) {
  for (const auto& [name, value] : variables) {
    const char* old = std::getenv(name.c_str());
    saved_.push_back({name, old ? old : "", old != nullptr});
    setenv(name.c_str(), value.c_str(), 1);
  }
}

void Environment::undo() {
  for (const Saved& s : saved_) {
    if (s.was_set)
      setenv(s.name.c_str(), s.value.c_str(), 1);
    else
      unsetenv(s.name.c_str());
  }
  saved_.clear();
}

}  // namespace baton::neuron
