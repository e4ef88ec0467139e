// Machines as data: every file, the runtime's topology, the hwloc topology and the sysfs tree that come of it, and what they cost.
#include "drivers/neuron/nrt_abi.hpp"
#include "drivers/neuron/options.hpp"
#include "drivers/neuron/pci.hpp"
#include "drivers/neuron/quirks.hpp"
#include "drivers/neuron/sysfs.hpp"
#include "emulators/neuron/hwloc_xml.hpp"
#include "emulators/neuron/machine_data.hpp"
#include "emulators/neuron/options.hpp"
#include "emulators/neuron/sysfs_tree.hpp"
#include "hal/baton.hpp"
#include "tests/support/process.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <hwloc.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace baton::test {
namespace {

using namespace neuron_emu;
using neuron::Health;
using neuron::Sysfs;

const std::vector<std::string> kNames = {"inf2.xlarge",   "inf2.8xlarge",   "inf2.24xlarge", "inf2.48xlarge", "trn1.2xlarge",   "trn1.32xlarge", "trn1n.32xlarge",
                                         "trn2.3xlarge", "trn2.48xlarge", "trn2u.48xlarge", "trn2u",        "trn3",          "trn3u"};

MachineData machine(const std::string& name) {
  auto m = load_machine(name);
  EXPECT_TRUE(m.ok()) << m.error().text();
  return m.ok() ? *m : MachineData{};
}

std::string slurp(const std::string& path) {
  std::stringstream s;
  s << std::ifstream(path).rdbuf();
  return s.str();
}

// As a shell does: opened for writing, truncated.
void echo(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::trunc) << text; }

class Variables {
 public:
  ~Variables() {
    for (const auto& n : names_) unsetenv(n.c_str());
  }
  void set(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    names_.push_back(name);
  }

 private:
  std::vector<std::string> names_;
};

// ---- the files ----

TEST(Machines, AreThereWithTheirShapes) {
  const std::map<std::string, std::array<uint64_t, 4>> shapes = {  // chips, cores of a chip, stacks of a chip, GiB of a chip
      {"inf2.xlarge", {1, 2, 2, 32}},    {"inf2.8xlarge", {1, 2, 2, 32}},    {"inf2.24xlarge", {6, 2, 2, 32}},   {"inf2.48xlarge", {12, 2, 2, 32}},
      {"trn1.2xlarge", {1, 2, 2, 32}},   {"trn1.32xlarge", {16, 2, 2, 32}},  {"trn1n.32xlarge", {16, 2, 2, 32}}, {"trn2.3xlarge", {1, 8, 4, 96}},
      {"trn2.48xlarge", {16, 8, 4, 96}}, {"trn2u.48xlarge", {16, 8, 4, 96}}, {"trn2u", {64, 8, 4, 96}},          {"trn3", {16, 8, 4, 144}},
      {"trn3u", {64, 8, 4, 144}}};
  ASSERT_EQ(shapes.size(), kNames.size());
  for (const auto& [name, s] : shapes) {
    const MachineData m = machine(name);
    EXPECT_EQ(m.devices.size(), s[0]) << name;
    EXPECT_EQ(m.chip.cores, s[1]) << name;
    EXPECT_EQ(m.chip.stacks(), s[2]) << name;
    EXPECT_EQ(m.chip.stacks() * m.chip.hbm_bytes >> 30, s[3]) << name;
  }
  EXPECT_EQ(machine("trn2.48xlarge").devices[0].links, (std::vector<uint32_t>{12, 1, 3, 4}));  // the driver's order
  EXPECT_EQ(machine("trn2u").devices[0].links.size(), 6u);
}

TEST(Machines, LinksAreMutualAndNoAddressIsGivenTwice) {
  for (const std::string& name : kNames) {
    const MachineData m = machine(name);
    std::set<std::string> chips, nics(m.host_efa.begin(), m.host_efa.end());
    for (uint32_t i = 0; i < m.devices.size(); ++i) {
      EXPECT_TRUE(chips.insert(m.devices[i].bdf).second) << name << " " << m.devices[i].bdf;
      for (const std::string& efa : m.devices[i].efa) nics.insert(efa);
      for (uint32_t n : m.devices[i].links) EXPECT_THAT(m.devices[n].links, testing::Contains(i)) << name << " " << i << "-" << n;
    }
    for (const std::string& nic : nics) EXPECT_EQ(chips.count(nic), 0u) << name << " " << nic;
  }
}

// An object with a number in it, or the object around it, says where it is from.
void sourced(const nlohmann::json& j, const std::string& at, bool covered) {
  if (j.is_object()) {
    auto s = j.find("source");
    if (s != j.end()) {
      ASSERT_TRUE(s->is_string()) << at;
      EXPECT_GE(s->get<std::string>().size(), 5u) << at;  // "guess" at least
      covered = true;
    }
    for (const auto& [key, value] : j.items()) sourced(value, at + "/" + key, covered);
  } else if (j.is_array()) {
    for (const auto& value : j) sourced(value, at, covered);
  } else if (j.is_number()) {
    EXPECT_TRUE(covered) << at;
  }
}

TEST(Machines, EveryFigureHasASource) {
  std::set<std::string> files;
  for (const std::string& name : kNames) files.insert(machine(name).file);
  EXPECT_EQ(files.size(), 4u);
  for (const std::string& f : files) sourced(nlohmann::json::parse(slurp(f)), f, false);
}

TEST(Machines, MalformedOnesGiveOneLine) {
  const std::string good = slurp(machine("trn2.3xlarge").file);
  auto refused = [&](const std::string& from, const std::string& to, const char* says, int32_t code = BATON_CORRUPT) {
    std::string text = good;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    auto r = parse_machines(text.replace(at, from.size(), to), "here.json");
    ASSERT_FALSE(r.ok()) << to;
    EXPECT_EQ(r.error().code, code);
    EXPECT_NE(std::string(r.error().what).find(says), std::string::npos) << r.error().what;
    EXPECT_NE(std::string(r.error().what).find("here.json"), std::string::npos) << r.error().what;
    EXPECT_STRNE(r.error().next, "");
  };
  EXPECT_TRUE(parse_machines(good, "here.json").ok());
  refused("baton.neuron-machine/1", "baton.neuron-machine/2", "baton.neuron-machine/2", BATON_VERSION);
  refused("\"cores\": 8", "\"cores\": 9", "'cores'");
  refused("\"cores\": 8", "\"cores\": -8", "'cores'");
  refused("\"device\": \"0x7364\"", "\"device\": \"7364\"", "'device'");
  refused("0000:cc:00.0", "cc:00.0", "'bdf'");
  refused("\"links\": [12, 1, 3, 4]", "\"links\": [16]", "'links'");
  refused("\"where\": \"guess\"", "\"where\": \"\"", "'where'");
  refused("\"chip\": {", "\"chop\": {", "'chip'");
  refused("{", "[", "not a JSON object");
}

TEST(Machines, AnUnknownNameListsThoseThereAre) {
  auto r = load_machine("trn9.large");
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().code, BATON_NOT_FOUND);
  EXPECT_NE(std::string(r.error().next).find("trn2.48xlarge"), std::string::npos) << r.error().next;
  TempDir own;
  std::filesystem::copy_file(machine("inf2.xlarge").file, own.path() + "/mine.json");
  auto mine = load_machine(own.path() + "/inf2.24xlarge");
  ASSERT_TRUE(mine.ok()) << mine.error().text();
  EXPECT_EQ(mine->file, own.path() + "/mine.json");
}

// ---- the runtime on them ----

template <class F>
F* symbol(void* library, const char* name) {
  return reinterpret_cast<F*>(dlsym(library, name));
}

class Runtime {
 public:
  void* library = dlopen(plugin("emu/libnrt.so.1").c_str(), RTLD_NOW | RTLD_LOCAL);
  uint32_t ask(const char* name) {
    uint32_t n = 0;
    EXPECT_EQ(symbol<int32_t(uint32_t*)>(library, name)(&n), nrt::kSuccess) << name;
    return n;
  }
  int32_t init() { return symbol<decltype(nrt::nrt_init)>(library, "nrt_init")(nrt::kFrameworkNone, "", ""); }
  void close() { symbol<decltype(nrt::nrt_close)>(library, "nrt_close")(); }
  nrt::Tensor* tensor(int32_t vnc, size_t bytes) {
    nrt::Tensor* t = nullptr;
    EXPECT_EQ(symbol<decltype(nrt::nrt_tensor_allocate)>(library, "nrt_tensor_allocate")(nrt::kPlacementDevice, vnc, bytes, "t", &t), nrt::kSuccess);
    return t;
  }
  ~Runtime() {
    if (library) dlclose(library);
  }
};

TEST(MachinesOnLibnrt, CountsAndInstance) {
  for (const std::string& name : kNames) {
    Variables v;
    v.set("BATON_EMU_NEURON_MACHINE", name);
    const MachineData m = machine(name);
    Runtime rt;
    const uint32_t cores = uint32_t(m.devices.size()) * m.chip.cores;
    EXPECT_EQ(rt.ask("nrt_get_total_nc_count"), cores) << name;
    EXPECT_EQ(rt.ask("nrt_get_total_vnc_count"), cores / m.chip.lnc) << name;
    v.set("NEURON_RT_NUM_CORES", "1");
    ASSERT_EQ(rt.init(), nrt::kSuccess) << name;
    nrt::InstanceInfo info{};
    EXPECT_EQ(symbol<decltype(nrt::nrt_get_instance_info)>(rt.library, "nrt_get_instance_info")(&info, sizeof info), nrt::kSuccess);
    EXPECT_EQ(info.family, m.family) << name;
    EXPECT_EQ(info.size, m.size) << name;
    EXPECT_EQ(info.arch_name, m.chip.arch_type) << name;
    rt.close();
  }
}

TEST(MachinesOnLibnrt, LncIsTheChips) {
  Variables v;
  v.set("BATON_EMU_NEURON_MACHINE", "trn1.2xlarge");
  Runtime rt;
  EXPECT_EQ(rt.ask("nrt_get_total_vnc_count"), 2u);
  v.set("NEURON_LOGICAL_NC_CONFIG", "2");
  uint32_t n = 0;
  EXPECT_EQ(symbol<int32_t(uint32_t*)>(rt.library, "nrt_get_total_vnc_count")(&n), nrt::kInvalid);
}

int64_t resident_kb() {
  std::ifstream f("/proc/self/status");
  std::string line;
  while (std::getline(f, line))
    if (line.starts_with("VmRSS:")) return std::stoll(line.substr(6));
  return 0;
}

TEST(MachinesOnLibnrt, SixteenChipsOf96GiBCostWhatIsTouched) {
  Variables v;
  v.set("BATON_EMU_NEURON_MACHINE", "trn2.48xlarge");
  Runtime rt;
  const int64_t before = resident_kb();
  const std::clock_t cpu = std::clock();  // not wall time: the machine may be busy
  ASSERT_EQ(rt.init(), nrt::kSuccess);
  EXPECT_LT(double(std::clock() - cpu) / CLOCKS_PER_SEC, 1.0);
  EXPECT_EQ(rt.ask("nrt_get_visible_vnc_count"), 64u);
  const int64_t started = resident_kb();
  EXPECT_LT(started - before, 64 << 10);
  std::vector<uint8_t> some(1 << 20, 1);
  for (int32_t vnc : {0, 31, 63}) {
    nrt::Tensor* t = rt.tensor(vnc, 20ull << 30);
    EXPECT_EQ(symbol<decltype(nrt::nrt_tensor_write)>(rt.library, "nrt_tensor_write")(t, some.data(), 10ull << 30, some.size()), nrt::kSuccess);
  }
  EXPECT_LT(resident_kb() - started, 32 << 10);  // 3 MiB are touched of 60 GiB
  rt.close();
}

// ---- hwloc ----

TEST(MachinesInHwloc, XmlIsATopologyThatHwlocLoads) {
  for (const std::string& name : kNames) {
    const MachineData m = machine(name);
    const std::string xml = hwloc_xml(m, uint32_t(m.devices.size()));
    hwloc_topology_t t;
    ASSERT_EQ(hwloc_topology_init(&t), 0);
    hwloc_topology_set_io_types_filter(t, HWLOC_TYPE_FILTER_KEEP_ALL);
    ASSERT_EQ(hwloc_topology_set_xmlbuffer(t, xml.data(), int(xml.size() + 1)), 0) << name;
    ASSERT_EQ(hwloc_topology_load(t), 0) << name;
    EXPECT_EQ(uint32_t(hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_PU)), m.vcpus) << name;
    EXPECT_EQ(uint32_t(hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_NUMANODE)), m.numa_nodes) << name;
    std::map<std::string, uint32_t> seen;  // chip -> NUMA node
    for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_pcidev(t, o));) {
      const auto& p = o->attr->pcidev;
      char bdf[16];
      std::snprintf(bdf, sizeof bdf, "%04x:%02x:%02x.%x", unsigned(p.domain), p.bus, p.dev, p.func);
      hwloc_obj_t parent = hwloc_get_non_io_ancestor_obj(t, o);
      if (p.device_id == m.chip.pci_device) seen[bdf] = uint32_t(hwloc_bitmap_first(parent->nodeset));
    }
    EXPECT_EQ(seen.size(), m.devices.size()) << name;
    for (const DeviceData& d : m.devices) EXPECT_EQ(seen[d.bdf], d.numa) << name << " " << d.bdf;
    hwloc_topology_destroy(t);
  }
}

TEST(MachinesInHwloc, TheDriverFindsChipsByIt) {
  TempDir folder;
  const MachineData m = machine("inf2.24xlarge");
  echo(folder.path() + "/hwloc.xml", hwloc_xml(m, 6));
  Variables v;
  v.set("HWLOC_XMLFILE", folder.path() + "/hwloc.xml");
  const auto chips = neuron::pci_chips();
  ASSERT_EQ(chips.size(), 6u);
  EXPECT_STREQ(neuron::family(chips[0].family).model, "Inferentia2");
  for (const auto& c : chips) EXPECT_TRUE(std::any_of(m.devices.begin(), m.devices.end(), [&](auto& d) { return d.bdf == c.bdf && d.numa == c.numa_node; })) << c.bdf;
}

// ---- sysfs ----

class Tree : public ::testing::Test {
 protected:
  std::unique_ptr<SysfsTree> open(const std::string& name, std::vector<CoreId> cores, uint32_t chips = 0) {
    const MachineData m = machine(name);
    auto t = SysfsTree::open(folder.path(), m, chips ? chips : uint32_t(m.devices.size()), std::move(cores));
    EXPECT_TRUE(t.ok()) << t.error().text();
    return t.ok() ? std::move(*t) : nullptr;
  }
  MachinePage page() {
    auto p = MachinePage::read(folder.path());
    EXPECT_TRUE(p.ok());
    return std::move(*p);
  }
  std::string device(uint32_t chip) { return folder.path() + "/sys/devices/virtual/neuron_device/neuron" + std::to_string(chip); }
  std::string cat(const std::string& path) { return slurp(device(0) + "/" + path); }
  Sysfs sysfs() { return Sysfs(folder.path() + "/sys"); }
  TempDir folder;
};

uint32_t mode_of(const std::string& path) {
  struct stat st {};
  EXPECT_EQ(stat(path.c_str(), &st), 0) << path;
  return st.st_mode & 0777;
}

TEST_F(Tree, HasTheDocumentedPathsContentsAndModes) {
  auto t = open("trn2.48xlarge", {{0, 0}}, 2);
  EXPECT_EQ(cat("core_count"), "8");  // no newline
  EXPECT_EQ(cat("connected_devices"), "12, 1, 3, 4\n");
  EXPECT_EQ(cat("reset"), "1\n");
  EXPECT_EQ(cat("info/notify_delay"), "-1\n");
  EXPECT_EQ(cat("info/serial_number").size(), 17u);
  EXPECT_EQ(cat("info/architecture/arch_type"), "NDv3\n");
  EXPECT_EQ(cat("info/architecture/instance_type"), "Trn2\n");
  EXPECT_EQ(cat("info/architecture/device_name"), "Trainium2\n");
  EXPECT_EQ(cat("neuron_core7/info/architecture/arch_type"), "NCv3\n");
  EXPECT_THAT(cat("stats/power/utilization"), testing::MatchesRegex("POWER_STATUS_(NO_DATA|VALID),[0-9]+,[0-9.]+,[0-9.]+,[0-9.]+\n"));
  for (const char* counter : {"stats/hardware/mem_ecc_uncorrected", "stats/hardware/sram_ecc_corrected", "stats/memory_usage/host_mem/tensors/peak",
                              "neuron_core0/stats/status/success/total", "neuron_core7/stats/status/hw_hbm_ue_error/present",
                              "neuron_core3/stats/memory_usage/device_mem/tensors/peak", "neuron_core3/stats/memory_usage/device_mem/total",
                              "neuron_core3/stats/memory_usage/host_mem/total", "neuron_core0/stats/other_info/flop_count/total"}) {
    EXPECT_EQ(cat(counter), "0\n") << counter;
    EXPECT_EQ(mode_of(device(0) + "/" + counter), 0644u) << counter;
  }
  EXPECT_EQ(mode_of(device(0) + "/core_count"), 0444u);
  EXPECT_EQ(mode_of(device(0) + "/connected_devices"), 0444u);
  EXPECT_EQ(mode_of(device(0) + "/reset"), 0600u);
  EXPECT_EQ(cat("neuron_core0/stats/tensor_engine/pe_cntrs"), "0,0,0,0\n1,0,0,0\n2,0,0,0\n3,0,0,0\n");
  EXPECT_TRUE(std::filesystem::exists(folder.path() + "/sys/class/neuron_device/neuron1/core_count"));
  EXPECT_TRUE(std::filesystem::exists(folder.path() + "/sys/class/neuron_device/ultraserver_mode"));
  const auto chips = sysfs().chips();
  ASSERT_EQ(chips.size(), 2u);
  EXPECT_EQ(chips[0].device, "Trainium2");
  EXPECT_EQ(chips[0].links, (std::vector<uint32_t>{12, 1, 3, 4}));
}

TEST_F(Tree, CountersAreReadableWhileTheyCount) {
  auto t = open("trn2.3xlarge", {{0, 0}, {0, 1}});
  MachinePage p = page();
  p.core(0, 0).of(CoreStatus::success).add(3);
  p.core(0, 0).of(CoreStatus::success).add(2);
  p.core(0, 1).of(CoreStatus::execute_completed_with_error).add(1);
  p.core(0, 0).use(DeviceMemory::tensors, 4096);
  p.core(0, 0).use(DeviceMemory::tensors, 8192);
  p.core(0, 0).use(DeviceMemory::tensors, -4096);
  p.chip(0).ecc[size_t(Ecc::mem_corrected)].fetch_add(7);
  p.core(0, 0).of(OtherInfo::flop_count).add(2ull * 128 * 128 * 1000);
  p.core(0, 0).of(OtherInfo::nc_time_in_use).add(2);  // us: 4,800 cycles
  t->publish();
  EXPECT_EQ(cat("neuron_core0/stats/status/success/total"), "5\n");
  EXPECT_EQ(cat("neuron_core0/stats/status/success/present"), "2\n");
  EXPECT_EQ(cat("neuron_core0/stats/memory_usage/device_mem/tensors/total"), "8192\n");
  EXPECT_EQ(cat("neuron_core0/stats/memory_usage/device_mem/tensors/present"), "-4096\n");
  EXPECT_EQ(cat("neuron_core0/stats/memory_usage/device_mem/tensors/peak"), "12288\n");
  EXPECT_EQ(cat("neuron_core0/stats/memory_usage/device_mem/total"), "8192\n");
  EXPECT_EQ(cat("stats/hardware/mem_ecc_corrected"), "7\n");
  EXPECT_EQ(cat("neuron_core0/stats/tensor_engine/pe_cntrs").substr(0, 14), "0,1000,0,3800\n");
  auto h = sysfs().health(0);
  ASSERT_TRUE(h);
  EXPECT_EQ(h->executed, 5u);
  EXPECT_EQ(h->ecc_corrected, 7u);
  EXPECT_EQ(h->ecc_uncorrected, 0u);
  EXPECT_EQ(h->memory_bytes, 8192u);
}

TEST_F(Tree, AWriteClears) {
  auto t = open("trn2.3xlarge", {{0, 0}});
  MachinePage p = page();
  const std::string path = device(0) + "/neuron_core0/stats/status/success/total";
  p.core(0, 0).of(CoreStatus::success).add(5);
  t->publish();
  echo(path, "1");
  p.core(0, 0).of(CoreStatus::success).add(2);  // counted after the write: stays
  t->publish();
  EXPECT_EQ(slurp(path), "2\n");
  t.reset();
  echo(path, "anything\n");  // nobody runs
  t = open("trn2.3xlarge", {{0, 0}});
  EXPECT_EQ(slurp(path), "0\n");
  EXPECT_EQ(p.core(0, 0).of(CoreStatus::success).total.load(), 0u);
  echo(path, "9");
  t.reset();  // a process that ends looks a last time
  EXPECT_EQ(slurp(path), "0\n");
}

TEST_F(Tree, CountsOutliveAKilledProcess) {
  { auto t = open("trn2.3xlarge", {}); }
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  pid_t child = fork();
  if (child == 0) {
    auto t = SysfsTree::open(folder.path(), machine("trn2.3xlarge"), 1, {{0, 2}});
    if (!t.ok()) _exit(1);
    MachinePage p = page();
    p.core(0, 2).of(CoreStatus::timeout).add(4);
    (*t)->publish();
    p.core(0, 2).of(CoreStatus::timeout).add(1);  // and is killed before it is told
    (void)!write(ready[1], "x", 1);
    pause();
  }
  char c;
  ASSERT_EQ(read(ready[0], &c, 1), 1);
  EXPECT_EQ(cat("neuron_core2/stats/status/timeout/total"), "4\n");
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(cat("neuron_core2/stats/status/timeout/total"), "4\n");
  auto next = open("trn2.3xlarge", {{0, 2}});
  EXPECT_EQ(cat("neuron_core2/stats/status/timeout/total"), "5\n");
}

TEST_F(Tree, ResetIsForAChipThatNobodyHasOpen) {
  auto t = open("trn2.3xlarge", {{0, 0}});
  MachinePage p = page();
  p.core(0, 0).use(DeviceMemory::tensors, 4096);
  t->publish();
  EXPECT_TRUE(sysfs().reset(0).ok());  // asked, while this process has it
  t.reset();
  EXPECT_EQ(cat("reset"), "1\n");
  EXPECT_EQ(p.core(0, 0).of(OtherInfo::reset_req_count).total.load(), 1u);
  EXPECT_EQ(p.core(0, 0).of(OtherInfo::reset_fail_count).total.load(), 1u);
  EXPECT_EQ(p.chip(0).reset_requests.load(), 0u);
  p.core(0, 3).lost.store(1);
  EXPECT_TRUE(sysfs().reset(0).ok());
  t = open("trn2.3xlarge", {{0, 0}});
  EXPECT_EQ(p.chip(0).reset_requests.load(), 1u);
  EXPECT_EQ(p.core(0, 3).lost.load(), 0u);
  EXPECT_EQ(cat("neuron_core0/stats/other_info/reset_req_count/total"), "2\n");
  EXPECT_EQ(cat("neuron_core0/stats/other_info/reset_fail_count/total"), "1\n");
  EXPECT_EQ(cat("neuron_core0/stats/memory_usage/device_mem/tensors/total"), "0\n");
}

TEST_F(Tree, AnotherMachineInTheFolderGetsItsOwnTree) {
  { auto t = open("inf2.24xlarge", {}); }
  EXPECT_EQ(sysfs().chips().size(), 6u);
  { auto t = open("trn2.3xlarge", {}); }
  const auto chips = sysfs().chips();
  ASSERT_EQ(chips.size(), 1u);
  EXPECT_EQ(chips[0].cores, 8u);
}

TEST_F(Tree, HealthTakesTheNamesOfOlderReleases) {
  const std::string status = device(0) + "/neuron_core0/stats/status/";
  for (const auto& [name, value] : std::map<std::string, int>{{"success", 10}, {"failure", 3}, {"infer_completed_with_error", 2}, {"hw_error", 1}}) {
    std::filesystem::create_directories(status + name);
    echo(status + name + "/total", std::to_string(value) + "\n");
  }
  std::filesystem::create_directories(device(0) + "/info/architecture");
  echo(device(0) + "/info/architecture/device_type", "Trainium1\n");
  echo(device(0) + "/core_count", "2");
  auto h = sysfs().health(0);
  ASSERT_TRUE(h);
  EXPECT_EQ(h->executed, 10u);
  EXPECT_EQ(h->failed, 3u);
  EXPECT_EQ(h->hw_errors, 1u);
  EXPECT_FALSE(h->has_ecc) << "this release shows none: that is not 0 errors";
  EXPECT_FALSE(h->has_power);
  EXPECT_EQ(h->unhealthy, "");
  ASSERT_EQ(sysfs().chips().size(), 1u);
  EXPECT_EQ(sysfs().chips()[0].device, "Trainium1");
  EXPECT_FALSE(sysfs().health(1));
  EXPECT_EQ(sysfs().reset(1).error().code, BATON_UNSUPPORTED);
}

TEST_F(Tree, HealthTakesWhatARecentReleaseSays) {
  const std::string hardware = device(0) + "/stats/hardware/";
  std::filesystem::create_directories(hardware + "health_status");
  std::filesystem::create_directories(device(0) + "/stats/power");
  echo(hardware + "sram_ecc_corrected", "4\n");
  echo(hardware + "mem_ecc_uncorrected", "1\n");
  echo(hardware + "mem_ecc_repairable_uncorrected", "2\n");
  echo(device(0) + "/stats/power/utilization", "POWER_STATUS_VALID,1700000000,10.00,60.50,42.25\n");
  for (const auto& [text, shown] : std::map<std::string, std::string>{{"hbm1, nc3\n", "hbm1, nc3"}, {"none\n", ""}, {"\n", ""}, {"0\n", ""}}) {
    echo(hardware + "health_status/unhealthy_components", text);
    auto h = sysfs().health(0);
    ASSERT_TRUE(h);
    EXPECT_EQ(h->unhealthy, shown);
    EXPECT_TRUE(h->has_ecc);
    EXPECT_EQ(h->ecc_corrected, 4u);
    EXPECT_EQ(h->ecc_uncorrected, 3u);
    EXPECT_TRUE(h->has_power);
    EXPECT_DOUBLE_EQ(h->power_percent, 42.25);
  }
  echo(device(0) + "/stats/power/utilization", "POWER_STATUS_NO_DATA,0,0.00,0.00,0.00\n");
  EXPECT_FALSE(sysfs().health(0)->has_power);
}

TEST(Health, TroublesAreWhatCameSince) {
  Health before, now;
  before.ecc_corrected = 5;
  now.ecc_corrected = 3;  // cleared in between
  EXPECT_EQ(neuron::troubles(before, now), "");
  now.ecc_uncorrected = 2;
  now.hw_errors = 1;
  EXPECT_EQ(neuron::troubles(before, now), "2 uncorrectable ECC errors, 1 hardware error");
}

TEST(Power, IsTheBusyPartOfTheLastMinute) {
  PowerWindow w;
  EXPECT_EQ(w.text(5), "POWER_STATUS_NO_DATA,5,0.00,0.00,0.00\n");
  w.sample(100, 0, 2);
  w.sample(101, 1'000'000, 2);  // one of two cores, a second
  w.sample(101, 1'500'000, 2);  // within the same second: no sample
  w.sample(102, 1'000'000, 2);
  EXPECT_EQ(w.text(6), "POWER_STATUS_VALID,6,0.00,50.00,25.00\n");
  w.sample(163, 1'000'000, 2);  // the first two are older than a minute
  EXPECT_EQ(w.text(7), "POWER_STATUS_VALID,7,0.00,0.00,0.00\n");
}

TEST(Pairing, IsAsTheReleaseNotesSay) {
  EXPECT_EQ(neuron::pairing_problem(30, 34), "");
  EXPECT_EQ(neuron::pairing_problem(27, 32), "");
  EXPECT_EQ(neuron::pairing_problem(29, 32), "kernel driver 2.29 needs a Neuron runtime 2.33 or later, this one is 2.32");
  EXPECT_EQ(neuron::pairing_problem(26, 32), "kernel driver 2.26 needs a Neuron runtime 2.31 or earlier, this one is 2.32");
}

// ---- the whole way: launcher, tree, driver ----

TEST(MachinesAndTheDriver, EnumerateFindsThemWithoutARuntime) {
  TempDir folder;
  Process made({plugin("baton-emu-neuron"), "0?machine=inf2.24xlarge&folder=" + folder.path()});
  Exit e = made.wait(60000);
  ASSERT_EQ(e.code, 0) << made.err();
  EXPECT_NE(made.out().find("&sysfs=" + folder.path() + "/sys"), std::string::npos) << made.out();
  Variables v;
  v.set("BATON_SYSFS_ROOT", folder.path() + "/sys");
  auto instance = Instance::create();
  ASSERT_TRUE(instance.ok());
  auto devices = instance->enumerate();
  ASSERT_TRUE(devices.ok());
  uint32_t found = 0;
  for (const DeviceInfo& d : *devices) {
    if (std::string(d.driver) != "neuron") continue;
    ++found;
    EXPECT_STREQ(d.model, "Inferentia2");
    EXPECT_EQ(d.lanes, 2u);
    EXPECT_EQ(d.heaps[0].bytes_total, 16ull << 30);
  }
  EXPECT_EQ(found, 6u);
  // No core was taken: all can be opened.
  auto dev = instance->open("emu+neuron://5?machine=inf2.24xlarge&folder=" + folder.path());
  EXPECT_TRUE(dev.ok()) << dev.error().text();
}

TEST(MachinesAndTheDriver, AKernelDriverOfAnotherReleaseIsRefused) {
  TempDir folder;
  const std::string uri = "emu+neuron://0?folder=" + folder.path();
  auto instance = Instance::create();
  ASSERT_TRUE(instance.ok());
  { auto dev = instance->open(uri); ASSERT_TRUE(dev.ok()) << dev.error().text(); }
  std::filesystem::create_directories(folder.path() + "/sys/module/neuron");
  std::filesystem::remove(folder.path() + "/sys/module/neuron/version");
  echo(folder.path() + "/sys/module/neuron/version", "2.26.10.0\n");
  auto dev = instance->open(uri);
  ASSERT_FALSE(dev.ok());
  EXPECT_EQ(dev.error().code, BATON_VERSION) << dev.error().text();
  EXPECT_NE(std::string(dev.error().what).find("2.26"), std::string::npos) << dev.error().what;
}

TEST(MachinesAndTheDriver, ResetGoesThroughSysfs) {
  TempDir folder;
  auto instance = Instance::create();
  ASSERT_TRUE(instance.ok());
  auto dev = instance->open("emu+neuron://0?folder=" + folder.path());
  ASSERT_TRUE(dev.ok()) << dev.error().text();
  ASSERT_TRUE(dev->reset_device().ok());
  EXPECT_EQ(slurp(folder.path() + "/sys/devices/virtual/neuron_device/neuron0/neuron_core0/stats/other_info/reset_req_count/total"), "1\n");
  EXPECT_EQ(slurp(folder.path() + "/sys/devices/virtual/neuron_device/neuron0/neuron_core0/stats/other_info/reset_fail_count/total"), "0\n");
}

}  // namespace
}  // namespace baton::test
