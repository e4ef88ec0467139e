// sysfs_tree.hpp: the kernel driver's sysfs tree of an emulated machine, as ordinary files that are kept up to date from its counters.
//
//   FOLDER/sys/devices/virtual/neuron_device/neuronN/...    paths, contents and modes: driver neuron_sysfs_metrics.c, neuron_cdev.c, SDK
//   FOLDER/sys/class/neuron_device/...                      neuron-sysfs-user-guide.rst
//   FOLDER/hwloc.xml                                        the topology around it
//
// Readers name it by BATON_SYSFS_ROOT=FOLDER/sys and HWLOC_XMLFILE. What the runtime counts is in the machine's page (machine_page.hpp);
// a file is written when its counter has changed, at the end of the runtime's call, so it can be read while a process runs and stays
// when one is killed. The emulator stamps what it writes with the time 0: a file with another time was written by somebody else, which
// clears its counter (or asks for a reset). That is noticed at the next call, or when the next process starts.
//
// Owner    the Machine of a process that shares a folder; files belong to the folder and stay.
// Threads  any: one mutex; processes meet in a lock on the folder.
// Cost     open: makes 1,100 files a chip, once a folder (0.2 s for 16 chips). publish: a comparison for each counter of the process's
//          cores, and some 5 us for each that has changed.
// Errors   open: IO. publish: none, telemetry never fails a call.
//
//     BATON_ASSIGN(auto tree, SysfsTree::open(folder, machine, chips, {{0, 0}, {0, 1}}));   // {chip, physical core} of this process
//     tree->publish();
#pragma once

#include "emulators/neuron/machine_data.hpp"
#include "emulators/neuron/machine_page.hpp"

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace baton::neuron_emu {

using CoreId = std::pair<uint32_t, uint32_t>;  // chip, physical core of it

// stats/power/utilization: the busy part of a chip's cores, sampled at least a second apart over the last minute. That power follows
// it is a guess.
class PowerWindow {
 public:
  void sample(uint64_t now_s, uint64_t busy_us, uint32_t cores);
  std::string text(uint64_t epoch_s) const;  // "POWER_STATUS_VALID,1700000000,0.00,50.00,25.00"

 private:
  struct Sample {
    uint64_t at_s;
    double percent;
  };
  std::deque<Sample> samples_;
  uint64_t last_s_ = 0, last_busy_us_ = 0;
  bool started_ = false;
};

class SysfsTree {
 public:
  // `cores`: those whose counters this process keeps up to date; none: it only notices what was written while nobody ran.
  static Result<std::unique_ptr<SysfsTree>> open(const std::string& folder, const MachineData&, uint32_t chips, std::vector<CoreId> cores);
  ~SysfsTree();  // publishes a last time
  void publish();

 private:
  // One counter and its file.
  struct Row {
    std::string path;  // below the root
    Word* word;
    uint64_t published;
  };
  struct Chip {
    uint32_t index;
    std::vector<uint32_t> cores;
    PowerWindow power;
    std::string power_text;
    std::vector<uint64_t> flops;  // by core of `cores`: as pe_cntrs was last written
  };
  SysfsTree(std::string folder, const MachineData& m, MachinePage page) : folder_(std::move(folder)), data_(m), page_(std::move(page)) {}
  Status make(uint32_t chips);
  Status make_chip(uint32_t chip);
  void add_rows();
  void write_changes();
  void write_engine(Chip&);
  void write_power(Chip&);
  void sweep();
  void take_reset(Chip&);
  bool foreign(const std::string& path) const;
  bool write(const std::string& path, const std::string& text, uint32_t mode);
  std::string engine_text(const CoreCounters&) const;

  std::mutex mutex_;
  std::string folder_;
  MachineData data_;
  MachinePage page_;
  std::vector<Row> rows_;
  std::vector<Chip> chips_;
  int root_ = -1;  // FOLDER/sys
  int lock_ = -1;  // FOLDER
  uint64_t swept_ns_ = 0, sweep_cost_ns_ = 0;
  bool opening_ = true;
};

}  // namespace baton::neuron_emu
