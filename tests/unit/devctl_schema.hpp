// devctl_schema.hpp: a document against its JSON schema (tools/devctl/schemas): the part of JSON Schema that those files use, and nothing
// else: a word that is not understood is a problem, so that no rule is passed over in silence.
//
// Owner    plain functions.   Threads  one.   Errors  returned: "" is valid, else where and what.
//
//     EXPECT_EQ(schema_problem(document), "");
#pragma once

#include <nlohmann/json.hpp>

#include <fstream>
#include <set>
#include <string>

namespace baton::test {

inline const nlohmann::json& schema_file(const std::string& name) {  // "list"
  static std::map<std::string, nlohmann::json> files;
  auto it = files.find(name);
  if (it != files.end()) return it->second;
  std::ifstream in(std::string(BATON_SOURCE_DIR) + "/tools/devctl/schemas/" + name + ".json");
  return files[name] = in ? nlohmann::json::parse(in) : nlohmann::json();
}

inline bool is_type(const nlohmann::json& v, const std::string& type) {
  if (type == "string") return v.is_string();
  if (type == "integer") return v.is_number_integer();
  if (type == "number") return v.is_number();
  if (type == "boolean") return v.is_boolean();
  if (type == "array") return v.is_array();
  if (type == "object") return v.is_object();
  return type == "null" && v.is_null();
}

inline std::string problem(const nlohmann::json& v, const nlohmann::json& schema, const std::string& at) {
  static const std::set<std::string> known = {"$schema", "title", "$ref", "type", "const", "enum", "anyOf", "items", "properties", "required", "additionalProperties"};
  for (auto& [word, rule] : schema.items())
    if (!known.contains(word)) return at + ": the schema's '" + word + "' is not understood";
  if (auto ref = schema.find("$ref"); ref != schema.end()) {
    const std::string file = *ref;
    const nlohmann::json& other = schema_file(file.substr(0, file.size() - 5));
    return other.is_null() ? at + ": no schema " + file : problem(v, other, at);
  }
  if (auto c = schema.find("const"); c != schema.end() && v != *c) return at + ": is " + v.dump() + ", not " + c->dump();
  if (auto e = schema.find("enum"); e != schema.end() && std::find(e->begin(), e->end(), v) == e->end()) return at + ": " + v.dump() + " is none of " + e->dump();
  if (auto any = schema.find("anyOf"); any != schema.end()) {
    std::string why;
    for (auto& s : *any) {
      const std::string p = problem(v, s, at);
      if (p.empty()) return "";
      why += "\n  " + p;
    }
    return at + ": fits none of its forms:" + why;
  }
  if (auto type = schema.find("type"); type != schema.end()) {
    bool fits = false;
    if (type->is_string()) fits = is_type(v, *type);
    else
      for (auto& t : *type) fits |= is_type(v, t);
    if (!fits) return at + ": " + v.dump().substr(0, 60) + " is no " + type->dump();
  }
  if (v.is_array() && schema.contains("items"))
    for (size_t i = 0; i < v.size(); ++i)
      if (std::string p = problem(v[i], schema["items"], at + "[" + std::to_string(i) + "]"); !p.empty()) return p;
  if (!v.is_object()) return "";
  for (auto& name : schema.value("required", nlohmann::json::array()))
    if (!v.contains(name)) return at + ": lacks " + name.dump();
  const auto properties = schema.value("properties", nlohmann::json::object());
  for (auto& [key, value] : v.items()) {
    auto rule = properties.find(key);
    const nlohmann::json* use = rule != properties.end() ? &*rule : nullptr;
    if (!use && schema.contains("additionalProperties")) {
      const auto& more = schema["additionalProperties"];
      if (more.is_boolean() && !more.get<bool>()) return at + ": '" + key + "' is not in the schema";
      if (more.is_object()) use = &more;
    }
    if (!use) continue;
    if (std::string p = problem(value, *use, at + "." + key); !p.empty()) return p;
  }
  return "";
}

// Of a document by the schema that it names itself.
inline std::string schema_problem(const nlohmann::json& document) {
  const std::string name = document.is_object() ? document.value("schema", "") : "";
  const std::string head = "baton.devctl.", tail = "/1";
  if (name.size() <= head.size() + tail.size() || name.rfind(head, 0) != 0) return "no schema of devctl: '" + name + "'";
  const nlohmann::json& schema = schema_file(name.substr(head.size(), name.size() - head.size() - tail.size()));
  return schema.is_null() ? "no file for " + name : problem(document, schema, "$");
}

}  // namespace baton::test
