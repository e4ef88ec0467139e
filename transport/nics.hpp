// nics.hpp: the network interfaces of this host that a fabric could use as rails.
//
// tcp goes by any interface with an address, verbs and ofi-verbs by those that an RDMA device belongs to, efa by EFA devices, which have no address.
//
// Owner    plain data.   Threads  any.   Cost  a few reads of /sys and getifaddrs: under a millisecond.
// Errors   INVALID_ARGUMENT for a name that is not there, UNSUPPORTED where none can be used. list_nics() has none: a NIC says why not.
//
//     for (auto& n : list_nics("verbs")) printf("%s %s %s\n", n.name.c_str(), n.host.c_str(), n.why_not.c_str());
#pragma once

#include "hal/baton.hpp"

#include <string>
#include <vector>

namespace baton::transport {

struct Nic {
  std::string name;    // "eth0"; of efa the RDMA device's
  std::string host;    // numeric address, "" where it has none
  uint32_t prefix = 0; // bits of the address that its network shares
  std::string device;  // the RDMA device, "" if it has none
  std::string why_not; // "": usable
};

bool has_rails(const std::string& fabric); // it can go by several NICs at once
std::vector<Nic> list_nics(const std::string& fabric);
// What EndpointOptions::rails means here: "all" that can be used now, or names and addresses, those that are down too. In that order.
Result<std::vector<Nic>> pick_nics(const std::string& fabric, const std::string& rails);
// `host` is in the network of `nic`.
bool in_network(const Nic& nic, const std::string& host);

}  // namespace baton::transport
