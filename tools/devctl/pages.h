// pages.h: what other processes do with devices: their statistics pages (hal/stats.h), and whoever holds a device node of the kernel's or a
// core of an emulated Neuron machine. Nobody is asked and nothing is opened but files.
//
// Owner    plain data.   Threads  any.   Cost  some 100 us a page, and a walk over /proc for holders().
// Errors   none: what may not be read is not there. Files are copied, never mapped: a page that is cut short meanwhile does no harm.
//
//     for (auto& p : read_pages(folders)) printf("%u %s\n", p.pid, p.command.c_str());
#pragma once

#include "hal/stats.h"
#include "tools/devctl/output.h"

#include <string>
#include <vector>

namespace baton::devctl {

struct PageRow {
  uint32_t index = 0;
  std::string name;
  baton_stats_row n{};
};

struct Page {
  uint32_t pid = 0;
  std::string command;
  uint64_t opened_ns = 0;  // CLOCK_REALTIME
  bool alive = true;       // false: it was killed, and this is what it left
  std::vector<PageRow> rows;
};

// Those of every instance but this process's: the living first, by pid.
std::vector<Page> read_pages(const std::vector<std::string>& folders);
// `own`, and for root, where `own` is where pages are by default, those of other users.
std::vector<std::string> page_folders(const std::string& own);

struct Holder {
  std::string what;  // "neuron0", "uverbs0", "core 3"
  uint32_t pid = 0;
  std::string command, since;
  std::string via;   // "kernel", "emulator"
};
// Processes that have a device node open (PROC/PID/fd), as far as this user may look.
std::vector<Holder> kernel_holders(const std::string& proc = "/proc");
// Of the emulated Neuron machine in `folder`: its cores, by the locks that are held on them.
std::vector<Holder> core_holders(const std::string& folder);

bool lives(uint32_t pid, uint64_t started);     // that very process
std::string command_of(uint32_t pid, const std::string& proc = "/proc");
std::string short_command(const std::string& command, size_t most);  // without the program's folder, ready for a terminal
std::string utc_text(uint64_t realtime_ns);     // "2026-11-26T17:05:00Z", "" for 0

}  // namespace baton::devctl
