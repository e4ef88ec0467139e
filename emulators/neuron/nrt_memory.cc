// The ABI's memory export, and what is known of device memory by its address.
#include "emulators/neuron/gate.hpp"
#include "emulators/neuron/process.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

using namespace baton;
using namespace baton::neuron_emu;

namespace {

// The stack that holds [va, va + bytes) within one allocation, and where.
Hbm* find_stack(Machine& m, const void* va, uint64_t bytes, uint64_t& offset) {
  for (const auto& stack : m.stacks) {
    if (!stack) continue;
    if (auto at = stack->find(va, bytes)) {
      offset = *at;
      return stack.get();
    }
  }
  return nullptr;
}

// A core that works on the stack.
Core* core_of(Machine& m, const Hbm& stack) {
  for (const auto& core : m.cores)
    if (core->hbm.get() == &stack) return core.get();
  return nullptr;
}

int32_t export_range(Machine& m, const char* call, uint64_t va, uint64_t bytes, int32_t* fd, uint64_t* offset) {
  uint64_t at = 0;
  if (!fd || !bytes) return fail(nrt::kInvalid, "an empty range");
  Hbm* stack = find_stack(m, reinterpret_cast<const void*>(va), bytes, at);
  if (!stack) return fail(nrt::kInvalid, std::to_string(bytes) + " bytes at that address are not within one tensor's device memory");
  // v1 says nothing of an offset, and a descriptor here covers the stack from its start: refused rather than wrong.
  if (!offset && at) return fail(nrt::kInvalid, "the range starts at byte " + std::to_string(at) + " of its memory object: use nrt_get_dmabuf_fd_v2");
  if (int32_t s = gate(m, call, core_of(m, *stack))) return s;
  *fd = stack->export_at(at);
  if (*fd < 0) return fail(nrt::kResource, std::string("descriptor: ") + std::strerror(errno));
  if (offset) *offset = at;
  return nrt::kSuccess;
}

}  // namespace

extern "C" {

int32_t baton::nrt::nrt_get_dmabuf_fd(uint64_t va, uint64_t bytes, int32_t* fd) {
  return entry([&](Machine& m) { return export_range(m, "nrt_get_dmabuf_fd", va, bytes, fd, nullptr); });
}

int32_t baton::nrt::nrt_get_dmabuf_fd_v2(uint64_t va, uint64_t bytes, int32_t* fd, uint64_t* offset) {
  return entry([&](Machine& m) -> int32_t {
    if (!offset) return fail(nrt::kInvalid, "the offset's address is NULL");
    return export_range(m, "nrt_get_dmabuf_fd_v2", va, bytes, fd, offset);
  });
}

int32_t baton::nrt::nrt_get_hbm_mmap_va(int32_t device, int32_t hbm, void** va, size_t* bytes) {
  return entry([&](Machine& m) -> int32_t {
    if (!va || !bytes || device < 0 || uint32_t(device) >= m.options.chips || hbm < 0) return fail(nrt::kInvalid, "device " + std::to_string(device));
    const uint32_t stacks = m.options.machine.chip.stacks();
    if (uint32_t(hbm) >= stacks) return fail(nrt::kInvalidHandle, "a chip has " + std::to_string(stacks) + " HBM stacks");
    const auto& stack = m.stacks[uint32_t(device) * stacks + uint32_t(hbm)];
    if (!stack) return fail(nrt::kInvalid, "no visible core uses HBM " + std::to_string(hbm) + " of device " + std::to_string(device));
    *va = stack->window();
    *bytes = stack->bytes();
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_memcpy_to_device(void* va, const void* source, size_t bytes) {
  return entry([&](Machine& m) -> int32_t {
    uint64_t offset = 0;
    if (!source && bytes) return fail(nrt::kInvalid, "the source is NULL");
    if (!bytes) return nrt::kSuccess;
    Hbm* stack = find_stack(m, va, bytes, offset);
    if (!stack) return fail(nrt::kInvalid, std::to_string(bytes) + " bytes at that address are not within one tensor's device memory");
    if (int32_t s = gate(m, "nrt_memcpy_to_device", core_of(m, *stack))) return s;
    std::memcpy(stack->base() + offset, source, bytes);
    stack->exchange();
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_get_vnc_memory_stats(uint32_t vnc, MemoryStats* out, size_t bytes_in, size_t* bytes_out) {
  return entry([&](Machine& m) -> int32_t {
    Core* core = m.core(vnc);
    if (!core || !out) return fail(nrt::kInvalid, "core " + std::to_string(vnc) + " of " + std::to_string(m.cores.size()));
    MemoryStats stats{core->hbm->used(), core->hbm->bytes()};
    size_t n = std::min(bytes_in, sizeof stats);
    std::memcpy(out, &stats, n);
    if (bytes_out) *bytes_out = n;
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::baton_emu_fence(const void* va, uint64_t bytes) {
  return entry([&](Machine& m) -> int32_t {
    uint64_t offset = 0;
    if (!bytes) return nrt::kSuccess;
    Hbm* stack = find_stack(m, va, bytes, offset);
    if (!stack) return fail(nrt::kInvalid, std::to_string(bytes) + " bytes at that address are not within one tensor's device memory");
    stack->fence(offset, bytes);
    return nrt::kSuccess;
  });
}

}  // extern "C"
