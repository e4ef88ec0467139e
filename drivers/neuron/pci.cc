#include "drivers/neuron/pci.hpp"

#include "drivers/neuron/quirks.hpp"

#include <fmt/format.h>
#include <hwloc.h>

#include <memory>

namespace baton::neuron {
namespace {

struct Destroy {
  void operator()(hwloc_topology* t) const { hwloc_topology_destroy(t); }
};

uint32_t numa_of(hwloc_topology_t t, hwloc_obj_t io) {
  hwloc_obj_t parent = hwloc_get_non_io_ancestor_obj(t, io);
  if (!parent || !parent->nodeset || hwloc_bitmap_weight(parent->nodeset) != 1) return UINT32_MAX;
  return uint32_t(hwloc_bitmap_first(parent->nodeset));
}

}  // namespace

std::vector<PciChip> pci_chips() {
  std::vector<PciChip> all;
  hwloc_topology* raw = nullptr;
  if (hwloc_topology_init(&raw)) return all;
  std::unique_ptr<hwloc_topology, Destroy> topology(raw);
  hwloc_topology_set_io_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_ALL);
  if (hwloc_topology_load(raw)) return all;
  for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_pcidev(raw, o));) {
    const auto& p = o->attr->pcidev;
    for (const PciId& id : kPciIds)
      if (p.vendor_id == kPciVendor && p.device_id == id.device)
        all.push_back({fmt::format("{:04x}:{:02x}:{:02x}.{:x}", unsigned(p.domain), p.bus, p.dev, p.func), id.family, numa_of(raw, o)});
  }
  return all;
}

}  // namespace baton::neuron
