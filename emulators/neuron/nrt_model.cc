// The ABI's models.
#include "emulators/neuron/gate.hpp"
#include "emulators/neuron/model.hpp"
#include "emulators/neuron/process.hpp"

#include <bit>
#include <cstdlib>
#include <cstring>

using namespace baton;
using namespace baton::neuron_emu;

namespace {

int32_t load(const char* call, const void* neff, size_t bytes, int32_t vnc, int32_t vnc_count, uint32_t rank, uint32_t ranks, nrt::Model** out) {
  return entry([&](Machine& m) -> int32_t {
    if (!neff || !out) return fail(nrt::kInvalid, "an argument is NULL");
    if (vnc_count > 1) return fail(nrt::kLoadNotEnoughNc, "a portable program runs on 1 core, asked for " + std::to_string(vnc_count));
    LoadRequest q{{static_cast<const uint8_t*>(neff), bytes}, m.core(vnc < 0 ? 0 : vnc), rank, ranks};
    if (!q.core) return fail(nrt::kInvalid, "core " + std::to_string(vnc) + " of " + std::to_string(m.cores.size()));
    if (!std::has_single_bit(ranks) || rank >= ranks) return fail(nrt::kInvalid, "rank " + std::to_string(rank) + " of " + std::to_string(ranks) + ": ranks are a power of two");
    if (ranks > m.cores.size() && !m.ranks_meet()) return fail(nrt::kInvalid, alone_text(m, ranks));
    std::shared_ptr<nrt::Model> model;
    if (int32_t s = gate(m, call, q.core)) return s;
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

}  // namespace

extern "C" {

int32_t baton::nrt::nrt_load(const void* neff, size_t bytes, int32_t vnc, int32_t vnc_count, Model** out) {
  return load(__func__, neff, bytes, vnc, vnc_count, 0, 1, out);
}

int32_t baton::nrt::nrt_load_collectives(const void* neff, size_t bytes, int32_t vnc, int32_t vnc_count, uint32_t rank, uint32_t ranks,
                                         Model** out) {
  return load(__func__, neff, bytes, vnc, vnc_count, rank, ranks, out);
}

int32_t baton::nrt::nrt_unload(Model* handle) {
  return entry([&](Machine& m) -> int32_t {
    auto model = m.models.take(handle);
    return model ? nrt::kSuccess : fail(nrt::kInvalidHandle, "no such model");
  });
}

int32_t baton::nrt::nrt_get_model_nc_count(const Model* model, uint32_t* n) { return model_cores(model, n, true); }
int32_t baton::nrt::nrt_get_model_vnc_count(const Model* model, uint32_t* n) { return model_cores(model, n, false); }

int32_t baton::nrt::nrt_get_model_instance_count(Model* handle, uint32_t* out) {
  return entry([&](Machine& m) -> int32_t {
    if (!m.models.find(handle)) return fail(nrt::kInvalidHandle, "no such model");
    if (!out) return fail(nrt::kInvalid, "the count's address is NULL");
    *out = 1;
    return nrt::kSuccess;
  });
}

int32_t baton::nrt::nrt_get_model_info(const Model* handle, ModelInfo* out, size_t bytes_in, size_t* bytes_out) {
  return entry([&](Machine& m) -> int32_t {
    auto model = m.models.find(handle);
    if (!model) return fail(nrt::kInvalidHandle, "no such model");
    if (!out) return fail(nrt::kInvalid, "the info's address is NULL");
    ModelInfo info{model->core->vnc};
    const size_t n = std::min(bytes_in, sizeof info);
    std::memcpy(out, &info, n);
    if (bytes_out) *bytes_out = n;
    return nrt::kSuccess;
  });
}

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
    if (repeat < 0) return fail(nrt::kInvalid, "repeat " + std::to_string(repeat));
    for (int32_t i = 0; i < repeat; ++i)
      if (int32_t s = execute_model(m, *model, *in, *out)) return s;
    return nrt::kSuccess;
  });
}

// Queued executions are gone from the runtime since SDK 2.32: nothing is ever queued, so nothing calls back.
int32_t baton::nrt::nrt_register_async_exec_callback(void*, void*) {
  return entry([&](Machine&) -> int32_t { return fail(nrt::kFailure, "the implicit asynchronous mode was removed in SDK 2.32: nrt_execute blocks"); });
}

int32_t baton::nrt::nrt_async_drain_queued_execs(uint32_t vnc) {
  return entry([&](Machine& m) -> int32_t {
    return m.core(vnc) ? nrt::kSuccess : fail(nrt::kInvalid, "core " + std::to_string(vnc) + " of " + std::to_string(m.cores.size()));
  });
}

}  // extern "C"
