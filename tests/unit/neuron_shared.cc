// Several processes on one emulated machine: who has a core, what is left of a process that is killed, ranks that meet.
#include "emulators/neuron/machine_page.hpp"
#include "tests/unit/neuron_library.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <set>
#include <thread>

namespace baton::test {
namespace {

using neuron_emu::MachinePage;

// Runs `f` in a forked child whose exit status it gives.
pid_t in_child(const std::function<int()>& f) {
  pid_t child = fork();
  if (child == 0) _exit(f());
  return child;
}

int ended(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

class NeuronShared : public NeuronAbi {
 protected:
  void SetUp() override {
    NeuronAbi::SetUp();
    with("BATON_EMU_NEURON_FOLDER", folder.path());
    with("BATON_EMU_NEURON_TIMING", "none");
  }
  // Besides the cores' lock files, the page, the lock of taking, and the tree that is made of the page.
  std::set<std::string> left() const {
    std::set<std::string> names;
    for (const auto& e : std::filesystem::directory_iterator(folder.path())) {
      std::string name = e.path().filename();
      if (!name.starts_with("core") && !std::set<std::string>{"counters", "taking", "sys", "hwloc.xml", "machine"}.count(name)) names.insert(name);
    }
    return names;
  }
  std::string refusal() {
    EXPECT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kResource);
    return rt.get_status_as_str(nrt::kResource);
  }
  TempDir folder;
};

TEST_F(NeuronShared, TheLoserHearsWhoHoldsTheCore) {
  int ready[2], done[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(done), 0);
  with("NEURON_RT_VISIBLE_CORES", "1");
  pid_t holder = in_child([&] {
    Library other;
    char c = other.init(nrt::kFrameworkNone, "", "") == nrt::kSuccess ? 'y' : 'n';
    (void)!write(ready[1], &c, 1);
    (void)!read(done[0], &c, 1);
    return 0;
  });
  char c = 0;
  ASSERT_EQ(read(ready[0], &c, 1), 1);
  ASSERT_EQ(c, 'y');
  with("NEURON_RT_VISIBLE_CORES", "0-1");
  std::string text = refusal();
  EXPECT_NE(text.find("logical core 1 is held by process " + std::to_string(holder) + " neuron_shared since 2"), std::string::npos) << text;
  with("NEURON_RT_VISIBLE_CORES", "");  // all of them: exclusive, as on hardware
  EXPECT_NE(refusal().find("core 1"), std::string::npos);
  with("NEURON_RT_VISIBLE_CORES", "0");  // core 0 was not kept by the attempts that failed
  EXPECT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kSuccess);
  (void)!write(done[1], &c, 1);
  EXPECT_EQ(ended(holder), 0);
  for (int fd : {ready[0], ready[1], done[0], done[1]}) close(fd);
}

TEST_F(NeuronShared, NumCoresTakesCoresThatAreFree) {
  with("NEURON_RT_VISIBLE_CORES", "1");
  init();
  pid_t child = in_child([&] {
    Library other;
    setenv("NEURON_RT_VISIBLE_CORES", "", 1);
    setenv("NEURON_RT_NUM_CORES", "2", 1);
    uint32_t n = 0;
    if (other.get_visible_vnc_count(&n) || n != 2) return 1;
    if (other.init(nrt::kFrameworkNone, "", "")) return 2;
    auto page = MachinePage::read(folder.path());  // cores 0 and 2: their first physical cores
    if (!page.ok() || page->core(0, 0).holder != uint64_t(getpid()) || page->core(0, 4).holder != uint64_t(getpid())) return 3;
    if (page->core(0, 2).holder != uint64_t(getppid())) return 4;
    nrt::Tensor* t = nullptr;
    if (other.tensor_allocate(nrt::kPlacementDevice, 1, 64, "t", &t)) return 5;  // ids count from 0
    nrt::AllocationInfo info{};
    if (other.tensor_get_device_allocation_info(t, &info) || info.hbm_index != 2) return 6;
    other.close();
    setenv("NEURON_RT_NUM_CORES", "4", 1);
    if (other.init(nrt::kFrameworkNone, "", "") != nrt::kResource) return 7;
    return std::strstr(other.get_status_as_str(nrt::kResource), "3 of 4 are free") ? 0 : 8;
  });
  EXPECT_EQ(ended(child), 0);
}

// LNC 1: cores 0 and 1 have one stack, of which each sees what the other's process uses, as long as that lives.
TEST_F(NeuronShared, CoresOfTwoProcessesShareTheirStacksMemory) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  with("NEURON_LOGICAL_NC_CONFIG", "1");
  with("NEURON_RT_VISIBLE_CORES", "0");
  constexpr uint64_t kGiB = 1ull << 30;
  pid_t neighbour = in_child([&] {
    Library other;
    setenv("NEURON_RT_VISIBLE_CORES", "1", 1);
    nrt::Tensor* t = nullptr;
    char c = !other.init(nrt::kFrameworkNone, "", "") && !other.tensor_allocate(nrt::kPlacementDevice, 0, 20 * kGiB, "t", &t) ? 'y' : 'n';
    (void)!write(ready[1], &c, 1);
    pause();
    return 0;
  });
  char c = 0;
  ASSERT_EQ(read(ready[0], &c, 1), 1);
  ASSERT_EQ(c, 'y');
  init();
  nrt::Tensor* t = nullptr;
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 0, 5 * kGiB, "t", &t), nrt::kResource);
  nrt::MemoryStats stats{};
  size_t n = 0;
  ASSERT_EQ(rt.get_vnc_memory_stats(0, &stats, sizeof stats, &n), nrt::kSuccess);
  EXPECT_EQ(stats.bytes_used, 20 * kGiB);
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 0, 4 * kGiB, "t", &t), nrt::kSuccess);
  rt.tensor_free(&t);
  kill(neighbour, SIGKILL);
  EXPECT_EQ(ended(neighbour), 128 + SIGKILL);
  EXPECT_EQ(rt.tensor_allocate(nrt::kPlacementDevice, 0, 24 * kGiB, "t", &t), nrt::kSuccess);
  for (int fd : ready) close(fd);
}

// Four processes want core 0, again and again: at most one has it, and everybody gets it.
TEST_F(NeuronShared, ProcessesFightForACore) {
  with("NEURON_RT_VISIBLE_CORES", "0");
  const std::string owner = folder.path() + "/core-owner";
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i)
    children.push_back(in_child([&] {
      Library other;
      for (int won = 0; won < 20;) {
        if (other.init(nrt::kFrameworkNone, "", "")) {
          std::this_thread::yield();
          continue;
        }
        int fd = open(owner.c_str(), O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0) return 1;  // two had it
        close(fd);
        nrt::Tensor* t = nullptr;
        if (other.tensor_allocate(nrt::kPlacementDevice, 0, 4096, "t", &t)) return 2;
        unlink(owner.c_str());
        other.close();
        ++won;
      }
      return 0;
    }));
  for (pid_t child : children) EXPECT_EQ(ended(child), 0);
}

TEST_F(NeuronShared, AnotherShapeIsRefusedWhileTheMachineIsInUse) {
  init();
  pid_t child = in_child([] {
    Library other;
    setenv("BATON_EMU_NEURON_CHIPS", "2", 1);
    setenv("NEURON_RT_VISIBLE_CORES", "5", 1);
    if (other.init(nrt::kFrameworkNone, "", "") != nrt::kResource) return 1;
    return std::strstr(other.get_status_as_str(nrt::kResource), "machine with 1 chips") ? 0 : 2;
  });
  EXPECT_EQ(ended(child), 0);
  rt.close();
  with("BATON_EMU_NEURON_CHIPS", "2");  // nobody uses it: made anew
  init();
}

TEST(NeuronNamed, AMachineIsNamedPerUser) {
  TempDir runtime;
  setenv("XDG_RUNTIME_DIR", runtime.path().c_str(), 1);
  setenv("BATON_EMU_NEURON_FOLDER", "ours", 1);
  {
    Library rt;
    EXPECT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kSuccess) << rt.get_status_as_str(nrt::kFailure);
    EXPECT_TRUE(std::filesystem::exists(runtime.path() + "/baton-neuron/ours/counters"));
    rt.close();
    setenv("BATON_EMU_NEURON_FOLDER", "..", 1);
    EXPECT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kInvalid);
  }
  unsetenv("BATON_EMU_NEURON_FOLDER");
  unsetenv("XDG_RUNTIME_DIR");
}

// ---- killed ----

// What a process does until the plan's nth call kills it: everything that takes something of the machine.
int work_until_killed(uint64_t nth) {
  setenv("BATON_EMU_NEURON_FAULTS", ("{\"rules\": [{\"call\": \"*\", \"nth\": " + std::to_string(nth) + ", \"action\": \"kill\"}]}").c_str(), 1);
  Library rt;
  TinyModel m = mlp();
  auto neff = container(m);
  if (rt.init(nrt::kFrameworkNone, "", "")) return 1;
  for (int i = 0; i < 10; ++i) {
    nrt::Model* model = nullptr;
    if (rt.load(neff->data(), neff->bytes(), 0, -1, &model)) return 2;
    nrt::Tensor* tensors[4] = {};
    const size_t bytes[4] = {12, 3 * kHidden * 4, 16, neuron::progress_bytes(kLayers)};
    for (int k = 0; k < 4; ++k)
      if (rt.tensor_allocate(nrt::kPlacementDevice, 0, bytes[k], "t", &tensors[k])) return 3;
    int32_t ids[] = {1, 2, 3};
    int64_t args[] = {3, 0};
    rt.tensor_write(tensors[0], ids, 0, sizeof ids);
    rt.tensor_write(tensors[2], args, 0, sizeof args);
    rt.tensor_memset(tensors[3], 0, 0, bytes[3]);
    void *in = nullptr, *out = nullptr;
    rt.allocate_tensor_set(&in);
    rt.allocate_tensor_set(&out);
    rt.add_tensor_to_tensor_set(in, "ids", tensors[0]);
    rt.add_tensor_to_tensor_set(in, neuron::kArgsTensor, tensors[2]);
    rt.add_tensor_to_tensor_set(out, "hidden", tensors[1]);
    rt.add_tensor_to_tensor_set(out, neuron::kProgressTensor, tensors[3]);
    if (rt.execute(model, in, out)) return 4;
    int32_t fd = -1;
    uint64_t offset = 0;
    if (rt.get_dmabuf_fd_v2(reinterpret_cast<uint64_t>(rt.tensor_get_va(tensors[1])), bytes[1], &fd, &offset)) return 5;
    close(fd);
    if (rt.barrier(0, 0, 1)) return 6;
    rt.unload(model);
    for (nrt::Tensor*& t : tensors) rt.tensor_free(&t);
  }
  return 0;
}

TEST_F(NeuronShared, KilledAtFiftyPointsLeavesNothing) {
  with("NEURON_RT_VISIBLE_CORES", "2");
  with("NEURON_RT_ROOT_COMM_ID", "127.0.0.1:7000");
  const int shm = dev_shm_entries();
  uint64_t random = 20261126;
  for (int point = 0; point < 50; ++point) {
    random = random * 6364136223846793005ull + 1442695040888963407ull;
    const uint64_t nth = 1 + (random >> 33) % 100;
    pid_t child = in_child([nth] { return work_until_killed(nth); });
    ASSERT_EQ(ended(child), 128 + SIGKILL) << "call " << nth;
    {
      auto page = MachinePage::read(folder.path());  // the dead one's counts can be read
      ASSERT_TRUE(page.ok()) << page.error().what;
      EXPECT_EQ(page->core(0, 4).holder, uint64_t(child));
    }
    ASSERT_EQ(rt.init(nrt::kFrameworkNone, "", ""), nrt::kSuccess) << rt.get_status_as_str(nrt::kResource);  // at once
    EXPECT_EQ(used(0), 0u);
    auto page = MachinePage::read(folder.path());
    EXPECT_EQ(page->core(0, 4).device_total.total, 0u);
    nrt::Tensor* t = tensor(0, 24ull << 30);  // all of the stack
    EXPECT_NE(t, nullptr);
    EXPECT_EQ(left(), std::set<std::string>()) << "after call " << nth;
    rt.close();
  }
  EXPECT_EQ(dev_shm_entries(), shm);
}

// ---- ranks in processes of their own ----

struct RankRun {
  Library rt;
  nrt::Model* model = nullptr;
  void *in = nullptr, *out = nullptr;
  nrt::Tensor* hidden = nullptr;
  // Rank `rank` of `ranks` on the process's core 0, over three ids.
  int prepare(uint32_t rank, uint32_t ranks) { return rt.init(nrt::kFrameworkNone, "", "") ? 1 : load(rank, ranks, false); }
  int load(uint32_t rank, uint32_t ranks, bool scattered) {
    TinyModel m = mlp(rank, ranks, scattered);
    auto neff = container(m);
    if (rt.load_collectives(neff->data(), neff->bytes(), 0, -1, rank, ranks, &model)) return 2;
    nrt::Tensor *ids = nullptr, *args = nullptr;
    if (rt.tensor_allocate(nrt::kPlacementDevice, 0, 12, "ids", &ids) || rt.tensor_allocate(nrt::kPlacementDevice, 0, 16, "args", &args) ||
        rt.tensor_allocate(nrt::kPlacementDevice, 0, 3 * kHidden * 4, "hidden", &hidden))
      return 3;
    int32_t tokens[] = {7, 33, 12};
    int64_t values[] = {3, 0};
    rt.tensor_write(ids, tokens, 0, sizeof tokens);
    rt.tensor_write(args, values, 0, sizeof values);
    rt.allocate_tensor_set(&in);
    rt.allocate_tensor_set(&out);
    rt.add_tensor_to_tensor_set(in, "ids", ids);
    rt.add_tensor_to_tensor_set(in, neuron::kArgsTensor, args);
    rt.add_tensor_to_tensor_set(out, "hidden", hidden);
    return 0;
  }
  std::vector<float> result() {
    std::vector<float> x(3 * kHidden);
    rt.tensor_read(hidden, x.data(), 0, x.size() * 4);
    return x;
  }
};

TEST_F(NeuronShared, RanksMeetAcrossProcessesWithTheBitsOfOne) {
  with("NEURON_RT_ROOT_COMM_ID", "127.0.0.1:7001");
  std::vector<pid_t> children;
  for (uint32_t rank = 0; rank < 4; ++rank)
    children.push_back(in_child([&, rank] {
      setenv("NEURON_RT_VISIBLE_CORES", std::to_string(rank).c_str(), 1);
      RankRun r;
      if (int step = r.prepare(rank, 4)) return step;
      for (int i = 0; i < 10; ++i)
        if (r.rt.execute(r.model, r.in, r.out)) return 10;
      uint64_t mine = rank + 100, all[4] = {};
      for (int i = 0; i < 20; ++i)
        if (r.rt.all_gather(0, rank, 4, sizeof mine, &mine, all) || all[0] != 100 || all[3] != 103) return 11;
      if (r.rt.barrier(0, rank, 4)) return 12;
      std::vector<float> x = r.result();
      RankRun scattered{r.rt};
      if (scattered.load(rank, 4, true)) return 14;
      for (int i = 0; i < 10; ++i)
        if (scattered.rt.execute(scattered.model, scattered.in, scattered.out)) return 15;
      if (scattered.result() != x) return 16;
      int fd = open((folder.path() + "/core-result" + std::to_string(rank)).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
      ssize_t n = write(fd, x.data(), x.size() * 4);
      close(fd);
      r.rt.close();
      return n == ssize_t(x.size() * 4) ? 0 : 13;
    }));
  for (pid_t child : children) EXPECT_EQ(ended(child), 0);
  unsetenv("NEURON_RT_ROOT_COMM_ID");
  RankRun whole;
  ASSERT_EQ(whole.prepare(0, 1), 0);
  ASSERT_EQ(whole.rt.execute(whole.model, whole.in, whole.out), nrt::kSuccess);
  std::vector<float> want = whole.result(), got(want.size());
  for (int rank = 0; rank < 4; ++rank) {
    int fd = open((folder.path() + "/core-result" + std::to_string(rank)).c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_EQ(read(fd, got.data(), got.size() * 4), ssize_t(got.size() * 4));
    close(fd);
    EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * 4), 0) << "rank " << rank;
  }
  EXPECT_EQ(left(), std::set<std::string>());  // the last rank removed the file
}

TEST_F(NeuronShared, APeersDeathEndsTheCollective) {
  with("NEURON_RT_ROOT_COMM_ID", "127.0.0.1:7002");
  pid_t dies = in_child([] {
    setenv("NEURON_RT_VISIBLE_CORES", "1", 1);
    setenv("BATON_EMU_NEURON_FAULTS", R"({"rules": [{"call": "nrt_execute", "nth": 3, "action": "kill"}]})", 1);
    RankRun r;
    if (int step = r.prepare(1, 2)) return step;
    for (int i = 0; i < 5; ++i)
      if (r.rt.execute(r.model, r.in, r.out)) return 10;
    return 11;
  });
  pid_t lives = in_child([dies] {
    setenv("NEURON_RT_VISIBLE_CORES", "0", 1);
    RankRun r;
    if (int step = r.prepare(0, 2)) return step;
    for (int i = 0; i < 2; ++i)
      if (r.rt.execute(r.model, r.in, r.out)) return 10;
    if (r.rt.execute(r.model, r.in, r.out) != nrt::kExecHwErrCollectives) return 11;
    const std::string text = r.rt.get_status_as_str(nrt::kExecHwErrCollectives);
    if (text.find("process " + std::to_string(dies) + ", is gone") == std::string::npos) return std::fprintf(stderr, "%s\n", text.c_str()), 12;
    return r.rt.execute(r.model, r.in, r.out) == nrt::kExecHwErrCollectives ? 0 : 13;  // nor does the next one hang
  });
  EXPECT_EQ(ended(lives), 0);
  EXPECT_EQ(ended(dies), 128 + SIGKILL);
  init();
  EXPECT_EQ(left(), std::set<std::string>());
}

TEST_F(NeuronShared, AForkedChildsEndTakesNothingFromItsParent) {
  with("NEURON_RT_VISIBLE_CORES", "3");
  init();
  nrt::Tensor* t = tensor(0, 4096);
  EXPECT_EQ(rt.tensor_memset(t, 0, 9, 4096), nrt::kSuccess);
  pid_t child = in_child([&] {
    uint8_t byte = 0;
    if (rt.tensor_read(t, &byte, 0, 1) != nrt::kUninitialized) return 1;
    rt.tensor_free(&t);
    rt.close();
    return 0;
  });
  EXPECT_EQ(ended(child), 0);
  uint8_t byte = 0;
  EXPECT_EQ(rt.tensor_read(t, &byte, 4095, 1), nrt::kSuccess);
  EXPECT_EQ(byte, 9);
  auto page = MachinePage::read(folder.path());
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(page->core(0, 6).holder, uint64_t(getpid()));
  EXPECT_EQ(page->core(0, 6).device_total.total, 4096u);
  pid_t other = in_child([&] {
    Library rival;
    return rival.init(nrt::kFrameworkNone, "", "") == nrt::kResource ? 0 : 1;
  });
  EXPECT_EQ(ended(other), 0);
  rt.tensor_free(&t);
  EXPECT_EQ(page->core(0, 6).device_total.total, 0u);
  EXPECT_EQ(page->core(0, 6).device_total.peak, 4096u);
}

}  // namespace
}  // namespace baton::test
