// validate_points.h: who waits for what and who has promised it: double signals, cycles, orphans.
//
// An op that is submitted promises the points that it signals until it ends. From that follows, at submit, that a value is promised
// twice or that a wait closes a cycle; and where a wait has come to nothing (its deadline passed, or its queue is closed), whether anybody
// was going to end it: the ops that could are followed back through their own waits until one is found that runs (then it was only
// slow), or none (an orphan: nobody has promised the point; or a cycle). A timeline that the host has raised is taken to be raised by
// the host again, so it is no orphan; and what another thread is about to submit cannot be known: an orphan is a warning.
//
// Owner    the Validator.   Threads  the instance's lock.
// Cost     submit: two ordered-map insertions a point; a search where an op signals what another waits for.   Errors  findings.
#pragma once

#include "hal/core/finding.h"
#include "hal/core/op.h"

#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace baton::core {

// "NOP (tag 3) on 'host:// lane 0'".
std::string describe(const Op*);

class Points {
 public:
  explicit Points(Findings& findings) : findings_(findings) {}

  void submitted(const Op*);  // before it enters its queue
  void ended(const Op*, bool failed);  // before its signals
  void progressed(baton_timeline*, uint64_t value);
  void forget(const baton_timeline*);
  // A wait on (t, value) has come to nothing. `who`: "a wait", "the wait of NOP ...". False: there is nothing to say. What has been
  // said already is not said again: a wait may come in slices.
  bool explain(baton_timeline* t, uint64_t value, const std::string& who);
  // The same for a submitted op's waits.
  bool explain(const Op*, const std::string& how);
  // Every submitted op, while `f` returns false.
  template <class F>
  void each(F f) const {
    for (const auto& [op, record] : ops_)
      if (f(op)) return;
  }

 private:
  using Point = std::pair<baton_timeline*, uint64_t>;
  struct Record {
    const Op* op = nullptr;
    Point wait[2] = {}, signal[2] = {};
    bool doubled = false;  // one of its signals has been reported
  };
  // A step of a search: the op, and who waited for it.
  struct Step {
    const Record* record;
    size_t from;
  };
  static constexpr size_t kNobody = SIZE_MAX;
  static constexpr size_t kMaxSteps = 10'000;  // a search that grows beyond says nothing

  void check_signals(Record&);
  void check_cycle(const Record&);
  std::string path(const std::vector<Step>&, size_t end) const;
  bool search(std::vector<Point> start, const std::string& who);
  const Record* promised(const Point&, bool& maybe) const;

  Findings& findings_;
  std::unordered_map<const Op*, Record> ops_;
  std::multimap<Point, Record*> promises_, waits_;
  std::unordered_multimap<baton_timeline*, const Op*> progress_;  // launches that will raise it, by how much is not known
  std::unordered_map<const baton_timeline*, uint64_t> raised_;    // by ops; above that it was the host
  std::unordered_map<const baton_timeline*, std::string> told_;   // what was last said of a wait on it
};

}  // namespace baton::core
