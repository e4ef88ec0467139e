// topo: the machine, its devices, and the path that a copy takes between any two of them.
#include "tools/devctl/machine.h"
#include "tools/devctl/verbs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

namespace baton::devctl {
namespace {

struct Hop {
  std::string path, text;  // "mapped", "host://... -> neuron://0...: why"
};

// A plan is one line a hop: the path's word, spaces, the rest (baton_plan_copy).
std::vector<Hop> parse_plan(const std::string& plan) {
  std::vector<Hop> hops;
  std::istringstream lines(plan);
  for (std::string line; std::getline(lines, line);) {
    size_t end = line.find(' ');
    if (line.empty()) continue;
    size_t text = line.find_first_not_of(' ', end);
    hops.push_back({line.substr(0, end), text == std::string::npos ? "" : line.substr(text)});
  }
  return hops;
}

json hops_json(const std::vector<Hop>& hops) {
  json a = json::array();
  for (auto& h : hops) a.push_back({{"path", h.path}, {"hop", h.text}});
  return a;
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
    if (is_uri(s)) {
      BATON_TRY(add(s, s, true));
      continue;
    }
    BATON_ASSIGN(auto found, devices.select(s));
    for (auto& d : found) BATON_TRY(add(label(d), d.uri, found.size() == 1 && s != "all"));
  }
  return all;
}

struct Cell {
  std::string letter, path;
  std::vector<Hop> hops;
  std::string reason;  // why there is none
};

Cell cell(const Devices& devices, const Member& a, const Member& b) {
  if (!a.device || !b.device) return {"?", "unknown", {}, a.device ? b.problem : a.problem};
  auto plan = devices.instance().plan_copy(a.device, b.device);
  if (!plan) return {"-", "none", {}, plan.error().what};
  auto hops = parse_plan(*plan);
  std::string path = hops.empty() ? "unknown" : hops.front().path;
  std::string letter = path == "direct" ? "D" : path == "mapped" ? "M" : path == "imported" ? "I" : path == "staged" ? "S" : "?";
  return {letter, path, hops, ""};
}

constexpr char kLegend[] =
    "  D direct (one memory)  M mapped (by host address)  I imported (by descriptor)  S staged (two hops through host memory)  "
    "- no path  ? could not be opened\n";

void print_machine(const Output& out, const MachineInfo& m) {
  Table t({"  cpu", fmt::format("{}: {} package{}, {} cores, {} threads, {}", m.cpu, m.packages, m.packages == 1 ? "" : "s", m.cores, m.threads,
                                bytes_text(m.memory_bytes))});
  std::vector<std::string> caches;
  for (auto& c : m.caches) caches.push_back(fmt::format("{} {} x{}", c.name, bytes_text(c.bytes), c.count));
  t.row({"  caches", caches.empty() ? "unknown" : fmt::format("{}", fmt::join(caches, ", "))});
  for (auto& n : m.numa) t.row({fmt::format("  NUMA {}", n.index), fmt::format("cores {}, {}", n.cores, bytes_text(n.memory_bytes))});
  for (auto& p : m.pci)
    t.row({"  PCI", fmt::format("{}  {} ({:04x}:{:04x}){}", p.bdf, p.what, p.vendor, p.device,
                                p.numa_node < 0 ? "" : fmt::format(", NUMA {}", p.numa_node))});
  if (m.pci.empty()) t.row({"  PCI", "no Neuron device, EFA or network controller"});
  for (auto& r : m.rdma) t.row({"  RDMA", fmt::format("{}  {}", r.name, r.transport)});
  if (m.rdma.empty()) t.row({"  RDMA", "no NIC that libibverbs sees"});
  out.print(out.bold("machine") + "\n" + t.text());
}

void print_matrix(const Output& out, const std::vector<Member>& all, const std::vector<std::vector<Cell>>& cells) {
  if (all.empty()) return out.print(out.bold("devices") + "\n  none found by the drivers\n");
  Table devices({"  NAME", "KIND", "MODEL", "LANES", "MEMORY", "NUMA"});
  std::vector<std::string> header = {"  FROM \\ TO"};
  for (auto& m : all) {
    header.push_back(clean(m.name));
    if (m.device)
      devices.row({"  " + clean(m.name), kind(m.info), clean(m.info.model), std::to_string(m.info.lanes), bytes_text(memory_bytes(m.info)),
                   m.info.numa_node == UINT32_MAX ? "-" : std::to_string(m.info.numa_node)});
    else
      devices.row({"  " + clean(m.name), "?", clean(m.problem)});
  }
  Table matrix(header);
  for (size_t i = 0; i < all.size(); ++i) {
    std::vector<std::string> row = {"  " + clean(all[i].name)};
    for (auto& c : cells[i]) row.push_back(c.letter);
    matrix.row(row);
  }
  out.print(out.bold("devices") + "\n" + devices.text());
  out.print(out.bold("copy paths") + "\n" + matrix.text() + out.dim(kLegend));
}

int path_between(const Context& c, const std::string& from, const std::string& to) {
  auto a = c.devices.open(from);
  if (!a) return c.out.fail(a.error());
  bool same = from == to;
  auto b = same ? Result<Device>(Device()) : c.devices.open(to);
  if (!b) return c.out.fail(b.error());
  const Device& end = same ? *a : *b;
  auto plan = c.devices.instance().plan_copy(*a, end);
  if (!plan) return c.out.fail(plan.error());
  auto ia = a->info(), ib = end.info();
  if (!ia) return c.out.fail(ia.error());
  if (!ib) return c.out.fail(ib.error());
  auto hops = parse_plan(*plan);
  if (c.out.is_json()) {
    c.out.document("topo", {{"from", device_json(*ia)}, {"to", device_json(*ib)}, {"path", hops.empty() ? "" : hops[0].path}, {"hops", hops_json(hops)}});
    return kOk;
  }
  auto side = [](const DeviceInfo& d) { return fmt::format("{} ({}, {})", clean(label(d)), clean(d.model), kind(d)); };
  c.out.print(fmt::format("{} -> {}\n", side(*ia), side(*ib)));
  Table t({"  HOP", "PATH", ""});
  for (size_t i = 0; i < hops.size(); ++i) t.row({fmt::format("  {}", i + 1), hops[i].path, clean(hops[i].text)});
  c.out.print(t.text());
  return kOk;
}

}  // namespace

int topo(const Context& c, const std::vector<std::string>& selectors) {
  if (selectors.size() == 2) return path_between(c, selectors[0], selectors[1]);
  auto machine = probe_machine();
  if (!machine) return c.out.fail(machine.error());
  auto all = members(c.devices, selectors.empty() ? std::vector<std::string>{"all"} : selectors);
  if (!all) return c.out.fail(all.error());
  std::vector<std::vector<Cell>> cells(all->size());
  for (size_t i = 0; i < all->size(); ++i)
    for (auto& b : *all) cells[i].push_back(cell(c.devices, (*all)[i], b));

  if (c.out.is_json()) {
    json devices = json::array(), paths = json::array();
    for (auto& m : *all) {
      json d = m.device ? device_json(m.info) : json{{"problem", m.problem}};
      d["selector"] = m.name;
      devices.push_back(d);
    }
    for (size_t i = 0; i < all->size(); ++i)
      for (size_t j = 0; j < all->size(); ++j)
        paths.push_back({{"from", (*all)[i].name},
                         {"to", (*all)[j].name},
                         {"path", cells[i][j].path},
                         {"hops", hops_json(cells[i][j].hops)},
                         {"reason", cells[i][j].reason}});
    c.out.document("topo", {{"machine", machine_json(*machine)}, {"devices", devices}, {"paths", paths}, {"startable", c.devices.startable()}});
    return kOk;
  }
  print_machine(c.out, *machine);
  print_matrix(c.out, *all, cells);
  auto emulated = c.devices.startable();
  if (selectors.empty() && !emulated.empty())
    c.out.print(fmt::format("{}: devctl topo {}{}\n", c.out.dim("with emulators"), all->empty() ? "" : "all ", fmt::join(emulated, " ")));
  return kOk;
}

}  // namespace baton::devctl
