#include "emulators/neuron/sysfs_tree.hpp"

#include "emulators/neuron/hwloc_xml.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <map>

namespace baton::neuron_emu {
namespace {

constexpr const char* kDevices = "devices/virtual/neuron_device";
constexpr const char* kClass = "class/neuron_device";
constexpr uint64_t kSweepNs = 200'000'000;     // how often files are looked at that no counter of ours has changed
constexpr uint64_t kSweepShare = 100;          // and at most this part of the time
constexpr uint64_t kWindowS = 60;              // of power: driver neuron_power.c, as the sysfs guide has it
constexpr const char* kDriverVersion = "2.30.2.0";  // of SDK 2.32: release notes; four numbers: guess
constexpr const char* kReady = "1\n";          // device_state: 0 reset, 1 ready, 2 invalid

uint64_t clock_ns(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
}

class FileLock {
 public:
  explicit FileLock(int fd) : fd_(fd) { while (flock(fd_, LOCK_EX) && errno == EINTR) {} }
  ~FileLock() { flock(fd_, LOCK_UN); }
  FileLock(const FileLock&) = delete;

 private:
  int fd_;
};

std::string device_path(uint32_t chip) { return fmt::format("{}/neuron{}", kDevices, chip); }
std::string core_path(uint32_t chip, uint32_t core) { return fmt::format("{}/neuron_core{}", device_path(chip), core); }

template <class F>
void each_count(const std::string& at, Count& c, F&& f) {
  f(at + "/total", c.total);
  f(at + "/present", c.present);
}

template <class F>
void each_memory(const std::string& at, Memory& m, F&& f) {
  f(at + "/total", m.total);
  f(at + "/present", m.present);
  f(at + "/peak", m.peak);
}

// Every counter of a chip that has a file of its own: f(path, word).
template <class F>
void each_of_chip(const std::string& at, ChipCounters& c, F&& f) {
  for (size_t i = 0; i < size_t(Ecc::count); ++i) f(at + "/stats/hardware/" + kEccNames[i], c.ecc[i]);
  for (size_t i = 0; i < size_t(HostMemory::count); ++i) each_memory(at + "/stats/memory_usage/host_mem/" + kHostMemoryNames[i], c.host[i], f);
}

template <class F>
void each_of_core(const std::string& at, CoreCounters& c, F&& f) {
  for (size_t i = 0; i < size_t(CoreStatus::count); ++i) each_count(at + "/stats/status/" + kCoreStatusNames[i], c.status[i], f);
  each_memory(at + "/stats/memory_usage/host_mem", c.host, f);
  each_memory(at + "/stats/memory_usage/device_mem", c.device_total, f);
  for (size_t i = 0; i < size_t(DeviceMemory::count); ++i) each_memory(at + "/stats/memory_usage/device_mem/" + kDeviceMemoryNames[i], c.device[i], f);
  for (size_t i = 0; i < size_t(OtherInfo::count); ++i) each_count(at + "/stats/other_info/" + kOtherInfoNames[i], c.other[i], f);
}

// A latest change of memory may be negative.
std::string number(uint64_t value) { return fmt::format("{}\n", int64_t(value)); }

bool alive(uint64_t pid) { return pid && (kill(pid_t(pid), 0) == 0 || errno == EPERM); }

}  // namespace

// ---- power ----

void PowerWindow::sample(uint64_t now_s, uint64_t busy_us, uint32_t cores) {
  if (started_ && now_s <= last_s_) return;
  if (started_ && cores) {
    const uint64_t busy = busy_us - std::min(busy_us, last_busy_us_);
    samples_.push_back({now_s, std::min(100.0, double(busy) * 100 / (double(now_s - last_s_) * 1e6 * cores))});
  }
  while (!samples_.empty() && samples_.front().at_s + kWindowS < now_s) samples_.pop_front();
  started_ = true;
  last_s_ = now_s;
  last_busy_us_ = busy_us;
}

std::string PowerWindow::text(uint64_t epoch_s) const {
  if (samples_.empty()) return fmt::format("POWER_STATUS_NO_DATA,{},0.00,0.00,0.00\n", epoch_s);
  double least = 100, most = 0, sum = 0;
  for (const Sample& s : samples_) {
    least = std::min(least, s.percent);
    most = std::max(most, s.percent);
    sum += s.percent;
  }
  return fmt::format("POWER_STATUS_VALID,{},{:.2f},{:.2f},{:.2f}\n", epoch_s, least, most, sum / double(samples_.size()));
}

// ---- making the tree ----

Result<std::unique_ptr<SysfsTree>> SysfsTree::open(const std::string& folder, const MachineData& m, uint32_t chips, std::vector<CoreId> cores) {
  BATON_ASSIGN(MachinePage page, MachinePage::open(folder, {chips, m.chip.cores}));
  std::unique_ptr<SysfsTree> t(new SysfsTree(folder, m, std::move(page)));
  for (const auto& [chip, core] : cores) {
    if (t->chips_.empty() || t->chips_.back().index != chip) t->chips_.push_back({chip, {}, {}, {}, {}});
    t->chips_.back().cores.push_back(core);
    t->chips_.back().flops.push_back(UINT64_MAX);
  }
  if (cores.empty())
    for (uint32_t c = 0; c < chips; ++c) t->chips_.push_back({c, {}, {}, {}, {}});
  BATON_TRY(t->make(chips));
  t->add_rows();
  std::lock_guard lock(t->mutex_);
  FileLock processes(t->lock_);
  t->sweep();
  t->opening_ = false;
  // What was counted after the last text was written, by a process that was killed.
  for (Row& r : t->rows_) t->write(r.path, number(r.published = r.word->load(std::memory_order_relaxed)), 0644);
  return t;
}

SysfsTree::~SysfsTree() {
  if (root_ >= 0 && !opening_) {
    publish();
    std::lock_guard lock(mutex_);
    FileLock processes(lock_);
    sweep();
    write_changes();  // a reset was asked for
  }
  if (root_ >= 0) close(root_);
  if (lock_ >= 0) close(lock_);
}

// Once a folder; the file `machine` says that the tree is whole, and whose it is.
Status SysfsTree::make(uint32_t chips) {
  auto failed = [&](const std::string& what) { return Error(BATON_IO, fmt::format("{}/{}: {}", folder_, what, std::strerror(errno)), "name a folder that is writable"); };
  lock_ = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ < 0) return failed("");
  FileLock processes(lock_);
  const std::string whole = fmt::format("{} {}\n", data_.name, chips);
  char text[128] = {};
  int fd = ::openat(lock_, "machine", O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    (void)!read(fd, text, sizeof text - 1);
    close(fd);
  }
  const bool there = text == whole;
  std::error_code ec;
  if (!there) std::filesystem::remove_all(folder_ + "/sys", ec);
  std::filesystem::create_directories(folder_ + "/sys/" + kClass, ec);
  root_ = ::openat(lock_, "sys", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (root_ < 0) return failed("sys");
  if (there) return {};
  for (uint32_t chip = 0; chip < chips; ++chip) BATON_TRY(make_chip(chip));
  // That there is no UltraServer around it: guess.
  for (const char* name : {"node_id_2", "node_id_4", "server_id_2", "server_id_4", "ultraserver_mode"}) write(fmt::format("{}/{}", kClass, name), "-1\n", 0444);
  std::filesystem::create_directories(folder_ + "/sys/module/neuron", ec);
  write("module/neuron/version", std::string(kDriverVersion) + "\n", 0444);
  write("../hwloc.xml", hwloc_xml(data_, chips), 0644);
  if (!write("../machine", whole, 0644)) return failed("machine");
  return {};
}

Status SysfsTree::make_chip(uint32_t chip) {
  const std::string at = device_path(chip);
  const DeviceData& d = data_.devices[chip];
  const ChipData& c = data_.chip;
  std::map<std::string, std::pair<std::string, uint32_t>> files;  // path, text, mode
  std::string links;
  for (uint32_t n : d.links) links += fmt::format("{}{}", links.empty() ? "" : ", ", n);
  files["core_count"] = {std::to_string(c.cores), 0444};  // no newline; 0400 before driver 2.28
  files["connected_devices"] = {links + "\n", 0444};
  files["reset"] = {kReady, 0600};
  files["info/notify_delay"] = {"-1\n", 0644};
  files["info/serial_number"] = {fmt::format("ba70{:012x}\n", chip), 0444};
  files["info/architecture/arch_type"] = {c.arch_type + "\n", 0444};
  files["info/architecture/instance_type"] = {c.instance_type + "\n", 0444};
  files["info/architecture/device_name"] = {c.device_name + "\n", 0444};
  files["stats/power/utilization"] = {PowerWindow().text(clock_ns(CLOCK_REALTIME) / 1'000'000'000), 0444};
  std::filesystem::path root(folder_ + "/sys");
  std::error_code ec;
  std::string made;
  auto put = [&](const std::string& path, const std::string& text, uint32_t mode) -> Status {
    std::string folder = path.substr(0, path.rfind('/'));
    if (folder != made && mkdirat(root_, folder.c_str(), 0755) && errno == ENOENT) std::filesystem::create_directories(root / folder, ec);
    made = folder;
    if (write(path, text, mode)) return {};
    return Error(BATON_IO, fmt::format("{}/sys/{}: {}", folder_, path, std::strerror(errno)), "see that the folder has room: 1,100 files a chip");
  };
  for (const auto& [name, file] : files) BATON_TRY(put(at + "/" + name, file.first, file.second));
  Status status;
  auto counter = [&](const std::string& path, Word& word) {
    if (status.ok()) status = put(path, number(word.load(std::memory_order_relaxed)), 0644);
  };
  each_of_chip(at, page_.chip(chip), counter);
  for (uint32_t core = 0; core < c.cores; ++core) {
    const std::string core_at = core_path(chip, core);
    BATON_TRY(put(core_at + "/info/architecture/arch_type", c.core_arch_type + "\n", 0444));
    BATON_TRY(put(core_at + "/stats/tensor_engine/pe_cntrs", engine_text(page_.core(chip, core)), 0444));
    each_of_core(core_at, page_.core(chip, core), counter);
  }
  BATON_TRY(status);
  std::filesystem::create_directory_symlink(fmt::format("../../{}", at), root / kClass / fmt::format("neuron{}", chip), ec);
  return {};
}

void SysfsTree::add_rows() {
  auto add = [&](const std::string& path, Word& word) { rows_.push_back({path, &word, word.load(std::memory_order_relaxed)}); };
  for (const Chip& chip : chips_) {
    each_of_chip(device_path(chip.index), page_.chip(chip.index), add);
    // A process that owns no core looks after all of them.
    std::vector<uint32_t> cores = chip.cores;
    if (cores.empty())
      for (uint32_t k = 0; k < data_.chip.cores; ++k) cores.push_back(k);
    for (uint32_t k : cores) each_of_core(core_path(chip.index, k), page_.core(chip.index, k), add);
  }
}

// ---- keeping it up to date ----

// Somebody else wrote it.
bool SysfsTree::foreign(const std::string& path) const {
  struct stat st {};
  return fstatat(root_, path.c_str(), &st, 0) == 0 && (st.st_mtim.tv_sec || st.st_mtim.tv_nsec);
}

bool SysfsTree::write(const std::string& path, const std::string& text, uint32_t mode) {
  int fd = ::openat(root_, path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 && errno == EACCES) {  // 0444, and not root
    fchmodat(root_, path.c_str(), 0600, 0);
    fd = ::openat(root_, path.c_str(), O_WRONLY | O_CLOEXEC);
  }
  if (fd < 0) return false;
  bool good = pwrite(fd, text.data(), text.size(), 0) == ssize_t(text.size()) && ftruncate(fd, off_t(text.size())) == 0;
  good = fchmod(fd, mode) == 0 && good;
  const timespec zero[2] = {};
  good = futimens(fd, zero) == 0 && good;
  close(fd);
  return good;
}

void SysfsTree::publish() {
  std::lock_guard lock(mutex_);
  const uint64_t now = clock_ns(CLOCK_MONOTONIC);
  const bool look = now - swept_ns_ > std::max(kSweepNs, sweep_cost_ns_ * kSweepShare);
  const bool changed = std::any_of(rows_.begin(), rows_.end(), [](const Row& r) { return r.word->load(std::memory_order_relaxed) != r.published; });
  if (!look && !changed) return;
  FileLock processes(lock_);
  if (look) sweep();
  write_changes();
}

void SysfsTree::write_changes() {
  for (Row& r : rows_) {
    uint64_t value = r.word->load(std::memory_order_relaxed);
    if (value == r.published) continue;
    // Cleared since: what was counted after that stays.
    if (foreign(r.path)) r.word->store(value -= r.published, std::memory_order_relaxed);
    write(r.path, number(value), 0644);
    r.published = value;
  }
  for (Chip& chip : chips_) {
    if (chip.cores.empty()) continue;
    write_engine(chip);
    write_power(chip);
  }
}

void SysfsTree::write_engine(Chip& chip) {
  for (size_t i = 0; i < chip.cores.size(); ++i) {
    CoreCounters& c = page_.core(chip.index, chip.cores[i]);
    const uint64_t flops = c.of(OtherInfo::flop_count).total.load(std::memory_order_relaxed) + c.of(OtherInfo::nc_time_in_use).total.load(std::memory_order_relaxed);
    if (flops == chip.flops[i]) continue;
    chip.flops[i] = flops;
    write(core_path(chip.index, chip.cores[i]) + "/stats/tensor_engine/pe_cntrs", engine_text(c), 0444);
  }
}

// "xrow_grp,mm_active,wl_active,idle" in cycles, one line a row group: every group takes part in every product (guess), loading weights
// is hidden behind it (guess).
std::string SysfsTree::engine_text(const CoreCounters& core) const {
  const ChipData& c = data_.chip;
  auto total = [&](OtherInfo o) { return core.other[size_t(o)].total.load(std::memory_order_relaxed); };
  const uint64_t active = total(OtherInfo::flop_count) / (2ull * c.tensor_rows * c.tensor_columns);
  const uint64_t all = total(OtherInfo::nc_time_in_use) * (c.tensor_hz / 1'000'000);
  std::string text;
  for (uint32_t g = 0; g < c.row_groups; ++g) text += fmt::format("{},{},0,{}\n", g, active, all > active ? all - active : 0);
  return text;
}

void SysfsTree::write_power(Chip& chip) {
  uint64_t busy = 0;
  for (uint32_t k = 0; k < data_.chip.cores; ++k) busy += page_.core(chip.index, k).of(OtherInfo::nc_time_in_use).total.load(std::memory_order_relaxed);
  chip.power.sample(clock_ns(CLOCK_MONOTONIC) / 1'000'000'000, busy, data_.chip.cores);
  std::string text = chip.power.text(clock_ns(CLOCK_REALTIME) / 1'000'000'000);
  if (text == chip.power_text) return;
  chip.power_text = text;
  write(device_path(chip.index) + "/stats/power/utilization", text, 0444);
}

// Looks at every file that this process keeps, whether its counter has changed or not.
void SysfsTree::sweep() {
  const uint64_t start = clock_ns(CLOCK_MONOTONIC);
  for (Row& r : rows_) {
    if (!foreign(r.path)) continue;
    const uint64_t value = r.word->load(std::memory_order_relaxed), since = opening_ ? 0 : value - r.published;
    r.word->store(since, std::memory_order_relaxed);
    write(r.path, number(since), 0644);
    r.published = since;
  }
  for (Chip& chip : chips_) take_reset(chip);
  swept_ns_ = clock_ns(CLOCK_MONOTONIC);
  sweep_cost_ns_ = swept_ns_ - start;
}

// A write to `reset` resets a chip that nobody has open. Whoever has it open notices that it was asked, and refuses.
void SysfsTree::take_reset(Chip& chip) {
  const std::string path = device_path(chip.index) + "/reset";
  if (!foreign(path)) return;
  bool open = !opening_ && !chip.cores.empty();
  for (uint32_t k = 0; k < data_.chip.cores; ++k) {
    const uint64_t pid = page_.core(chip.index, k).holder.load(std::memory_order_relaxed);
    open |= pid != uint64_t(getpid()) && alive(pid);
  }
  for (uint32_t k = 0; k < data_.chip.cores; ++k) {
    CoreCounters& c = page_.core(chip.index, k);
    c.of(OtherInfo::reset_req_count).add(1);
    if (open) {
      c.of(OtherInfo::reset_fail_count).add(1);
    } else {
      c.lost.store(0, std::memory_order_relaxed);
      c.release_memory();
    }
  }
  if (!open) {
    page_.chip(chip.index).lost.store(0, std::memory_order_relaxed);
    page_.chip(chip.index).reset_requests.fetch_add(1, std::memory_order_relaxed);
  }
  write(path, kReady, 0600);
}

}  // namespace baton::neuron_emu
