#include "tools/devctl/machine.h"

#include "tools/devctl/output.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hwloc.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

namespace baton::devctl {
namespace {

constexpr uint16_t kAmazon = 0x1d0f;  // PCI vendor id

struct PciId {
  uint16_t device;
  const char* what;
};
// Ids of the Neuron kernel driver (neuron_device.h) and, for Trn3, of NIXL's topology scan (libfabric_topology.cpp).
constexpr PciId kNeuron[] = {{0x7064, "Inferentia"}, {0x7065, "Inferentia"}, {0x7066, "Inferentia"}, {0x7164, "Trainium"},
                             {0x7264, "Inferentia2"}, {0x7364, "Trainium2"}, {0x7564, "Trainium3"},  {0x7565, "Trainium3"}};

struct TopologyFree {
  void operator()(hwloc_topology* t) const { hwloc_topology_destroy(t); }
};
using Topology = std::unique_ptr<hwloc_topology, TopologyFree>;

uint32_t count(hwloc_topology_t t, hwloc_obj_type_t type) { return uint32_t(std::max(0, hwloc_get_nbobjs_by_type(t, type))); }

int numa_of(hwloc_topology_t t, hwloc_obj_t io) {
  hwloc_obj_t parent = hwloc_get_non_io_ancestor_obj(t, io);
  if (!parent || !parent->nodeset || hwloc_bitmap_weight(parent->nodeset) != 1) return -1;
  return hwloc_bitmap_first(parent->nodeset);
}

void read_caches(hwloc_topology_t t, MachineInfo& m) {
  for (auto type : {HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE, HWLOC_OBJ_L4CACHE})
    for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_obj_by_type(t, type, o));) {
      char name[32];
      hwloc_obj_type_snprintf(name, sizeof name, o, 0);
      auto same = [&](const CacheInfo& c) { return c.name == name && c.bytes == o->attr->cache.size; };
      auto it = std::find_if(m.caches.begin(), m.caches.end(), same);
      if (it == m.caches.end()) m.caches.push_back({name, o->attr->cache.size, 1});
      else ++it->count;
    }
}

void read_numa(hwloc_topology_t t, MachineInfo& m) {
  for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_obj_by_type(t, HWLOC_OBJ_NUMANODE, o));) {
    char cores[256];
    hwloc_bitmap_list_snprintf(cores, sizeof cores, o->cpuset);
    m.numa.push_back({o->os_index, o->attr->numanode.local_memory, cores});
  }
}

void read_pci(hwloc_topology_t t, MachineInfo& m) {
  for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_pcidev(t, o));) {
    auto& p = o->attr->pcidev;
    std::string what = pci_name(p.vendor_id, p.device_id);
    if (what.empty() && p.class_id >> 8 == 0x02) what = "network controller";  // PCI base class 02h
    if (what.empty()) continue;
    m.pci.push_back({fmt::format("{:04x}:{:02x}:{:02x}.{:x}", unsigned(p.domain), p.bus, p.dev, p.func), what, p.vendor_id, p.device_id,
                     numa_of(t, o)});
  }
}

}  // namespace

std::string pci_name(uint16_t vendor, uint16_t device) {
  if (vendor != kAmazon) return "";
  if ((device & 0xfff0) == 0xefa0) return "EFA";  // 0xefa0..0xefa3 so far
  for (auto& id : kNeuron)
    if (id.device == device) return id.what;
  return "";
}

Result<MachineInfo> probe_machine() {
  hwloc_topology* raw = nullptr;
  if (hwloc_topology_init(&raw)) return Error(BATON_IO, "hwloc cannot make a topology", "");
  Topology t(raw);
  hwloc_topology_set_io_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_ALL);  // Neuron chips are system peripherals, which hwloc does not call important
  if (hwloc_topology_load(raw))
    return Error(BATON_IO, fmt::format("hwloc cannot read this machine's topology (errno {})", errno), "see that /sys is mounted and readable");

  MachineInfo m;
  hwloc_obj_t package = hwloc_get_obj_by_type(raw, HWLOC_OBJ_PACKAGE, 0);
  const char* cpu = package ? hwloc_obj_get_info_by_name(package, "CPUModel") : nullptr;
  m.cpu = cpu ? cpu : "unknown CPU";
  m.cpu.erase(m.cpu.find_last_not_of(' ') + 1);
  utsname u{};
  if (!uname(&u)) m.kernel = fmt::format("{} {} {}", u.sysname, u.release, u.machine);
  m.packages = count(raw, HWLOC_OBJ_PACKAGE);
  m.cores = count(raw, HWLOC_OBJ_CORE);
  m.threads = count(raw, HWLOC_OBJ_PU);
  // sysfs, which hwloc reads, leaves out memory that was added while the machine ran
  m.memory_bytes = uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE));
  read_caches(raw, m);
  read_numa(raw, m);
  if (m.numa.size() == 1) m.numa[0].memory_bytes = m.memory_bytes;
  read_pci(raw, m);
  return m;
}

json machine_json(const MachineInfo& m) {
  json caches = json::array(), numa = json::array(), pci = json::array();
  for (auto& c : m.caches) caches.push_back({{"name", c.name}, {"bytes", c.bytes}, {"count", c.count}});
  for (auto& n : m.numa) numa.push_back({{"node", n.index}, {"bytes", n.memory_bytes}, {"cores", n.cores}});
  for (auto& p : m.pci)
    pci.push_back({{"bdf", p.bdf},
                   {"what", p.what},
                   {"vendor", fmt::format("{:04x}", p.vendor)},
                   {"device", fmt::format("{:04x}", p.device)},
                   {"numa_node", p.numa_node < 0 ? json(nullptr) : json(p.numa_node)}});
  return {{"cpu", m.cpu},         {"kernel", m.kernel}, {"packages", m.packages},         {"cores", m.cores}, {"threads", m.threads},
          {"memory_bytes", m.memory_bytes}, {"caches", caches},   {"numa", numa}, {"pci", pci}};
}

void machine_rows(Table& t, const json& m) {
  auto n = [&](const char* key) { return m.at(key).get<uint64_t>(); };
  t.row({"  cpu", fmt::format("{}: {} package{}, {} cores, {} threads, {}", clean(m.at("cpu").get<std::string>()), n("packages"), n("packages") == 1 ? "" : "s", n("cores"), n("threads"),
                              bytes_text(n("memory_bytes")))});
  std::vector<std::string> caches;
  for (auto& c : m.at("caches")) caches.push_back(fmt::format("{} {} x{}", c.at("name").get<std::string>(), bytes_text(c.at("bytes").get<uint64_t>()), c.at("count").get<uint64_t>()));
  t.row({"  caches", caches.empty() ? "unknown" : fmt::format("{}", fmt::join(caches, ", "))});
  for (auto& x : m.at("numa"))
    t.row({fmt::format("  NUMA {}", x.at("node").get<uint64_t>()), fmt::format("cores {}, {}", x.at("cores").get<std::string>(), bytes_text(x.at("bytes").get<uint64_t>()))});
  for (auto& p : m.at("pci"))
    t.row({"  PCI", fmt::format("{}  {} ({}:{}){}", p.at("bdf").get<std::string>(), p.at("what").get<std::string>(), p.at("vendor").get<std::string>(), p.at("device").get<std::string>(),
                                p.at("numa_node").is_null() ? "" : fmt::format(", NUMA {}", p.at("numa_node").get<int>()))});
  if (m.at("pci").empty()) t.row({"  PCI", "no Neuron device, EFA or network controller"});
}

}  // namespace baton::devctl
