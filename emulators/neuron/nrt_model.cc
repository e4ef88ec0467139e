// The ABI's models and memory export.
#include "emulators/neuron/model.hpp"
#include "emulators/neuron/process.hpp"

#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>

using namespace baton;
using namespace baton::neuron_emu;

namespace {

int32_t load(const void* neff, size_t bytes, int32_t vnc, int32_t vnc_count, uint32_t rank, uint32_t ranks, nrt::Model** out) {
  return entry([&](Machine& m) -> int32_t {
    if (!neff || !out) return fail(nrt::kInvalid, "an argument is NULL");
    if (vnc_count > 1) return fail(nrt::kLoadNotEnoughNc, "a portable program runs on 1 core, asked for " + std::to_string(vnc_count));
    LoadRequest q{{static_cast<const uint8_t*>(neff), bytes}, m.core(vnc < 0 ? 0 : vnc), rank, ranks};
    if (!q.core) return fail(nrt::kInvalid, "core " + std::to_string(vnc) + " of " + std::to_string(m.cores.size()));
    if (!std::has_single_bit(ranks) || rank >= ranks || ranks > m.cores.size())
      return fail(nrt::kInvalid, "rank " + std::to_string(rank) + " of " + std::to_string(ranks) + ": ranks are a power of two, up to the " +
                                     std::to_string(m.cores.size()) + " visible cores");
    std::shared_ptr<nrt::Model> model;
    if (int32_t s = load_model(m, q, model)) return s;
    *out = m.models.add(std::move(model));
    return nrt::kSuccess;
  });
}

int32_t model_cores(const nrt::Model* handle, uint32_t* out, bool physical) {
  return entry([&](Machine& m) -> int32_t {
    if (!m.models.find(handle)) return fail(nrt::kInvalidHandle, "no such model");
    if (!out) return fail(nrt::kInvalid, "the count's address is NULL");
    *out = physical ? m.options.lnc : 1;
    return nrt::kSuccess;
  });
}

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

int32_t export_range(Machine& m, uint64_t va, uint64_t bytes, int32_t* fd, uint64_t* offset) {
  uint64_t at = 0;
  if (!fd || !bytes) return fail(nrt::kInvalid, "an empty range");
  Hbm* stack = find_stack(m, reinterpret_cast<const void*>(va), bytes, at);
  if (!stack) return fail(nrt::kInvalid, std::to_string(bytes) + " bytes at that address are not within one tensor's device memory");
  // v1 says nothing of an offset, and a descriptor here covers the stack from its start: refused rather than wrong.
  if (!offset && at) return fail(nrt::kInvalid, "the range starts at byte " + std::to_string(at) + " of its memory object: use nrt_get_dmabuf_fd_v2");
  *fd = stack->duplicate();
  if (*fd < 0) return fail(nrt::kResource, std::string("descriptor: ") + std::strerror(errno));
  if (offset) *offset = at;
  return nrt::kSuccess;
}

}  // namespace

extern "C" {

int32_t baton::nrt::nrt_load(const void* neff, size_t bytes, int32_t vnc, int32_t vnc_count, Model** out) {
  return load(neff, bytes, vnc, vnc_count, 0, 1, out);
}

int32_t baton::nrt::nrt_load_collectives(const void* neff, size_t bytes, int32_t vnc, int32_t vnc_count, uint32_t rank, uint32_t ranks,
                                         Model** out) {
  return load(neff, bytes, vnc, vnc_count, rank, ranks, out);
}

int32_t baton::nrt::nrt_unload(Model* handle) {
  return entry([&](Machine& m) -> int32_t {
    auto model = m.models.take(handle);
    return model ? nrt::kSuccess : fail(nrt::kInvalidHandle, "no such model");
  });
}

int32_t baton::nrt::nrt_get_model_nc_count(const Model* model, uint32_t* n) { return model_cores(model, n, true); }
int32_t baton::nrt::nrt_get_model_vnc_count(const Model* model, uint32_t* n) { return model_cores(model, n, false); }

int32_t baton::nrt::nrt_get_model_tensor_info(Model* handle, TensorInfoArray** out) {
  return entry([&](Machine& m) -> int32_t {
    auto model = m.models.find(handle);
    if (!model) return fail(nrt::kInvalidHandle, "no such model");
    if (!out) return fail(nrt::kInvalid, "the array's address is NULL");
    return describe_model(*model, out);
  });
}

int32_t baton::nrt::nrt_free_model_tensor_info(TensorInfoArray* array) {
  std::free(array);
  return nrt::kSuccess;
}

int32_t baton::nrt::nrt_execute(Model* model, const void* inputs, void* outputs) { return nrt_execute_repeat(model, inputs, outputs, 1); }

int32_t baton::nrt::nrt_execute_repeat(Model* handle, const void* inputs, void* outputs, int32_t repeat) {
  return entry([&](Machine& m) -> int32_t {
    auto model = m.models.find(handle);
    auto in = m.sets.find(inputs), out = m.sets.find(outputs);
    if (!model || !in || !out) return fail(nrt::kInvalidHandle, model ? "no such tensor set" : "no such model");
    for (int32_t i = 0; i < repeat; ++i)
      if (int32_t s = execute_model(m, *model, *in, *out)) return s;
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_get_dmabuf_fd(uint64_t va, uint64_t bytes, int32_t* fd) {
  return entry([&](Machine& m) { return export_range(m, va, bytes, fd, nullptr); });
}

int32_t baton::nrt::nrt_get_dmabuf_fd_v2(uint64_t va, uint64_t bytes, int32_t* fd, uint64_t* offset) {
  return entry([&](Machine& m) -> int32_t {
    if (!offset) return fail(nrt::kInvalid, "the offset's address is NULL");
    return export_range(m, va, bytes, fd, offset);
  });
}

int32_t baton::nrt::nrt_get_hbm_mmap_va(int32_t device, int32_t hbm, void** va, size_t* bytes) {
  return entry([&](Machine& m) -> int32_t {
    if (!va || !bytes || device < 0 || uint32_t(device) >= m.options.chips || hbm < 0) return fail(nrt::kInvalid, "device " + std::to_string(device));
    if (uint32_t(hbm) >= kHbmPerChip) return fail(nrt::kInvalidHandle, "a chip has " + std::to_string(kHbmPerChip) + " HBM stacks");
    const auto& stack = m.stacks[uint32_t(device) * kHbmPerChip + uint32_t(hbm)];
    if (!stack) return fail(nrt::kInvalid, "no visible core uses HBM " + std::to_string(hbm) + " of device " + std::to_string(device));
    *va = stack->base();
    *bytes = stack->bytes();
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_memcpy_to_device(void* va, const void* source, size_t bytes) {
  return entry([&](Machine& m) -> int32_t {
    uint64_t offset = 0;
    if (!source && bytes) return fail(nrt::kInvalid, "the source is NULL");
    if (bytes && !find_stack(m, va, bytes, offset))
      return fail(nrt::kInvalid, std::to_string(bytes) + " bytes at that address are not within one tensor's device memory");
    if (bytes) std::memcpy(va, source, bytes);
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

}  // extern "C"
