// What an operator waits for: devctl list and devctl snapshot on a machine of 64 chips, and what devctl top takes of a core while it is looked at. The machine is a
// tree of files as the kernel has them in sysfs, written here: neither a chip nor a NIC is there.
#include "tests/bench/groups.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace baton::bench {
namespace {

namespace fs = std::filesystem;

constexpr int kChips = 64, kCores = 8, kNics = 16;

// PATH and its content, below sysfs; '#' is the number of the chip or NIC, '%' of its core.
// Names: the Neuron kernel driver's neuron_sysfs_metrics.c; Documentation/ABI/stable/sysfs-class-infiniband; drivers/infiniband/hw/efa.
constexpr std::pair<const char*, const char*> kChip[] = {
    {"core_count", "8"}, {"connected_devices", "1, 4, 12, 3"}, {"reset", "1"}, {"info/serial_number", "00000000deadbeef"}, {"info/architecture/device_name", "Trainium2"},
    {"info/architecture/instance_type", "Trn2"}, {"stats/hardware/mem_ecc_uncorrected", "0"}, {"stats/hardware/sram_ecc_uncorrected", "0"},
    {"stats/hardware/mem_ecc_repairable_uncorrected", "0"}, {"stats/power/utilization", "POWER_STATUS_VALID,1764190000,10.00,62.50,41.25"}};
constexpr std::pair<const char*, const char*> kCore[] = {{"stats/status/success/total", "1200"}, {"stats/status/timeout/total", "0"}, {"stats/memory_usage/device_mem/total", "1073741824"}};
constexpr std::pair<const char*, const char*> kNic[] = {{"node_type", "7: unspecified"}, {"fw_ver", "0.0.0.0"}, {"ports/1/state", "4: ACTIVE"}, {"ports/1/phys_state", "5: LinkUp"},
                                                        {"ports/1/rate", "100 Gb/sec (4X EDR)"}, {"ports/1/link_layer", "Unspecified"}, {"ports/1/hw_counters/tx_bytes", "8589934592"},
                                                        {"ports/1/hw_counters/rx_bytes", "1048576"}, {"ports/1/hw_counters/rx_drops", "0"}};

void put(const fs::path& file, const char* content) {
  fs::create_directories(file.parent_path());
  std::ofstream(file) << content << "\n";
}

class Tree {
 public:
  Tree() {
    if (!mkdtemp(path_.data())) {
      path_.clear();
      return;
    }
    const fs::path root = fs::path(path_) / "sys";
    put(root / "module/neuron/version", "2.21.37.0");
    for (int chip = 0; chip < kChips; ++chip) {
      const fs::path at = root / fmt::format("devices/virtual/neuron_device/neuron{}", chip);
      for (auto& [file, content] : kChip) put(at / file, content);
      for (int core = 0; core < kCores; ++core)
        for (auto& [file, content] : kCore) put(at / fmt::format("neuron_core{}", core) / file, content);
    }
    for (int nic = 0; nic < kNics; ++nic)
      for (auto& [file, content] : kNic) put(root / fmt::format("class/infiniband/rdmap{}s27", 16 + nic) / file, content);
    setenv("BATON_SYSFS_ROOT", root.c_str(), 1);
  }
  ~Tree() {
    unsetenv("BATON_SYSFS_ROOT");
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  bool ok() const { return !path_.empty(); }

 private:
  std::string path_ = (fs::temp_directory_path() / "baton-bench-XXXXXX").string();
};

struct Took {
  double wall_ms = 0, cpu_ms = 0;
  int code = -1;
};

// A program with its stdout on a terminal of 200 x 50 that somebody reads, or nowhere.
Took run(const std::vector<std::string>& args, bool terminal) {
  std::vector<char*> argv;
  for (auto& a : args) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  winsize size{50, 200, 0, 0};
  int screen = -1;
  const uint64_t start = now_ns();
  const pid_t pid = terminal ? forkpty(&screen, nullptr, nullptr, &size) : fork();
  if (pid == 0) {
    if (!terminal)
      if (const int nowhere = open("/dev/null", O_WRONLY); nowhere >= 0) dup2(nowhere, 1);
    execv(argv[0], argv.data());
    _exit(127);
  }
  if (pid < 0) return {};
  char seen[4096];
  while (screen >= 0 && read(screen, seen, sizeof seen) > 0) {
  }
  int status = 0;
  rusage used{};
  wait4(pid, &status, 0, &used);
  Took t{double(now_ns() - start) / 1e6, 0, WIFEXITED(status) ? WEXITSTATUS(status) : -1};
  t.cpu_ms = double(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e3 + double(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e3;
  if (screen >= 0) close(screen);
  return t;
}

}  // namespace

Status devctl_rows(const Settings& s, Report& report) {
  std::error_code none;
  const std::string devctl = (fs::read_symlink("/proc/self/exe", none).parent_path() / "devctl").string();
  if (access(devctl.c_str(), X_OK)) return Error(BATON_NOT_FOUND, fmt::format("{} is not there", devctl), "ninja -C build/release product");
  Tree tree;
  if (!tree.ok()) return Error(BATON_IO, "no folder for the tree", "set TMPDIR to one that is writable");
  for (auto& [verb, aim] : {std::pair("list", 50.0), {"snapshot", 1000.0}}) {
    progress(fmt::format("devctl: {}", verb));
    const std::vector<std::string> call{devctl, verb};
    int code = 0;
    double cpu = 0;
    auto p = interleave(s.repeats(15), [&] {
      const Took t = run(call, false);
      return code |= t.code, cpu = t.cpu_ms, t.wall_ms;
    }, [&] { return run({"/bin/true"}, false).wall_ms; });
    if (code) return Error(BATON_FAILED, fmt::format("devctl {} ended with code {}", verb, code), fmt::format("run devctl {}", verb));
    report.add({.group = "devctl", .figure = fmt::format("devctl {}, {} chips, {} NICs", verb, kChips, kNics), .unit = "ms", .value = p.figure, .yardstick = "start of /bin/true", .against = p.yardstick,
                .ratio = p.ratio.median, .aim_on = AimOn::value_below, .aim = aim, .note = fmt::format("of the last one {:.0f} ms were CPU", cpu)});
  }
  progress("devctl: top");
  const uint32_t frames = s.quick ? 4 : 11;
  const Took few = run({devctl, "top", "--interval-ms", "1000", "--frames", "1"}, true), many = run({devctl, "top", "--interval-ms", "1000", "--frames", std::to_string(frames)}, true);
  if (few.code || many.code) return Error(BATON_FAILED, fmt::format("devctl top ended with code {}", few.code ? few.code : many.code), "run devctl top");
  // Without its start: what the frames after the first took, a second each.
  const double percent = (many.cpu_ms - few.cpu_ms) / (many.wall_ms - few.wall_ms) * 100;
  report.add({.group = "devctl", .figure = fmt::format("devctl top, {} chips, a frame a second", kChips), .unit = "% core", .value = summarize({percent}), .yardstick = "", .aim_on = AimOn::value_below, .aim = 1,
              .note = "CPU of the process over wall time, of the frames after the first"});
  return {};
}

}  // namespace baton::bench
