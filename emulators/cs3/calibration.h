// calibration.h: what has been published of wafers beside what the timing model says of the same.
//
// A case is data (emulators/timing/cs3_cases.json): the shape that ran, on which rectangle, at which clock, the figure, its source, and
// whether constants of the model were fitted to it or it is only compared. The model's figure is the modelled time of a program of that
// shape, executed (without numbers) as the daemon executes it.
//
// Owner    plain values.   Threads  any.   Cost  a fraction of a second.
// Errors   as timing.hpp; CORRUPT naming the case.
//
//     BATON_ASSIGN(Calibration c, calibrate("cs3"));
//     std::fputs(c.text().c_str(), stdout);   // the table of README.md
#pragma once

#include "hal/baton.hpp"

#include <string>
#include <vector>

namespace baton::cs3 {

struct CaseResult {
  std::string name, unit, source; // unit: "token/s" or "us"
  double published = 0, modelled = 0;
  bool fitted = false;
  double error() const { return modelled / published - 1; }
};

struct Calibration {
  std::string model;              // the timing model's name
  std::vector<CaseResult> cases;
  uint32_t constants = 0;         // of the model that were fitted
  double median() const;          // of |error|
  double worst() const;
  std::string text() const;       // a table in Markdown and a line below it
  std::string json() const;       // {"schema": "baton.calibration/1", ...}
};

// timing: a model's name or path.
Result<Calibration> calibrate(std::string_view timing);

}  // namespace baton::cs3
