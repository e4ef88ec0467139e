#include "emulators/neuron/hwloc_xml.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>

namespace baton::neuron_emu {
namespace {

// A bitmap of [from, from + count) as hwloc writes it: 32 bits a word, highest first.
std::string bits(uint32_t from, uint32_t count) {
  std::string text;
  for (uint32_t word = (from + count - 1) / 32 + 1; word-- > 0;) {
    uint32_t value = 0;
    for (uint32_t b = 0; b < 32; ++b)
      if (word * 32 + b >= from && word * 32 + b < from + count) value |= 1u << b;
    text += fmt::format("{}0x{:08x}", text.empty() ? "" : ",", value);
  }
  return text;
}

struct Function {
  std::string bdf;
  uint16_t kind, vendor, device;
  bool operator<(const Function& o) const { return bdf < o.bdf; }
};

class Writer {
 public:
  std::string text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n<topology version=\"2.0\">\n";
  // Of a CPU-side object.
  void open(const char* type, uint32_t index, uint32_t first, uint32_t cpus, uint32_t node, uint32_t nodes, const std::string& more = "", bool leaf = false) {
    const std::string cpu = bits(first, cpus), node_bits = bits(node, nodes);
    text += fmt::format("<object type=\"{}\" os_index=\"{}\" cpuset=\"{}\" complete_cpuset=\"{}\" nodeset=\"{}\" complete_nodeset=\"{}\" gp_index=\"{}\"{}{}>\n", type,
                        index, cpu, cpu, node_bits, node_bits, ++ids_, more, leaf ? "/" : "");
  }
  void bridge(const std::vector<Function>& below) {
    text += fmt::format("<object type=\"Bridge\" gp_index=\"{}\" bridge_type=\"0-1\" depth=\"0\" bridge_pci=\"{}:[{}-{}]\">\n", ++ids_, below.front().bdf.substr(0, 4),
                        below.front().bdf.substr(5, 2), below.back().bdf.substr(5, 2));
    for (const Function& f : below)
      text += fmt::format("<object type=\"PCIDev\" gp_index=\"{}\" pci_busid=\"{}\" pci_type=\"{:04x} [{:04x}:{:04x}] [{:04x}:{:04x}] 00\" pci_link_speed=\"0.000000\"/>\n",
                          ++ids_, f.bdf, f.kind, f.vendor, f.device, f.vendor, f.device);
    close();
  }
  void close() { text += "</object>\n"; }

 private:
  uint32_t ids_ = 0;
};

constexpr uint16_t kEthernet = 0x0200;  // PCI class

// By NUMA node and PCI domain: one host bridge each.
std::map<std::pair<uint32_t, std::string>, std::vector<Function>> functions(const MachineData& m, uint32_t chips) {
  std::map<std::pair<uint32_t, std::string>, std::vector<Function>> all;
  auto add = [&](uint32_t numa, Function f) {
    auto& list = all[{numa, f.bdf.substr(0, 4)}];
    if (std::none_of(list.begin(), list.end(), [&](const Function& o) { return o.bdf == f.bdf; })) list.push_back(std::move(f));  // a NIC of two chips
  };
  const ChipData& c = m.chip;
  for (uint32_t i = 0; i < chips; ++i) {
    const DeviceData& d = m.devices[i];
    add(d.numa, {d.bdf, c.pci_class, c.pci_vendor, c.pci_device});
    for (const std::string& efa : d.efa) add(d.numa, {efa, kEthernet, c.pci_vendor, c.efa_device});
  }
  for (const std::string& efa : m.host_efa) add(0, {efa, kEthernet, c.pci_vendor, c.efa_device});
  for (auto& [place, list] : all) std::sort(list.begin(), list.end());
  return all;
}

}  // namespace

std::string hwloc_xml(const MachineData& m, uint32_t chips) {
  Writer w;
  const uint32_t nodes = m.numa_nodes, cpus = std::max(nodes, m.vcpus), each = cpus / nodes;
  w.open("Machine", 0, 0, each * nodes, 0, nodes,
         fmt::format(" allowed_cpuset=\"{}\" allowed_nodeset=\"{}\"", bits(0, each * nodes), bits(0, nodes)));
  const auto pci = functions(m, chips);
  for (uint32_t node = 0; node < nodes; ++node) {
    w.open("Package", node, node * each, each, node, 1);
    w.open("NUMANode", node, node * each, each, node, 1, fmt::format(" local_memory=\"{}\"", m.host_bytes / nodes), true);
    for (uint32_t cpu = 0; cpu < each; cpu += 2) {
      const uint32_t first = node * each + cpu, threads = std::min(2u, each - cpu);
      w.open("Core", first / 2, first, threads, node, 1);
      for (uint32_t t = 0; t < threads; ++t) w.open("PU", first + t, first + t, 1, node, 1, "", true);
      w.close();
    }
    for (const auto& [place, list] : pci)
      if (place.first == node) w.bridge(list);
    w.close();
  }
  w.close();
  return w.text + "</topology>\n";
}

}  // namespace baton::neuron_emu
