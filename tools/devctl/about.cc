// The summary, fabric, explain and version: what a newcomer asks first.
#include "hal/baton.h"
#include "tools/devctl/codes.h"
#include "tools/devctl/machine.h"
#include "tools/devctl/verbs.h"
#include "transport/fabrics.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace baton::devctl {
namespace {

bool is_neuron(const json& pci) {
  const std::string what = pci.at("what");
  return what.starts_with("Trainium") || what.starts_with("Inferentia");
}

// The command that somebody who sees this machine most likely wants next.
std::string next_command(const json& machine, const json& devices, const std::vector<std::string>& emulated) {
  bool neuron = std::any_of(devices.begin(), devices.end(), [](auto& d) { return d.at("driver") == "neuron"; });
  if (!neuron && std::any_of(machine.at("pci").begin(), machine.at("pci").end(), is_neuron)) return "devctl info neuron://0";  // says why the driver does not see it
  if (neuron) return "devctl topo";
  if (emulated.size() >= 2) return fmt::format("devctl topo {} {}", emulated[1], emulated[0]);
  if (emulated.size() == 1) return fmt::format("devctl info {}", emulated[0]);
  return devices.empty() ? "devctl version" : fmt::format("devctl info {}", label(devices[0]));
}

std::string or_none(const std::vector<std::string>& v) { return v.empty() ? "none" : clean(fmt::format("{}", fmt::join(v, ", "))); }

std::string summary_text(const Output& out, const json& doc) {
  std::vector<std::string> names, hardware;
  for (auto& d : doc.at("devices")) names.push_back(fmt::format("{} ({}, {})", label(d), clean(d.at("model").get<std::string>()), kind(d)));
  const json& m = doc.at("machine");
  for (auto& p : m.at("pci"))
    if (is_neuron(p) || p.at("what") == "EFA") hardware.push_back(fmt::format("{} at {}", p.at("what").get<std::string>(), p.at("bdf").get<std::string>()));
  for (auto& n : doc.at("nics")) hardware.push_back(fmt::format("{} NIC {}", n.at("kind").get<std::string>(), n.at("name").get<std::string>()));
  const auto emulators = doc.at("startable").get<std::vector<std::string>>();
  Table t({"machine", fmt::format("{}, {} cores, {}", clean(m.at("cpu").get<std::string>()), m.at("cores").get<uint32_t>(), bytes_text(m.at("memory_bytes")))});
  t.row({"devices", or_none(names)});
  t.row({"hardware", hardware.empty() ? "no Neuron device, EFA or RDMA NIC; a CS-3 is named by its address, cs3://HOST:PORT" : or_none(hardware)});
  t.row({"emulators", fmt::format("{}{}", or_none(emulators), emulators.empty() ? "" : "  (start when named)")});
  t.row({"fabrics", or_none(doc.at("fabrics").get<std::vector<std::string>>())});
  if (const uint64_t n = doc.value("findings", uint64_t(0))) t.row({"health", fmt::format("{} finding{}", n, n == 1 ? "" : "s")});
  return t.text() + fmt::format("next: {}\n", out.bold(doc.at("next").get<std::string>()));
}

std::string fabric_text(const json& doc) {
  Table t({"FABRIC", "AVAILABLE", "PROVIDER", ""});
  auto text_of = [](const json& j, const char* key) { return clean(j.at(key).get<std::string>()); };
  // What could be a rail of one that is there. The reason is the fabric's own, where it is not.
  Table rails({"RAIL", "OF", "ADDRESS", "DEVICE", ""});
  for (auto& f : doc.at("fabrics")) {
    t.row({text_of(f, "name"), f.at("available") ? "yes" : "no", text_of(f, "provider"), text_of(f, "reason")});
    if (!f.at("available")) continue;
    for (auto& n : f.at("nics")) rails.row({text_of(n, "name"), text_of(f, "name"), text_of(n, "address"), text_of(n, "device"), n.at("usable") ? "usable (--rails)" : text_of(n, "reason")});
  }
  return t.text() + (rails.empty() ? "" : "\n" + rails.text());
}

}  // namespace

Result<json> summary_document(const Context& c) {
  BATON_ASSIGN(MachineInfo machine, probe_machine());
  BATON_ASSIGN(json list, list_document(c));
  json usable = json::array(), m = machine_json(machine);
  for (auto& f : transport::list_fabrics())
    if (f.available) usable.push_back(f.name);
  BATON_ASSIGN(const json health, health_document(c));
  const size_t findings = health.at("findings").size();
  return json{{"version", baton_version()}, {"machine", m}, {"devices", list["devices"]}, {"nics", list["nics"]}, {"startable", c.devices.startable()}, {"fabrics", usable}, {"findings", findings},
              {"next", findings ? "devctl health" : next_command(m, list["devices"], c.devices.startable())}};
}

Result<json> fabric_document(const Context&) {
  json list = json::array();
  for (auto& f : transport::list_fabrics()) {
    json nics = json::array();
    for (auto& n : f.nics)
      nics.push_back({{"name", n.name}, {"address", n.host}, {"device", n.device}, {"usable", f.available && n.why_not.empty()}, {"reason", f.available ? n.why_not : f.reason}});
    list.push_back({{"name", f.name}, {"provider", f.provider}, {"available", f.available}, {"reason", f.reason}, {"nics", nics}});
  }
  return json{{"fabrics", list}};
}

Result<json> version_document(const Context& c) {
  auto& o = c.devices.options();
  return json{{"devctl", BATON_VERSION_STRING}, {"libbaton", baton_version()}, {"abi", BATON_ABI_VERSION}, {"drivers", o.drivers}, {"emulators", o.emulators}};
}

int summary(const Context& c) {
  auto doc = reading(c, "summary", summary_document);
  return c.out.show("summary", doc, [&](const json& d) { return summary_text(c.out, d); });
}

int fabric(const Context& c) { return c.out.show("fabric", reading(c, "fabric", fabric_document), fabric_text); }

int explain(const Output& out, const std::string& code) {
  const CodeText* one = code.empty() ? nullptr : find_code(code);
  if (!code.empty() && !one) return out.fail(kUsage, fmt::format("no code is called '{}'", code.substr(0, 60)), "devctl explain lists them all");
  json list = json::array();
  Table t({"CODE", "NO", "EXIT", "MEANING"});
  for (auto& text : code_texts()) {
    if (one && text.code != one->code) continue;
    std::string name = baton_code_name(text.code);
    list.push_back({{"name", name}, {"code", text.code}, {"exit", exit_code(text.code)}, {"meaning", text.meaning}, {"causes", text.causes}, {"remedy", text.remedy}});
    t.row({name, std::to_string(text.code), std::to_string(exit_code(text.code)), std::string(text.meaning)});
  }
  if (out.is_json()) out.document("explain", {{"codes", list}});
  else if (one)
    out.print(fmt::format("{} (code {}, exit {})\n  {}\n  {}  {}\n  {}  {}\n", out.bold(baton_code_name(one->code)), one->code, exit_code(one->code),
                          one->meaning, out.dim("seen when"), one->causes, out.dim("what to do"), one->remedy));
  else out.print(t.text());
  return kOk;
}

int version(const Context& c) {
  return c.out.show("version", reading(c, "version", version_document), [](const json& d) {
    return fmt::format("devctl     {}\nlibbaton   {} (driver ABI {})\ndrivers    {}\nemulators  {}\n", d.at("devctl").get<std::string>(), d.at("libbaton").get<std::string>(), d.at("abi").get<int>(),
                       or_none(d.at("drivers").get<std::vector<std::string>>()), or_none(d.at("emulators").get<std::vector<std::string>>()));
  });
}

}  // namespace baton::devctl
