// The emulated runtime when things go wrong, on purpose: fault plans, what they leave in the counters, strict mode, delayed visibility.
#include "emulators/neuron/machine_page.hpp"
#include "tests/unit/neuron_library.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>

namespace baton::test {
namespace {

using namespace neuron_emu;

class NeuronFaults : public NeuronAbi {
 protected:
  void SetUp() override {
    NeuronAbi::SetUp();
    with("BATON_EMU_NEURON_FOLDER", folder.path());
  }
  void start(const std::string& rules) {
    with("BATON_EMU_NEURON_FAULTS", "{\"seed\": 3, \"rules\": [" + rules + "]}");
    init();
    auto opened = MachinePage::read(folder.path());
    ASSERT_TRUE(opened.ok());
    page.emplace(std::move(*opened));
  }
  void load() {
    TinyModel m = mlp();
    auto neff = container(m);
    ASSERT_EQ(rt.load(neff->data(), neff->bytes(), 0, -1, &model), nrt::kSuccess) << rt.get_status_as_str(nrt::kInvalid);
    ASSERT_EQ(rt.allocate_tensor_set(&in), 0);
    ASSERT_EQ(rt.allocate_tensor_set(&out), 0);
    nrt::Tensor *ids = tensor(0, 12), *args = tensor(0, 16);
    hidden = tensor(0, 3 * kHidden * 4);
    int32_t tokens[] = {1, 2, 3};
    int64_t values[] = {3, 0};
    ASSERT_EQ(rt.tensor_write(ids, tokens, 0, sizeof tokens), 0);
    ASSERT_EQ(rt.tensor_write(args, values, 0, sizeof values), 0);
    rt.add_tensor_to_tensor_set(in, "ids", ids);
    rt.add_tensor_to_tensor_set(in, neuron::kArgsTensor, args);
    rt.add_tensor_to_tensor_set(out, "hidden", hidden);
  }
  int32_t execute() { return rt.execute(model, in, out); }
  std::string text(int32_t status) { return rt.get_status_as_str(status); }
  uint64_t status(CoreStatus s) { return page->core(0, 0).status[size_t(s)].total; }
  uint64_t other(OtherInfo o) { return page->core(0, 0).other[size_t(o)].total; }
  TempDir folder;
  std::optional<MachinePage> page;
  nrt::Model* model = nullptr;
  void *in = nullptr, *out = nullptr;
  nrt::Tensor* hidden = nullptr;
};

TEST_F(NeuronFaults, StatusesByFunctionNthAndCore) {
  start(R"({"call": "nrt_execute", "nth": 2, "core": 0, "action": "fail", "status": "NRT_EXEC_HW_ERR_DMA_ABORT"},
           {"call": ["nrt_tensor_read", "nrt_tensor_copy"], "core": 1, "times": 1, "action": "fail", "status": 4})");
  load();
  EXPECT_EQ(execute(), nrt::kSuccess);
  EXPECT_EQ(execute(), nrt::kExecHwErrDmaAbort);
  EXPECT_NE(text(nrt::kExecHwErrDmaAbort).find("fault plan, rule 0, nrt_execute"), std::string::npos);
  EXPECT_EQ(execute(), nrt::kSuccess);
  nrt::Tensor* t = tensor(1, 64);
  uint8_t byte = 0;
  EXPECT_EQ(rt.tensor_read(hidden, &byte, 0, 1), nrt::kSuccess);  // core 0
  EXPECT_EQ(rt.tensor_read(t, &byte, 0, 1), nrt::kResource);
  EXPECT_EQ(rt.tensor_read(t, &byte, 0, 1), nrt::kSuccess);
  // What the machine's page says of it.
  EXPECT_EQ(status(CoreStatus::success), 2u);
  EXPECT_EQ(status(CoreStatus::hw_dma_abort_error), 1u);
  EXPECT_EQ(status(CoreStatus::failure), 1u);
  EXPECT_EQ(other(OtherInfo::inference_count), 3u);
  EXPECT_EQ(other(OtherInfo::model_load_count), 1u);
  // Twice mlp() over 3 tokens: in each of 3 layers 3 products, and one behind them; 2 FLOP a multiply-accumulate.
  EXPECT_EQ(other(OtherInfo::flop_count), uint64_t(2 * 2 * 3 * (3 * 3 * kHidden * kInner + kHidden * kHidden)));
  const CoreCounters& core = page->core(0, 0);
  EXPECT_GT(core.device[size_t(DeviceMemory::constants)].total, 0u);
  EXPECT_EQ(core.device[size_t(DeviceMemory::tensors)].total, 3u * 4096);
  EXPECT_EQ(core.device_total.total, used(0));
  EXPECT_EQ(rt.unload(model), nrt::kSuccess);
  EXPECT_EQ(core.device[size_t(DeviceMemory::constants)].total, 0u);
}

TEST_F(NeuronFaults, EccCountsAndTakesTheCore) {
  start(R"({"call": "nrt_execute", "nth": 1, "action": "ecc", "ecc": "mem_ecc_corrected"},
           {"call": "nrt_execute", "nth": 2, "action": "ecc", "ecc": "mem_ecc_uncorrected"})");
  load();
  EXPECT_EQ(execute(), nrt::kSuccess);
  EXPECT_EQ(page->chip(0).ecc[size_t(Ecc::mem_corrected)], 1u);
  EXPECT_EQ(execute(), nrt::kExecHwErrHbmUe);
  EXPECT_EQ(page->chip(0).ecc[size_t(Ecc::mem_uncorrected)], 1u);
  EXPECT_EQ(execute(), nrt::kExecUnitUnrecoverable);
  uint8_t byte = 0;
  EXPECT_EQ(rt.tensor_read(hidden, &byte, 0, 1), nrt::kExecUnitUnrecoverable);
  nrt::Tensor* elsewhere = tensor(1, 64);  // the chip's other cores go on
  EXPECT_EQ(rt.tensor_read(elsewhere, &byte, 0, 1), nrt::kSuccess);
  rt.close();
  unsetenv("BATON_EMU_NEURON_FAULTS");
  init();
  load();
  EXPECT_EQ(execute(), nrt::kSuccess);
  EXPECT_EQ(page->chip(0).ecc[size_t(Ecc::mem_uncorrected)], 1u);  // counts stay
}

TEST_F(NeuronFaults, LostCoreAndLostDevice) {
  start(R"({"call": "nrt_tensor_write", "core": 1, "nth": 1, "action": "lose_core"}, {"call": "nrt_tensor_write", "core": 2, "nth": 1, "action": "lose_device"})");
  nrt::Tensor *one = tensor(1, 64), *two = tensor(2, 64), *three = tensor(3, 64);
  uint8_t byte = 0;
  EXPECT_EQ(rt.tensor_write(one, &byte, 0, 1), nrt::kExecUnitUnrecoverable);
  EXPECT_EQ(rt.tensor_write(one, &byte, 0, 1), nrt::kExecUnitUnrecoverable);
  EXPECT_EQ(rt.tensor_write(three, &byte, 0, 1), nrt::kSuccess);
  EXPECT_EQ(rt.tensor_write(two, &byte, 0, 1), nrt::kHwError);
  EXPECT_EQ(rt.tensor_write(three, &byte, 0, 1), nrt::kHwError);
  nrt::Tensor* t = nullptr;
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 0, 64, "t", &t), nrt::kHwError);
  rt.close();
  unsetenv("BATON_EMU_NEURON_FAULTS");
  init();
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 2, 64, "t", &t), nrt::kSuccess);
}

TEST_F(NeuronFaults, HangsUntilTheTimeoutAndSlowDmaCosts) {
  with("NEURON_RT_EXEC_TIMEOUT", "1");
  start(R"({"call": "nrt_execute", "nth": 1, "action": "hang"}, {"call": "nrt_tensor_read", "nth": 1, "action": "delay", "delay_ms": 20})");
  load();
  auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(execute(), nrt::kTimeout);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(990));
  EXPECT_EQ(status(CoreStatus::timeout), 1u);
  EXPECT_EQ(execute(), nrt::kSuccess);
  auto cost = reinterpret_cast<decltype(&nrt::baton_emu_cost_ns)>(dlsym(rt.library, "baton_emu_cost_ns"));
  uint8_t byte = 0;
  EXPECT_EQ(rt.tensor_read(hidden, &byte, 0, 1), nrt::kSuccess);
  EXPECT_GE(cost(), 20'000'000u);
  EXPECT_EQ(rt.tensor_read(hidden, &byte, 0, 1), nrt::kSuccess);
  EXPECT_LT(cost(), 20'000'000u);
}

TEST_F(NeuronFaults, InitFailsAndPlansAreChecked) {
  with("BATON_EMU_NEURON_FAULTS", R"({"rules": [{"call": "nrt_init", "action": "fail", "status": "NRT_HW_ERROR"}]})");
  EXPECT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kHwError);
  with("BATON_EMU_NEURON_FAULTS", R"({"rules": [{"call": "nrt_init", "action": "explode"}]})");
  EXPECT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kInvalid);
  EXPECT_NE(text(nrt::kInvalid).find("rule 0"), std::string::npos) << text(nrt::kInvalid);
  with("BATON_EMU_NEURON_FAULTS", folder.path() + "/plan.json");
  EXPECT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kFailure);  // no such file
  int fd = open((folder.path() + "/plan.json").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  ASSERT_EQ(write(fd, "{\"rules\": []}", 13), 13);
  close(fd);
  EXPECT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kSuccess);
}

TEST_F(NeuronAbi, OutputCompletionIsCounted) {
  with("BATON_EMU_NEURON_TIMING", "none");
  init();
  nrt::Tensor* t = tensor(0, 64);
  EXPECT_EQ(rt.tensor_check_output_completion(t, 0, 0), nrt::kSuccess);
  EXPECT_EQ(rt.tensor_check_output_completion(t, 1000, 1), nrt::kTimeout);
  EXPECT_EQ(rt.tensor_check_output_completion(t, -2, 1), nrt::kInvalid);
  EXPECT_EQ(rt.tensor_check_output_completion(nullptr, 0, 1), nrt::kInvalidHandle);
  program::Builder b("double");
  uint32_t x = b.value("x", program::DType::f32, program::Storage::input, {1, 16});
  uint32_t y = b.value("y", program::DType::f32, program::Storage::output, {1, 16});
  b.program().ops.push_back({.code = program::OpCode::add, .in = {x, x}, .out = {y}});
  auto built = std::move(b).finish();
  ASSERT_TRUE(built.ok()) << built.error().what;
  auto bytes = program::serialize(*built);
  auto neff = neuron::Neff::build("double", 2, bytes, {});
  nrt::Model* model = nullptr;
  ASSERT_EQ(rt.load(neff->data(), neff->bytes(), 0, -1, &model), nrt::kSuccess);
  uint32_t n = 0;
  EXPECT_EQ(rt.get_model_vnc_count(model, &n), nrt::kSuccess);
  EXPECT_EQ(n, 1u);
  EXPECT_EQ(rt.get_model_instance_count(model, &n), nrt::kSuccess);
  EXPECT_EQ(n, 1u);
  nrt::ModelInfo info{99};
  size_t wrote = 0;
  EXPECT_EQ(rt.get_model_info(model, &info, sizeof info, &wrote), nrt::kSuccess);
  EXPECT_EQ(info.vnc, 0u);
  EXPECT_EQ(wrote, sizeof info);
  void *in = nullptr, *out = nullptr;
  rt.allocate_tensor_set(&in);
  rt.allocate_tensor_set(&out);
  nrt::Tensor *input = tensor(0, 64), *output = tensor(0, 64);
  rt.add_tensor_to_tensor_set(in, "x", input);
  rt.add_tensor_to_tensor_set(out, "y", output);
  ASSERT_EQ(rt.execute_repeat(model, in, out, 3), nrt::kSuccess) << rt.get_status_as_str(nrt::kExecBadInput);
  EXPECT_EQ(rt.execute_repeat(model, in, out, -1), nrt::kInvalid);
  EXPECT_EQ(rt.tensor_check_output_completion(output, -1, 3), nrt::kSuccess);
  EXPECT_EQ(rt.tensor_check_output_completion(output, 0, 4), nrt::kTimeout);
  EXPECT_EQ(rt.tensor_reset_output_completion(output), nrt::kSuccess);
  EXPECT_EQ(rt.tensor_check_output_completion(output, 0, 1), nrt::kTimeout);
}

TEST_F(NeuronAbi, HostDevicesAndWhatIsLeftOfTheAsynchronousMode) {
  with("BATON_EMU_NEURON_CHIPS", "2");
  init();
  uint32_t id = 9, map[4] = {9, 9, 9, 9}, count = 1;
  EXPECT_EQ(rt.host_device_id_get(1, &id), nrt::kSuccess);
  EXPECT_EQ(id, 1u);
  EXPECT_EQ(rt.host_device_id_get(2, &id), nrt::kInvalid);
  EXPECT_EQ(rt.host_device_id_rid_map_get(&count, map), nrt::kResource);
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(rt.host_device_id_rid_map_get(&count, map), nrt::kSuccess);
  EXPECT_EQ(map[1], 1u);
  EXPECT_EQ(rt.register_async_exec_callback(nullptr, nullptr), nrt::kFailure);
  EXPECT_EQ(rt.async_drain_queued_execs(7), nrt::kSuccess);
  EXPECT_EQ(rt.async_drain_queued_execs(8), nrt::kInvalid);
  int32_t error = 0;
  char why[80] = {};
  EXPECT_EQ(rt.get_libnccl_net(&error, why, sizeof why), nullptr);
  EXPECT_NE(error, 0);
}

TEST_F(NeuronAbi, BatchesAreCheckedBeforeAByteMoves) {
  init();
  nrt::Tensor *a = tensor(0, 64), *b = tensor(1, 64);
  uint8_t ones[8] = {1, 1, 1, 1, 1, 1, 1, 1}, got = 0;
  nrt::BatchOp good{0, 8, ones}, beyond{60, 8, ones}, null{0, 8, nullptr};
  for (const nrt::BatchOp* bad : {&beyond, &null}) {
    nrt::Batch batches[] = {{a, &good, 1}, {b, bad, 1}};
    EXPECT_EQ(rt.tensor_write_batch(batches, 2, true), nrt::kInvalid);
    EXPECT_EQ(rt.tensor_read(a, &got, 0, 1), nrt::kSuccess);
    EXPECT_EQ(got, 0);
  }
  nrt::Batch empty{a, nullptr, 1};
  EXPECT_EQ(rt.tensor_read_batch(&empty, 1, false), nrt::kInvalid);
}

// ---- strict ----

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they have the signal for themselves
struct Ended {
  int signal, code;
  std::string err;
};

template <class F>
Ended in_child(F&& f) {
  int pipes[2];
  EXPECT_EQ(pipe(pipes), 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(pipes[1], STDERR_FILENO);
    f();
    _exit(0);
  }
  close(pipes[1]);
  Ended e{};
  char buffer[512];
  for (ssize_t n; (n = read(pipes[0], buffer, sizeof buffer)) > 0;) e.err.append(buffer, size_t(n));
  close(pipes[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) e.signal = WTERMSIG(status);
  if (WIFEXITED(status)) e.code = WEXITSTATUS(status);
  return e;
}

TEST_F(NeuronAbi, StrictEndsACpuThatTouchesDeviceMemory) {
  with("BATON_EMU_NEURON_STRICT", "1");
  auto touch = [](Library& lib, bool store) {
    nrt::Tensor* t = nullptr;
    if (lib.init(nrt::kFrameworkNone, "", "") || lib.tensor_allocate(nrt::kPlacementDevice, 0, 4096, "keys", &t)) _exit(9);
    auto* va = static_cast<volatile uint8_t*>(lib.tensor_get_va(t));
    if (store) va[12] = 1;
    else if (va[12]) _exit(8);
  };
  for (bool store : {false, true}) {
    Ended e = in_child([&] { Library lib; touch(lib, store); });
    EXPECT_EQ(e.signal, SIGSEGV);
    EXPECT_NE(e.err.find("byte 12 of tensor 'keys' (4096 bytes)"), std::string::npos) << e.err;
    EXPECT_NE(e.err.find("next: nrt_tensor_read"), std::string::npos) << e.err;
    EXPECT_EQ(std::count(e.err.begin(), e.err.end(), '\n'), 1) << e.err;
  }
  // The previous handler has the last word, also for faults that are none of ours.
  auto with_handler = [&](auto f) {
    return in_child([&] {
      struct sigaction theirs {};
      theirs.sa_handler = [](int) { _exit(42); };
      sigaction(SIGSEGV, &theirs, nullptr);
      Library lib;
      f(lib);
    });
  };
  EXPECT_EQ(with_handler([&](Library& lib) { touch(lib, true); }).code, 42);
  Ended theirs = with_handler([](Library& lib) {
    if (lib.init(nrt::kFrameworkNone, "", "")) _exit(9);
    *static_cast<volatile int*>(mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) = 1;
  });
  EXPECT_EQ(theirs.code, 42);
  EXPECT_EQ(theirs.err, "");
  // The runtime's own calls work on, and closing puts the handler back.
  Ended works = in_child([] {
    Library lib;
    nrt::Tensor* t = nullptr;
    uint8_t in = 7, out = 0;
    if (lib.init(nrt::kFrameworkNone, "", "") || lib.tensor_allocate(nrt::kPlacementDevice, 0, 4096, "keys", &t)) _exit(9);
    auto* va = static_cast<uint8_t*>(lib.tensor_get_va(t));
    if (lib.memcpy_to_device(va + 5, &in, 1) || lib.tensor_read(t, &out, 5, 1) || out != 7) _exit(8);
    int32_t fd = -1;
    uint64_t offset = 0;
    if (lib.get_dmabuf_fd_v2(reinterpret_cast<uint64_t>(va), 4096, &fd, &offset)) _exit(7);
    lib.close();
    struct sigaction now {};
    sigaction(SIGSEGV, nullptr, &now);
    if (now.sa_handler != SIG_DFL) _exit(6);
  });
  EXPECT_EQ(works.signal, 0);
  EXPECT_EQ(works.code, 0);
}
#endif

// ---- visibility ----

class NeuronVisibility : public NeuronAbi {
 protected:
  void start(const char* seed, size_t bytes) {
    with("BATON_EMU_NEURON_VISIBILITY", seed);
    init();
    size = bytes;
    t = tensor(0, bytes);
    ASSERT_EQ(rt.tensor_memset(t, 0, 1, bytes), nrt::kSuccess);
    ASSERT_EQ(rt.get_dmabuf_fd_v2(reinterpret_cast<uint64_t>(rt.tensor_get_va(t)), bytes, &fd, &offset), nrt::kSuccess);
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, off_t(offset));
    ASSERT_NE(at, MAP_FAILED);
    wire = static_cast<uint8_t*>(at);
  }
  void TearDown() override {
    if (wire) munmap(wire, size);
    if (fd >= 0) close(fd);
    NeuronAbi::TearDown();
  }
  uint8_t read(size_t at) {
    uint8_t byte = 0;
    EXPECT_EQ(rt.tensor_read(t, &byte, at, 1), nrt::kSuccess);
    return byte;
  }
  nrt::Tensor* t = nullptr;
  uint8_t* wire = nullptr;
  size_t size = 0;
  int32_t fd = -1;
  uint64_t offset = 0;
};

TEST_F(NeuronVisibility, ARemoteWriteIsOldUntilTheFence) {
  start("0", 8192);
  EXPECT_EQ(wire[100], 1);  // what the device wrote before the export
  wire[100] = 2;
  wire[5000] = 3;
  auto* va = static_cast<uint8_t*>(rt.tensor_get_va(t));
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(read(100), 1);
    EXPECT_EQ(va[5000], 1);
  }
  // The device's write next to it goes out, and does not undo what is on its way in.
  uint8_t mine = 9;
  EXPECT_EQ(rt.tensor_write(t, &mine, 101, 1), nrt::kSuccess);
  EXPECT_EQ(wire[101], 9);
  EXPECT_EQ(wire[100], 2);
  EXPECT_EQ(rt.fence(va, 4096), nrt::kSuccess);
  EXPECT_EQ(read(100), 2);
  EXPECT_EQ(va[5000], 1);  // beyond the range
  EXPECT_EQ(rt.fence(va + 4096, 4096), nrt::kSuccess);
  EXPECT_EQ(va[5000], 3);
  EXPECT_EQ(read(101), 9);
  EXPECT_EQ(rt.fence(&mine, 1), nrt::kInvalid);
  EXPECT_EQ(rt.tensor_memset(t, 0, 4, size), nrt::kSuccess);
  EXPECT_EQ(wire[100], 4);
}

TEST_F(NeuronVisibility, ASeedLetsSomeInAtSomeTime) {
  start("7", 64 * 4096);
  for (size_t page = 0; page < 64; ++page) wire[page * 4096] = 2;
  std::vector<int> counts;
  for (int call = 0; call < 100; ++call) {
    (void)read(1);
    int in = 0;
    auto* va = static_cast<uint8_t*>(rt.tensor_get_va(t));
    for (size_t page = 0; page < 64; ++page) in += va[page * 4096] == 2;
    counts.push_back(in);
  }
  EXPECT_GT(counts.front(), 0);
  EXPECT_LT(counts.front(), 40);
  EXPECT_TRUE(std::is_sorted(counts.begin(), counts.end()));
  EXPECT_EQ(counts.back(), 64);
}

}  // namespace
}  // namespace baton::test
