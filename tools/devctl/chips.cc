#include "tools/devctl/chips.h"

#include "tools/devctl/files.h"
#include "tools/devctl/output.h"

#include <fmt/format.h>

#include <cstdio>

namespace baton::devctl {
namespace {

Chip read_chip(const std::string& at, uint32_t index) {
  Chip c;
  c.index = index;
  c.model = first_line(at + "/info/architecture/device_name");
  if (c.model.empty()) c.model = first_line(at + "/info/architecture/device_type");  // its documented name
  c.instance = first_line(at + "/info/architecture/instance_type");
  c.serial = first_line(at + "/info/serial_number");
  c.cores = uint32_t(number_in(at + "/core_count").value_or(0));
  if (auto state = first_line(at + "/reset"); !state.empty()) c.state = state[0] - '0';
  for (const std::string& name : names_in(at + "/stats/hardware"))
    if (auto n = number_in(at + "/stats/hardware/" + name)) c.hardware[name] = *n;
  for (const std::string& core : names_in(at)) {
    if (!core.starts_with("neuron_core")) continue;
    const std::string stats = at + "/" + core + "/stats/";
    for (const std::string& name : names_in(stats + "status")) c.status[name] += number_in(stats + "status/" + name + "/total").value_or(0);
    c.memory_bytes += number_in(stats + "memory_usage/device_mem/total").value_or(0);
    c.resets += number_in(stats + "other_info/reset_req_count/total").value_or(0);
    c.resets_failed += number_in(stats + "other_info/reset_fail_count/total").value_or(0);
  }
  double least = 0, most = 0, average = 0;
  unsigned long long epoch = 0;
  if (std::sscanf(first_line(at + "/stats/power/utilization").c_str(), "POWER_STATUS_VALID,%llu,%lf,%lf,%lf", &epoch, &least, &most, &average) == 4) c.power_percent = average;
  return c;
}

}  // namespace

std::vector<Chip> read_chips(const std::string& root) {
  std::vector<Chip> all;
  const std::string folder = root + "/devices/virtual/neuron_device";
  for (const std::string& name : names_in(folder)) {
    unsigned index = 0;
    if (std::sscanf(name.c_str(), "neuron%u", &index) == 1) all.push_back(read_chip(folder + "/" + name, index));
  }
  return all;
}

json chip_json(const Chip& c) {
  json hardware = json::object(), failed = json::object();
  uint64_t done = 0;
  for (auto& [name, n] : c.hardware) hardware[name] = n;
  for (auto& [name, n] : c.status)
    if (name == "success") done = n;
    else if (n) failed[name] = n;
  return {{"chip", c.index}, {"serial", c.serial}, {"instance", c.instance}, {"state", c.state == 1 ? "ready" : c.state == 0 ? "in reset" : "invalid"},
          {"hardware", hardware}, {"executed", done}, {"failed", failed}, {"memory_bytes_used", c.memory_bytes}, {"resets", c.resets}, {"resets_failed", c.resets_failed},
          {"power_percent", c.power_percent < 0 ? json(nullptr) : json(c.power_percent)}};
}

std::string neuron_driver_version(const std::string& root) { return first_line(root + "/module/neuron/version"); }

}  // namespace baton::devctl
