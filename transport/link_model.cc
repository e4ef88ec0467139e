// LinkModel: a transfer's modelled cost from the embedded links.json.
#include "transport/kv_link.hpp"

#include "transport/links_json.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace baton::transport {

double LinkModel::cost_ns(uint64_t bytes, uint64_t segments) const {
  if (bytes == 0) return 0;
  const double by_bytes = bytes_per_ns > 0 ? double(bytes) / bytes_per_ns : 0;
  const double by_ops = ops_per_ns > 0 ? double(segments) / ops_per_ns : 0;
  return base_ns + std::max(by_bytes, by_ops);
}

Result<LinkModel> link_model(const std::string& name) {
  static const auto json = nlohmann::json::parse(kLinksJson, nullptr, false); // every transfer asks
  if (!json.is_object() || !json.contains("links")) return Error(BATON_INTERNAL, "the embedded link models do not parse", "rebuild");
  const std::string wanted = name.empty() ? json.value("default", "") : name;
  std::string known;
  for (const auto& l : json["links"]) {
    const std::string n = l.value("name", "");
    known += (known.empty() ? "" : ", ") + n;
    if (n == wanted) return LinkModel{n, l.value("base_ns", 0.0), l.value("bytes_per_ns", 0.0), l.value("ops_per_ns", 0.0)};
  }
  return Error(BATON_NOT_FOUND, fmt::format("no link model '{}'", wanted), "known: " + known);
}

}  // namespace baton::transport
