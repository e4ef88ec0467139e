#include "transport/affinity.hpp"

#include <fmt/format.h>
#include <hwloc.h>

#include <cerrno>

namespace baton::transport {
namespace {

Result<hwloc_topology*> load(const std::string* xml) {
  hwloc_topology* t = nullptr;
  if (hwloc_topology_init(&t)) return Error(BATON_IO, "hwloc cannot make a topology", "see that there is memory");
  hwloc_topology_set_io_types_filter(t, HWLOC_TYPE_FILTER_KEEP_ALL); // bridges too: they tell who shares a switch
  if ((xml && hwloc_topology_set_xmlbuffer(t, xml->c_str(), int(xml->size() + 1))) || hwloc_topology_load(t)) {
    const int err = errno;
    hwloc_topology_destroy(t);
    return Error(BATON_IO, fmt::format("hwloc cannot read {} topology (errno {})", xml ? "that" : "this machine's", err), "see that /sys is mounted and readable");
  }
  return t;
}

hwloc_obj_t find_device(hwloc_topology* t, const std::string& name) {
  for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_osdev(t, o));)
    if (o->name && name == o->name) return o;
  return nullptr;
}

// Below the root complex: what two devices share there is a switch's.
bool is_switch(hwloc_obj_t o) { return o->type == HWLOC_OBJ_BRIDGE && o->attr->bridge.upstream_type == HWLOC_OBJ_BRIDGE_PCI; }

hwloc_obj_t common_ancestor(hwloc_obj_t a, hwloc_obj_t b) {
  for (; a; a = a->parent)
    for (hwloc_obj_t x = b; x; x = x->parent)
      if (x == a) return a;
  return nullptr;
}

int node_of(hwloc_topology* t, hwloc_obj_t io) {
  const hwloc_obj_t host = hwloc_get_non_io_ancestor_obj(t, io);
  return host && host->nodeset && hwloc_bitmap_weight(host->nodeset) == 1 ? hwloc_bitmap_first(host->nodeset) : -1;
}

} // namespace

void Affinity::Free::operator()(hwloc_topology* t) const { hwloc_topology_destroy(t); }

Result<Affinity> Affinity::of_this_machine() {
  BATON_ASSIGN(hwloc_topology * t, load(nullptr));
  return Affinity(t);
}

Result<Affinity> Affinity::of_xml(const std::string& xml) {
  BATON_ASSIGN(hwloc_topology * t, load(&xml));
  return Affinity(t);
}

Affinity::Place Affinity::of_memory(const void* base, uint64_t bytes) const {
  Place p;
  const hwloc_nodeset_t nodes = hwloc_bitmap_alloc();
  if (nodes && !hwloc_get_area_memlocation(topology_.get(), base, bytes, nodes, HWLOC_MEMBIND_BYNODESET) && hwloc_bitmap_weight(nodes) == 1) p.node = hwloc_bitmap_first(nodes);
  hwloc_bitmap_free(nodes);
  return p;
}

uint32_t Affinity::distance(const std::string& device, const Place& place) const {
  const hwloc_obj_t nic = device.empty() ? nullptr : find_device(topology_.get(), device);
  if (!nic) return unknown;
  int node = place.node;
  if (!place.pci.empty())
    if (const hwloc_obj_t other = hwloc_get_pcidev_by_busidstring(topology_.get(), place.pci.c_str())) {
      const hwloc_obj_t shared = common_ancestor(nic, other);
      if (shared && is_switch(shared)) return same_switch;
      if (node < 0) node = node_of(topology_.get(), other);
    }
  const int mine = node_of(topology_.get(), nic);
  return mine < 0 || node < 0 ? unknown : mine == node ? same_node : other_node;
}

}  // namespace baton::transport
