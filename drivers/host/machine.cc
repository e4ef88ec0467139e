#include "drivers/host/machine.h"

#include <sys/utsname.h>

#include <cstdlib>
#include <fstream>

namespace baton::host_driver {
namespace {

// The text after ':' of the first line of `path` that starts with `key`.
std::string field(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, key.size(), key)) continue;
    size_t colon = line.find(':');
    size_t begin = colon == std::string::npos ? colon : line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

}  // namespace

Machine read_machine() {
  Machine m;
  m.cpu = field("/proc/cpuinfo", "model name");
  m.memory_bytes = std::strtoull(field("/proc/meminfo", "MemTotal").c_str(), nullptr, 10) * 1024;
  utsname name{};
  if (!uname(&name)) {
    m.kernel = std::string(name.sysname) + " " + name.release;
    m.hostname = name.nodename;
  }
  std::ifstream nodes("/sys/devices/system/node/online");
  std::string online;
  if (std::getline(nodes, online) && online == "0") m.numa_node = 0;
  return m;
}

}  // namespace baton::host_driver
