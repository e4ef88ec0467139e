// metrics_page.hpp (internal to metrics): what other processes of this user are to see of a worker while it runs, in its statistics page (hal/stats.h): devctl
// top, stats and health read it, also after the worker was killed.
//
// Owner    Metrics; the words are the Instance's.   Threads  as the Instance.
// Cost     a store a count; refresh(): some 20 us, five times a second if due() is heard.   Errors  none: a page that is full drops what is new.
//
//     page.add("baton_tokens_total", 1);   if (page.due()) page.refresh();
#pragma once

#include "hal/baton.hpp"

#include <array>
#include <map>
#include <string>

namespace baton::runtime {

// The last samples of a time.
class Window {
 public:
  void add(uint64_t ns) { samples_[count_++ % samples_.size()] = ns; }
  uint64_t count() const { return count_; }
  uint64_t quantile(double q) const; // 0 if there are none

 private:
  std::array<uint64_t, 512> samples_{};
  uint64_t count_ = 0;
};

class MetricsPage {
 public:
  explicit MetricsPage(const Instance& in) : instance_(in) {}
  void set(const std::string& name, uint64_t value) { __atomic_store_n(&word(name), value, __ATOMIC_RELAXED); }
  void add(const std::string& name, uint64_t more) { __atomic_fetch_add(&word(name), more, __ATOMIC_RELAXED); }
  bool due();     // once in 200 ms
  void refresh(); // the quantiles
  Window ttft_wall, itl_wall, itl_modelled;

 private:
  uint64_t& word(const std::string& name);
  const Instance& instance_;
  std::map<std::string, uint64_t*> words_;
  uint64_t nowhere_ = 0, next_ns_ = 0;
};

}  // namespace baton::runtime
