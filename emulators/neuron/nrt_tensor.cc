// The ABI's tensors and tensor sets.
#include "emulators/neuron/gate.hpp"
#include "emulators/neuron/process.hpp"

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>

using namespace baton;
using namespace baton::neuron_emu;

namespace {

constexpr uint64_t kHostTensorMax = 4 << 20;  // HOST placement: under 4 MiB (nrt.h; deprecated)
constexpr size_t kNameMax = 256;              // NRT_TENSOR_NAME_MAX

int32_t check_name(const char* name) {
  if (name && strnlen(name, kNameMax) == kNameMax) return fail(nrt::kInvalid, "the tensor's name has 256 characters or more");
  return nrt::kSuccess;
}

std::string range_text(const nrt::Tensor& t, uint64_t offset, uint64_t bytes) {
  return "bytes " + std::to_string(offset) + " to " + std::to_string(offset) + "+" + std::to_string(bytes) + " of tensor '" + t.name + "' of " +
         std::to_string(t.bytes);
}

// The tensor with [offset, offset + bytes) in it; null after fail().
std::shared_ptr<nrt::Tensor> in_range(Machine& m, const nrt::Tensor* handle, uint64_t offset, uint64_t bytes, int32_t& status) {
  auto t = m.tensors.find(handle);
  if (!t) {
    status = fail(nrt::kInvalidHandle, "no such tensor");
  } else if (!t->storage) {
    status = fail(nrt::kInvalid, "tensor '" + t->name + "' has no memory attached");
  } else if (offset > t->bytes || bytes > t->bytes - offset) {
    status = fail(nrt::kInvalid, range_text(*t, offset, bytes));
  } else {
    return t;
  }
  return nullptr;
}

int32_t place(Machine& m, int32_t placement, int32_t vnc, size_t bytes, const char* name, Storage& s) {
  Core* core = m.core(vnc);
  if (!core) return fail(nrt::kInvalid, "core " + std::to_string(vnc) + " of " + std::to_string(m.cores.size()));
  if (int32_t gated = gate(m, "nrt_tensor_allocate", core)) return gated;
  if (!bytes) return fail(nrt::kInvalid, "a tensor of 0 bytes");
  if (placement == nrt::kPlacementHost) {
    if (bytes >= kHostTensorMax) return fail(nrt::kInvalid, "a host tensor of " + std::to_string(bytes) + " bytes; they are under 4 MiB");
    s.data = static_cast<uint8_t*>(std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage));
    if (!s.data) return fail(nrt::kFailHostMemAlloc, "out of host memory");
    std::memset(s.data, 0, bytes);
    s.host = &core->chip_counters->host[size_t(HostMemory::tensors)];
    s.host->change(int64_t(bytes));
  } else if (placement == nrt::kPlacementDevice) {
    auto offset = core->hbm->allocate(bytes, name ? name : "");
    if (!offset)
      return fail(nrt::kResource, std::to_string(bytes) + " bytes on HBM " + std::to_string(core->hbm_index) + " of chip " + std::to_string(core->chip) +
                                      ", " + std::to_string(core->hbm->used()) + " of " + std::to_string(core->hbm->bytes()) + " are in use");
    s.core = core;
    s.hbm = core->hbm;
    s.hbm_offset = *offset;
    s.data = core->hbm->base() + *offset;
    core->counters->use(DeviceMemory::tensors, int64_t(core->hbm->allocated(*offset)));
  } else {
    return fail(nrt::kInvalid, "placement " + std::to_string(placement) + " (VIRTUAL was removed in SDK 2.30)");
  }
  s.bytes = bytes;
  return nrt::kSuccess;
}

// The tensor of one op of a batch, checked; null after fail().
std::shared_ptr<nrt::Tensor> checked(Machine& m, nrt::Tensor* handle, const nrt::BatchOp& op, int32_t& status) {
  auto t = in_range(m, handle, op.offset, op.size, status);
  if (t && !op.buffer && op.size) {
    status = fail(nrt::kInvalid, "the buffer is NULL");
    return nullptr;
  }
  return t;
}

int32_t move(Machine& m, const char* call, nrt::Tensor* handle, const nrt::BatchOp& op, bool write) {
  int32_t status = nrt::kSuccess;
  auto t = checked(m, handle, op, status);
  if (!t) return status;
  const Storage& s = *t->storage;
  if (s.core)
    if (int32_t gated = gate(m, call, s.core)) return gated;
  if (write) {
    std::memcpy(t->data() + op.offset, op.buffer, op.size);
    s.exchange();
  } else {
    s.exchange();
    std::memcpy(op.buffer, t->data() + op.offset, op.size);
  }
  if (s.core) add_cost(m.cost->copy_ns(op.size, write));
  return nrt::kSuccess;
}

// All is checked before a byte moves, also where the caller says that it need not be: nothing here trusts a pointer.
int32_t move_batches(Machine& m, const char* call, const nrt::Batch* batches, uint64_t count, bool write) {
  if (!batches && count) return fail(nrt::kInvalid, "no batches");
  int32_t status = nrt::kSuccess;
  for (uint64_t b = 0; b < count; ++b) {
    if (batches[b].op_count && !batches[b].ops) return fail(nrt::kInvalid, "batch " + std::to_string(b) + " has no operations");
    for (uint32_t i = 0; i < batches[b].op_count; ++i)
      if (!checked(m, batches[b].tensor, batches[b].ops[i], status)) return status;
  }
  for (uint64_t b = 0; b < count; ++b)
    for (uint32_t i = 0; i < batches[b].op_count; ++i)
      if (int32_t s = move(m, call, batches[b].tensor, batches[b].ops[i], write)) return s;
  return nrt::kSuccess;
}

}  // namespace

extern "C" {

int32_t baton::nrt::nrt_tensor_allocate(int32_t placement, int32_t vnc, size_t bytes, const char* name, Tensor** out) {
  return entry([&](Machine& m) -> int32_t {
    if (!out) return fail(nrt::kInvalid, "the tensor's address is NULL");
    if (int32_t s = check_name(name)) return s;
    auto storage = std::make_shared<Storage>();
    if (int32_t s = place(m, placement, vnc, bytes, name, *storage)) return s;
    auto t = std::make_shared<Tensor>();
    t->storage = std::move(storage);
    t->bytes = bytes;
    t->name = name ? name : "";
    *out = m.tensors.add(std::move(t));
    return nrt::kSuccess;
  });
}

void baton::nrt::nrt_tensor_free(Tensor** handle) {
  (void)entry([&](Machine& m) -> int32_t {
    if (!handle || !*handle) return nrt::kSuccess;
    auto t = m.tensors.take(*handle);
    *handle = nullptr;
    return t ? nrt::kSuccess : fail(nrt::kInvalidHandle, "free of no such tensor");
  });
}

int32_t baton::nrt::nrt_tensor_allocate_empty(const char* name, Tensor** out) {
  return entry([&](Machine& m) -> int32_t {
    if (!out) return fail(nrt::kInvalid, "the tensor's address is NULL");
    if (int32_t s = check_name(name)) return s;
    auto t = std::make_shared<Tensor>();
    t->name = name ? name : "";
    *out = m.tensors.add(std::move(t));
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_tensor_attach_buffer(Tensor* handle, void* buffer, size_t bytes) {
  return entry([&](Machine& m) -> int32_t {
    auto t = m.tensors.find(handle);
    if (!t) return fail(nrt::kInvalidHandle, "no such tensor");
    if (t->storage && t->storage->hbm) return fail(nrt::kInvalid, "tensor '" + t->name + "' has device memory of its own");
    if (!buffer || !bytes) return fail(nrt::kInvalid, "an empty buffer");
    auto storage = std::make_shared<Storage>();
    storage->data = static_cast<uint8_t*>(buffer);
    storage->bytes = bytes;
    t->storage = std::move(storage);
    t->bytes = bytes;
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_tensor_allocate_slice(const Tensor* source, size_t offset, size_t bytes, const char* name, Tensor** out) {
  return entry([&](Machine& m) -> int32_t {
    if (!out) return fail(nrt::kInvalid, "the tensor's address is NULL");
    if (int32_t s = check_name(name)) return s;
    int32_t status = nrt::kSuccess;
    auto parent = in_range(m, source, offset, bytes, status);
    if (!parent) return status;
    if (!bytes) return fail(nrt::kInvalid, "a slice of 0 bytes");
    auto t = std::make_shared<Tensor>();
    t->storage = parent->storage;
    t->offset = parent->offset + offset;
    t->bytes = bytes;
    t->name = name ? name : "";
    *out = m.tensors.add(std::move(t));
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_tensor_read(const Tensor* t, void* buffer, size_t offset, size_t bytes) {
  return entry([&](Machine& m) -> int32_t {
    return move(m, "nrt_tensor_read", const_cast<Tensor*>(t), {offset, bytes, buffer}, false);
  });
}

int32_t baton::nrt::nrt_tensor_write(Tensor* t, const void* buffer, size_t offset, size_t bytes) {
  return entry([&](Machine& m) -> int32_t {
    return move(m, "nrt_tensor_write", t, {offset, bytes, const_cast<void*>(buffer)}, true);
  });
}

int32_t baton::nrt::nrt_tensor_read_batch(const Batch* batches, uint64_t count, bool) {
  return entry([&](Machine& m) { return move_batches(m, "nrt_tensor_read_batch", batches, count, false); });
}

int32_t baton::nrt::nrt_tensor_write_batch(const Batch* batches, uint64_t count, bool) {
  return entry([&](Machine& m) { return move_batches(m, "nrt_tensor_write_batch", batches, count, true); });
}

int32_t baton::nrt::nrt_tensor_copy(const Tensor* source, size_t source_offset, Tensor* to, size_t to_offset, size_t bytes) {
  return entry([&](Machine& m) -> int32_t {
    int32_t status = nrt::kSuccess;
    auto s = in_range(m, source, source_offset, bytes, status);
    if (!s) return status;
    auto d = in_range(m, to, to_offset, bytes, status);
    if (!d) return status;
    Core *from = s->storage->core, *onto = d->storage->core;
    if (from && onto && from != onto)
      return fail(nrt::kInvalid, "a copy from core " + std::to_string(from->vnc) + " to core " + std::to_string(onto->vnc) +
                                     ": device memory is copied within one core");
    if (Core* core = onto ? onto : from)
      if (int32_t gated = gate(m, "nrt_tensor_copy", core)) return gated;
    s->storage->exchange();
    std::memmove(d->data() + to_offset, s->data() + source_offset, bytes);
    d->storage->exchange();
    add_cost(from && onto ? m.cost->device_copy_ns(bytes) : from || onto ? m.cost->copy_ns(bytes, onto != nullptr) : 0);
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_tensor_memset(Tensor* handle, uint64_t offset, int32_t value, size_t bytes) {
  return entry([&](Machine& m) -> int32_t {
    int32_t status = nrt::kSuccess;
    auto t = in_range(m, handle, offset, bytes, status);
    if (!t) return status;
    if (t->storage->core)
      if (int32_t gated = gate(m, "nrt_tensor_memset", t->storage->core)) return gated;
    std::memset(t->data() + offset, value, bytes);
    t->storage->exchange();
    if (t->storage->core) add_cost(m.cost->fill_ns(bytes));
    return nrt::kSuccess;
  });
}

uint64_t baton::nrt::baton_emu_cost_ns(void) { return uint64_t(std::llround(cost_ns())); }

size_t baton::nrt::nrt_tensor_get_size(const Tensor* handle) {
  size_t bytes = 0;
  (void)entry([&](Machine& m) -> int32_t {
    auto t = m.tensors.find(handle);
    if (!t) return fail(nrt::kInvalidHandle, "no such tensor");
    bytes = t->bytes;
    return nrt::kSuccess;
  });
  return bytes;
}

void* baton::nrt::nrt_tensor_get_va(const Tensor* handle) {
  void* va = nullptr;
  (void)entry([&](Machine& m) -> int32_t {
    auto t = m.tensors.find(handle);
    if (!t) return fail(nrt::kInvalidHandle, "no such tensor");
    if (t->storage) va = t->storage->address(t->offset);
    return nrt::kSuccess;
  });
  return va;
}

int32_t baton::nrt::nrt_tensor_get_device_allocation_info(const Tensor* handle, AllocationInfo* out) {
  return entry([&](Machine& m) -> int32_t {
    auto t = m.tensors.find(handle);
    if (!t) return fail(nrt::kInvalidHandle, "no such tensor");
    if (!out || !t->storage || !t->storage->core) return fail(nrt::kInvalid, "tensor '" + t->name + "' is not in device memory");
    const Storage& s = *t->storage;
    *out = {m.options.machine.chip.hbm_at[s.core->hbm_index] + s.hbm_offset + t->offset, t->bytes, int32_t(s.core->hbm_index)};
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_tensor_check_output_completion(const Tensor* handle, int64_t timeout_us, uint64_t count) {
  return entry([&](Machine& m) -> int32_t {
    auto t = m.tensors.find(handle);
    if (!t) return fail(nrt::kInvalidHandle, "no such tensor");
    if (timeout_us < -1) return fail(nrt::kInvalid, "a timeout of " + std::to_string(timeout_us) + " us");
    const auto start = std::chrono::steady_clock::now();
    std::unique_lock lock(m.outputs_mutex);
    while (t->completions < count) {
      if (m.closing) return fail(nrt::kClosed, "nrt_close was called while waiting for a tensor");
      if (timeout_us >= 0 && std::chrono::steady_clock::now() - start >= std::chrono::microseconds(timeout_us))
        return fail(nrt::kTimeout, "tensor '" + t->name + "' was an output of " + std::to_string(t->completions) + " executions, not " + std::to_string(count));
      m.outputs_written.wait_for(lock, std::chrono::milliseconds(1));
    }
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_tensor_reset_output_completion(Tensor* handle) {
  return entry([&](Machine& m) -> int32_t {
    auto t = m.tensors.find(handle);
    if (!t) return fail(nrt::kInvalidHandle, "no such tensor");
    t->completions = 0;
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_allocate_tensor_set(void** out) {
  return entry([&](Machine& m) -> int32_t {
    if (!out) return fail(nrt::kInvalid, "the set's address is NULL");
    *out = m.sets.add(std::make_shared<TensorSet>());
    return nrt::kSuccess;
  });
}

void baton::nrt::nrt_destroy_tensor_set(void** handle) {
  (void)entry([&](Machine& m) -> int32_t {
    if (!handle || !*handle) return nrt::kSuccess;
    auto set = m.sets.take(*handle);
    *handle = nullptr;
    return set ? nrt::kSuccess : fail(nrt::kInvalidHandle, "no such tensor set");
  });
}

int32_t baton::nrt::nrt_add_tensor_to_tensor_set(void* handle, const char* name, Tensor* tensor) {
  return entry([&](Machine& m) -> int32_t {
    auto set = m.sets.find(handle);
    auto t = m.tensors.find(tensor);
    if (!set || !t) return fail(nrt::kInvalidHandle, set ? "no such tensor" : "no such tensor set");
    if (!name) return fail(nrt::kInvalid, "the name is NULL");
    if (int32_t s = check_name(name)) return s;
    std::lock_guard lock(set->mutex);
    set->tensors[name] = {tensor, std::move(t)};
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_get_tensor_from_tensor_set(void* handle, const char* name, Tensor** out) {
  return entry([&](Machine& m) -> int32_t {
    auto set = m.sets.find(handle);
    if (!set) return fail(nrt::kInvalidHandle, "no such tensor set");
    if (!name || !out) return fail(nrt::kInvalid, "an argument is NULL");
    std::lock_guard lock(set->mutex);
    auto it = set->tensors.find(name);
    if (it == set->tensors.end()) return fail(nrt::kInvalid, std::string("no tensor '") + name + "' in the set");
    *out = it->second.first;
    return nrt::kSuccess;
  });
}

}  // extern "C"
