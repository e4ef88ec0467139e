// list, info: what there is.
#include "tools/devctl/verbs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace baton::devctl {
namespace {

std::string abilities(const DeviceInfo& d) {
  std::vector<std::string> can;
  if (d.progress) can.push_back("progress by mark");
  if (d.collectives) can.push_back("collectives across lanes");
  if (d.modelled) can.push_back(fmt::format("modelled time{}{}", d.timing[0] ? " by " : "", d.timing));
  return can.empty() ? "launch, copy, fill" : fmt::format("launch, copy, fill, {}", fmt::join(can, ", "));
}

std::string heap_text(const baton_heap_info& h) {
  return fmt::format("{}, {} used, {}mappable, {}exportable", bytes_text(h.bytes_total), bytes_text(h.bytes_used), h.mappable ? "" : "not ",
                     h.exportable ? "" : "not ");
}

std::string info_text(const Output& out, const DeviceInfo& d) {
  Table t({"  address", clean(d.uri)});
  t.row({"  driver", fmt::format("{}{}{}", d.driver, d.firmware[0] ? ", " : "", clean(d.firmware))});
  if (d.location[0]) t.row({"  location", clean(d.location)});
  if (d.numa_node != UINT32_MAX) t.row({"  NUMA node", std::to_string(d.numa_node)});
  t.row({"  epoch", std::to_string(d.epoch)});
  t.row({"  lanes", std::to_string(d.lanes)});
  t.row({"  can", abilities(d)});
  for (uint32_t h = 0; h < std::min<uint32_t>(d.heap_count, BATON_MAX_HEAPS); ++h)
    t.row({fmt::format("  heap {}", d.heaps[h].name), heap_text(d.heaps[h])});
  return fmt::format("{}  {} ({})\n{}", out.bold(clean(label(d))), clean(d.model), kind(d), t.text());
}

}  // namespace

int list(const Context& c, const std::string& selector) {
  auto found = c.devices.select(selector);
  if (!found) return c.out.fail(found.error());
  bool whole = selector.empty() || selector == "all";
  auto emulators = whole ? c.devices.startable() : std::vector<std::string>();
  if (c.out.is_json()) {
    json devices = json::array(), startable = json::array();
    for (auto& d : *found) devices.push_back(device_json(d));
    for (auto& uri : emulators) startable.push_back({{"uri", uri}, {"emulated", true}});
    json body = {{"devices", devices}};
    if (whole) body["startable"] = startable;
    c.out.document("list", body);
    return kOk;
  }
  Table t({"NAME", "KIND", "MODEL", "LANES", "MEMORY", "DRIVER", "ADDRESS"});
  t.right(3);
  t.right(4);
  for (auto& d : *found)
    t.row({clean(d.name), kind(d), clean(d.model), std::to_string(d.lanes), bytes_text(memory_bytes(d)), clean(d.driver), clean(d.uri)});
  for (auto& uri : emulators) t.row({"-", "emulator, starts when named", "", "", "", uri.substr(4, uri.find(':') - 4), uri});
  if (!t.empty()) c.out.print(t.text());
  return kOk;
}

int info(const Context& c, const std::string& selector) {
  auto found = c.devices.select(selector);
  if (!found) return c.out.fail(found.error());
  if (c.out.is_json()) {
    json devices = json::array();
    for (auto& d : *found) devices.push_back(device_json(d));
    c.out.document("info", {{"devices", devices}});
    return kOk;
  }
  bool first = true;
  for (auto& d : *found) {
    c.out.print((first ? "" : "\n") + info_text(c.out, d));
    first = false;
  }
  return kOk;
}

}  // namespace baton::devctl
