#include "tools/devctl/options.h"

#include "hal/baton.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <string_view>

namespace baton::devctl {
namespace {

namespace fs = std::filesystem;

// The folders that libbaton searches: those of `variable`, then "baton" beside the library itself.
std::vector<std::string> folders(const char* variable) {
  std::vector<std::string> out;
  const char* list = getenv(variable);
  for (std::string_view rest = list ? list : ""; !rest.empty();) {
    size_t end = rest.find(':');
    if (auto part = rest.substr(0, end); !part.empty()) out.emplace_back(part);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  }
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&baton_version), &info) && info.dli_fname) {
    std::error_code ignored;
    out.push_back((fs::canonical(info.dli_fname, ignored).parent_path() / "baton").string());
  }
  return out;
}

// The SCHEMEs of files called PREFIX SCHEME SUFFIX.
std::vector<std::string> schemes(const char* variable, std::string_view prefix, std::string_view suffix) {
  std::set<std::string> found;
  for (const std::string& folder : folders(variable)) {
    std::error_code ignored;
    for (auto& entry : fs::directory_iterator(folder, ignored)) {
      std::string name = entry.path().filename().string();
      if (name.size() > prefix.size() + suffix.size() && name.starts_with(prefix) && name.ends_with(suffix))
        found.insert(name.substr(prefix.size(), name.size() - prefix.size() - suffix.size()));
    }
  }
  return {found.begin(), found.end()};
}

}  // namespace

std::string emulator_program(const std::string& scheme) {
  for (const std::string& folder : folders("BATON_EMULATOR_PATH"))
    if (std::string path = folder + "/baton-emu-" + scheme; scheme.find('/') == std::string::npos && access(path.c_str(), X_OK) == 0) return path;
  return "";
}

std::optional<std::string> variable(const char* name) {
  const char* value = getenv(name);
  return value ? std::optional<std::string>(value) : std::nullopt;
}

void set_variable(const char* name, const std::string& value) { setenv(name, value.c_str(), 1); }

Options read_options() {
  Options o;
  const char* no_color = getenv("NO_COLOR");
  o.colour = isatty(STDOUT_FILENO) && !(no_color && *no_color);
  if (const char* sysfs = getenv("BATON_SYSFS_ROOT"); sysfs && *sysfs) o.sysfs = sysfs;
  o.runtime = variable("XDG_RUNTIME_DIR").value_or("");
  o.drivers = schemes("BATON_DRIVER_PATH", "libbaton-driver-", ".so");
  o.emulators = schemes("BATON_EMULATOR_PATH", "baton-emu-", "");
  return o;
}

}  // namespace baton::devctl
