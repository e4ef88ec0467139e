#include "tools/devctl/devices.h"

#include "tools/devctl/files.h"
#include "tools/devctl/output.h"
#include "tools/devctl/pages.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace baton::devctl {

bool is_uri(std::string_view s) { return s.find("://") != std::string_view::npos; }

bool matches(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, retry = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p, ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

Result<Devices> Devices::create(Options options) {
  BATON_ASSIGN(Instance instance, Instance::create());
  return Devices(std::move(instance), std::move(options));
}

std::vector<std::string> Devices::startable() const {
  std::vector<std::string> uris;
  for (auto& scheme : options_.emulators) uris.push_back("emu+" + scheme + "://0");
  return uris;
}

Error Devices::none(const std::string& selector) const {
  auto have = all();
  return have ? none(selector, *have) : have.error();
}

Error Devices::none(const std::string& selector, const std::vector<DeviceInfo>& have) const {
  std::vector<std::string> names;
  for (auto& d : have) names.push_back(clean(label(d)));
  auto emulated = startable();
  std::string next = emulated.empty() ? "devctl list shows what there is"
                                      : fmt::format("devctl list, or name an emulator: {}", fmt::join(emulated, ", "));
  return Error(BATON_NOT_FOUND,
               fmt::format("no device here is called '{}'; there is {}", clean(selector).substr(0, 100),
                           names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "))),
               next);
}

std::string Devices::meant(const std::string& selector) const {
  if (is_uri(selector) || selector.empty() || selector.find('/') != std::string::npos || instance_.stats_folder().empty()) return selector;
  const json j = json::parse(whole_file(fmt::format("{}/emu/{}.json", instance_.stats_folder(), selector)), nullptr, false);
  if (!j.is_object() || !j.contains("address") || !j["address"].is_string() || !j.contains("pid") || !j.contains("started")) return selector;
  const uint32_t pid = j["pid"];  // 0: a machine that is a folder
  return pid == 0 || lives(pid, j["started"]) ? j["address"].get<std::string>() : selector;
}

Result<std::vector<DeviceInfo>> Devices::select(const std::string& what) const {
  const std::string selector = meant(what);
  if (is_uri(selector)) {
    BATON_ASSIGN(Device device, instance_.open(selector));
    BATON_ASSIGN(DeviceInfo info, device.info());
    return std::vector<DeviceInfo>{info};
  }
  BATON_ASSIGN(auto have, all());
  if (selector.empty() || selector == "all") return have;
  std::vector<DeviceInfo> chosen;
  std::copy_if(have.begin(), have.end(), std::back_inserter(chosen), [&](auto& d) { return matches(selector, d.name); });
  if (chosen.empty()) return none(selector, have);
  return chosen;
}

Result<std::string> Devices::address(const std::string& what) const {
  const std::string selector = meant(what);
  if (is_uri(selector)) return selector;
  BATON_ASSIGN(auto chosen, select(selector));
  if (chosen.empty()) return none(selector, chosen);
  if (chosen.size() > 1)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("'{}' means {} devices, and one is wanted here", selector, chosen.size()),
                 fmt::format("name one of them, as in {}", label(chosen[0])));
  return std::string(chosen[0].uri);
}

Result<Device> Devices::open(const std::string& selector) const {
  BATON_ASSIGN(const std::string uri, address(selector));
  return instance_.open(uri);
}

std::string kind(const DeviceInfo& d) { return d.emulated ? "emulated" : "real"; }

std::string label(const DeviceInfo& d) { return d.name[0] ? d.name : d.uri; }

std::string label(const json& d) { return clean(d.at(d.at("name") == "" ? "uri" : "name").get<std::string>()); }

std::string kind(const json& d) { return d.at("emulated") ? "emulated" : "real"; }

uint64_t memory_bytes(const json& d) {
  uint64_t sum = 0;
  for (auto& h : d.at("heaps")) sum += h.at("bytes_total").get<uint64_t>();
  return sum;
}

nlohmann::ordered_json device_json(const DeviceInfo& d) {
  json heaps = json::array();
  for (uint32_t h = 0; h < std::min<uint32_t>(d.heap_count, BATON_MAX_HEAPS); ++h)
    heaps.push_back({{"name", d.heaps[h].name},
                     {"bytes_total", d.heaps[h].bytes_total},
                     {"bytes_used", d.heaps[h].bytes_used},
                     {"mappable", d.heaps[h].mappable != 0},
                     {"exportable", d.heaps[h].exportable != 0}});
  return {{"name", d.name},
          {"uri", d.uri},
          {"emulated", d.emulated != 0},
          {"model", d.model},
          {"driver", d.driver},
          {"firmware", d.firmware},
          {"location", d.location},
          {"epoch", d.epoch},
          {"lanes", d.lanes},
          {"numa_node", d.numa_node == UINT32_MAX ? json(nullptr) : json(d.numa_node)},
          {"collectives", d.collectives != 0},
          {"progress", d.progress != 0},
          {"modelled", d.modelled != 0},
          {"timing", d.timing},
          {"heaps", heaps}};
}

}  // namespace baton::devctl
