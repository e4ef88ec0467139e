// finding.h: what validation reports: the rules, each a stable code with whose bug it is and the next step, and where findings go.
//
// Owner    the instance's Validator.
// Threads  inside the instance (hold.h), so one report at a time. What the callback submits is issued by whoever is inside, at the latest
//          on the way out.
// Cost     only when there is something to report.   Errors  none. "abort" ends the process at the first misuse.
//
//     findings.report(rule::double_signal, "NOP (tag 3) on 'host:// lane 0' signals 1 on timeline 't', which is at 1 already");
#pragma once

#include "hal/baton.h"

#include <string>

namespace baton::core {

struct Rule {
  const char* code;
  baton_severity severity;
  const char* blame;
  const char* next;
};

// Each has a line in hal/README.md.
namespace rule {
inline constexpr Rule double_signal{"double-signal", BATON_MISUSE, "caller", "give each op a value of its own, above what its timeline has reached"};
inline constexpr Rule late_signal{"late-signal", BATON_WARNING, "caller",
                                  "let the op with the higher value wait for the one with the lower: a value stands for all before it"};
inline constexpr Rule use_after_free{"use-after-free", BATON_MISUSE, "caller", "destroy a handle after the last call that names it"};
inline constexpr Rule free_in_flight{"free-in-flight", BATON_WARNING, "caller", "wait for what the op signals, then free"};
inline constexpr Rule wait_cycle{"wait-cycle", BATON_MISUSE, "caller", "take one of these waits away, or signal it from the host"};
inline constexpr Rule orphan_wait{"orphan-wait", BATON_WARNING, "caller",
                                  "submit the op that signals it, signal it from the host, or poison the timeline to cancel"};
inline constexpr Rule read_before_write{"read-before-write", BATON_MISUSE, "caller",
                                        "write it first, or let the reader wait for the op that does; a FILL makes it defined"};
inline constexpr Rule unordered_overlap{"unordered-overlap", BATON_MISUSE, "caller",
                                        "let one of the two wait for a value that the other signals when it is complete"};
inline constexpr Rule leak{"leak", BATON_WARNING, "caller", "destroy handles before their instance"};
inline constexpr Rule driver_double_complete{"driver-double-complete", BATON_MISUSE, "driver", "call complete once for each op that submit took"};
inline constexpr Rule driver_not_taken{"driver-not-taken", BATON_MISUSE, "driver", "complete ops that submit took (*taken) and no others"};
inline constexpr Rule driver_progress{"driver-progress", BATON_MISUSE, "driver", "report the marks of a LAUNCH in order, each once"};
inline constexpr Rule driver_outside_call{"driver-outside-call", BATON_WARNING, "driver",
                                          "keep what other threads learn until poll, and make the queue's descriptor readable"};
}  // namespace rule

class Findings {
 public:
  Findings(baton_instance* in, bool print, bool abort_at_misuse) : in_(in), print_(print), abort_(abort_at_misuse) {}
  void set(baton_finding_fn fn, void* user);
  void report(const Rule&, const std::string& what);

 private:
  baton_instance* const in_;
  baton_finding_fn fn_ = nullptr;
  void* user_ = nullptr;
  const bool print_, abort_;
};

}  // namespace baton::core
