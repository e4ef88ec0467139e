// table.h: the benchmark's result: rows of figure, yardstick, ratio and aim, printed as a table and as JSON.
//
// Owner    main() owns the Report; groups add to it.   Threads  one.   Cost  -
// Errors   a group that cannot run adds a failure in place of its rows: it is printed, and the program exits with 10.
//
//     report.add({.group = "submit", .figure = "NOP, host://", .unit = "us", .value = s, .yardstick = "call + atomic", ...});
#pragma once

#include "hal/baton.hpp"
#include "tests/bench/yardstick.h"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace baton::bench {

// What an aim is about: the figure itself, or its ratio to the yardstick.
enum class AimOn { none, value_below, value_above, ratio_below, ratio_above };

struct Row {
  std::string group, figure, unit;  // "model", "decode, 1.1B, 1 thread", "tok/s"
  Sample value;                     // in `unit`
  std::string yardstick;            // "read bandwidth / bytes a token"; "": none
  Sample against;                   // in `unit`
  double ratio = 0;                 // value / against
  AimOn aim_on = AimOn::none;
  double aim = 0;
  std::string note;                 // one line below the table
  bool met() const;
};

struct Failure {
  std::string group;
  Error error;
};

class Report {
 public:
  void add(Row row) { rows_.push_back(std::move(row)); }
  void fail(std::string group, const Error& error) { failures_.push_back({std::move(group), error}); }
  const std::vector<Row>& rows() const { return rows_; }
  const std::vector<Failure>& failures() const { return failures_; }
  std::string text() const;
  nlohmann::json json(const Machine&, bool quick) const;

 private:
  std::vector<Row> rows_;
  std::vector<Failure> failures_;
};

std::string machine_line(const Machine&);
// "bench: TEXT" on stderr.
void progress(const std::string& text);

}  // namespace baton::bench
