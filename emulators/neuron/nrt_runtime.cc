// The ABI's lifecycle and topology.
#include "emulators/neuron/process.hpp"
#include "emulators/neuron/timing.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

using namespace baton;
using namespace baton::neuron_emu;

namespace {

// The runtime release that is modelled: SDK 2.32 (release notes).
constexpr uint64_t kMajor = 2, kMinor = 34, kPatch = 10;

// Counts need no init: they come from the options alone.
template <class F>
int32_t count(uint32_t* out, F&& f) {
  return guarded([&]() -> int32_t {
    if (!out) return fail(nrt::kInvalid, "the count's address is NULL");
    Result<Options> o = read_options();
    if (!o.ok()) return fail(nrt::kInvalid, o.error());
    *out = uint32_t(f(*o));
    return nrt::kSuccess;
  });
}

}  // namespace

extern "C" {

int32_t baton::nrt::nrt_init(int32_t framework, const char*, const char*) {
  return guarded([&]() -> int32_t {
    if (framework < 0 || framework > 5) return fail(nrt::kInvalid, "framework " + std::to_string(framework) + " of 0..5");
    return open_machine();
  });
}

void baton::nrt::nrt_close() { close_machine(); }

int32_t baton::nrt::nrt_get_version(Version* out, size_t bytes) {
  return guarded([&]() -> int32_t {
    if (!out || !bytes) return fail(nrt::kInvalid, "no room for the version");
    Version v{};
    v.major = kMajor;
    v.minor = kMinor;
    v.patch = kPatch;
    Result<Options> o = read_options();
    std::string timing = o.ok() ? timing_name(*o) : "";
    std::snprintf(v.detail, sizeof v.detail, "Baton emulator %s%s%s%s", BATON_VERSION_STRING, o.ok() && !o->numbers ? "; mode=timing" : "",
                  timing.empty() ? "" : "; timing=", timing.c_str());
    std::memcpy(out, &v, std::min(bytes, sizeof v));
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_get_instance_info(InstanceInfo* out, size_t bytes) {
  return entry([&](Machine& m) -> int32_t {
    if (!out || !bytes) return fail(nrt::kInvalid, "no room for the instance info");
    InstanceInfo info{};
    const MachineData& machine = m.options.machine;
    info.family = machine.family;
    info.size = m.options.chips == machine.devices.size() ? machine.size : nrt::kSizeUnknown;
    std::snprintf(info.arch_name, sizeof info.arch_name, "%s", machine.chip.arch_type.c_str());  // guess: as sysfs names the architecture
    std::snprintf(info.device_revision, sizeof info.device_revision, "%s", machine.chip.revision.c_str());
    std::memcpy(out, &info, std::min(bytes, sizeof info));
    return nrt::kSuccess;
  });
}

const char* baton::nrt::nrt_get_status_as_str(int32_t status) { return status_text(status); }

int32_t baton::nrt::nrt_get_total_nc_count(uint32_t* n) {
  return count(n, [](const Options& o) { return o.chips * o.machine.chip.cores; });
}
int32_t baton::nrt::nrt_get_total_vnc_count(uint32_t* n) {
  return count(n, [](const Options& o) { return o.total_logical(); });
}
int32_t baton::nrt::nrt_get_visible_nc_count(uint32_t* n) {
  return count(n, [](const Options& o) { return o.cores.size() * o.lnc; });
}
int32_t baton::nrt::nrt_get_visible_vnc_count(uint32_t* n) {
  return count(n, [](const Options& o) { return o.cores.size(); });
}

int32_t baton::nrt::nrt_get_attached_efa_bdf(const void* va, char* bdf, size_t* length) {
  return entry([&](Machine& m) -> int32_t {
    if (!va || !bdf || !length) return fail(nrt::kInvalid, "an argument is NULL");
    for (uint32_t i = 0; i < m.stacks.size(); ++i) {
      if (!m.stacks[i] || !m.stacks[i]->find(va, 1)) continue;
      const uint32_t chip = i / m.options.machine.chip.stacks();
      const std::vector<std::string>& paired = m.options.machine.devices[chip].efa;
      if (paired.empty()) return fail(nrt::kFailure, "no EFA is paired with chip " + std::to_string(chip) + " of a " + m.options.machine.name);
      const std::string& address = paired[0];
      if (*length < address.size() + 1) return fail(nrt::kResource, "the address needs " + std::to_string(address.size() + 1) + " bytes");
      std::memcpy(bdf, address.c_str(), address.size() + 1);
      *length = address.size();
      return nrt::kSuccess;
    }
    return fail(nrt::kInvalid, "the address is not device memory");
  });
}

// A host's devices are its own: device n of the process is device n of the host (guess: the SDK does not say how they differ).
int32_t baton::nrt::nrt_host_device_id_get(int32_t device, uint32_t* out) {
  return entry([&](Machine& m) -> int32_t {
    if (!out || device < 0 || uint32_t(device) >= m.options.chips) return fail(nrt::kInvalid, "device " + std::to_string(device) + " of " + std::to_string(m.options.chips));
    *out = uint32_t(device);
    return nrt::kSuccess;
  });
}

// count: in, the room of the map; out, how many devices there are. Routing ids are the device numbers (guess).
int32_t baton::nrt::nrt_host_device_id_rid_map_get(uint32_t* count, uint32_t* map) {
  return entry([&](Machine& m) -> int32_t {
    if (!count || !map) return fail(nrt::kInvalid, "an argument is NULL");
    const uint32_t room = *count;
    *count = m.options.chips;
    if (room < m.options.chips) return fail(nrt::kResource, "the map needs room for " + std::to_string(m.options.chips) + " devices");
    for (uint32_t i = 0; i < m.options.chips; ++i) map[i] = i;
    return nrt::kSuccess;
  });
}

}  // extern "C"
