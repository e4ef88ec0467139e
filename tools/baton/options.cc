#include "tools/baton/options.hpp"

#include "tools/model/json_file.hpp"

#include <unistd.h>

#include <climits>
#include <cstdlib>

namespace baton::runtime {

std::string default_model() {
  if (const char* env = std::getenv("BATON_MODEL"); env && *env) return env;
  char self[PATH_MAX];
  ssize_t n = ::readlink("/proc/self/exe", self, sizeof self);
  std::string dir(self, n > 0 ? size_t(n) : 0);
  for (int up = 0; up < 6 && !dir.empty(); ++up) {
    size_t slash = dir.rfind('/');
    if (slash == std::string::npos) break;
    dir.resize(slash);
    for (const char* place : {"/models/baton-tiny", "/share/baton/models/baton-tiny"})
      if (model::file_exists(dir + place + "/config.json")) return dir + place;
  }
  return BATON_DEMO_MODEL;
}

}  // namespace baton::runtime
