#include "tests/cts/subject_file.h"

#include "hal/json_depth.hpp"

#include <nlohmann/json.hpp>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>

namespace baton::cts {
namespace {

using nlohmann::json;
constexpr char kSchema[] = "baton.cts.subject/1";

Error bad(const std::string& path, const std::string& what) {
  return Error(BATON_CORRUPT, path + ": " + what, "see tests/cts/README.md for the form of a subject");
}

Result<std::vector<Entry>> read_entries(const std::string& path, const json& list, const std::string& key) {
  if (!list.is_array()) return bad(path, "'" + key + "' is no list");
  std::vector<Entry> out;
  for (const json& e : list) {
    if (!e.is_object() || e.size() != 2 || !e.contains("tests") || !e.contains("reason") || !e["tests"].is_string() || !e["reason"].is_string())
      return bad(path, "an entry of '" + key + "' is not {\"tests\": ..., \"reason\": ...}");
    out.push_back({e["tests"], e["reason"]});
    if (out.back().reason.empty()) return bad(path, "'" + out.back().tests + "' has no reason");
  }
  return out;
}

std::string name_of(const std::string& uri) {
  std::string s = uri.substr(0, uri.find("://"));
  return s.starts_with("emu+") ? s.substr(4) : s;
}

Result<Subject> read_subject_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) return Error(BATON_NOT_FOUND, "cannot read " + path, "give a subject file, a driver .so or an address such as host://");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const json j = json_too_deep(text) ? json() : json::parse(text, nullptr, false);
  if (!j.is_object()) return bad(path, "no JSON object");
  if (j.value("schema", json()) != kSchema) return bad(path, std::string("\"schema\" is not \"") + kSchema + "\"");
  Subject s;
  for (const auto& [key, value] : j.items()) {
    if (key == "schema") continue;
    if (key == "unsupported" || key == "expected_failures") {
      BATON_ASSIGN((key == "unsupported" ? s.unsupported : s.expected_failures), read_entries(path, value, key));
    } else if (key == "name" || key == "uri") {
      if (!value.is_string()) return bad(path, "'" + key + "' is no text");
      (key == "name" ? s.name : s.uri) = value;
    } else {
      return bad(path, "unknown key '" + key + "': schema, name, uri, unsupported, expected_failures");
    }
  }
  if (s.uri.empty()) return bad(path, "\"uri\" is missing");
  if (s.name.empty()) s.name = name_of(s.uri);
  return s;
}

}  // namespace

Result<Subject> subject_of(const std::string& argument) {
  if (argument.ends_with(".json")) return read_subject_file(argument);
  if (argument.find("://") == std::string::npos)
    return Error(BATON_INVALID_ARGUMENT, "'" + argument + "' is no address, subject file or driver",
                 "write host://, a subject's .json or the path of libbaton-driver-SCHEME.so");
  Subject s;
  s.name = name_of(argument);
  s.uri = argument;
  return s;
}

Result<DriverFile> driver_file(const std::string& path) {
  constexpr std::string_view kPrefix = "libbaton-driver-", kSuffix = ".so";
  std::unique_ptr<char, void (*)(void*)> real(realpath(path.c_str(), nullptr), free);
  if (!real) return Error(BATON_NOT_FOUND, "no such file: " + path, "give the path of libbaton-driver-SCHEME.so");
  const std::string whole = real.get(), file = whole.substr(whole.rfind('/') + 1);
  if (!file.starts_with(kPrefix) || file.size() <= kPrefix.size() + kSuffix.size())
    return Error(BATON_INVALID_ARGUMENT, path + " is not called libbaton-driver-SCHEME.so", "the library finds a driver by its file's name");
  return DriverFile{whole.substr(0, whole.rfind('/')), file.substr(kPrefix.size(), file.size() - kPrefix.size() - kSuffix.size())};
}

Result<Subject> find_device(const DriverFile& driver) {
  BATON_ASSIGN(Instance in, Instance::create());
  BATON_ASSIGN(std::vector<DeviceInfo> found, in.enumerate());
  for (const DeviceInfo& d : found)
    if (driver.scheme == d.driver) return Subject{.name = driver.scheme, .uri = d.uri};
  return Error(BATON_NOT_FOUND, "the driver for '" + driver.scheme + "' finds no device here",
               "name one after it: " + driver.folder + "/libbaton-driver-" + driver.scheme + ".so " + driver.scheme + "://ADDRESS");
}

}  // namespace baton::cts
