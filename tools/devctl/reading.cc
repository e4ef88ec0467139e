#include "tools/devctl/reading.h"

#include "tools/devctl/verbs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>

namespace baton::devctl {
namespace {

constexpr char kSchema[] = "baton.devctl.snapshot/1";
constexpr Reading kReadings[] = {{"version", version_document}, {"list", list_document},     {"info", info_document},
                                 {"topo", topo_document},       {"fabric", fabric_document}, {"summary", summary_document},
                                 {"who", who_document},         {"stats", stats_document},   {"health", health_document},
                                 {"env", env_document}};

}  // namespace

std::span<const Reading> readings() { return kReadings; }

bool reads(std::string_view verb) {
  return std::any_of(std::begin(kReadings), std::end(kReadings), [&](auto& r) { return verb == r.name; });
}

Result<Snapshot> Snapshot::load(const std::string& file) {
  std::ifstream in(file);
  if (!in) return Error(BATON_NOT_FOUND, fmt::format("{}: cannot be read", file), "name a file that devctl snapshot wrote");
  Snapshot s;
  s.file_ = file;
  s.all_ = json::parse(in, nullptr, false);
  if (!s.all_.is_object() || s.all_.value("schema", json()) != kSchema || !s.all_.contains("documents") || !s.all_["documents"].is_object())
    return Error(BATON_CORRUPT, fmt::format("{} is no snapshot ({})", file, kSchema), "name a file that devctl snapshot wrote");
  return s;
}

Result<json> Snapshot::document(std::string_view name) const {
  const json& docs = all_["documents"];
  auto it = docs.find(std::string(name));
  if (it == docs.end()) return Error(BATON_NOT_FOUND, fmt::format("{} has no '{}'", file_, name), "it was taken by another release: take it again");
  if (it->contains("error")) {
    const json& e = (*it)["error"];
    return Error(BATON_FAILED, fmt::format("could not be read when {} was taken: {}", file_, e.value("what", "")), e.value("next", ""));
  }
  json doc = *it;
  doc.erase("schema");
  return doc;
}

std::string Snapshot::origin() const { return fmt::format("{} at {}", all_.value("host", "?"), all_.value("taken", "?")); }

Result<json> reading(const Context& c, std::string_view name, Reader read) {
  if (c.from) return c.from->document(name);
  return read(c);
}

Result<json> chosen(const json& list, const std::string& selector) {
  if (selector.empty() || selector == "all") return list;
  json out = json::array();
  std::vector<std::string> names;
  for (auto& d : list) {
    const std::string name = d.value("name", ""), uri = d.value("uri", "");
    if (matches(selector, name) || selector == uri) out.push_back(d);
    names.push_back(clean(name));
  }
  if (out.empty())
    return Error(BATON_NOT_FOUND, fmt::format("no device here is called '{}'; there is {}", clean(selector).substr(0, 100), names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "))),
                 "devctl list shows what there is");
  return out;
}

}  // namespace baton::devctl
