#include "drivers/neuron/port.hpp"

#include "drivers/neuron/quirks.hpp"

#include <dlfcn.h>

#include <cstddef>
#include <cstring>

namespace baton::neuron {
namespace {

struct Symbol {
  const char* name;
  size_t slot;       // offset in Port
  const char* cost;  // of its absence; nullptr: the driver cannot run
};

constexpr Symbol kSymbols[] = {
    {"nrt_init", offsetof(Port, init), nullptr},
    {"nrt_close", offsetof(Port, close), nullptr},
    {"nrt_get_total_nc_count", offsetof(Port, total_nc_count), nullptr},
    {"nrt_get_total_vnc_count", offsetof(Port, total_vnc_count), "logical cores are taken for physical ones"},
    {"nrt_get_visible_vnc_count", offsetof(Port, visible_vnc_count), "all cores are taken for visible"},
    {"nrt_load", offsetof(Port, load), nullptr},
    {"nrt_unload", offsetof(Port, unload), nullptr},
    {"nrt_execute", offsetof(Port, execute), nullptr},
    {"nrt_tensor_allocate", offsetof(Port, tensor_allocate), nullptr},
    {"nrt_tensor_free", offsetof(Port, tensor_free), nullptr},
    {"nrt_tensor_allocate_slice", offsetof(Port, tensor_slice), nullptr},
    {"nrt_tensor_read", offsetof(Port, tensor_read), nullptr},
    {"nrt_tensor_write", offsetof(Port, tensor_write), nullptr},
    {"nrt_allocate_tensor_set", offsetof(Port, set_allocate), nullptr},
    {"nrt_destroy_tensor_set", offsetof(Port, set_destroy), nullptr},
    {"nrt_add_tensor_to_tensor_set", offsetof(Port, set_add), nullptr},
    {"nrt_get_version", offsetof(Port, version), "no firmware version in info"},
    {"nrt_get_instance_info", offsetof(Port, instance_info), "the family is taken for Trainium2"},
    {"nrt_get_status_as_str", offsetof(Port, status_text), "errors have the status name alone"},
    {"nrt_load_collectives", offsetof(Port, load_collectives), "no tensor parallelism"},
    {"nrt_tensor_allocate_empty", offsetof(Port, tensor_empty), "no import, marks only at the end of a launch"},
    {"nrt_tensor_attach_buffer", offsetof(Port, tensor_attach), "no import, marks only at the end of a launch"},
    {"nrt_tensor_copy", offsetof(Port, tensor_copy), "copies on the device go through host memory"},
    {"nrt_tensor_memset", offsetof(Port, tensor_memset), "fills are written from host memory"},
    {"nrt_tensor_get_va", offsetof(Port, tensor_va), "no map, no export"},
    {"nrt_get_dmabuf_fd", offsetof(Port, dmabuf_fd), "no export if v2 is missing too"},
    {"nrt_get_dmabuf_fd_v2", offsetof(Port, dmabuf_fd_v2), "only page-aligned memory can be exported"},
    {"nrt_get_vnc_memory_stats", offsetof(Port, memory_stats), "heap use counts this driver's buffers alone"},
    {"nrt_get_model_tensor_info", offsetof(Port, tensor_info), "a compiled program is not checked against the portable one"},
    {"nrt_free_model_tensor_info", offsetof(Port, free_tensor_info), "likewise"},
    {"baton_emu_cost_ns", offsetof(Port, cost_ns), "copies have no modelled time, as on hardware"},
    {"baton_emu_fence", offsetof(Port, fence), "as on hardware: what a NIC has written is made visible by a read of the same NIC, which is the fabric's to post"},
};

}  // namespace

Status load_port(void* library, const std::string& path, Port& out) {
  static_assert(sizeof kSymbols / sizeof kSymbols[0] * sizeof(void*) == sizeof(Port), "every slot has its symbol");
  std::string missing;
  for (const Symbol& s : kSymbols) {
    void* at = dlsym(library, s.name);
    std::memcpy(reinterpret_cast<char*>(&out) + s.slot, &at, sizeof at);
    if (!at && !s.cost) missing += (missing.empty() ? "" : ", ") + std::string(s.name);
  }
  if (!missing.empty())
    return Error(BATON_UNSUPPORTED, path + " lacks " + missing, "install aws-neuronx-runtime-lib 2.x, or name another library with libnrt=PATH");
  return {};
}

Error status_error(const Port& port, int32_t status, std::string_view call, std::string_view context, std::string_view next) {
  StatusInfo info = status_info(status);
  std::string what = std::string(call) + " failed: ";
  const char* text = port.status_text ? port.status_text(status) : nullptr;
  std::string name = "NRT_" + std::string(info.name);
  // The runtime's text starts with the name; add the number after it.
  std::string_view detail = text ? text : "";
  if (detail.starts_with(name)) detail.remove_prefix(name.size());
  what += name + " (" + std::to_string(status) + ")" + std::string(detail);
  if (!context.empty()) what += "; " + std::string(context);
  return Error(info.code, what, next.empty() ? info.next : next);
}

}  // namespace baton::neuron
