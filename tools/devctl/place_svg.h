// place_svg.h: a placement as a picture: wafers side by side, their regions, what fills them, the way that an activation takes.
//
// Owner    a string.   Threads  any.   Cost  about 1 ms for 80 layers.   Errors  none.
//
//     std::string svg = placement_svg(placement, "llama 70.6B bf16", placement.kv_tokens);
#pragma once

#include "drivers/cs3/placement/place.hpp"

#include <string>

namespace baton::devctl {

// `tokens`: how many are shown as KV.
std::string placement_svg(const cs3::Placement&, const std::string& title, uint64_t tokens);

}  // namespace baton::devctl
