// fabrics.hpp: which fabrics this machine has, for people.
//
// Owner    plain data.   Threads  any.   Cost  libfabric's providers are asked: milliseconds.   Errors  none: a fabric that is not there
//          says why.
//
//     for (auto& f : list_fabrics()) printf("%s %s %s\n", f.name.c_str(), f.available ? "yes" : "no", f.reason.c_str());
#pragma once

#include "transport/nics.hpp"

namespace baton::transport {

struct FabricInfo {
  std::string name;     // as in TransferOptions::fabric
  std::string provider; // "memfd", "libfabric shm"
  bool available = false;
  std::string reason;   // why not, or what it is good for
  std::vector<Nic> nics{}; // that could be its rails (EndpointOptions::rails), each with why not; empty: it has none
};
std::vector<FabricInfo> list_fabrics();

}  // namespace baton::transport
