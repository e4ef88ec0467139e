#include "tools/model/json_file.hpp"

#include "hal/json_depth.hpp"
#include "tools/model/fail.hpp"

#include <sys/stat.h>

#include <cerrno>
#include <cmath>
#include <fstream>

namespace baton::model {

using nlohmann::json;

bool file_exists(const std::string& path) {
  struct stat s;
  return ::stat(path.c_str(), &s) == 0 && S_ISREG(s.st_mode);
}

Result<std::string> read_text(const std::string& path, uint64_t max_bytes) {
  struct stat s;
  if (::stat(path.c_str(), &s) != 0)
    return fail(BATON_INVALID_ARGUMENT, "check the path", "{}: {}", path, std::strerror(errno));
  if (!S_ISREG(s.st_mode)) return fail(BATON_INVALID_ARGUMENT, "name a file", "{}: not a regular file", path);
  if (uint64_t(s.st_size) > max_bytes)
    return fail(BATON_INVALID_ARGUMENT, "name a smaller file", "{}: {} bytes; at most {} are read", path, s.st_size, max_bytes);
  std::ifstream in(path, std::ios::binary);
  std::string text(size_t(s.st_size), '\0');
  if (!in || (s.st_size && !in.read(text.data(), s.st_size)))
    return fail(BATON_INVALID_ARGUMENT, "check the file's permissions", "{}: cannot be read", path);
  return text;
}

Result<json> parse_json(const std::string& where, std::string_view text) {
  if (json_too_deep(text)) return fail(BATON_CORRUPT, "fetch the file again", "{}: brackets over {} deep", where, kMaxJsonDepth);
  // The library reports by exception; the position in it is worth keeping.
  try {
    return json::parse(text.begin(), text.end());
  } catch (const json::exception& e) {
    return fail(BATON_CORRUPT, "fetch the file again", "{}: not JSON: {}", where, std::string_view(e.what()).substr(0, 160));
  }
}

Result<json> read_json(const std::string& path) {
  BATON_ASSIGN(std::string text, read_text(path));
  BATON_ASSIGN(json doc, parse_json(path, text));
  if (!doc.is_object()) return fail(BATON_CORRUPT, "fetch the file again", "{}: the document is not an object", path);
  return doc;
}

bool is_u64(const json& j) { return j.is_number_unsigned() || (j.is_number_integer() && j.get<int64_t>() >= 0); }

const json* Fields::find(const char* key) const {
  auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

Error Fields::missing(const char* key) const {
  return fail(BATON_CORRUPT, "use a complete checkpoint", "{}: field '{}' is missing", where_, key);
}
Error Fields::wrong(const char* key, const char* wanted) const {
  return fail(BATON_CORRUPT, "use a valid checkpoint", "{}: field '{}' is {}, not {}", where_, key,
              find(key)->dump().substr(0, 40), wanted);
}

Result<uint64_t> Fields::u64(const char* key, std::optional<uint64_t> fallback) const {
  const json* j = find(key);
  if (!j) return fallback ? Result<uint64_t>(*fallback) : missing(key);
  if (!is_u64(*j)) return wrong(key, "a non-negative integer");
  return j->get<uint64_t>();
}
Result<double> Fields::number(const char* key, std::optional<double> fallback) const {
  const json* j = find(key);
  if (!j) return fallback ? Result<double>(*fallback) : missing(key);
  if (!j->is_number() || !std::isfinite(j->get<double>())) return wrong(key, "a number");
  return j->get<double>();
}
Result<bool> Fields::boolean(const char* key, bool fallback) const {
  const json* j = find(key);
  if (!j) return fallback;
  if (!j->is_boolean()) return wrong(key, "true or false");
  return j->get<bool>();
}
Result<std::string> Fields::string(const char* key, std::optional<std::string> fallback) const {
  const json* j = find(key);
  if (!j) return fallback ? Result<std::string>(*fallback) : missing(key);
  if (!j->is_string()) return wrong(key, "a string");
  return j->get<std::string>();
}

}  // namespace baton::model
