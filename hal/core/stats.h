// stats.h: an instance's statistics page: rows for what it has open, in a file that others may read (hal/stats.h).
//
// Owner    the instance; rows are borrowed by devices and queues until they are given back. Never NULL: without a file the page is memory
//          of this process alone, and where rows run out the last one is everybody's.
// Threads  take, give, value: any. A row's numbers are written by whoever holds the instance's lock, or by add() from anywhere.
// Cost     making it: a file of 116 KB in the run folder, some 50 us. put() is a plain store.
// Errors   none: a folder that cannot be written means no file.
//
//     baton_stats_row* row = in->stats.take(BATON_STATS_LANE, "neuron://0 lane 0", device->stats);
//     put(row->submitted, ++n);
#pragma once

#include "hal/stats.h"

#include <cstdint>
#include <mutex>
#include <string>

namespace baton::core {

inline void put(uint64_t& word, uint64_t value) { __atomic_store_n(&word, value, __ATOMIC_RELAXED); }
inline void count(uint64_t& word, uint64_t more = 1) { put(word, __atomic_load_n(&word, __ATOMIC_RELAXED) + more); }  // one writer
inline void add(uint64_t& word, uint64_t more) { __atomic_fetch_add(&word, more, __ATOMIC_RELAXED); }                 // several
uint64_t coarse_ns();  // CLOCK_MONOTONIC to some milliseconds, for a few nanoseconds

class StatsPage {
 public:
  explicit StatsPage(const std::string& folder);  // "": no file
  ~StatsPage();
  StatsPage(const StatsPage&) = delete;
  StatsPage& operator=(const StatsPage&) = delete;

  baton_stats_row* take(baton_stats_kind kind, const std::string& name, const baton_stats_row* device = nullptr);
  void give(baton_stats_row*);
  uint64_t* value(const std::string& name);  // the same word for the same name
  const std::string& folder() const { return folder_; }  // "": no file

 private:
  bool open_file();
  void fill_head();
  baton_stats_page* page_ = nullptr;
  std::string folder_, file_;
  int pid_ = 0;
  uint32_t next_ = 0;  // where to look for a free row
  std::mutex mu_;
};

}  // namespace baton::core
