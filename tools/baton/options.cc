#include "tools/baton/options.hpp"

#include <unistd.h>

#include <climits>
#include <cstdlib>

namespace baton::runtime {

std::string default_model() {
  if (const char* env = std::getenv("BATON_MODEL"); env && *env) return env;
  char self[PATH_MAX];
  ssize_t n = ::readlink("/proc/self/exe", self, sizeof self);
  std::string program(self, n > 0 ? size_t(n) : 0);
  return program.substr(0, program.rfind('/')) + "/../share/baton/models/baton-tiny";
}

}  // namespace baton::runtime
