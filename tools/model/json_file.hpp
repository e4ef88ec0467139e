// json_file.hpp: JSON documents of a checkpoint, read without exceptions.
//
// Owner    returns values.   Threads  any.   Cost  one read of the file.
// Errors   INVALID_ARGUMENT: no such file (or over `max_bytes`); CORRUPT: not JSON, or a field of the wrong type (named).
//
//     BATON_ASSIGN(nlohmann::json doc, read_json(dir + "/config.json"));
//     BATON_ASSIGN(uint64_t layers, Fields("config.json", doc).u64("num_hidden_layers"));
#pragma once

#include "hal/baton.hpp"

#include <nlohmann/json.hpp>

#include <optional>
#include <string>

namespace baton::model {

Result<std::string> read_text(const std::string& path, uint64_t max_bytes = 1ull << 30);
Result<nlohmann::json> parse_json(const std::string& where, std::string_view text);
Result<nlohmann::json> read_json(const std::string& path);
bool file_exists(const std::string& path);

// A non-negative integer, however it came to be (parsed or built).
bool is_u64(const nlohmann::json&);

// Typed access to one object; every error names the document and the field. `null` counts as absent.
class Fields {
 public:
  Fields(std::string where, const nlohmann::json& object) : where_(std::move(where)), object_(object) {}
  const nlohmann::json* find(const char* key) const;  // nullptr: absent or null
  Result<uint64_t> u64(const char* key, std::optional<uint64_t> fallback = {}) const;
  Result<double> number(const char* key, std::optional<double> fallback = {}) const;
  Result<bool> boolean(const char* key, bool fallback) const;
  Result<std::string> string(const char* key, std::optional<std::string> fallback = {}) const;

 private:
  Error missing(const char* key) const;
  Error wrong(const char* key, const char* wanted) const;
  std::string where_;
  const nlohmann::json& object_;
};

}  // namespace baton::model
