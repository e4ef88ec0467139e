// span_log.hpp: what ran when: every completed op and mark of an Instance, by the tag of the request that it belongs to.
//
// Owner    made once for each Instance, which it outlives in callbacks: destroy it after the last poll.
// Threads  as the Instance.
// Cost     one append for each op of a tag that is open; others are dropped.
// Errors   none.
//
//     SpanLog log(instance);   uint32_t tag = log.open();   ... ops.tagged(tag) ...
//     for (const Span& s : log.close(tag)) ...
#pragma once

#include "hal/baton.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace baton::runtime {

struct Span {
  std::string lane, what;            // "neuron://0 lane 2", "LAUNCH" | "COPY" | "FILL" | "NOP" | "mark"
  uint64_t wall_begin = 0, wall_end = 0;         // ns, CLOCK_MONOTONIC of the process that ran it
  uint64_t modelled_begin = 0, modelled_end = 0; // ns; 0, 0: not modelled
  uint64_t bytes = 0;
  bool failed = false;
};
nlohmann::json to_json(const std::vector<Span>&);
std::vector<Span> spans_from_json(const nlohmann::json&); // malformed entries are left out

class SpanLog {
 public:
  explicit SpanLog(const Instance&);
  SpanLog(const SpanLog&) = delete;
  ~SpanLog();
  uint32_t open();
  const std::vector<Span>& spans(uint32_t tag) const;
  std::vector<Span> close(uint32_t tag);
  // Latest modelled time that any op has reached: where the modelled clock of this process stands.
  uint64_t clock_ns() const { return clock_ns_; }

 private:
  static void take(void* self, const baton_span* s);
  const Instance& instance_;
  uint32_t next_ = 1;
  uint64_t clock_ns_ = 0;
  std::map<uint32_t, std::vector<Span>> by_tag_;
};

}  // namespace baton::runtime
