// bench kv: 64 MiB of KV-cache between two processes, by fabric (mapped also with a sleeping receiver, and lent) and shape, beside one thread's memcpy of the same segments.
#include "tools/devctl/verbs.h"
#include "transport/bench/kv_move.hpp"
#include "transport/fabrics.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace baton::devctl {
namespace {

// Every fabric that is available, or the one that was asked for.
Result<std::vector<std::string>> chosen(const std::string& asked) {
  std::vector<std::string> usable;
  for (auto& f : transport::list_fabrics()) {
    if (f.name == asked && !f.available) return Error(BATON_UNSUPPORTED, fmt::format("fabric '{}' is not available here: {}", f.name, f.reason), "devctl fabric");
    if (f.available) usable.push_back(f.name);
  }
  if (asked == "all") return usable;
  if (std::find(usable.begin(), usable.end(), asked) == usable.end())
    return Error(BATON_INVALID_ARGUMENT, fmt::format("no fabric is called '{}'; there is {}", clean(asked).substr(0, 60), fmt::join(usable, ", ")), "devctl fabric lists them");
  return std::vector<std::string>{asked};
}

double rate(const transport::KvMoveRow& r, double ms) { return ms > 0 ? double(r.bytes) / ms * 1e3 : 0; }

}  // namespace

int bench_kv(const Context& c, const KvBench& b) {
  auto fabrics = chosen(b.fabric);
  if (!fabrics) return c.out.fail(fabrics.error());
  auto rows = transport::kv_move({.fabrics = *fabrics, .iterations = b.count});
  if (interrupted()) return kInterrupted;
  if (!rows) return c.out.fail(rows.error());
  json list = json::array();
  Table t({"FABRIC", "SHAPE", "SEGMENTS", "MEDIAN", "RATE", "MEMCPY", "OVER MEMCPY"});
  for (size_t i = 2; i < 7; ++i) t.right(i);
  bool skipped = false;
  for (auto& r : *rows) {
    if (!r.skipped.empty()) {
      skipped = true;
      list.push_back({{"fabric", r.fabric}, {"skipped", r.skipped}});
      t.row({r.fabric, r.skipped});
      continue;
    }
    double over = r.median_ms / r.yardstick_ms;
    list.push_back({{"fabric", r.fabric}, {"shape", r.shape}, {"bytes", r.bytes}, {"segments", r.segments}, {"median_ns", r.median_ms * 1e6},
                    {"bytes_per_s", rate(r, r.median_ms)}, {"memcpy_median_ns", r.yardstick_ms * 1e6}, {"wall_over_memcpy", over}, {"open_ns", r.open_ms * 1e6}});
    t.row({r.fabric, r.shape, std::to_string(r.segments), ns_text(r.median_ms * 1e6), rate_text(rate(r, r.median_ms)), ns_text(r.yardstick_ms * 1e6), fmt::format("{:.2f}", over)});
  }
  if (c.out.is_json()) c.out.document("bench.kv", {{"count", b.count}, {"rows", list}});
  else c.out.print(t.text() + c.out.dim("wall time, two processes on this host; memcpy: one thread, the same segments, in turn with each move\n"));
  return skipped ? kPartly : kOk;
}

}  // namespace baton::devctl
