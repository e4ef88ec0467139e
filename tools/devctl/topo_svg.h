// topo_svg.h: a machine drawn: NUMA nodes as boxes, in them chips and NICs, between devices the copy paths.
//
// Owner    plain function.   Threads  any.   Cost  linear in what is drawn.   Errors  json::exception for a document that is no topo's.
//
//     file << topo_svg(doc);
#pragma once

#include <nlohmann/json.hpp>

#include <string>

namespace baton::devctl {

std::string topo_svg(const nlohmann::ordered_json& topo);  // a document of `topo`

}  // namespace baton::devctl
