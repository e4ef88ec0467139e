// run.h: registers the suites for subjects that are given at run time, runs them, and says what came of each case.
//
// Owner    the caller; subjects must outlive the call. Once a process (GoogleTest's registry is the process's).
// Threads  one.   Cost  the suites': a few seconds a device.
// Errors   none of its own: a device that cannot be opened is a failed case with the driver's words.
//
//     std::vector<cts::Subject> subjects = {{.name = "host", .uri = "host://"}};
//     cts::Report r = cts::run(subjects, {.filter = "memory.*"});
//     return r.failed() ? 1 : 0;
#pragma once

#include "tests/cts/subject.h"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace baton::cts {

enum class Outcome { passed, skipped, expected_failure, failed };
const char* outcome_name(Outcome);  // "expected failure"

struct Finding {
  std::string subject, test;  // "neuron", "memory.Maps"
  Outcome outcome = Outcome::passed;
  std::string reason;                 // skipped, expected failure
  std::vector<std::string> failures;  // "file:line: text"; of an expected failure too
  uint64_t ms = 0;
};

struct Report {
  std::vector<Finding> findings;
  size_t count(Outcome) const;
  bool failed() const { return count(Outcome::failed) != 0; }
};

struct RunOptions {
  std::string filter = "*";  // of "suite.Test"
  bool faults = false;       // the suites of faults, in place of those of a device; needs libbaton's fault layer
  uint64_t seed = 1;         // of everything random
  uint64_t patience_ms = 20'000;  // after which something that should have happened is taken to be a failure
  std::function<void(const std::string& subject, const std::string& test)> on_begin;
  std::function<void(const Finding&)> on_end;
};

std::vector<std::string> test_names();  // "suite.Test"
Report run(std::span<const Subject>, const RunOptions&);

}  // namespace baton::cts
