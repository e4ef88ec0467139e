// The emulated libnrt.so.1 as a stranger uses it: dlopen, dlsym, status codes.
#include "tests/support/process.h"
#include "tests/unit/neuron_library.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <thread>

#include <gtest/gtest.h>

namespace baton::test {
namespace {

using neuron::Neff;
using neuron::NeffHeader;
using neuron::ProgressPage;

uint32_t ask(int32_t (*f)(uint32_t*)) {
  uint32_t n = 0;
  EXPECT_EQ(f(&n), nrt::kSuccess);
  return n;
}

TEST_F(NeuronAbi, CountsNeedNoInitAndEverythingElseDoes) {
  EXPECT_EQ(ask(rt.get_total_nc_count), 8u);
  EXPECT_EQ(ask(rt.get_total_vnc_count), 4u);
  EXPECT_EQ(ask(rt.get_visible_vnc_count), 4u);
  nrt::Tensor* t = nullptr;
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 0, 64, "t", &t), nrt::kUninitialized);
  init();
  EXPECT_EQ(rt.init(nrt::kFrameworkNone, "2.0", ""), nrt::kFailure);
  rt.close();
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 0, 64, "t", &t), nrt::kClosed);
  init();
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 0, 64, "t", &t), nrt::kSuccess);
}

TEST_F(NeuronAbi, VisibleCoresAndLncAreHonoured) {
  with("NEURON_RT_VISIBLE_CORES", "1-2");
  EXPECT_EQ(ask(rt.get_visible_vnc_count), 2u);
  EXPECT_EQ(ask(rt.get_visible_nc_count), 4u);
  EXPECT_EQ(ask(rt.get_total_vnc_count), 4u);
  with("NEURON_RT_VISIBLE_CORES", "");
  with("NEURON_LOGICAL_NC_CONFIG", "1");
  EXPECT_EQ(ask(rt.get_total_vnc_count), 8u);
  with("NEURON_RT_NUM_CORES", "3");
  EXPECT_EQ(ask(rt.get_visible_vnc_count), 3u);
  with("NEURON_RT_VISIBLE_CORES", "9");
  uint32_t n = 0;
  EXPECT_EQ(rt.get_visible_vnc_count(&n), nrt::kInvalid);
  EXPECT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kInvalid);
  EXPECT_NE(std::string(rt.get_status_as_str(nrt::kInvalid)).find("NEURON_RT_VISIBLE_CORES=9"), std::string::npos);
}

TEST_F(NeuronAbi, SaysWhatItIs) {
  nrt::Version v{};
  ASSERT_EQ(rt.get_version(&v, sizeof v), nrt::kSuccess);
  EXPECT_EQ(v.major, 2u);
  EXPECT_NE(std::string(v.detail).find("emulator"), std::string::npos);
  init();
  nrt::InstanceInfo info{};
  ASSERT_EQ(rt.get_instance_info(&info, sizeof info), nrt::kSuccess);
  EXPECT_EQ(info.family, nrt::kFamilyTrn2);
  EXPECT_EQ(info.size, nrt::kSize3xl);
  EXPECT_STREQ(rt.get_status_as_str(nrt::kExecOob), "NRT_EXEC_OOB");
}

TEST_F(NeuronAbi, AllocateExhaustFree) {
  init();
  size_t before = used(0);
  constexpr size_t kStack = 24ull << 30;
  nrt::Tensor *most = tensor(0, kStack - (1 << 20)), *t = nullptr;
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 0, 2 << 20, "t", &t), nrt::kResource);
  EXPECT_NE(std::string(rt.get_status_as_str(nrt::kResource)).find("2097152 bytes"), std::string::npos);
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 1, 2 << 20, "other stack", &t), nrt::kSuccess);
  rt.tensor_free(&t);
  EXPECT_EQ(t, nullptr);
  rt.tensor_free(&most);
  EXPECT_EQ(used(0), before);
  t = tensor(0, kStack);
  rt.tensor_free(&t);
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 4, 64, "t", &t), nrt::kInvalid);
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 0, 0, "t", &t), nrt::kInvalid);
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementVirtual, 0, 64, "t", &t), nrt::kInvalid);
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementHost, 0, 4 << 20, "t", &t), nrt::kInvalid);
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementHost, 0, 4096, "t", &t), nrt::kSuccess);
}

TEST_F(NeuronAbi, ReadWriteSliceAndBounds) {
  init();
  nrt::Tensor* t = tensor(0, 1000);
  std::vector<uint8_t> in(1000), out(1000);
  for (size_t i = 0; i < in.size(); ++i) in[i] = uint8_t(i * 7);
  EXPECT_EQ(rt.tensor_write(t, in.data(), 0, 1000), nrt::kSuccess);
  EXPECT_EQ(rt.tensor_write(t, in.data(), 1, 1000), nrt::kInvalid);
  EXPECT_EQ(rt.tensor_read(t, out.data(), SIZE_MAX, 2), nrt::kInvalid);
  nrt::Tensor *slice = nullptr, *deeper = nullptr;
  ASSERT_EQ(rt.tensor_allocate_slice(t, 100, 200, "s", &slice), nrt::kSuccess);
  ASSERT_EQ(rt.tensor_allocate_slice(slice, 50, 100, "ss", &deeper), nrt::kSuccess);
  EXPECT_EQ(rt.tensor_allocate_slice(slice, 150, 100, "too long", &deeper), nrt::kInvalid);
  EXPECT_EQ(rt.tensor_get_size(deeper), 100u);
  EXPECT_EQ(rt.tensor_get_va(deeper), static_cast<uint8_t*>(rt.tensor_get_va(t)) + 150);
  rt.tensor_free(&t);  // a slice keeps its parent's memory
  EXPECT_EQ(rt.tensor_read(deeper, out.data(), 10, 20), nrt::kSuccess);
  EXPECT_EQ(std::memcmp(out.data(), in.data() + 160, 20), 0);
  EXPECT_GT(used(0), 0u);
  rt.tensor_free(&slice);
  rt.tensor_free(&deeper);
  EXPECT_EQ(used(0), 0u);
  EXPECT_EQ(rt.tensor_read(deeper, out.data(), 0, 1), nrt::kInvalidHandle);
}

TEST_F(NeuronAbi, BatchesMemsetAndAttachedBuffers) {
  init();
  nrt::Tensor* t = tensor(0, 64);
  EXPECT_EQ(rt.tensor_memset(t, 0, 0x5a, 64), nrt::kSuccess);
  EXPECT_EQ(rt.tensor_memset(t, 1, 0, 64), nrt::kInvalid);
  uint8_t a[4] = {1, 2, 3, 4}, b[4] = {}, c[4] = {};
  nrt::BatchOp writes[] = {{0, 4, a}, {60, 4, a}}, reads[] = {{60, 4, b}, {4, 4, c}};
  nrt::Batch w{t, writes, 2}, r{t, reads, 2};
  EXPECT_EQ(rt.tensor_write_batch(&w, 1, false), nrt::kSuccess);
  EXPECT_EQ(rt.tensor_read_batch(&r, 1, false), nrt::kSuccess);
  EXPECT_EQ(std::memcmp(a, b, 4), 0);
  EXPECT_EQ(c[0], 0x5a);
  std::vector<uint8_t> host(32, 9);
  nrt::Tensor* attached = nullptr;
  ASSERT_EQ(rt.tensor_allocate_empty("e", &attached), nrt::kSuccess);
  EXPECT_EQ(rt.tensor_read(attached, b, 0, 1), nrt::kInvalid);
  ASSERT_EQ(rt.tensor_attach_buffer(attached, host.data(), host.size()), nrt::kSuccess);
  EXPECT_EQ(rt.tensor_copy(attached, 0, t, 8, 32), nrt::kSuccess);
  EXPECT_EQ(static_cast<uint8_t*>(rt.tensor_get_va(t))[8], 9);
  EXPECT_EQ(rt.tensor_attach_buffer(t, host.data(), host.size()), nrt::kInvalid);
}

TEST_F(NeuronAbi, CopiesStayOnOneCore) {
  init();
  nrt::Tensor *a = tensor(0, 4096), *b = tensor(0, 8192), *other = tensor(1, 4096);
  EXPECT_EQ(rt.tensor_memset(a, 0, 3, 4096), nrt::kSuccess);
  EXPECT_EQ(rt.tensor_copy(a, 0, b, 4096, 4096), nrt::kSuccess);
  EXPECT_EQ(static_cast<uint8_t*>(rt.tensor_get_va(b))[8191], 3);
  EXPECT_EQ(rt.tensor_copy(a, 0, other, 0, 4096), nrt::kInvalid);
  nrt::AllocationInfo info{};
  EXPECT_EQ(rt.tensor_get_device_allocation_info(other, &info), nrt::kSuccess);
  EXPECT_EQ(info.hbm_index, 1);
}

TEST_F(NeuronAbi, DmabufOffsetMapsTheBytes) {
  init();
  nrt::Tensor *first = tensor(2, 10000), *t = tensor(2, 3 * 4096);
  auto va = reinterpret_cast<uint64_t>(rt.tensor_get_va(t)) + 4096;
  int32_t fd = -1;
  uint64_t offset = 0;
  ASSERT_EQ(rt.get_dmabuf_fd_v2(va, 2 * 4096, &fd, &offset), nrt::kSuccess);
  std::vector<uint8_t> data(2 * 4096);
  for (size_t i = 0; i < data.size(); ++i) data[i] = uint8_t(i % 251);
  ASSERT_EQ(rt.tensor_write(t, data.data(), 4096, data.size()), nrt::kSuccess);
  void* at = mmap(nullptr, data.size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, off_t(offset));
  ASSERT_NE(at, MAP_FAILED);
  close(fd);
  EXPECT_EQ(std::memcmp(at, data.data(), data.size()), 0);
  static_cast<uint8_t*>(at)[5] = 200;
  EXPECT_EQ(reinterpret_cast<uint8_t*>(va)[5], 200);
  munmap(at, data.size());
  EXPECT_EQ(rt.get_dmabuf_fd_v2(va, 3 * 4096, &fd, &offset), nrt::kInvalid);  // beyond the tensor
  EXPECT_EQ(rt.get_dmabuf_fd(va, 4096, &fd), nrt::kInvalid);                  // v1 cannot say where
  EXPECT_EQ(rt.get_dmabuf_fd_v2(reinterpret_cast<uint64_t>(data.data()), 4096, &fd, &offset), nrt::kInvalid);
  (void)first;
}

TEST_F(NeuronAbi, MemcpyToDeviceAndHbmMapping) {
  with("BATON_EMU_NEURON_MACHINE", "trn2.48xlarge");
  init();
  nrt::Tensor* t = tensor(3, 8192);
  auto* va = static_cast<uint8_t*>(rt.tensor_get_va(t));
  EXPECT_EQ(rt.memcpy_to_device(va + 100, "hello", 5), nrt::kSuccess);
  EXPECT_EQ(std::memcmp(va + 100, "hello", 5), 0);
  EXPECT_EQ(rt.memcpy_to_device(va + 8190, "hello", 5), nrt::kInvalid);
  void* base = nullptr;
  size_t bytes = 0;
  EXPECT_EQ(rt.get_hbm_mmap_va(0, 3, &base, &bytes), nrt::kSuccess);
  EXPECT_EQ(bytes, 24ull << 30);
  EXPECT_TRUE(va >= base && va < static_cast<uint8_t*>(base) + bytes);
  EXPECT_EQ(rt.get_hbm_mmap_va(0, 4, &base, &bytes), nrt::kInvalidHandle);
  EXPECT_EQ(rt.get_hbm_mmap_va(16, 0, &base, &bytes), nrt::kInvalid);
  char bdf[16];
  size_t length = 4;
  EXPECT_EQ(rt.get_attached_efa_bdf(va, bdf, &length), nrt::kResource);
  length = sizeof bdf;
  EXPECT_EQ(rt.get_attached_efa_bdf(va, bdf, &length), nrt::kSuccess);
  EXPECT_EQ(length, 12u);
  EXPECT_STREQ(bdf, "0000:ce:00.0");
}

TEST_F(NeuronAbi, SetsHoldTensorsByName) {
  init();
  void* set = nullptr;
  ASSERT_EQ(rt.allocate_tensor_set(&set), nrt::kSuccess);
  nrt::Tensor *a = tensor(0, 64), *b = tensor(0, 64), *got = nullptr;
  EXPECT_EQ(rt.get_tensor_from_tensor_set(set, "x", &got), nrt::kInvalid);
  EXPECT_EQ(rt.add_tensor_to_tensor_set(set, "x", a), nrt::kSuccess);
  EXPECT_EQ(rt.add_tensor_to_tensor_set(set, "x", b), nrt::kSuccess);  // replaces
  EXPECT_EQ(rt.get_tensor_from_tensor_set(set, "x", &got), nrt::kSuccess);
  EXPECT_EQ(got, b);
  rt.destroy_tensor_set(&set);
  EXPECT_EQ(set, nullptr);
  EXPECT_EQ(rt.add_tensor_to_tensor_set(reinterpret_cast<void*>(0x1234), "x", a), nrt::kInvalidHandle);
}

// ---- models ----

TEST_F(NeuronModel, ExecutesAProgram) {
  TinyModel m = mlp();
  auto neff = container(m);
  ASSERT_TRUE(neff.ok());
  nrt::Model* model = nullptr;
  size_t before = used(0);
  ASSERT_EQ(load({neff->data(), neff->bytes()}, &model), nrt::kSuccess) << rt.get_status_as_str(nrt::kInvalid);
  EXPECT_GT(used(0), before);
  std::vector<int32_t> ids = {3, 1, 47, 20, 5};
  Bound b = bind(0, ids);
  ASSERT_EQ(rt.execute(model, b.in, b.out), nrt::kSuccess) << rt.get_status_as_str(nrt::kExecBadInput);
  auto* got = static_cast<float*>(rt.tensor_get_va(b.hidden));
  auto want = mlp_reference(ids);
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-4) << i;
  auto* page = static_cast<ProgressPage*>(rt.tensor_get_va(b.page));
  EXPECT_EQ(page->count, kLayers);
  EXPECT_EQ(rt.execute_repeat(model, b.in, b.out, 3), nrt::kSuccess);
  uint32_t n = 0;
  EXPECT_EQ(rt.get_model_nc_count(model, &n), nrt::kSuccess);
  EXPECT_EQ(n, 2u);
  EXPECT_EQ(rt.unload(model), nrt::kSuccess);
  EXPECT_EQ(rt.unload(model), nrt::kInvalidHandle);
  EXPECT_EQ(rt.execute(model, b.in, b.out), nrt::kInvalidHandle);
}

TEST_F(NeuronModel, BadInputIsNamed) {
  TinyModel m = mlp();
  auto neff = container(m);
  nrt::Model* model = nullptr;
  ASSERT_EQ(load({neff->data(), neff->bytes()}, &model), nrt::kSuccess);
  auto text = [&] { return std::string(rt.get_status_as_str(nrt::kExecBadInput)); };
  Bound b = bind(0, {1, 2, 3});
  void* empty = nullptr;
  ASSERT_EQ(rt.allocate_tensor_set(&empty), 0);
  EXPECT_EQ(rt.execute(model, empty, b.out), nrt::kExecBadInput);
  EXPECT_NE(text().find("'ids'"), std::string::npos) << text();
  Bound elsewhere = bind(1, {1, 2, 3});
  EXPECT_EQ(rt.execute(model, elsewhere.in, b.out), nrt::kExecBadInput);
  EXPECT_NE(text().find("core 1"), std::string::npos) << text();
  int64_t args[] = {kMaxTokens + 1, 0};
  rt.tensor_write(b.args, args, 0, sizeof args);
  EXPECT_EQ(rt.execute(model, b.in, b.out), nrt::kExecBadInput);
  EXPECT_NE(text().find("tokens"), std::string::npos) << text();
  Bound vocabulary = bind(0, {1, 2, 1000});
  EXPECT_EQ(rt.execute(model, vocabulary.in, vocabulary.out), nrt::kExecBadInput);
}

TEST_F(NeuronModel, ContainerVersionsAndDamage) {
  TinyModel m = mlp();
  auto neff = container(m);
  std::vector<uint8_t> good(neff->data(), neff->data() + neff->bytes());
  nrt::Model* model = nullptr;
  auto changed = [&](auto edit) {
    std::vector<uint8_t> bytes = good;
    edit(reinterpret_cast<NeffHeader*>(bytes.data()), bytes);
    return load(bytes, &model);
  };
  EXPECT_EQ(changed([](NeffHeader* h, auto&) { h->pkg_version = 9; }), nrt::kUnsupportedNeffVersion);
  EXPECT_EQ(changed([](NeffHeader* h, auto&) { h->version_major = 77; }), nrt::kUnsupportedNeffVersion);
  EXPECT_EQ(changed([](NeffHeader* h, auto&) { h->header_size = 1000; }), nrt::kInvalid);
  EXPECT_EQ(changed([](NeffHeader* h, auto&) { h->data_size += 1; }), nrt::kInvalid);
  EXPECT_EQ(changed([](NeffHeader* h, auto&) { h->lnc_size = 1; }), nrt::kInvalid);
  EXPECT_EQ(changed([](NeffHeader*, auto& b) { b[1024 + 20] ^= 1; }), nrt::kInvalid);       // the first entry's name
  EXPECT_EQ(changed([](NeffHeader*, auto& b) { b[1024 + 512] ^= 0x40; }), nrt::kInvalid);   // the index
  EXPECT_EQ(changed([](NeffHeader*, auto& b) { b.resize(500); }), nrt::kInvalid);
  EXPECT_EQ(changed([](NeffHeader* h, auto& b) {
              b.resize(b.size() / 2);
              h->data_size = b.size() - 1024;
            }),
            nrt::kInvalid);
  EXPECT_EQ(changed([](NeffHeader* h, auto&) { h->hash[0] = 1; }), nrt::kInvalid);  // a hash, and not of this
  EXPECT_NE(std::string(rt.get_status_as_str(nrt::kInvalid)).find("hash"), std::string::npos);
  EXPECT_EQ(changed([](NeffHeader* h, auto&) { h->hash[0] = 1, h->pkg_version = 1; }), nrt::kInvalid);  // neither as MD5
  EXPECT_EQ(changed([](NeffHeader* h, auto&) { h->pkg_version = 1; }), nrt::kSuccess);                 // none
  EXPECT_EQ(rt.unload(model), nrt::kSuccess);
  // As neuronx-cc makes them: no portable program inside.
  EXPECT_EQ(changed([](NeffHeader*, auto& b) { b[1024] = 0x1f, b[1025] = 0x8b; }), nrt::kUnsupportedNeffVersion);
  EXPECT_NE(std::string(rt.get_status_as_str(nrt::kUnsupportedNeffVersion)).find("compiled NEFF"), std::string::npos);
  EXPECT_EQ(used(0), 0u);
  EXPECT_EQ(load(good, &model), nrt::kSuccess);
}

TEST_F(NeuronModel, EveryTruncationAndManyFlipsAreRefusedOrLoad) {
  TinyModel m = mlp();
  auto neff = container(m);
  std::vector<uint8_t> good(neff->data(), neff->data() + neff->bytes());
  nrt::Model* model = nullptr;
  for (size_t n = 0; n < 8192; n += 61) EXPECT_NE(load({good.data(), n}, &model), nrt::kSuccess);
  for (size_t at = 0; at < 6000; at += 13) {
    std::vector<uint8_t> bytes = good;
    bytes[at] ^= uint8_t(1 + at % 255);
    if (load(bytes, &model) == nrt::kSuccess) {
      EXPECT_EQ(rt.unload(model), nrt::kSuccess);
    }
  }
}

TEST_F(NeuronModel, TensorInfoNamesWhatToBind) {
  TinyModel m = mlp();
  auto neff = container(m);
  nrt::Model* model = nullptr;
  ASSERT_EQ(load({neff->data(), neff->bytes()}, &model), nrt::kSuccess);
  nrt::TensorInfoArray* info = nullptr;
  ASSERT_EQ(rt.get_model_tensor_info(model, &info), nrt::kSuccess);
  std::map<std::string, const nrt::TensorInfo*> by_name;
  for (uint64_t i = 0; i < info->count; ++i) by_name[info->entries[i].name] = &info->entries[i];
  ASSERT_EQ(by_name.size(), 4u);
  EXPECT_EQ(by_name["ids"]->usage, nrt::kUsageInput);
  EXPECT_EQ(by_name["ids"]->dtype, nrt::kDtypeInt32);
  EXPECT_EQ(by_name["hidden"]->size, size_t(kMaxTokens * kHidden * 4));
  EXPECT_EQ(by_name["hidden"]->shape[1], uint32_t(kHidden));
  EXPECT_EQ(by_name[neuron::kArgsTensor]->size, 16u);
  EXPECT_EQ(by_name[neuron::kProgressTensor]->size, neuron::progress_bytes(kLayers));
  EXPECT_EQ(rt.free_model_tensor_info(info), nrt::kSuccess);
}

TEST_F(NeuronModel, CancelWordStopsTheProgram) {
  TinyModel m = mlp();
  auto neff = container(m);
  nrt::Model* model = nullptr;
  ASSERT_EQ(load({neff->data(), neff->bytes()}, &model), nrt::kSuccess);
  Bound b = bind(0, {1, 2, 3});
  static_cast<ProgressPage*>(rt.tensor_get_va(b.page))->cancel = 1;
  EXPECT_EQ(rt.execute(model, b.in, b.out), nrt::kExecCompletedWithErr);
}

TEST_F(NeuronModel, ModelsCountAgainstHbm) {
  TinyModel m = mlp();
  auto neff = container(m);
  nrt::Tensor* most = tensor(0, (24ull << 30) - 4096);
  nrt::Model* model = nullptr;
  EXPECT_EQ(load({neff->data(), neff->bytes()}, &model), nrt::kResource);
  rt.tensor_free(&most);
  EXPECT_EQ(load({neff->data(), neff->bytes()}, &model), nrt::kSuccess);
}

// Each rank on its own core and thread.
class NeuronRanks : public NeuronModel {
 protected:
  struct Rank {
    nrt::Model* model = nullptr;
    Bound bound;
    int32_t status = -1;
    std::string text;
  };
  std::vector<Rank> ranks(uint32_t n, const std::vector<int32_t>& ids, bool scattered = false) {
    std::vector<Rank> all(n);
    for (uint32_t r = 0; r < n; ++r) {
      TinyModel m = mlp(r, n, scattered);
      auto neff = container(m);
      EXPECT_EQ(rt.load_collectives(neff->data(), neff->bytes(), int32_t(r), -1, r, n, &all[r].model), nrt::kSuccess)
          << rt.get_status_as_str(nrt::kInvalid);
      all[r].bound = bind(int32_t(r), ids);
    }
    return all;
  }
  void run(std::vector<Rank>& all) {
    std::vector<std::thread> threads;
    for (Rank& r : all)
      threads.emplace_back([&] {
        r.status = rt.execute(r.model, r.bound.in, r.bound.out);
        r.text = rt.get_status_as_str(r.status);
      });
    for (auto& t : threads) t.join();
  }
};

TEST_F(NeuronRanks, ShardedEqualsWholeBitForBit) {
  std::vector<int32_t> ids = {7, 7, 0, 33, 12, 47, 2};
  TinyModel whole = mlp();
  auto neff = container(whole);
  nrt::Model* model = nullptr;
  ASSERT_EQ(load({neff->data(), neff->bytes()}, &model), nrt::kSuccess);
  Bound one = bind(0, ids);
  ASSERT_EQ(rt.execute(model, one.in, one.out), nrt::kSuccess);
  for (auto [n, scattered] : {std::pair(2u, false), std::pair(4u, false), std::pair(2u, true), std::pair(4u, true)}) {
    auto all = ranks(n, ids, scattered);
    for (int repeat = 0; repeat < 5; ++repeat) {
      run(all);
      for (Rank& r : all) {
        ASSERT_EQ(r.status, nrt::kSuccess) << r.text;
        EXPECT_EQ(std::memcmp(rt.tensor_get_va(r.bound.hidden), rt.tensor_get_va(one.hidden), ids.size() * kHidden * 4), 0) << n << " ranks, scattered " << scattered;
      }
    }
  }
}

TEST_F(NeuronRanks, RanksThatDisagreeFailTogetherAndRecover) {
  auto all = ranks(2, {1, 2, 3});
  int32_t other[] = {1, 2, 4};
  rt.tensor_write(all[1].bound.ids, other, 0, sizeof other);
  run(all);
  EXPECT_EQ(all[0].status, nrt::kExecHwErrCollectives) << all[0].text;
  EXPECT_EQ(all[1].status, nrt::kExecHwErrCollectives);
  EXPECT_NE(all[0].text.find("different launches"), std::string::npos) << all[0].text;
  rt.tensor_write(all[0].bound.ids, other, 0, sizeof other);
  run(all);
  EXPECT_EQ(all[0].status, nrt::kSuccess) << all[0].text;
  EXPECT_EQ(all[1].status, nrt::kSuccess);
}

TEST_F(NeuronRanks, CancelledRankEndsTheOther) {
  auto all = ranks(2, {1, 2, 3});
  auto* page = static_cast<ProgressPage*>(rt.tensor_get_va(all[0].bound.page));
  std::thread alone([&] { all[0].status = rt.execute(all[0].model, all[0].bound.in, all[0].bound.out); });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  std::atomic_ref<uint64_t>(page->cancel).store(1);  // rank 1 never comes
  alone.join();
  EXPECT_EQ(all[0].status, nrt::kExecCompletedWithErr);
  std::atomic_ref<uint64_t>(page->cancel).store(0);
  run(all);
  EXPECT_EQ(all[0].status, nrt::kSuccess);
  EXPECT_EQ(all[1].status, nrt::kSuccess) << all[1].text;
}

TEST_F(NeuronRanks, CloseEndsAnExecution) {
  auto all = ranks(2, {1, 2, 3});
  std::thread alone([&] { all[0].status = rt.execute(all[0].model, all[0].bound.in, all[0].bound.out); });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  rt.close();
  alone.join();
  EXPECT_EQ(all[0].status, nrt::kClosed);
}

TEST_F(NeuronAbi, HostCollectives) {
  init();
  EXPECT_EQ(rt.build_global_comm(0, 0, 2), nrt::kSuccess);
  EXPECT_EQ(rt.build_global_comm(0, 2, 2), nrt::kInvalid);
  std::vector<uint64_t> got[3];
  std::vector<std::thread> threads;
  for (uint32_t r = 0; r < 3; ++r)
    threads.emplace_back([&, r] {
      for (uint64_t round = 0; round < 50; ++round) {
        uint64_t mine = r * 1000 + round, all[3] = {};
        EXPECT_EQ(rt.all_gather(int32_t(r), r, 3, 8, &mine, all), nrt::kSuccess);
        for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(all[i], i * 1000 + round);
        EXPECT_EQ(rt.barrier(int32_t(r), r, 3), nrt::kSuccess);
      }
    });
  for (auto& t : threads) t.join();
}

TEST_F(NeuronAbi, CoresOfASharedMachineHaveOneOwner) {
  TempDir folder;
  with("BATON_EMU_NEURON_FOLDER", folder.path());
  with("NEURON_RT_VISIBLE_CORES", "0-1");
  init();
  pid_t child = fork();
  if (child == 0) {  // another process: its own library
    Library other;
    other.close();
    int32_t taken = other.init(nrt::kFrameworkNone, "", "");
    bool named = std::string(other.get_status_as_str(taken)).find("held by process " + std::to_string(getppid())) != std::string::npos;
    setenv("NEURON_RT_VISIBLE_CORES", "2-3", 1);
    int32_t free = other.init(nrt::kFrameworkNone, "", "");
    _exit(taken == nrt::kResource && named && free == nrt::kSuccess ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(NeuronLibrary, LoadsAndUnloadsWithoutALeak) {
  TinyModel m = mlp();
  auto neff = Neff::build("tiny", 2, m.bytes, m.constants());
  Holdings before{};
  for (int i = 0; i < 12; ++i) {
    {
      Library rt;
      ASSERT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kSuccess);
      nrt::Model* model = nullptr;
      EXPECT_EQ(rt.load(neff->data(), neff->bytes(), 0, -1, &model), nrt::kSuccess);
      nrt::Tensor* t = nullptr;
      EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 0, 1 << 20, "t", &t), nrt::kSuccess);
      rt.close();
    }
    Holdings now = holdings(getpid());
    if (i == 1) before = now;
    if (i > 1) {
      EXPECT_EQ(now.fds, before.fds);
      EXPECT_EQ(now.shared_mappings, before.shared_mappings);
    }
  }
}

}  // namespace
}  // namespace baton::test
