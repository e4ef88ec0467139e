// list, info: what there is.
#include "tools/devctl/chips.h"
#include "tools/devctl/emu.h"
#include "tools/devctl/nics.h"
#include "tools/devctl/telemetry.h"
#include "tools/devctl/wafers.h"
#include "tools/devctl/verbs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace baton::devctl {
namespace {

std::string text_of(const json& j, const char* key) { return clean(j.at(key).get<std::string>()); }

std::string abilities(const json& d) {
  std::vector<std::string> can = {"launch", "copy", "fill"};
  if (d.at("progress")) can.push_back("progress by mark");
  if (d.at("collectives")) can.push_back("collectives across lanes");
  if (d.at("modelled")) can.push_back(fmt::format("modelled time{}{}", text_of(d, "timing").empty() ? "" : " by ", text_of(d, "timing")));
  return fmt::format("{}", fmt::join(can, ", "));
}

std::string heap_text(const json& h) {
  return fmt::format("{}, {} used, {}mappable, {}exportable", bytes_text(h.at("bytes_total")), bytes_text(h.at("bytes_used")), h.at("mappable") ? "" : "not ",
                     h.at("exportable") ? "" : "not ");
}

std::string counts(const json& counters, const char* none) {
  std::string s;
  for (auto& [name, n] : counters.items())
    if (n.get<uint64_t>()) s += fmt::format("{}{} {}", s.empty() ? "" : ", ", n.get<uint64_t>(), clean(name));
  return s.empty() ? none : s;
}

void chip_rows(Table& t, const json& c) {
  t.row({"  chip", fmt::format("neuron{}{}, {}", c.at("chip").get<uint32_t>(), c.at("serial") == "" ? "" : ", serial " + text_of(c, "serial"), text_of(c, "state"))});
  t.row({"  executions", fmt::format("{} done, {}", c.at("executed").get<uint64_t>(), counts(c.at("failed"), "none failed"))});
  t.row({"  hardware", counts(c.at("hardware"), "no ECC error")});
  t.row({"  in use", bytes_text(c.at("memory_bytes_used")) + " of device memory, by all processes"});
  if (!c.at("power_percent").is_null()) t.row({"  power", fmt::format("{:.1f} % of its most", c.at("power_percent").get<double>())});
}

std::string device_text(const Output& out, const json& d) {
  Table t({"  address", text_of(d, "uri")});
  t.row({"  driver", fmt::format("{}{}{}", text_of(d, "driver"), d.at("firmware") == "" ? "" : ", ", text_of(d, "firmware"))});
  if (d.at("location") != "") t.row({"  location", text_of(d, "location")});
  if (!d.at("numa_node").is_null()) t.row({"  NUMA node", std::to_string(d.at("numa_node").get<uint32_t>())});
  t.row({"  epoch", std::to_string(d.at("epoch").get<uint64_t>())});
  t.row({"  lanes", std::to_string(d.at("lanes").get<uint32_t>())});
  t.row({"  can", abilities(d)});
  for (auto& h : d.at("heaps")) t.row({"  heap " + text_of(h, "name"), heap_text(h)});
  if (auto chip = d.find("chip"); chip != d.end()) chip_rows(t, *chip);
  for (auto& w : d.value("wafers", json::array())) t.row({fmt::format("  wafer {}", w.at("wafer").get<uint32_t>()), w.at("error").is_null() ? "channels: " + channels_text(w) : clean(w["error"].at("what").get<std::string>())});
  if (auto seen = d.find("telemetry"); seen != d.end() && seen->at("health") != "unknown") t.row({"  health", condition(*seen)});
  return fmt::format("{}  {} ({})\n{}", out.bold(label(d)), text_of(d, "model"), d.at("emulated") ? "emulated" : "real", t.text());
}

std::string nic_text(const Output& out, const json& n) {
  Table t({"  driver", fmt::format("{}{}{}", text_of(n, "driver"), n.at("firmware") == "" ? "" : ", firmware ", text_of(n, "firmware"))});
  if (n.at("location") != "") t.row({"  location", text_of(n, "location")});
  if (!n.at("numa_node").is_null()) t.row({"  NUMA node", std::to_string(n.at("numa_node").get<int>())});
  if (n.at("board") != "") t.row({"  board", text_of(n, "board")});
  if (n.at("guid") != "") t.row({"  GUID", text_of(n, "guid")});
  for (auto& p : n.at("ports")) {
    t.row({fmt::format("  port {}", p.at("port").get<uint32_t>()),
           fmt::format("{}, {}{}{}", text_of(p, "state"), text_of(p, "physical"), p.at("rate") == "" ? "" : ", " + text_of(p, "rate"), p.at("netdev") == "" ? "" : ", " + text_of(p, "netdev"))});
    t.row({"    counts", counts(p.at("counters"), "nothing")});
  }
  return fmt::format("{}  {}\n{}", out.bold(text_of(n, "name")), text_of(n, "kind"), t.text());
}

std::string list_text(const json& doc) {
  Table t({"NAME", "KIND", "MODEL", "LANES", "MEMORY", "DRIVER", "ADDRESS"});
  t.right(3);
  t.right(4);
  for (auto& d : doc.at("devices"))
    t.row({text_of(d, "name"), d.at("emulated") ? "emulated" : "real", text_of(d, "model"), std::to_string(d.at("lanes").get<uint32_t>()), bytes_text(memory_bytes(d)), text_of(d, "driver"),
           text_of(d, "uri")});
  for (auto& s : doc.value("up", json::array())) {
    const std::string uri = text_of(s, "uri"), scheme = uri.substr(0, uri.find(':'));
    t.row({text_of(s, "name"), "emulator, up", "", "", "", scheme.starts_with("emu+") ? scheme.substr(4) : scheme, uri});
  }
  for (auto& s : doc.value("startable", json::array())) {
    const std::string uri = text_of(s, "uri");
    t.row({"-", "emulator, starts when named", "", "", "", uri.substr(4, uri.find(':') - 4), uri});
  }
  Table nics({"NIC", "KIND", "STATE", "RATE", "INTERFACE", "NUMA", "DRIVER", "LOCATION"});
  for (auto& n : doc.at("nics"))
    for (auto& p : n.at("ports"))
      nics.row({n.at("ports").size() > 1 ? fmt::format("{}:{}", text_of(n, "name"), p.at("port").get<uint32_t>()) : text_of(n, "name"), text_of(n, "kind"), text_of(p, "state"), text_of(p, "rate"),
                text_of(p, "netdev"), n.at("numa_node").is_null() ? "-" : std::to_string(n.at("numa_node").get<int>()), text_of(n, "driver"), text_of(n, "location")});
  std::string out = t.empty() ? "" : t.text();
  if (!nics.empty()) out += (out.empty() ? "" : "\n") + nics.text();
  return out;
}

json nics_json(const Context& c) {
  json all = json::array();
  for (auto& n : read_nics(c.devices.options().sysfs)) all.push_back(nic_json(n));
  return all;
}

json devices_json(const std::vector<DeviceInfo>& found) {
  json all = json::array();
  for (auto& d : found) all.push_back(device_json(d));
  return all;
}

// A real chip's counters; an emulated one's are not in this machine's sysfs, unless that is a captured one.
void add_chips(const Context& c, json& devices) {
  std::vector<Chip> chips;
  for (auto& d : devices) {
    unsigned index = 0;
    if (d.at("emulated") || std::sscanf(d.at("uri").get<std::string>().c_str(), "neuron://%u", &index) != 1) continue;
    if (chips.empty()) chips = read_chips(c.devices.options().sysfs);
    for (auto& chip : chips)
      if (chip.index == index) d["chip"] = chip_json(chip);
  }
}

// What a selector means among devices and NICs. A selector may name either; an address is a device's alone.
Result<json> selected(const Context& c, const char* verb, Reader read, const std::string& selector) {
  json doc;
  if (!c.from && is_uri(selector)) {
    BATON_ASSIGN(auto found, c.devices.select(selector));
    doc = {{"devices", devices_json(found)}, {"nics", json::array()}};
    return doc;
  }
  BATON_ASSIGN(doc, reading(c, verb, read));
  if (selector.empty() || selector == "all") return doc;
  auto devices = chosen(doc.at("devices"), selector), nics = chosen(doc.at("nics"), selector);
  if (!devices && !nics) return c.from ? devices.error() : c.devices.none(selector);
  doc["devices"] = devices ? *devices : json::array();
  doc["nics"] = nics ? *nics : json::array();
  doc.erase("startable");
  doc.erase("up");
  return doc;
}

}  // namespace

Result<json> list_document(const Context& c) {
  BATON_ASSIGN(auto found, c.devices.all());
  json startable = json::array();
  for (auto& uri : c.devices.startable()) startable.push_back({{"uri", uri}, {"emulated", true}});
  json doc{{"devices", devices_json(found)}, {"nics", nics_json(c)}, {"startable", startable}};
  for (const json& s : emulated_systems(c))
    if (s.at("alive")) doc["up"].push_back({{"name", s.at("name")}, {"uri", s.at("address")}});
  return doc;
}

Result<json> info_document(const Context& c) {
  BATON_ASSIGN(auto found, c.devices.all());
  json devices = devices_json(found);
  add_chips(c, devices);
  return json{{"devices", devices}, {"nics", nics_json(c)}};
}

int list(const Context& c, const std::string& selector) { return c.out.show("list", selected(c, "list", list_document, c.devices.meant(selector)), list_text); }

int info(const Context& c, const std::string& what) {
  const std::string selector = c.devices.meant(what);
  auto doc = selected(c, "info", info_document, selector);
  if (doc && !c.from && is_uri(selector)) { // only one of an address is opened: to open those that a name finds would take their cores
    auto device = c.devices.open(selector);
    if (!device) return c.out.fail(device.error());
    if (auto t = device->telemetry(); t.ok()) (*doc)["devices"][0]["telemetry"] = telemetry_json(*t); // UNSUPPORTED: it has none to show
    if (auto wafers = wafers_json(daemons_of((*doc)["devices"][0].at("uri")), 1000); !wafers.empty()) (*doc)["devices"][0]["wafers"] = wafers;
  }
  return c.out.show("info", std::move(doc), [&](const json& doc) {
    std::vector<std::string> parts;
    for (auto& d : doc.at("devices")) parts.push_back(device_text(c.out, d));
    for (auto& n : doc.at("nics")) parts.push_back(nic_text(c.out, n));
    return fmt::format("{}", fmt::join(parts, "\n"));
  });
}

}  // namespace baton::devctl
