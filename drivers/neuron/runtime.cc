#include "drivers/neuron/runtime.hpp"

#include "drivers/neuron/quirks.hpp"

#include <dlfcn.h>

#include <mutex>

namespace baton::neuron {
namespace {

struct Process {
  std::mutex mutex;
  uint32_t users = 0;
  void* library = nullptr;
  std::string path;
  Options options;  // of the device that opened the runtime
  Environment environment;
  Port port;
  Machine machine;
};
Process g_process;

Result<void*> open_library(const std::string& named, std::string& path) {
  std::string tried;
  for (const std::string& candidate : named.empty() ? std::vector<std::string>{kLibraryName, kLibraryFallback} : std::vector<std::string>{named}) {
    if (void* library = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      path = candidate;
      return library;
    }
    const char* why = dlerror();
    tried += (tried.empty() ? "" : "; ") + std::string(why ? why : candidate.c_str());
  }
  return Error(BATON_NOT_FOUND, "no Neuron runtime: " + tried,
               "install aws-neuronx-runtime-lib, name the library with libnrt=PATH, or open emu+neuron://0");
}

Status read_counts(const Port& port, Machine& m) {
  if (int32_t s = port.total_nc_count(&m.total_cores)) return status_error(port, s, "nrt_get_total_nc_count");
  m.total_logical = m.total_cores;
  if (port.total_vnc_count)
    if (int32_t s = port.total_vnc_count(&m.total_logical)) return status_error(port, s, "nrt_get_total_vnc_count");
  uint32_t visible = m.total_logical;
  if (port.visible_vnc_count)
    if (int32_t s = port.visible_vnc_count(&visible)) return status_error(port, s, "nrt_get_visible_vnc_count");
  if (!visible) return Error(BATON_NOT_FOUND, "the Neuron runtime shows no core", "check /dev/neuron* and NEURON_RT_VISIBLE_CORES");
  BATON_ASSIGN(m.cores, visible_cores(visible));
  return {};
}

void read_version(const Port& port, Machine& m) {
  nrt::Version v{};
  if (!port.version || port.version(&v, sizeof v) != nrt::kSuccess) return;
  v.detail[sizeof v.detail - 1] = 0;
  std::string detail = v.detail;
  m.version = std::to_string(v.major) + "." + std::to_string(v.minor) + "." + std::to_string(v.patch);
  if (!detail.empty()) m.version += " " + detail;
  m.emulated = detail.find("emulator") != std::string::npos;
  if (size_t at = detail.find("timing="); at != std::string::npos) m.timing = detail.substr(at + 7, detail.find(';', at) - at - 7);
}

// nrt_init refuses a kernel driver of another release with a status that does not say so.
Status check_pairing(const Machine& m, const Sysfs& sysfs) {
  const std::string kernel = sysfs.driver_version();
  auto driver = release_of(kernel), runtime = release_of(m.version);
  if (!driver || !runtime || driver->first != 2 || runtime->first != 2) return {};
  const std::string problem = pairing_problem(driver->second, runtime->second);
  if (problem.empty()) return {};
  return Error(BATON_VERSION, problem, "install aws-neuronx-dkms and aws-neuronx-runtime-lib of one release");
}

Status initialize(const Port& port, Machine& m) {
  int32_t s = port.init(nrt::kFrameworkNone, "baton", BATON_VERSION_STRING);
  if (s == nrt::kFailure || s == nrt::kResource || s == nrt::kExecNcBusy) {
    Error e = status_error(port, s, "nrt_init", {}, "end the process that holds the cores (neuron-ls names it), or take others with env.NEURON_RT_VISIBLE_CORES");
    e.code = BATON_BUSY;
    return e;
  }
  if (s) return status_error(port, s, "nrt_init", {}, "check the env.* options of the URI and NEURON_RT_* in the environment");
  nrt::InstanceInfo info{};
  if (port.instance_info && port.instance_info(&info, sizeof info) == nrt::kSuccess) m.family = info.family;
  return {};
}

void close_library(Process& p) {
  if (p.library) dlclose(p.library);
  p.library = nullptr;
  p.port = {};
  p.machine = {};
  p.environment.undo();
}

Status first_open(Process& p, const Options& o) {
  BATON_ASSIGN(p.library, open_library(o.libnrt, p.path));
  BATON_TRY(load_port(p.library, p.path, p.port));
  p.environment.apply(o.env);
  p.options = o;
  BATON_TRY(read_counts(p.port, p.machine));
  read_version(p.port, p.machine);
  BATON_TRY(check_pairing(p.machine, Sysfs(o.sysfs.empty() ? sysfs_root() : o.sysfs)));
  return initialize(p.port, p.machine);
}

}  // namespace

uint32_t chip_count(const Machine& m) { return m.total_cores / family(m.family).physical_cores; }

Result<Lease> Lease::acquire(const Options& o) {
  std::lock_guard lock(g_process.mutex);
  Process& p = g_process;
  if (p.users) {
    if (o.libnrt != p.options.libnrt || o.env != p.options.env)
      return Error(BATON_BUSY, "the Neuron runtime of this process is open with " + p.path + " and " + std::to_string(p.options.env.size()) +
                                   " env options, asked for now: " + (o.libnrt.empty() ? kLibraryName : o.libnrt) + " and " +
                                   std::to_string(o.env.size()), "open all neuron devices of a process with the same options");
  } else if (Status s = first_open(p, o); !s.ok()) {
    close_library(p);
    return s.error();
  }
  ++p.users;
  return Lease();
}

Lease::~Lease() {
  if (!held_) return;
  std::lock_guard lock(g_process.mutex);
  if (--g_process.users) return;
  g_process.port.close();
  close_library(g_process);
}

const Port& Lease::port() const { return g_process.port; }
const Machine& Lease::machine() const { return g_process.machine; }

Status Lease::restart(const Sysfs& sysfs, uint32_t chip) {
  std::lock_guard lock(g_process.mutex);
  Process& p = g_process;
  if (p.users > 1)
    return Error(BATON_BUSY, std::to_string(p.users) + " devices of this process share the Neuron runtime", "close the others to reset the cores");
  p.port.close();
  Status reset = sysfs.reset(chip);
  BATON_TRY(initialize(p.port, p.machine));
  // Without the right to reset the chip, the cores' reset by nrt_init has to do.
  return reset.ok() || reset.error().code == BATON_UNSUPPORTED || reset.error().code == BATON_PERMISSION ? Status() : reset;
}

namespace {

// NEURON_LOGICAL_NC_CONFIG, or the family's default.
void place_cores(Machine& m, uint32_t chips, const Family& f, uint32_t cores_per_chip) {
  const uint32_t lnc = logical_config(f.lnc);
  m.family = f.id;
  m.total_cores = chips * cores_per_chip;
  m.total_logical = m.total_cores / lnc;
}

bool by_sysfs(Machine& m) {
  const auto chips = Sysfs(sysfs_root()).chips();
  if (chips.empty()) return false;
  const Family& f = family_of(chips[0].device);
  place_cores(m, uint32_t(chips.size()), f, chips[0].cores ? chips[0].cores : f.physical_cores);
  return true;
}

bool by_pci(Machine& m, const std::vector<PciChip>& chips) {
  if (chips.empty()) return false;
  const Family& f = family(chips[0].family);
  place_cores(m, uint32_t(chips.size()), f, f.physical_cores);
  return true;
}

}  // namespace

Result<Machine> probe() {
  std::lock_guard lock(g_process.mutex);
  if (g_process.users) return g_process.machine;
  Machine m;
  const std::vector<PciChip> pci = pci_chips();
  const bool found = by_sysfs(m) || by_pci(m, pci);
  if (found && chip_count(m) == 1 && pci.size() == 1) m.pci = pci;  // of several, nothing says which function is which chip
  std::string path;
  auto library = open_library({}, path);
  Port port;
  Status s = library.ok() ? load_port(*library, path, port) : Status(library.error());
  if (s.ok()) {
    read_version(port, m);
    if (!found) s = read_counts(port, m);
  }
  if (library.ok()) dlclose(*library);
  if (!found) {
    BATON_TRY(s);
    return m;
  }
  BATON_ASSIGN(m.cores, chosen_cores(m.total_logical));
  return m;
}

}  // namespace baton::neuron
