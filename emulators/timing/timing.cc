// Finding, reading and checking model files.
#include "emulators/timing/timing.hpp"
#include "emulators/timing/forms.h"
#include "hal/json_depth.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <set>

namespace baton::timing {
namespace {

constexpr const char* kSchema = "baton.timing/1";
constexpr size_t kMaxFile = 1 << 20;

Error corrupt(std::string_view where, const std::string& why) {
  return Error(BATON_CORRUPT, fmt::format("timing model {}: {}", where, why), "compare it with emulators/timing/cs3.json");
}

std::string folder_of(const char* path) {
  char real[PATH_MAX];
  if (!realpath(path, real)) return "";
  std::string s = real;
  return s.substr(0, s.rfind('/'));
}

// Where this code was loaded from: a library that it is linked into, or the program.
std::vector<std::string> own_folders() {
  std::vector<std::string> all;
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&own_folders), &info) && info.dli_fname) all.push_back(folder_of(info.dli_fname));
  all.push_back(folder_of("/proc/self/exe"));
  return all;
}

Result<std::string> read_file(const std::string& path) {
  std::FILE* f = std::fopen(path.c_str(), "rb");
  if (!f) return Error(BATON_NOT_FOUND, fmt::format("timing model {}: cannot be opened (errno {})", path, errno), "pass trn2, cs3 or the path of a model file");
  std::string text(kMaxFile + 1, 0);
  text.resize(std::fread(text.data(), 1, text.size(), f));
  const bool failed = std::ferror(f);
  std::fclose(f);
  if (failed) return Error(BATON_IO, fmt::format("timing model {}: cannot be read", path), "pass the path of a file");
  if (text.size() > kMaxFile) return corrupt(path, fmt::format("larger than {} bytes", kMaxFile));
  return text;
}

using Json = nlohmann::json;

Result<std::string> text_of(const Json& j, const char* key, std::string_view where) {
  auto it = j.find(key);
  if (it == j.end() || !it->is_string() || it->get_ref<const std::string&>().empty())
    return corrupt(where, fmt::format("'{}' must be a text that is not empty", key));
  return it->get<std::string>();
}

Result<Constant> constant_of(const std::string& name, const Json& j, std::string_view where) {
  Constant c;
  c.name = name;
  if (!j.is_object()) return corrupt(where, fmt::format("constant '{}' must be {{value, unit, source}}", name));
  auto value = j.find("value");
  if (value == j.end() || !value->is_number()) return corrupt(where, fmt::format("constant '{}' has no number as its value", name));
  c.value = value->get<double>();
  if (!std::isfinite(c.value) || c.value < 0) return corrupt(where, fmt::format("constant '{}' is {}, must be finite and not negative", name, c.value));
  const std::string here = fmt::format("{}, constant '{}'", where, name);
  BATON_ASSIGN(c.unit, text_of(j, "unit", here));
  BATON_ASSIGN(c.source, text_of(j, "source", here));
  return c;
}

}  // namespace

std::string data_folder(std::string_view kind) {
  for (const std::string& folder : own_folders())
    // beside a plug-in; one below it (lib/baton/emu); beside libbaton.so; from bin/ or tests/
    for (const char* way : {"/", "/../", "/baton/", "/../lib/baton/"}) {
      std::string path = fmt::format("{}{}{}", folder, way, kind);
      if (access(path.c_str(), R_OK | X_OK) == 0) return path;
    }
  return "";
}

Result<std::string> find_model_file(std::string_view name) {
  for (const char* kind : {"machines", "timing"}) {
    std::string path = fmt::format("{}/{}.json", data_folder(kind), name);
    if (access(path.c_str(), R_OK) == 0) return path;
  }
  return Error(BATON_NOT_FOUND, fmt::format("timing model '{}' is not in lib/baton/timing or lib/baton/machines (looked from {})", name, own_folders()[0]),
               "build the targets baton_timing_data and baton_neuron_machines, or pass the path of a model file");
}

Result<ModelFile> parse_model_file(std::string_view text, std::string_view where) {
  const Json whole = json_too_deep(text) ? Json() : Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!whole.is_object()) return corrupt(where, "not a JSON object");
  auto member = whole.find("timing");
  const Json& j = member != whole.end() && member->is_object() ? *member : whole;
  ModelFile m;
  BATON_ASSIGN(std::string schema, text_of(j, "schema", where));
  if (schema != kSchema)
    return Error(BATON_VERSION, fmt::format("timing model {}: schema '{}', this build reads '{}'", where, schema, kSchema), "use a model file of this release");
  BATON_ASSIGN(m.name, text_of(j, "name", where));
  BATON_ASSIGN(m.version, text_of(j, "version", where));
  BATON_ASSIGN(m.form, text_of(j, "form", where));
  auto constants = j.find("constants");
  if (constants == j.end() || !constants->is_object()) return corrupt(where, "'constants' must be an object");
  for (const auto& [name, value] : constants->items()) {
    BATON_ASSIGN(Constant c, constant_of(name, value, where));
    m.constants.push_back(std::move(c));
  }
  return m;
}

Status take_constants(const ModelFile& m, std::string_view where, std::span<const Field> fields) {
  std::set<std::string> known;
  for (const Field& f : fields) {
    known.insert(f.name);
    const Constant* found = nullptr;
    for (const Constant& c : m.constants)
      if (c.name == f.name) found = &c;
    if (!found) return corrupt(where, fmt::format("form '{}' needs the constant '{}' ({})", m.form, f.name, f.unit));
    if (found->unit != f.unit) return corrupt(where, fmt::format("constant '{}' is in {}, form '{}' reckons in {}", f.name, found->unit, m.form, f.unit));
    // A rate divides; a cost may be zero.
    if (found->value == 0 && std::string_view(f.unit) != "ns" && std::string_view(f.unit) != "cycles")
      return corrupt(where, fmt::format("constant '{}' is 0", f.name));
    *f.value = found->value;
  }
  for (const Constant& c : m.constants)
    if (!known.count(c.name)) return corrupt(where, fmt::format("form '{}' knows no constant '{}'", m.form, c.name));
  return {};
}

Result<std::unique_ptr<engine::CostModel>> make_cost_model(const ModelFile& m, std::string_view where, uint32_t lane_cores) {
  if (m.form == "neuron-core") return make_neuron_core(m, where, lane_cores);
  if (m.form == "wafer") return make_wafer(m, where);
  return corrupt(where, fmt::format("form '{}' is not one of neuron-core, wafer", m.form));
}

Result<ModelFile> load_model_file(std::string_view name_or_path) {
  std::string path(name_or_path);
  if (path.find('/') == std::string::npos) {
    BATON_ASSIGN(path, find_model_file(name_or_path));
  }
  BATON_ASSIGN(std::string text, read_file(path));
  return parse_model_file(text, path);
}

Result<std::unique_ptr<engine::CostModel>> load_cost_model(std::string_view name_or_path, uint32_t lane_cores) {
  BATON_ASSIGN(const ModelFile m, load_model_file(name_or_path));
  return make_cost_model(m, name_or_path, lane_cores);
}

}  // namespace baton::timing
