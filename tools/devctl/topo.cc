// topo: the machine, its devices, and the path that a copy takes between any two of them: of two what it costs, measured and modelled, and why none is better.
#include "tools/devctl/machine.h"
#include "tools/devctl/nics.h"
#include "tools/devctl/topo_cost.h"
#include "tools/devctl/topo_svg.h"
#include "tools/devctl/verbs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <sstream>

namespace baton::devctl {
namespace {

std::string text_of(const json& j, const char* key) { return clean(j.at(key).get<std::string>()); }

// A plan is one line a hop: the path's word, spaces, the rest (baton_plan_copy).
json parse_plan(const std::string& plan) {
  json hops = json::array();
  std::istringstream lines(plan);
  for (std::string line; std::getline(lines, line);) {
    size_t end = line.find(' ');
    if (line.empty()) continue;
    size_t text = line.find_first_not_of(' ', end);
    hops.push_back({{"path", line.substr(0, end)}, {"hop", text == std::string::npos ? "" : line.substr(text)}});
  }
  return hops;
}

// A device that takes part in the matrix; `device` is empty where it could not be opened.
struct Member {
  std::string name;
  DeviceInfo info{};
  Device device;
  std::string problem;
};

Result<std::vector<Member>> members(const Devices& devices, const std::vector<std::string>& selectors) {
  std::vector<Member> all;
  auto add = [&](const std::string& name, const std::string& uri, bool required) -> Status {
    if (std::any_of(all.begin(), all.end(), [&](auto& m) { return m.name == name; })) return {};
    auto device = devices.instance().open(uri);
    if (!device && required) return device.error();
    Member m{name, {}, {}, device ? "" : device.error().text()};
    if (device) {
      BATON_ASSIGN(m.info, device->info());
      m.device = std::move(*device);
    }
    all.push_back(std::move(m));
    return {};
  };
  for (auto& s : selectors) {
    if (const std::string uri = devices.meant(s); is_uri(uri)) {
      BATON_TRY(add(s, uri, true));
      continue;
    }
    BATON_ASSIGN(auto found, devices.select(s));
    for (auto& d : found) BATON_TRY(add(label(d), d.uri, found.size() == 1 && s != "all"));
  }
  return all;
}

json path_json(const Devices& devices, const Member& a, const Member& b) {
  json p = {{"from", a.name}, {"to", b.name}, {"path", "unknown"}, {"hops", json::array()}, {"reason", ""}};
  if (!a.device || !b.device) {
    p["reason"] = a.device ? b.problem : a.problem;
    return p;
  }
  auto plan = devices.instance().plan_copy(a.device, b.device);
  if (!plan) {
    p["path"] = "none";
    p["reason"] = plan.error().what;
    return p;
  }
  p["hops"] = parse_plan(*plan);
  if (!p["hops"].empty()) p["path"] = p["hops"][0]["path"];
  return p;
}

Result<json> document(const Context& c, const std::vector<Member>& all) {
  BATON_ASSIGN(MachineInfo machine, probe_machine());
  json devices = json::array(), paths = json::array(), nics = json::array();
  for (auto& m : all) {
    json d = m.info.uri[0] ? device_json(m.info) : json{{"problem", m.problem}};
    d["selector"] = m.name;
    devices.push_back(d);
  }
  for (auto& a : all)
    for (auto& b : all) paths.push_back(path_json(c.devices, a, b));
  for (auto& n : read_nics(c.devices.options().sysfs)) nics.push_back(nic_json(n));
  return json{{"machine", machine_json(machine)}, {"devices", devices}, {"nics", nics}, {"paths", paths}, {"startable", c.devices.startable()}};
}

std::string letter(const std::string& path) {
  return path == "direct" ? "D" : path == "mapped" ? "M" : path == "imported" ? "I" : path == "staged" ? "S" : path == "none" ? "-" : "?";
}

constexpr char kLegend[] =
    "  D direct (one memory)  M mapped (by host address)  I imported (by descriptor)  S staged (two hops through host memory)  "
    "- no path  ? not opened\n";

std::string machine_text(const Output& out, const json& doc) {
  Table t({"  kernel", text_of(doc.at("machine"), "kernel")});
  machine_rows(t, doc.at("machine"));
  for (auto& n : doc.at("nics")) {
    std::vector<std::string> ports;
    for (auto& p : n.at("ports")) ports.push_back(fmt::format("{}{}{}", text_of(p, "state"), p.at("netdev") == "" ? "" : " " + text_of(p, "netdev"), p.at("rate") == "" ? "" : " " + text_of(p, "rate")));
    t.row({"  RDMA", fmt::format("{}  {}: {}{}", text_of(n, "name"), text_of(n, "kind"), fmt::join(ports, "; "),
                                 n.at("numa_node").is_null() ? "" : fmt::format(", NUMA {}", n.at("numa_node").get<int>()))});
  }
  if (doc.at("nics").empty()) t.row({"  RDMA", "no NIC that the kernel shows"});
  return out.bold("machine") + "\n" + t.text();
}

std::string matrix_text(const Output& out, const json& doc) {
  const json& all = doc.at("devices");
  if (all.empty()) return out.bold("devices") + "\n  none found by the drivers\n";
  Table devices({"  NAME", "KIND", "MODEL", "LANES", "MEMORY", "NUMA"});
  std::vector<std::string> header = {"  FROM \\ TO"};
  for (auto& d : all) {
    header.push_back(text_of(d, "selector"));
    if (d.contains("problem"))
      devices.row({"  " + text_of(d, "selector"), "?", text_of(d, "problem")});
    else
      devices.row({"  " + text_of(d, "selector"), kind(d), text_of(d, "model"), std::to_string(d.at("lanes").get<uint32_t>()), bytes_text(memory_bytes(d)),
                   d.at("numa_node").is_null() ? "-" : std::to_string(d.at("numa_node").get<uint32_t>())});
  }
  Table matrix(header);
  auto path = doc.at("paths").begin();
  for (auto& from : all) {
    std::vector<std::string> row = {"  " + text_of(from, "selector")};
    for (size_t i = 0; i < all.size() && path != doc.at("paths").end(); ++i, ++path) row.push_back(letter(path->at("path")));
    matrix.row(row);
  }
  return out.bold("devices") + "\n" + devices.text() + out.bold("copy paths") + "\n" + matrix.text() + out.dim(kLegend);
}

// Without costs, as a snapshot has it.
json described(const json& from, const json& to, json hops, bool rdma) {
  for (auto& h : hops) h["cost"] = nullptr;
  const std::string path = hops.empty() ? "" : hops[0]["path"].get<std::string>();
  return {{"from", from}, {"to", to}, {"path", path}, {"hops", hops}, {"whole", nullptr}, {"cost_problem", nullptr}, {"better", better_paths(path, from, to, rdma)}};
}

// Of each hop, and of the whole: hops of a staged path overlap.
Status add_costs(const Instance& in, const Device& from, const Device& to, json& doc) {
  BATON_ASSIGN(doc["whole"], hop_cost(in, from, to));
  json& hops = doc["hops"];
  if (hops.size() == 1) hops[0]["cost"] = doc["whole"];
  if (hops.size() != 2) return {};
  BATON_ASSIGN(Device host, in.open("host://"));
  BATON_ASSIGN(hops[0]["cost"], hop_cost(in, from, host));
  BATON_ASSIGN(hops[1]["cost"], hop_cost(in, host, to));
  return {};
}

// Of two devices the path from the first to the second.
Result<json> path_document(const Context& c, const std::string& from, const std::string& to) {
  BATON_ASSIGN(Device a, c.devices.open(from));
  Device b;
  if (from != to) {
    BATON_ASSIGN(b, c.devices.open(to));
  }
  const Device& end = from == to ? a : b;
  BATON_ASSIGN(std::string plan, c.devices.instance().plan_copy(a, end));
  BATON_ASSIGN(DeviceInfo ia, a.info());
  BATON_ASSIGN(DeviceInfo ib, end.info());
  json doc = described(device_json(ia), device_json(ib), parse_plan(plan), !read_nics(c.devices.options().sysfs).empty());
  if (const Status measured = add_costs(c.devices.instance(), a, end, doc); !measured.ok()) {
    if (interrupted()) return measured.error();
    doc["cost_problem"] = measured.error().text();
  }
  return doc;
}

// The same out of a matrix that was captured.
Result<json> path_of(const json& doc, const std::string& from, const std::string& to) {
  auto device = [&](const std::string& name) -> Result<json> {
    for (json d : doc.at("devices"))
      if (d.at("selector") == name || d.value("uri", "") == name) return d;
    return Error(BATON_NOT_FOUND, fmt::format("the snapshot has no device '{}'", clean(name)), "devctl --from FILE topo shows what it has");
  };
  BATON_ASSIGN(json a, device(from));
  BATON_ASSIGN(json b, device(to));
  for (auto& p : doc.at("paths")) {
    if (p.at("from") != a.at("selector") || p.at("to") != b.at("selector")) continue;
    if (p.at("hops").empty()) return Error(BATON_UNSUPPORTED, fmt::format("{} -> {}: {}", from, to, p.at("reason").get<std::string>()), "devctl snapshot --open looks for paths");
    a.erase("selector"), b.erase("selector");
    return described(a, b, p.at("hops"), !doc.at("nics").empty());
  }
  return Error(BATON_NOT_FOUND, "the snapshot has no such path", "take it again");
}

std::string path_text(const Output& out, const json& doc) {
  auto side = [](const json& d) { return fmt::format("{} ({}, {})", label(d), clean(d.at("model").get<std::string>()), kind(d)); };
  Table t({"  HOP", "PATH", ""});
  size_t n = 0;
  for (auto& h : doc.at("hops")) t.row({fmt::format("  {}", ++n), text_of(h, "path"), text_of(h, "hop")});
  std::string text = fmt::format("{} -> {}\n{}", side(doc.at("from")), side(doc.at("to")), t.text());
  if (const json& whole = doc.at("whole"); !whole.is_null()) {
    Table costs({"  COST", bytes_text(whole.at("small_bytes")) + " TAKE", bytes_text(whole.at("large_bytes")) + " AT"});
    const bool emulated = doc.at("from").at("emulated") || doc.at("to").at("emulated");
    auto row = [&](const std::string& what, const json& cost) {
      for (auto& [how, says] : {std::pair("wall", emulated ? "measured (of an emulator)" : "measured"), {"modelled", "modelled"}})
        if (!cost.at(how).is_null()) costs.row({fmt::format("  {}, {}", what, says), ns_text(cost.at(how).at("small_ns")), rate_text(cost.at(how).at("bytes_per_s"))});
    };
    n = 0;
    if (doc.at("hops").size() > 1)
      for (auto& h : doc.at("hops"))
        if (++n; !h.at("cost").is_null()) row(fmt::format("hop {}", n), h.at("cost"));
    row("whole", whole);
    for (size_t i : {1u, 2u}) costs.right(i);
    text += costs.text();
  }
  if (!doc.at("cost_problem").is_null()) text += fmt::format("  not measured: {}\n", text_of(doc, "cost_problem"));
  Table better({"  WHY NOT", ""});
  for (auto& b : doc.at("better")) better.row({"  " + text_of(b, "path"), text_of(b, "why_not")});
  return text + (better.empty() ? "" : better.text() + out.dim("  between processes and hosts: devctl fabric ping\n"));
}

}  // namespace

// Disturbs nobody: a device that is opened is taken, so its paths are unknown.
Result<json> topo_document(const Context& c) {
  BATON_ASSIGN(auto found, c.devices.all());
  std::vector<Member> all;
  for (auto& d : found) all.push_back({label(d), d, {}, "not opened, so as to disturb nobody"});
  return document(c, all);
}

Result<json> opened_topo_document(const Context& c, const std::vector<std::string>& selectors) {
  BATON_ASSIGN(auto all, members(c.devices, selectors));
  return document(c, all);
}

int topo(const Context& c, const TopoCall& call) {
  const auto& names = call.selectors;
  Result<json> doc = json();
  if (names.size() == 2 && !c.from) doc = path_document(c, names[0], names[1]);
  else if (c.from) doc = c.from->document("topo");
  else doc = opened_topo_document(c, names.empty() ? std::vector<std::string>{"all"} : names);
  if (doc && names.size() == 2 && c.from) doc = path_of(*doc, names[0], names[1]);
  if (!doc) return c.out.fail(doc.error());
  const bool matrix = doc->contains("machine");
  if (!call.svg.empty()) {
    if (!matrix) return c.out.fail(kUsage, "--svg draws a machine, not one path", "devctl topo --svg FILE");
    std::ofstream file(call.svg);
    file << topo_svg(*doc);
    if (!file.flush()) return c.out.fail(Error(BATON_IO, fmt::format("{}: cannot be written", call.svg), "name a file in a folder that exists and is writable"));
  }
  if (c.out.is_json()) {
    c.out.document(matrix ? "topo" : "topo.path", *doc);
    return kOk;
  }
  if (!matrix) {
    c.out.print(path_text(c.out, *doc));
    return kOk;
  }
  c.out.print(machine_text(c.out, *doc) + matrix_text(c.out, *doc));
  const json& emulated = doc->at("startable");
  if (names.empty() && !emulated.empty())
    c.out.print(fmt::format("{}: devctl topo {}{}\n", c.out.dim("with emulators"), doc->at("devices").empty() ? "" : "all ", fmt::join(emulated.get<std::vector<std::string>>(), " ")));
  return kOk;
}

}  // namespace baton::devctl
