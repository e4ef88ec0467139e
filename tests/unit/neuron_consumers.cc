// libnrt as other people's software binds it: the symbols, the order of calls and the statuses that each relies on, restated from reading
// them (libfabric src/hmem_neuron.c, fabtests common/hmem_neuron.c, NIXL's libfabric plugin and nixlbench, NKIPy's spike).
#include "tests/unit/neuron_library.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

namespace baton::test {
namespace {

template <class F>
F symbol(void* library, const char* name) {
  return reinterpret_cast<F>(dlsym(library, name));
}

void* open_runtime() { return dlopen(plugin("emu/libnrt.so.1").c_str(), RTLD_NOW); }

// libfabric: binds five functions that it needs and one of two that it can do without, counts the cores before anybody has called
// nrt_init, and later asks for a dma-buf of each region that is registered. Anything but SUCCESS and RESOURCE means: pin it instead.
struct Libfabric {
  void* library = open_runtime();
  decltype(&nrt::nrt_tensor_allocate) allocate = symbol<decltype(allocate)>(library, "nrt_tensor_allocate");
  decltype(&nrt::nrt_tensor_free) free = symbol<decltype(free)>(library, "nrt_tensor_free");
  decltype(&nrt::nrt_tensor_get_va) va = symbol<decltype(va)>(library, "nrt_tensor_get_va");
  decltype(&nrt::nrt_memcpy_to_device) to_device = symbol<decltype(to_device)>(library, "nrt_memcpy_to_device");
  decltype(&nrt::nrt_get_total_nc_count) count = symbol<decltype(count)>(library, "nrt_get_total_nc_count");
  decltype(&nrt::nrt_get_dmabuf_fd_v2) dmabuf_v2 = symbol<decltype(dmabuf_v2)>(library, "nrt_get_dmabuf_fd_v2");
  decltype(&nrt::nrt_get_dmabuf_fd) dmabuf_v1 = symbol<decltype(dmabuf_v1)>(library, "nrt_get_dmabuf_fd");
  ~Libfabric() { dlclose(library); }
};

TEST(NeuronConsumers, Libfabric) {
  Libfabric lf;
  ASSERT_TRUE(lf.library && lf.allocate && lf.free && lf.va && lf.to_device && lf.count && lf.dmabuf_v2 && lf.dmabuf_v1);
  uint32_t cores = 0;
  ASSERT_EQ(lf.count(&cores), nrt::kSuccess);
  ASSERT_GT(cores, 0u);  // 0 would be ENOSYS
  auto init = symbol<decltype(&nrt::nrt_init)>(lf.library, "nrt_init");  // the application's
  ASSERT_EQ(init(nrt::kFrameworkNone, "2.0", ""), nrt::kSuccess);
  nrt::Tensor *first = nullptr, *t = nullptr;
  ASSERT_EQ(lf.allocate(nrt::kPlacementDevice, 0, 8192, "first", &first), nrt::kSuccess);
  ASSERT_EQ(lf.allocate(nrt::kPlacementDevice, 0, 1 << 20, "mr", &t), nrt::kSuccess);
  auto* base = static_cast<uint8_t*>(lf.va(t));
  ASSERT_NE(base, nullptr);

  // A registration: the descriptor is closed once it is done. Regions begin anywhere: v2 says where.
  for (uint64_t at : {uint64_t(0), uint64_t(4096), uint64_t(777)}) {
    int32_t fd = -1;
    uint64_t offset = 0;
    ASSERT_EQ(lf.dmabuf_v2(reinterpret_cast<uint64_t>(base) + at, 10000, &fd, &offset), nrt::kSuccess);
    const uint64_t page = offset / 4096 * 4096;
    void* nic = mmap(nullptr, 10000 + (offset - page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, off_t(page));
    ASSERT_NE(nic, MAP_FAILED);
    close(fd);
    const uint8_t value = uint8_t(at + 1);
    ASSERT_EQ(lf.to_device(base + at + 5, &value, 1), nrt::kSuccess);  // fi's copy to the device, at any offset
    EXPECT_EQ(static_cast<uint8_t*>(nic)[offset - page + 5], value);
    munmap(nic, 10000 + (offset - page));
  }
  // Memory that is no tensor's: neither success nor a hard error, so that it is pinned.
  std::vector<uint8_t> host(8192);
  int32_t fd = -1;
  uint64_t offset = 0;
  const int32_t status = lf.dmabuf_v2(reinterpret_cast<uint64_t>(host.data()), host.size(), &fd, &offset);
  EXPECT_NE(status, nrt::kSuccess);
  EXPECT_NE(status, nrt::kResource);
  // An older libfabric has v1 alone: a region that v1 cannot describe is refused the same way, not described wrongly.
  const int32_t old = lf.dmabuf_v1(reinterpret_cast<uint64_t>(base), 4096, &fd);
  EXPECT_NE(old, nrt::kSuccess);
  EXPECT_NE(old, nrt::kResource);
  EXPECT_EQ(lf.dmabuf_v1(reinterpret_cast<uint64_t>(lf.va(first)), 4096, &fd), nrt::kSuccess);
  close(fd);
  lf.free(&t);
  EXPECT_EQ(t, nullptr);
}

// fabtests: init once, never nrt_close; data goes in by write and out by read; the library is closed at the end.
TEST(NeuronConsumers, Fabtests) {
  Holdings before{};
  for (int run = 0; run < 4; ++run) {
    void* library = open_runtime();
    auto init = symbol<decltype(&nrt::nrt_init)>(library, "nrt_init");
    auto allocate = symbol<decltype(&nrt::nrt_tensor_allocate)>(library, "nrt_tensor_allocate");
    auto free = symbol<decltype(&nrt::nrt_tensor_free)>(library, "nrt_tensor_free");
    auto va = symbol<decltype(&nrt::nrt_tensor_get_va)>(library, "nrt_tensor_get_va");
    auto read = symbol<decltype(&nrt::nrt_tensor_read)>(library, "nrt_tensor_read");
    auto write = symbol<decltype(&nrt::nrt_tensor_write)>(library, "nrt_tensor_write");
    auto dmabuf = symbol<decltype(&nrt::nrt_get_dmabuf_fd_v2)>(library, "nrt_get_dmabuf_fd_v2");
    ASSERT_TRUE(init && allocate && free && va && read && write && dmabuf);
    ASSERT_EQ(init(1, "2.0", ""), nrt::kSuccess);
    std::vector<nrt::Tensor*> tensors;
    for (size_t bytes : {size_t(64), size_t(4096), size_t(1) << 20}) {
      nrt::Tensor* t = nullptr;
      ASSERT_EQ(allocate(nrt::kPlacementDevice, 0, bytes, "fabtests", &t), nrt::kSuccess);
      std::vector<uint8_t> in(bytes), out(bytes);
      for (size_t i = 0; i < bytes; ++i) in[i] = uint8_t(i * 13 + run);
      ASSERT_EQ(write(t, in.data(), 0, bytes), nrt::kSuccess);
      ASSERT_EQ(read(t, out.data(), 0, bytes), nrt::kSuccess);
      EXPECT_EQ(in, out);
      int32_t fd = -1;
      uint64_t offset = 0;
      EXPECT_EQ(dmabuf(reinterpret_cast<uint64_t>(va(t)), bytes, &fd, &offset), nrt::kSuccess);
      close(fd);
      tensors.push_back(t);
    }
    for (nrt::Tensor*& t : tensors) free(&t);
    dlclose(library);
    Holdings now = holdings(getpid());
    if (run > 1) {
      EXPECT_EQ(now.fds, before.fds);
    }
    before = now;
  }
}

// NIXL asks which NIC is near a buffer, and takes any failure for "use all rails"; nixlbench asks for the visible cores before it inits.
TEST(NeuronConsumers, NixlAndNixlbench) {
  void* library = open_runtime();
  auto init = symbol<decltype(&nrt::nrt_init)>(library, "nrt_init");
  auto visible = symbol<decltype(&nrt::nrt_get_visible_vnc_count)>(library, "nrt_get_visible_vnc_count");
  auto allocate = symbol<decltype(&nrt::nrt_tensor_allocate)>(library, "nrt_tensor_allocate");
  auto va = symbol<decltype(&nrt::nrt_tensor_get_va)>(library, "nrt_tensor_get_va");
  auto efa = symbol<decltype(&nrt::nrt_get_attached_efa_bdf)>(library, "nrt_get_attached_efa_bdf");
  ASSERT_TRUE(init && visible && allocate && va && efa);
  uint32_t cores = 0;
  ASSERT_EQ(visible(&cores), nrt::kSuccess);
  EXPECT_EQ(cores, 4u);
  ASSERT_EQ(init(nrt::kFrameworkNone, "", ""), nrt::kSuccess);
  nrt::Tensor* t = nullptr;
  ASSERT_EQ(allocate(nrt::kPlacementDevice, int32_t(cores) - 1, 4096, "nixl", &t), nrt::kSuccess);
  char bdf[64] = {};
  size_t length = sizeof bdf;
  EXPECT_EQ(efa(va(t), bdf, &length), nrt::kFailure);  // a trn2.3xlarge pairs none
  dlclose(library);
}

// spike: loads, looks at the tensors by name, binds, executes, compares.
TEST(NeuronConsumers, Spike) {
  Library rt;
  ASSERT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kSuccess);
  TinyModel m = mlp();
  auto neff = container(m);
  nrt::Model* model = nullptr;
  ASSERT_EQ(rt.load(neff->data(), neff->bytes(), 0, 1, &model), nrt::kSuccess);
  nrt::TensorInfoArray* info = nullptr;
  ASSERT_EQ(rt.get_model_tensor_info(model, &info), nrt::kSuccess);
  void* sets[2] = {};
  ASSERT_EQ(rt.allocate_tensor_set(&sets[0]), nrt::kSuccess);
  ASSERT_EQ(rt.allocate_tensor_set(&sets[1]), nrt::kSuccess);
  for (uint64_t i = 0; i < info->count; ++i) {
    const nrt::TensorInfo& e = info->entries[i];
    nrt::Tensor* t = nullptr;
    ASSERT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 0, e.size, e.name, &t), nrt::kSuccess);
    std::vector<int64_t> args = {int64_t(kMaxTokens), 0};
    if (std::strcmp(e.name, neuron::kArgsTensor) == 0) {
      ASSERT_EQ(rt.tensor_write(t, args.data(), 0, 16), nrt::kSuccess);
    }
    ASSERT_EQ(rt.add_tensor_to_tensor_set(sets[e.usage], e.name, t), nrt::kSuccess);
  }
  EXPECT_EQ(rt.execute(model, sets[0], sets[1]), nrt::kSuccess) << rt.get_status_as_str(nrt::kExecBadInput);
  nrt::Tensor* hidden = nullptr;
  ASSERT_EQ(rt.get_tensor_from_tensor_set(sets[1], "hidden", &hidden), nrt::kSuccess);
  std::vector<float> got(kMaxTokens * kHidden);
  ASSERT_EQ(rt.tensor_read(hidden, got.data(), 0, got.size() * 4), nrt::kSuccess);
  const std::vector<double> want = mlp_reference(std::vector<int32_t>(kMaxTokens, 0));
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-4) << i;
  EXPECT_EQ(rt.free_model_tensor_info(info), nrt::kSuccess);
  EXPECT_EQ(rt.unload(model), nrt::kSuccess);
}

}  // namespace
}  // namespace baton::test
