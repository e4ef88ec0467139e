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
  read_version(port, m);
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
  return initialize(p.port, p.machine);
}

}  // namespace

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

Status Lease::restart() {
  std::lock_guard lock(g_process.mutex);
  Process& p = g_process;
  if (p.users > 1)
    return Error(BATON_BUSY, std::to_string(p.users) + " devices of this process share the Neuron runtime", "close the others to reset the cores");
  p.port.close();
  return initialize(p.port, p.machine);
}

Result<Machine> probe() {
  std::lock_guard lock(g_process.mutex);
  if (g_process.users) return g_process.machine;
  std::string path;
  Machine m;
  BATON_ASSIGN(void* library, open_library({}, path));
  Port port;
  Status s = load_port(library, path, port);
  if (s.ok()) s = read_counts(port, m);
  if (s.ok()) read_version(port, m);
  dlclose(library);
  if (!s.ok()) return s.error();
  return m;
}

}  // namespace baton::neuron
