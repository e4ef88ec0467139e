// neuron_library.hpp: the emulated libnrt.so.1 as a stranger binds it, by dlopen and dlsym, and what its tests need around it.
#pragma once

#include "drivers/neuron/launch_abi.hpp"
#include "drivers/neuron/neff.hpp"
#include "drivers/neuron/nrt_abi.hpp"
#include "tests/support/process.h"
#include "tests/unit/neuron_models.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace baton::test {

#define SYMBOL(name) decltype(&nrt::nrt_##name) name = reinterpret_cast<decltype(&nrt::nrt_##name)>(dlsym(library, "nrt_" #name))

class Library {
 public:
  void* library = dlopen((plugin("emu/libnrt.so.1")).c_str(), RTLD_NOW | RTLD_LOCAL);
  SYMBOL(init);
  SYMBOL(close);
  SYMBOL(get_version);
  SYMBOL(get_instance_info);
  SYMBOL(get_status_as_str);
  SYMBOL(get_total_nc_count);
  SYMBOL(get_total_vnc_count);
  SYMBOL(get_visible_nc_count);
  SYMBOL(get_visible_vnc_count);
  SYMBOL(get_attached_efa_bdf);
  SYMBOL(load);
  SYMBOL(load_collectives);
  SYMBOL(unload);
  SYMBOL(get_model_nc_count);
  SYMBOL(get_model_tensor_info);
  SYMBOL(free_model_tensor_info);
  SYMBOL(execute);
  SYMBOL(execute_repeat);
  SYMBOL(tensor_allocate);
  SYMBOL(tensor_free);
  SYMBOL(tensor_allocate_empty);
  SYMBOL(tensor_attach_buffer);
  SYMBOL(tensor_allocate_slice);
  SYMBOL(tensor_read);
  SYMBOL(tensor_write);
  SYMBOL(tensor_read_batch);
  SYMBOL(tensor_write_batch);
  SYMBOL(tensor_copy);
  SYMBOL(tensor_memset);
  SYMBOL(tensor_get_size);
  SYMBOL(tensor_get_va);
  SYMBOL(tensor_get_device_allocation_info);
  SYMBOL(allocate_tensor_set);
  SYMBOL(destroy_tensor_set);
  SYMBOL(add_tensor_to_tensor_set);
  SYMBOL(get_tensor_from_tensor_set);
  SYMBOL(get_dmabuf_fd);
  SYMBOL(get_dmabuf_fd_v2);
  SYMBOL(get_hbm_mmap_va);
  SYMBOL(memcpy_to_device);
  SYMBOL(get_vnc_memory_stats);
  SYMBOL(build_global_comm);
  SYMBOL(barrier);
  SYMBOL(all_gather);
  SYMBOL(cc_global_comm_init);
  SYMBOL(get_libnccl_net);
  SYMBOL(host_device_id_get);
  SYMBOL(host_device_id_rid_map_get);
  SYMBOL(get_model_vnc_count);
  SYMBOL(get_model_instance_count);
  SYMBOL(get_model_info);
  SYMBOL(register_async_exec_callback);
  SYMBOL(async_drain_queued_execs);
  SYMBOL(tensor_check_output_completion);
  SYMBOL(tensor_reset_output_completion);
  decltype(&nrt::baton_emu_fence) fence = reinterpret_cast<decltype(&nrt::baton_emu_fence)>(dlsym(library, "baton_emu_fence"));
  ~Library() {
    if (library) dlclose(library);
  }
};

// The library, initialized; environment first.
class NeuronAbi : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(rt.library, nullptr) << dlerror(); }
  void TearDown() override {
    rt.close();
    for (const auto& name : set_) unsetenv(name.c_str());
  }
  void with(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    set_.push_back(name);
  }
  void init() { ASSERT_EQ(rt.init(nrt::kFrameworkNone, "2.0", ""), nrt::kSuccess) << rt.get_status_as_str(nrt::kFailure); }
  nrt::Tensor* tensor(int32_t vnc, size_t bytes) {
    nrt::Tensor* t = nullptr;
    EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, vnc, bytes, "t", &t), nrt::kSuccess);
    return t;
  }
  size_t used(uint32_t vnc) {
    nrt::MemoryStats s{};
    size_t n = 0;
    EXPECT_EQ(rt.get_vnc_memory_stats(vnc, &s, sizeof s, &n), nrt::kSuccess);
    EXPECT_EQ(n, sizeof s);
    return s.bytes_used;
  }
  Library rt;
  std::vector<std::string> set_;
};
#undef SYMBOL

inline Result<neuron::Neff> container(const TinyModel& m, uint32_t lnc = 2) { return neuron::Neff::build("tiny", lnc, m.bytes, m.constants()); }

struct Bound {
  void *in = nullptr, *out = nullptr;
  nrt::Tensor *ids = nullptr, *hidden = nullptr, *args = nullptr, *page = nullptr;
};

class NeuronModel : public NeuronAbi {
 protected:
  void SetUp() override {
    NeuronAbi::SetUp();
    with("BATON_EMU_NEURON_TIMING", "none");
    init();
  }
  int32_t load(std::span<const uint8_t> bytes, nrt::Model** model) { return rt.load(bytes.data(), bytes.size(), 0, -1, model); }
  // Tensors on core `vnc` for mlp(), with arguments for `tokens`.
  Bound bind(int32_t vnc, const std::vector<int32_t>& ids) {
    Bound b;
    EXPECT_EQ(rt.allocate_tensor_set(&b.in), 0);
    EXPECT_EQ(rt.allocate_tensor_set(&b.out), 0);
    b.ids = tensor(vnc, ids.size() * 4);
    b.hidden = tensor(vnc, ids.size() * kHidden * 4);
    b.args = tensor(vnc, 16);
    b.page = tensor(vnc, neuron::progress_bytes(kLayers));
    int64_t args[] = {int64_t(ids.size()), 0};
    EXPECT_EQ(rt.tensor_write(b.ids, ids.data(), 0, ids.size() * 4), 0);
    EXPECT_EQ(rt.tensor_write(b.args, args, 0, sizeof args), 0);
    EXPECT_EQ(rt.tensor_memset(b.page, 0, 0, neuron::progress_bytes(kLayers)), 0);
    EXPECT_EQ(rt.add_tensor_to_tensor_set(b.in, "ids", b.ids), 0);
    EXPECT_EQ(rt.add_tensor_to_tensor_set(b.in, neuron::kArgsTensor, b.args), 0);
    EXPECT_EQ(rt.add_tensor_to_tensor_set(b.out, "hidden", b.hidden), 0);
    EXPECT_EQ(rt.add_tensor_to_tensor_set(b.out, neuron::kProgressTensor, b.page), 0);
    return b;
  }
};

}  // namespace baton::test
