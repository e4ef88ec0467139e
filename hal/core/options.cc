#include "hal/core/options.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>

namespace baton::core {
namespace {

void split(const char* list, std::vector<std::string>& to) {
  for (const char* p = list; p && *p;) {
    const char* end = std::strchr(p, ':');
    std::string part = end ? std::string(p, end) : std::string(p);
    if (!part.empty()) to.push_back(std::move(part));
    p = end ? end + 1 : nullptr;
  }
}

std::string beside_libbaton() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<const void*>(&baton_version), &info) || !info.dli_fname) return "baton";
  std::unique_ptr<char, void (*)(void*)> real(realpath(info.dli_fname, nullptr), free);
  std::string path = real ? real.get() : info.dli_fname;
  size_t slash = path.rfind('/');
  return slash == std::string::npos ? "baton" : path.substr(0, slash) + "/baton";
}

std::vector<std::string> folders(const char* given, const char* variable) {
  std::vector<std::string> out;
  if (given) {
    split(given, out);
    return out;
  }
  split(getenv(variable), out);
  out.push_back(beside_libbaton());
  return out;
}

}  // namespace

// BATON_RUN_DIR ("" for none), else a folder of this user's in memory.
static std::string run_folder() {
  if (const char* given = getenv("BATON_RUN_DIR")) return given;
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  return runtime && runtime[0] == '/' ? std::string(runtime) + "/baton" : "/dev/shm/baton-run-" + std::to_string(geteuid());
}

Options read_options(const baton_instance_options* given) {
  baton_instance_options o{};
  if (given) std::memcpy(&o, given, given->struct_size ? std::min<size_t>(given->struct_size, sizeof o) : sizeof o);
  const char* layers = o.layers ? o.layers : getenv("BATON_LAYERS");
  return {folders(o.driver_path, "BATON_DRIVER_PATH"), folders(o.emulator_path, "BATON_EMULATOR_PATH"), layers ? layers : "",
          run_folder(), !o.layers && layers};
}

std::optional<std::string> take_layer(std::string& layers, const std::string& name) {
  for (size_t at = 0; at < layers.size();) {
    const size_t end = std::min(layers.find(',', at), layers.size());
    const std::string part = layers.substr(at, end - at);
    if (part == name || part.starts_with(name + "=")) {
      layers.erase(at, end - at + 1);
      if (layers.ends_with(',')) layers.pop_back();
      return part.size() > name.size() ? part.substr(name.size() + 1) : "";
    }
    at = end + 1;
  }
  return std::nullopt;
}

std::string join(const std::vector<std::string>& parts, const char* separator) {
  std::string s;
  for (const std::string& p : parts) s += (s.empty() ? "" : separator) + p;
  return s;
}

}  // namespace baton::core
