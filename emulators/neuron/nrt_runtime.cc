// The ABI's lifecycle, topology and host collectives.
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

int32_t check_rank(Machine& m, int32_t vnc, uint32_t rank, uint32_t ranks) {
  if (!m.core(vnc)) return fail(nrt::kInvalid, "core " + std::to_string(vnc) + " of " + std::to_string(m.cores.size()));
  if (!ranks || rank >= ranks) return fail(nrt::kInvalid, "rank " + std::to_string(rank) + " of " + std::to_string(ranks));
  if (ranks > m.cores.size())
    return fail(nrt::kFailure, std::to_string(ranks) + " ranks are more than the " + std::to_string(m.cores.size()) +
                                   " cores of this process; ranks in other processes are not emulated");
  return nrt::kSuccess;
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
    std::snprintf(v.detail, sizeof v.detail, "Baton emulator %s%s%s", BATON_VERSION_STRING, timing.empty() ? "" : "; timing=", timing.c_str());
    std::memcpy(out, &v, std::min(bytes, sizeof v));
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_get_instance_info(InstanceInfo* out, size_t bytes) {
  return entry([&](Machine& m) -> int32_t {
    if (!out || !bytes) return fail(nrt::kInvalid, "no room for the instance info");
    InstanceInfo info{};
    info.family = nrt::kFamilyTrn2;
    info.size = m.options.chips == 1 ? nrt::kSize3xl : m.options.chips == kMaxChips ? nrt::kSize48xl : nrt::kSizeUnknown;
    std::snprintf(info.arch_name, sizeof info.arch_name, "NDv3");  // guess: as sysfs names the architecture
    std::memcpy(out, &info, std::min(bytes, sizeof info));
    return nrt::kSuccess;
  });
}

const char* baton::nrt::nrt_get_status_as_str(int32_t status) { return status_text(status); }

int32_t baton::nrt::nrt_get_total_nc_count(uint32_t* n) {
  return count(n, [](const Options& o) { return o.chips * kPhysicalCoresPerChip; });
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
      uint32_t chip = i / kHbmPerChip;
      if (chip >= m.options.efa.size())
        return fail(nrt::kFailure, "no EFA is paired with chip " + std::to_string(chip) + " (BATON_EMU_NEURON_EFA)");
      const std::string& address = m.options.efa[chip];
      if (*length < address.size() + 1) return fail(nrt::kResource, "the address needs " + std::to_string(address.size() + 1) + " bytes");
      std::memcpy(bdf, address.c_str(), address.size() + 1);
      *length = address.size();
      return nrt::kSuccess;
    }
    return fail(nrt::kInvalid, "the address is not device memory");
  });
}

int32_t baton::nrt::nrt_build_global_comm(int32_t vnc, uint32_t rank, uint32_t ranks) {
  return entry([&](Machine& m) { return check_rank(m, vnc, rank, ranks); });
}

int32_t baton::nrt::nrt_barrier(int32_t vnc, uint32_t rank, uint32_t ranks) { return nrt_all_gather(vnc, rank, ranks, 0, nullptr, nullptr); }

int32_t baton::nrt::nrt_all_gather(int32_t vnc, uint32_t rank, uint32_t ranks, uint32_t bytes, const void* in, void* out) {
  return entry([&](Machine& m) -> int32_t {
    if (int32_t s = check_rank(m, vnc, rank, ranks)) return s;
    if (bytes && (!in || !out)) return fail(nrt::kInvalid, "an argument is NULL");
    int32_t status = m.host_rounds.all_gather(rank, ranks, bytes, in, out, m.options.exec_timeout_s);
    if (status == nrt::kTimeout) return fail(status, "not every rank came within " + std::to_string(m.options.exec_timeout_s) + " s");
    if (status) return fail(status, "the ranks call with different counts or sizes");
    return status;
  });
}

}  // extern "C"
