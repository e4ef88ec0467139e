// KV-cache between two processes: three shapes of 64 MiB over each fabric, beside memcpy of the same segments.
#include "tests/bench/groups.h"
#include "transport/bench/kv_move.hpp"
#include "transport/fabrics.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

namespace baton::bench {
namespace {

struct Runs {
  std::string fabric, shape;
  std::vector<double> moved, plain, ratio;  // ms, ms; one of each a run
};

}  // namespace

Status kv_rows(const Settings& s, Report& report) {
  std::vector<std::string> fabrics;
  for (auto& f : transport::list_fabrics())
    if (f.available && (s.fabrics == "all" || s.fabrics == f.name)) fabrics.push_back(f.name);
  if (fabrics.empty()) return Error(BATON_UNSUPPORTED, fmt::format("fabric '{}' is not available here", s.fabrics), "devctl fabric");

  std::vector<Runs> all;
  // Each run is a fresh pair of processes: placement and page colouring differ, and the spread shows it.
  for (uint32_t run = 0, runs = s.repeats(5); run < runs; ++run) {
    progress(fmt::format("kv: run {} of {}: {}", run + 1, runs, fmt::join(fabrics, ", ")));
    BATON_ASSIGN(auto rows, transport::kv_move({.fabrics = fabrics, .iterations = 5}));
    for (size_t i = 0; i < rows.size(); ++i) {
      auto& r = rows[i];
      if (run == 0) all.push_back({r.fabric, r.shape, {}, {}, {}});
      if (!r.skipped.empty()) return Error(BATON_UNSUPPORTED, fmt::format("fabric '{}': {}", r.fabric, r.skipped), "devctl fabric");
      all[i].moved.push_back(r.median_ms);
      all[i].plain.push_back(r.yardstick_ms);
      all[i].ratio.push_back(r.median_ms / r.yardstick_ms);
    }
  }
  for (auto& r : all) {
    Row row{.group = "kv", .figure = fmt::format("{}, {}", r.shape, r.fabric), .unit = "ms", .value = summarize(r.moved),
            .yardstick = "memcpy, one thread, same segments", .against = summarize(r.plain), .ratio = summarize(r.ratio).median,
            .note = "Each run is a pair of processes and the median of 5 moves; medians and spread are over the runs."};
    if (r.fabric == "mapped") row.aim_on = AimOn::ratio_below, row.aim = 1.0;
    report.add(std::move(row));
  }
  return {};
}

}  // namespace baton::bench
