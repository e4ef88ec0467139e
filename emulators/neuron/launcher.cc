// baton-emu-neuron: what the registry runs for emu+neuron://CHIP?threads=2. The emulated runtime is a library, so there is nothing to
// keep alive: it checks the options, prints the ordinary address with the library beside itself, and ends. With folder=FOLDER it makes the
// machine's sysfs tree and hwloc topology there, which also serves programs that know nothing of Baton.
//
//   $ baton-emu-neuron '0?threads=2'
//   neuron://0?libnrt=/.../emu/libnrt.so.1&env.BATON_EMU_NEURON_THREADS=2
#include "emulators/neuron/options.hpp"
#include "emulators/neuron/site.hpp"
#include "emulators/neuron/sysfs_tree.hpp"

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
    {"machine", "BATON_EMU_NEURON_MACHINE"}, {"chips", "BATON_EMU_NEURON_CHIPS"},   {"folder", "BATON_EMU_NEURON_FOLDER"},
    {"threads", "BATON_EMU_NEURON_THREADS"}, {"isa", "BATON_EMU_NEURON_ISA"},       {"timing", "BATON_EMU_NEURON_TIMING"},
    {"mode", "BATON_EMU_NEURON_MODE"},       {"strict", "BATON_EMU_NEURON_STRICT"}, {"visibility", "BATON_EMU_NEURON_VISIBILITY"},
    {"faults", "BATON_EMU_NEURON_FAULTS"},   {"lnc", "NEURON_LOGICAL_NC_CONFIG"},   {"neff", "BATON_EMU_NEURON_NEFF"},
};
constexpr char kList[] = "known options: machine, chips, folder, threads, isa, timing, mode, lnc, strict, visibility, faults, neff, artifacts, env.NAME";

Result<std::string> library_path() {
  char self[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n < 0) return Error(BATON_IO, std::string("/proc/self/exe: ") + std::strerror(errno));
  std::string folder(self, size_t(n));
  std::string path = folder.substr(0, folder.rfind('/')) + "/emu/libnrt.so.1";
  if (access(path.c_str(), R_OK)) return Error(BATON_NOT_FOUND, path + ": " + std::strerror(errno));
  return path;
}

struct Chosen {
  std::string machine, folder;
  uint64_t chips = 0;
};

Result<std::string> translate(const std::string& pair, Chosen& chosen) {
  size_t eq = pair.find('=');
  if (eq == std::string::npos) return Error(BATON_INVALID_ARGUMENT, "option '" + pair + "' has no value", kList);
  std::string key = pair.substr(0, eq), value = pair.substr(eq + 1);
  if (key.starts_with("env.") || key == "artifacts") return pair;  // the driver's own
  for (const Known& k : kKnown) {
    if (key != k.option) continue;
    BATON_TRY(baton::neuron_emu::check_option(key, value));
    if (key == "machine") chosen.machine = value;
    if (key == "chips") chosen.chips = std::stoul(value);
    if (key == "folder") chosen.folder = value;
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
  Chosen chosen;
  while (!options.empty()) {
    std::string pair = options.substr(0, options.find('&'));
    options.erase(0, pair.size() + 1);
    BATON_ASSIGN(std::string part, translate(pair, chosen));
    uri += "&" + part;
  }
  BATON_ASSIGN(auto machine, baton::neuron_emu::choose_machine(chosen.machine, chosen.chips));
  const uint64_t chips = chosen.chips ? chosen.chips : machine.devices.size();
  if (number >= chips) return Error(BATON_NOT_FOUND, "there is no chip " + chip + ": this " + machine.name + " has 0 to " + std::to_string(chips - 1), "name a machine of more chips, as ?machine=trn2.48xlarge");
  if (chosen.folder.empty()) return uri;
  BATON_ASSIGN(auto site, baton::neuron_emu::Site::open(chosen.folder, baton::neuron_emu::runtime_folder()));
  BATON_TRY(baton::neuron_emu::SysfsTree::open(site.folder(), machine, uint32_t(chips), {}));
  return uri + "&sysfs=" + site.folder() + "/sys";
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
