// baton-emu-neuron: what the registry runs for emu+neuron://CHIP?threads=2. The emulated runtime is a library, so there is nothing to
// keep alive: it checks the options, prints the ordinary address with the library beside itself, and ends.
//
//   $ baton-emu-neuron '0?threads=2'
//   neuron://0?libnrt=/.../emu/libnrt.so.1&env.BATON_EMU_NEURON_THREADS=2
#include "emulators/neuron/options.hpp"

#include <limits.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <string>

namespace {

using baton::Error;
using baton::Result;

struct Known {
  const char *option, *variable;
};
constexpr Known kKnown[] = {
    {"threads", "BATON_EMU_NEURON_THREADS"}, {"isa", "BATON_EMU_NEURON_ISA"},   {"chips", "BATON_EMU_NEURON_CHIPS"},
    {"timing", "BATON_EMU_NEURON_TIMING"},   {"efa", "BATON_EMU_NEURON_EFA"},   {"machine", "BATON_EMU_NEURON_MACHINE"},
    {"lnc", "NEURON_LOGICAL_NC_CONFIG"},     {"strict", "BATON_EMU_NEURON_STRICT"}, {"visibility", "BATON_EMU_NEURON_VISIBILITY"},
    {"faults", "BATON_EMU_NEURON_FAULTS"},
};
constexpr char kList[] = "known options: threads, isa, chips, timing, efa, machine, lnc, strict, visibility, faults, env.NAME";

Result<std::string> library_path() {
  char self[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n < 0) return Error(BATON_IO, std::string("/proc/self/exe: ") + std::strerror(errno));
  std::string folder(self, size_t(n));
  std::string path = folder.substr(0, folder.rfind('/')) + "/emu/libnrt.so.1";
  if (access(path.c_str(), R_OK)) return Error(BATON_NOT_FOUND, path + ": " + std::strerror(errno));
  return path;
}

Result<std::string> translate(const std::string& pair, uint32_t chip) {
  size_t eq = pair.find('=');
  if (eq == std::string::npos) return Error(BATON_INVALID_ARGUMENT, "option '" + pair + "' has no value", kList);
  std::string key = pair.substr(0, eq), value = pair.substr(eq + 1);
  if (key.starts_with("env.")) return pair;
  for (const Known& k : kKnown) {
    if (key != k.option) continue;
    BATON_TRY(baton::neuron_emu::check_option(key, value));
    if (key == "chips" && std::stoul(value) <= chip)
      return Error(BATON_NOT_FOUND, "chip " + std::to_string(chip) + " of a machine with chips=" + value);
    return "env." + std::string(k.variable) + "=" + value;
  }
  return Error(BATON_INVALID_ARGUMENT, "unknown option '" + key + "'", kList);
}

Result<std::string> address(const std::string& rest) {
  std::string chip = rest.substr(0, rest.find('?'));
  uint32_t number = 0;
  auto [end, ec] = std::from_chars(chip.data(), chip.data() + chip.size(), number);
  if (ec != std::errc() || end != chip.data() + chip.size())
    return Error(BATON_INVALID_ARGUMENT, "'" + chip + "' is no chip number: write emu+neuron://0");
  BATON_ASSIGN(std::string library, library_path());
  std::string uri = "neuron://" + chip + "?libnrt=" + library;
  std::string options = rest.size() > chip.size() ? rest.substr(chip.size() + 1) : "";
  while (!options.empty()) {
    std::string pair = options.substr(0, options.find('&'));
    options.erase(0, pair.size() + 1);
    BATON_ASSIGN(std::string part, translate(pair, number));
    uri += "&" + part;
  }
  return uri;
}

}  // namespace

int main(int argc, char** argv) {
  Result<std::string> uri = address(argc > 1 ? argv[1] : "0");
  if (!uri.ok()) {
    std::fprintf(stderr, "baton-emu-neuron: %s\n", uri.error().what);
    if (uri.error().next[0]) std::fprintf(stderr, "next: %s\n", uri.error().next);
    return uri.error().code == BATON_NOT_FOUND ? 3 : 2;
  }
  std::printf("%s\n", uri->c_str());
  return 0;
}
