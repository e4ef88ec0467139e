// port.hpp: the driver's port: one pointer for each runtime symbol it uses, found by dlsym, each allowed to be absent.
//
// Owner    the Runtime (runtime.hpp) owns the library; a Port is valid while it is open.
// Threads  const after load.   Cost  load: one dlsym a symbol.
// Errors   UNSUPPORTED naming the symbols that are missing and what each absence costs, if one is needed to run at all.
//
//     Port port;
//     BATON_TRY(load_port(library, path, port));
//     if (int32_t s = port.tensor_allocate(...)) return status_error(port, s, "nrt_tensor_allocate", ...);
#pragma once

#include "drivers/neuron/nrt_abi.hpp"
#include "hal/baton.hpp"

#include <string>
#include <string_view>

namespace baton::neuron {

struct Port {
  // needed
  decltype(&nrt::nrt_init) init = nullptr;
  decltype(&nrt::nrt_close) close = nullptr;
  decltype(&nrt::nrt_get_total_nc_count) total_nc_count = nullptr;
  decltype(&nrt::nrt_get_total_vnc_count) total_vnc_count = nullptr;
  decltype(&nrt::nrt_get_visible_vnc_count) visible_vnc_count = nullptr;
  decltype(&nrt::nrt_load) load = nullptr;
  decltype(&nrt::nrt_unload) unload = nullptr;
  decltype(&nrt::nrt_execute) execute = nullptr;
  decltype(&nrt::nrt_tensor_allocate) tensor_allocate = nullptr;
  decltype(&nrt::nrt_tensor_free) tensor_free = nullptr;
  decltype(&nrt::nrt_tensor_allocate_slice) tensor_slice = nullptr;
  decltype(&nrt::nrt_tensor_read) tensor_read = nullptr;
  decltype(&nrt::nrt_tensor_write) tensor_write = nullptr;
  decltype(&nrt::nrt_allocate_tensor_set) set_allocate = nullptr;
  decltype(&nrt::nrt_destroy_tensor_set) set_destroy = nullptr;
  decltype(&nrt::nrt_add_tensor_to_tensor_set) set_add = nullptr;
  // optional: see kSymbols in port.cc for what each absence costs
  decltype(&nrt::nrt_get_version) version = nullptr;
  decltype(&nrt::nrt_get_instance_info) instance_info = nullptr;
  decltype(&nrt::nrt_get_status_as_str) status_text = nullptr;
  decltype(&nrt::nrt_load_collectives) load_collectives = nullptr;
  decltype(&nrt::nrt_tensor_allocate_empty) tensor_empty = nullptr;
  decltype(&nrt::nrt_tensor_attach_buffer) tensor_attach = nullptr;
  decltype(&nrt::nrt_tensor_copy) tensor_copy = nullptr;
  decltype(&nrt::nrt_tensor_memset) tensor_memset = nullptr;
  decltype(&nrt::nrt_tensor_get_va) tensor_va = nullptr;
  decltype(&nrt::nrt_get_dmabuf_fd) dmabuf_fd = nullptr;
  decltype(&nrt::nrt_get_dmabuf_fd_v2) dmabuf_fd_v2 = nullptr;
  decltype(&nrt::nrt_get_vnc_memory_stats) memory_stats = nullptr;
  decltype(&nrt::nrt_get_model_tensor_info) tensor_info = nullptr;
  decltype(&nrt::nrt_free_model_tensor_info) free_tensor_info = nullptr;
  decltype(&nrt::baton_emu_cost_ns) cost_ns = nullptr;
  decltype(&nrt::baton_emu_fence) fence = nullptr;
};

Status load_port(void* library, const std::string& path, Port& out);

// "nrt_load failed: NRT_INVALID (2): ..." with the code and next step of the quirks table. `next` overrides the table's if not empty.
// Call on the thread that made the failing call: the runtime may keep its detail by thread.
Error status_error(const Port&, int32_t status, std::string_view call, std::string_view context = {}, std::string_view next = {});

}  // namespace baton::neuron
