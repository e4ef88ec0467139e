// Which of a host's NICs is near to a device or a piece of memory: on a topology of this test's own.
#include "transport_test.hpp"

#include "transport/affinity.hpp"

namespace baton::transport {
namespace {

// Two sockets; on the first a PCI switch with an accelerator and an EFA adapter, and a second adapter beside it; on the other one more.
constexpr char kTopology[] = R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
 <object type="Machine" os_index="0" cpuset="0x3" complete_cpuset="0x3" allowed_cpuset="0x3" nodeset="0x3" complete_nodeset="0x3" allowed_nodeset="0x3" gp_index="1">
  <object type="Package" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="2">
   <object type="NUMANode" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="3" local_memory="1000000"/>
   <object type="Core" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="4">
    <object type="PU" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="5"/>
   </object>
   <object type="Bridge" gp_index="6" bridge_type="0-1" depth="0" bridge_pci="0000:[10-2f]">
    <object type="Bridge" gp_index="7" bridge_type="1-1" depth="1" bridge_pci="0000:[11-12]" pci_busid="0000:10:00.0" pci_type="0604 [1d0f:0200] [0000:0000] 01" pci_link_speed="0.000000">
     <object type="PCIDev" gp_index="8" pci_busid="0000:11:00.0" pci_type="0c00 [1d0f:7364] [0000:0000] 01" pci_link_speed="0.000000"/>
     <object type="PCIDev" gp_index="9" pci_busid="0000:12:00.0" pci_type="0200 [1d0f:efa2] [0000:0000] 01" pci_link_speed="0.000000">
      <object type="OSDev" gp_index="10" name="rdmap18s0" osdev_type="3"/>
     </object>
    </object>
    <object type="PCIDev" gp_index="11" pci_busid="0000:20:00.0" pci_type="0200 [1d0f:efa2] [0000:0000] 01" pci_link_speed="0.000000">
     <object type="OSDev" gp_index="12" name="rdmap32s0" osdev_type="3"/>
    </object>
   </object>
  </object>
  <object type="Package" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2" complete_nodeset="0x2" gp_index="13">
   <object type="NUMANode" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2" complete_nodeset="0x2" gp_index="14" local_memory="1000000"/>
   <object type="Core" os_index="0" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2" complete_nodeset="0x2" gp_index="15">
    <object type="PU" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2" complete_nodeset="0x2" gp_index="16"/>
   </object>
   <object type="Bridge" gp_index="17" bridge_type="0-1" depth="0" bridge_pci="0000:[80-90]">
    <object type="PCIDev" gp_index="18" pci_busid="0000:80:00.0" pci_type="0200 [1d0f:efa2] [0000:0000] 01" pci_link_speed="0.000000">
     <object type="OSDev" gp_index="19" name="rdmap128s0" osdev_type="3"/>
    </object>
   </object>
  </object>
 </object>
</topology>
)";

TEST(Affinity, ASwitchThenANodeThenTheRest) {
  const Affinity a = must(Affinity::of_xml(kTopology));
  const Affinity::Place chip{-1, "0000:11:00.0"}, first{0}, second{1};
  EXPECT_EQ(a.distance("rdmap18s0", chip), Affinity::same_switch);
  EXPECT_EQ(a.distance("rdmap32s0", chip), Affinity::same_node) << "a root complex is no switch";
  EXPECT_EQ(a.distance("rdmap128s0", chip), Affinity::other_node);
  EXPECT_EQ(a.distance("rdmap18s0", first), Affinity::same_node);
  EXPECT_EQ(a.distance("rdmap18s0", second), Affinity::other_node);
  EXPECT_EQ(a.distance("rdmap128s0", second), Affinity::same_node);
  EXPECT_EQ(a.distance("veth0", first), Affinity::unknown);
  EXPECT_EQ(a.distance("", first), Affinity::unknown);
  EXPECT_EQ(a.distance("rdmap18s0", {}), Affinity::unknown);
  EXPECT_FALSE(Affinity::of_xml("<topology>").ok());
}

TEST(Affinity, MemoryOfThisMachineLiesSomewhere) {
  const Affinity a = must(Affinity::of_this_machine());
  std::vector<uint8_t> touched(1 << 20, 1);
  const auto p = a.of_memory(touched.data(), touched.size());
  EXPECT_GE(p.node, -1); // -1: on several
  EXPECT_TRUE(p.pci.empty());
}

}  // namespace
}  // namespace baton::transport
