// The ABI's collectives of the host: among threads of this process, or among processes of one machine (NEURON_RT_ROOT_COMM_ID).
#include "emulators/neuron/gate.hpp"
#include "emulators/neuron/process.hpp"

#include <cstdio>

using namespace baton;
using namespace baton::neuron_emu;

namespace {

int32_t check_rank(Machine& m, int64_t vnc, uint32_t rank, uint32_t ranks) {
  if (!m.core(vnc)) return fail(nrt::kInvalid, "core " + std::to_string(vnc) + " of " + std::to_string(m.cores.size()));
  if (!ranks || rank >= ranks) return fail(nrt::kInvalid, "rank " + std::to_string(rank) + " of " + std::to_string(ranks));
  if (ranks > m.cores.size() && !m.ranks_meet()) return fail(nrt::kFailure, alone_text(m, ranks));
  return nrt::kSuccess;
}

Result<std::shared_ptr<SharedGroup>> host_group(Machine& m, uint32_t rank, uint32_t ranks) {
  std::lock_guard lock(m.host_groups_mutex);
  std::shared_ptr<SharedGroup>& group = m.host_groups[{rank, ranks}];
  if (!group) {
    BATON_ASSIGN(group, SharedGroup::join(m.site, m.options.root_comm, "host", rank, ranks));
  }
  return group;
}

int32_t meeting_status(const Error& e) {
  switch (e.code) {
    case BATON_DEADLINE: return nrt::kTimeout;
    case BATON_DEVICE_LOST: return nrt::kClosed;
    default: return nrt::kExecHwErrCollectives;  // guess
  }
}

int32_t gather_across(Machine& m, uint32_t rank, uint32_t ranks, uint32_t bytes, const void* in, void* out) {
  auto group = host_group(m, rank, ranks);
  if (!group.ok()) return fail(nrt::kFailure, group.error());
  const uint64_t deadline = now_ns() + m.exec_timeout_ns();
  (*group)->begin(rank, 0, [&]() -> Status {
    if (m.closing) return Error(BATON_DEVICE_LOST, "nrt_close was called during a collective");
    if (now_ns() > deadline) return Error(BATON_DEADLINE, "not every rank came within " + std::to_string(m.options.exec_timeout_s) + " s");
    return {};
  });
  const Status s = (*group)->gather_bytes(in, out, bytes);
  (*group)->end(rank, !s.ok());
  return s.ok() ? nrt::kSuccess : fail(meeting_status(s.error()), s.error());
}

int32_t gather(const char* call, int32_t vnc, uint32_t rank, uint32_t ranks, uint32_t bytes, const void* in, void* out) {
  return entry([&](Machine& m) -> int32_t {
    if (int32_t s = check_rank(m, vnc, rank, ranks)) return s;
    if (bytes && (!in || !out)) return fail(nrt::kInvalid, "an argument is NULL");
    if (int32_t s = gate(m, call, m.core(vnc))) return s;
    if (m.ranks_meet()) return gather_across(m, rank, ranks, bytes, in, out);
    int32_t status = m.host_rounds.all_gather(rank, ranks, bytes, in, out, m.options.exec_timeout_s);
    if (status == nrt::kTimeout) return fail(status, "not every rank came within " + std::to_string(m.options.exec_timeout_s) + " s");
    if (status) return fail(status, "the ranks call with different counts or sizes");
    return status;
  });
}

int32_t build(int64_t vnc, uint32_t rank, uint32_t ranks) {
  return entry([&](Machine& m) -> int32_t {
    if (int32_t s = check_rank(m, vnc, rank, ranks)) return s;
    if (!m.ranks_meet()) return nrt::kSuccess;
    auto group = host_group(m, rank, ranks);
    return group.ok() ? nrt::kSuccess : fail(nrt::kFailure, group.error());
  });
}

}  // namespace

extern "C" {

int32_t baton::nrt::nrt_build_global_comm(int32_t vnc, uint32_t rank, uint32_t ranks) { return build(vnc, rank, ranks); }

int32_t baton::nrt::nrt_cc_global_comm_init(uint32_t vnc, uint32_t rank, uint32_t ranks) { return build(vnc, rank, ranks); }

int32_t baton::nrt::nrt_barrier(int32_t vnc, uint32_t rank, uint32_t ranks) { return gather("nrt_barrier", vnc, rank, ranks, 0, nullptr, nullptr); }

int32_t baton::nrt::nrt_all_gather(int32_t vnc, uint32_t rank, uint32_t ranks, uint32_t bytes, const void* in, void* out) {
  return gather("nrt_all_gather", vnc, rank, ranks, bytes, in, out);
}

// There is no network below an emulated machine, so no plugin that reaches it.
void* baton::nrt::nrt_get_libnccl_net(int32_t* error, char* message, size_t bytes) {
  if (error) *error = nrt::kFailure;
  if (message && bytes) std::snprintf(message, bytes, "the emulator has no network plugin");
  return nullptr;
}

}  // extern "C"
