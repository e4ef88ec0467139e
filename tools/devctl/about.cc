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

bool is_neuron(const PciFunction& p) { return p.what.starts_with("Trainium") || p.what.starts_with("Inferentia"); }

// The command that somebody who sees this machine most likely wants next.
std::string next_command(const MachineInfo& m, const std::vector<DeviceInfo>& devices, const Devices& d) {
  bool neuron = std::any_of(devices.begin(), devices.end(), [](auto& i) { return std::string_view(i.driver) == "neuron"; });
  if (!neuron && std::any_of(m.pci.begin(), m.pci.end(), is_neuron)) return "devctl info neuron://0";  // says why the driver does not see it
  if (neuron) return "devctl topo";
  auto emulated = d.startable();
  if (emulated.size() >= 2) return fmt::format("devctl topo {} {}", emulated[1], emulated[0]);
  if (emulated.size() == 1) return fmt::format("devctl info {}", emulated[0]);
  return devices.empty() ? "devctl version" : fmt::format("devctl info {}", label(devices[0]));
}

std::string or_none(const std::vector<std::string>& v) { return v.empty() ? "none" : fmt::format("{}", fmt::join(v, ", ")); }

}  // namespace

int summary(const Context& c) {
  auto machine = probe_machine();
  if (!machine) return c.out.fail(machine.error());
  auto devices = c.devices.all();
  if (!devices) return c.out.fail(devices.error());
  auto fabrics = transport::list_fabrics();
  std::string next = next_command(*machine, *devices, c.devices);
  if (c.out.is_json()) {
    json list = json::array(), usable = json::array();
    for (auto& d : *devices) list.push_back(device_json(d));
    for (auto& f : fabrics)
      if (f.available) usable.push_back(f.name);
    c.out.document("summary", {{"version", baton_version()},
                               {"machine", machine_json(*machine)},
                               {"devices", list},
                               {"startable", c.devices.startable()},
                               {"fabrics", usable},
                               {"next", next}});
    return kOk;
  }
  std::vector<std::string> names, usable, hardware;
  for (auto& d : *devices) names.push_back(fmt::format("{} ({}, {})", clean(label(d)), clean(d.model), kind(d)));
  for (auto& f : fabrics)
    if (f.available) usable.push_back(f.name);
  for (auto& p : machine->pci)
    if (is_neuron(p) || p.what == "EFA") hardware.push_back(fmt::format("{} at {}", p.what, p.bdf));
  for (auto& r : machine->rdma) hardware.push_back("RDMA NIC " + r.name);
  Table t({"machine", fmt::format("{}, {} cores, {}", machine->cpu, machine->cores, bytes_text(machine->memory_bytes))});
  t.row({"devices", or_none(names)});
  t.row({"hardware", hardware.empty() ? "no Neuron device, EFA or RDMA NIC; a CS-3 is named by its address, cs3://HOST:PORT" : or_none(hardware)});
  t.row({"emulators", fmt::format("{}{}", or_none(c.devices.startable()), c.devices.startable().empty() ? "" : "  (start when named)")});
  t.row({"fabrics", or_none(usable)});
  c.out.print(t.text());
  c.out.print(fmt::format("next: {}\n", c.out.bold(next)));
  return kOk;
}

int fabric(const Context& c) {
  auto fabrics = transport::list_fabrics();
  if (c.out.is_json()) {
    json list = json::array();
    for (auto& f : fabrics) {
      json nics = json::array();
      for (auto& n : f.nics)
        nics.push_back({{"name", n.name}, {"address", n.host}, {"device", n.device}, {"usable", f.available && n.why_not.empty()}, {"reason", f.available ? n.why_not : f.reason}});
      list.push_back({{"name", f.name}, {"provider", f.provider}, {"available", f.available}, {"reason", f.reason}, {"nics", nics}});
    }
    c.out.document("fabric", {{"fabrics", list}});
    return kOk;
  }
  Table t({"FABRIC", "AVAILABLE", "PROVIDER", ""});
  for (auto& f : fabrics) t.row({f.name, f.available ? "yes" : "no", f.provider, f.reason});
  c.out.print(t.text());
  // What could be a rail of one that is there. The reason is the fabric's own, where it is not.
  Table rails({"RAIL", "OF", "ADDRESS", "DEVICE", ""});
  size_t n = 0;
  for (auto& f : fabrics)
    for (auto& nic : f.available ? f.nics : std::vector<transport::Nic>()) {
      rails.row({nic.name, f.name, nic.host, nic.device, nic.why_not.empty() ? "usable (--rails)" : nic.why_not});
      ++n;
    }
  if (n) c.out.print("\n" + rails.text());
  return kOk;
}

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
  auto& o = c.devices.options();
  if (c.out.is_json()) {
    c.out.document("version", {{"devctl", BATON_VERSION_STRING}, {"libbaton", baton_version()}, {"abi", BATON_ABI_VERSION}, {"drivers", o.drivers}, {"emulators", o.emulators}});
    return kOk;
  }
  c.out.print(fmt::format("devctl     {}\nlibbaton   {} (driver ABI {})\ndrivers    {}\nemulators  {}\n", BATON_VERSION_STRING, baton_version(),
                          BATON_ABI_VERSION, or_none(o.drivers), or_none(o.emulators)));
  return kOk;
}

}  // namespace baton::devctl
