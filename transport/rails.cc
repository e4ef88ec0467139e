#include "transport/rails.hpp"

#include "transport/affinity.hpp"

#include <algorithm>

namespace baton::transport {

Result<std::vector<Nic>> rails_of(Endpoint::Impl& ep, const std::string& fabric, const void* memory, uint64_t bytes) {
  BATON_ASSIGN(std::vector<Nic> nics, pick_nics(fabric, ep.options.rails));
  if (ep.options.rails == "all" && nics.size() > 1 && memory)
    if (auto a = Affinity::of_this_machine(); a.ok()) { // without one, in the order of the interfaces
      const Affinity::Place place = a->of_memory(memory, bytes);
      auto far = [&](const Nic& n) { return std::min(a->distance(n.name, place), a->distance(n.device, place)); };
      std::stable_sort(nics.begin(), nics.end(), [&](const Nic& x, const Nic& y) { return far(x) < far(y); });
    }
  if (nics.size() > kMaxRails) nics.resize(kMaxRails);
  return nics;
}

}  // namespace baton::transport
