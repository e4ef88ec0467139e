#include "emulators/cs3/ground.h"

namespace baton::cs3 {

std::vector<timing::Ground> grounds_of(const Shape& s, const Placement& p) {
  constexpr uint32_t kAll = UINT32_MAX;  // wafers
  const uint32_t last = uint32_t(p.wafers.size()) - 1;
  const bool spread = p.request.ends == Ends::spread && last > 0;
  std::vector<const Region*> layers(s.layers.size());
  const Region* ends = &p.regions.front();  // ends that keep nothing run beside a layer
  for (auto r = p.regions.rbegin(); r != p.regions.rend(); ++r) {
    if (r->layer == kEnds) ends = &*r;
    else layers[r->layer] = &*r;
  }
  std::vector<timing::Ground> all;
  uint32_t at = spread ? kAll : last;  // wafer of the op before: what is sampled goes back to the first
  bool behind = false;                 // the layers
  for (const uint32_t part : s.part_of_op) {
    const Region& r = part == kEnds ? *ends : *layers[part];
    behind = behind || part != kEnds;
    const uint32_t wafer = part != kEnds ? r.wafer : spread ? kAll : behind ? last : 0;
    all.push_back({r.at.w, r.at.h, wafer != at});
    at = wafer;
  }
  if (spread && !all.empty()) ++all.back().hops;
  return all;
}

}  // namespace baton::cs3
