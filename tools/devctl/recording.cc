#include "tools/devctl/recording.h"

#include "hal/json_depth.hpp"
#include "hal/layers/record/contents.h"

#include <fmt/format.h>

#include <fstream>

namespace baton::devctl {
namespace {

using nlohmann::json;

Error corrupt(const std::string& path, size_t line, const std::string& what) {
  return Error(BATON_CORRUPT, fmt::format("{} line {}: {}", path, line, what), "record anew: BATON_LAYERS=record=FILE");
}

Status take_contents(const std::string& path, size_t line, const json& j, Recording& r) {
  auto bytes = layers::from_base64(j.value("base64", ""));
  const std::string name = j["blob"].get<std::string>();
  if (!bytes || layers::hash_of(bytes->data(), bytes->size()) != name) return corrupt(path, line, "contents do not have the hash that names them");
  r.contents[name] = std::move(*bytes);
  return {};
}

// The contents that issuing the call again needs.
void needs(const json& j, std::set<std::string>& all) {
  for (const char* key : {"host", "holds"})
    if (j.is_object() && j.contains(key) && j[key].is_string()) all.insert(j[key].get<std::string>());
  for (const char* key : {"src", "constants", "bindings"}) {
    if (!j.is_object() || !j.contains(key)) continue;
    if (j[key].is_array())
      for (const json& one : j[key]) needs(one, all);
    else needs(j[key], all);
  }
}

Status take_line(const std::string& path, size_t line, json j, Recording& r) {
  if (j.contains("blob")) return take_contents(path, line, j, r);
  RecordedCall c{line, j.at("call").get<std::string>(), std::move(j)};
  if (c.name == "queue_open") r.with_queues.insert(c.fields.at("device").get<uint64_t>());
  if (c.name == "returned")
    for (const json& op : c.fields.at("ops")) r.returned.insert(op.get<uint64_t>());
  r.calls.push_back(std::move(c));
  return {};
}

}  // namespace

Result<Recording> read_recording(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Error(BATON_NOT_FOUND, "cannot read the recording '" + path + "'", "record one: BATON_LAYERS=record=FILE");
  Recording r;
  size_t number = 0;
  for (std::string text; std::getline(file, text);) {
    ++number;
    if (json_too_deep(text)) return corrupt(path, number, "too many brackets");
    try {
      json j = json::parse(text);
      if (number == 1 && j.value("schema", "") != "baton.record/1") return corrupt(path, 1, "this is no recording of version 1");
      if (number > 1) BATON_TRY(take_line(path, number, std::move(j), r));
    } catch (const json::exception& e) {
      return corrupt(path, number, e.what());
    }
  }
  if (!number) return corrupt(path, 1, "the file is empty");
  std::set<std::string> needed;
  for (const RecordedCall& c : r.calls)
    if (c.name == "load" || c.name == "submit") needs(c.fields, needed);
  size_t missing = 0;
  for (const std::string& name : needed) missing += !r.contents.count(name);
  if (missing)
    return Error(BATON_UNSUPPORTED, fmt::format("{} of {} contents that a replay needs are in {} by their hash alone", missing, needed.size(), path),
                 "record with a larger limit: BATON_LAYERS=record=FILE?inline=1000000000");
  return r;
}

}  // namespace baton::devctl
