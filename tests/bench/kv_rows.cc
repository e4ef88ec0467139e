// KV-cache between two processes: three shapes of 64 MiB over each fabric, beside copies of the same segments in one process.
#include "tests/bench/groups.h"
#include "transport/bench/kv_move.hpp"
#include "transport/copy_kernel.hpp"
#include "transport/fabrics.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace baton::bench {
namespace {

struct Runs {
  transport::KvMoveRow last;
  std::vector<double> moved, plain, one, two, raw, notify, asleep, wake;  // one of each a run
};

// Both sides: what was measured and what it is held against, run by run.
Row beside(const Runs& r, const std::string& yardstick, const std::vector<double>& against) {
  std::vector<double> ratio;
  for (size_t i = 0; i < r.moved.size(); ++i) ratio.push_back(r.moved[i] / against[i]);
  return {.group = "kv", .figure = fmt::format("{}, {}", r.last.shape, r.last.fabric), .unit = "ms", .value = summarize(r.moved),
          .yardstick = yardstick, .against = summarize(against), .ratio = summarize(ratio).median,
          .note = "Each run is a pair of processes and the median of 5 moves; medians and spread are over the runs."};
}

void add(const Runs& r, Report& report) {
  const std::string kernel = transport::copy_isa();
  if (r.last.fabric == "mapped") {
    Row row = beside(r, fmt::format("{} copy, two threads, same segments", kernel), r.two);
    row.aim_on = AimOn::ratio_below, row.aim = 1.15;
    report.add(std::move(row));
  } else if (r.last.fabric == "mapped asleep") {
    Row row = beside(r, fmt::format("{} copy, one thread, same segments", kernel), r.one);
    row.aim_on = AimOn::ratio_below, row.aim = 1.1;
    report.add(std::move(row));
  } else if (r.last.fabric == "mapped checked") {
    Row row = beside(r, fmt::format("{} copy, one thread, same segments", kernel), r.one);
    row.note += " With checksums: of the source as it is moved, and of the sink's memory before the layer counts as landed.";
    report.add(std::move(row));
  } else if (r.last.fabric == "lend") {
    Row row = beside(r, "memcpy, one thread, same segments", r.plain);
    row.value.median *= 1e3, row.value.min *= 1e3, row.value.max *= 1e3;
    row.against.median *= 1e3, row.against.min *= 1e3, row.against.max *= 1e3;
    row.unit = "us";
    row.note = "No copy: lists of blocks in shared memory, from the list to the receipt of the other process, which polls.";
    if (r.last.segments > 1) row.aim_on = AimOn::value_below, row.aim = r.last.segments > 4096 ? 100 : 30;
    report.add(std::move(row));
    if (r.last.notify_ns > 0) {
      report.add({.group = "kv", .figure = "notification, one way, polled", .unit = "us", .value = summarize(r.notify), .yardstick = "", .aim_on = AimOn::value_below, .aim = 0.3,
                  .note = "A loan of one block and its return, halved."});
      report.add({.group = "kv", .figure = "notification, waiter asleep", .unit = "us", .value = summarize(r.asleep), .yardstick = "a byte to a socket on which a thread sleeps, on another core", .against = summarize(r.wake),
                  .ratio = summarize(r.asleep).median / summarize(r.wake).median, .aim_on = AimOn::value_below, .aim = 25,
                  .note = "A loan of one block to a thread that sleeps on the instance's descriptor, and its return to one that polls."});
    }
  } else if (r.last.raw_ms > 0) {
    Row row = beside(r, "raw libfabric, a write for each block", r.raw);
    row.aim_on = AimOn::ratio_below, row.aim = 1.0;
    report.add(std::move(row));
  } else {
    report.add(beside(r, "memcpy, one thread, same segments", r.plain));
  }
}

// One pair of ucx_perftest processes: ms for 64 MiB of puts of that size; 0: it said nothing that can be read.
double ucx_ms(const std::string& transports, uint64_t bytes, uint32_t port) {
  const std::string env = "UCX_LOG_LEVEL=fatal UCX_TLS=" + transports + " timeout 30 ucx_perftest ", tail = fmt::format(" -p {} 2>/dev/null", port);
  const std::string both = fmt::format("{}{} >/dev/null & for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; {}127.0.0.1{} -t ucp_put_bw -s {} -n {} -w 16 && break; done; wait", env, tail, env, tail, bytes,
                                       std::max<uint64_t>((64u << 20) / bytes, 16));
  FILE* f = popen(both.c_str(), "r");
  if (!f) return 0;
  double ms = 0;
  for (char line[512]; fgets(line, sizeof line, f);) {
    std::vector<double> numbers;
    if (std::strncmp(line, "Final:", 6)) continue;
    for (char* p = line + 6; *p;) {
      char* end = p;
      const double v = std::strtod(p, &end);
      if (end == p) break;
      numbers.push_back(v), p = end;
    }
    if (numbers.size() >= 6 && numbers[5] > 0) ms = double(64u << 20) / (numbers[5] * 1048.576); // iterations, 50 %, average, overall us, average, overall MB/s (2^20)
  }
  pclose(f);
  return ms;
}

Status ucx_rows(const std::vector<std::string>& fabrics, Report& report) {
  const bool there = system("command -v ucx_perftest >/dev/null 2>&1") == 0;
  for (const auto& [fabric, transports] : {std::pair{"mapped", "posix,sysv,self"}, {"tcp", "tcp,self"}}) {
    if (std::find(fabrics.begin(), fabrics.end(), fabric) == fabrics.end()) continue;
    if (!there) {
      progress("kv: no ucx_perftest beside it: install ucx-utils");
      return {};
    }
    uint32_t port = 20000 + uint32_t(getpid()) % 20000;
    for (const auto& [name, bytes] : {std::pair{"1x64MiB", uint64_t(64) << 20}, {"4096x16KiB", uint64_t(16) << 10}, {"16384x4KiB", uint64_t(4) << 10}}) {
      const Sample s = repeat(3, [&] { return ucx_ms(transports, bytes, port++); });
      if (s.median > 0)
        report.add({.group = "kv", .figure = fmt::format("{}, ucx_perftest ucp_put_bw, {}", name, transports), .unit = "ms", .value = s, .yardstick = "",
                    .note = "UCX's own loop over one hot buffer: no random blocks, no notification. It overstates small blocks (facts of the peers' benches)."});
    }
  }
  return {};
}

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
    BATON_ASSIGN(auto rows, transport::kv_move({.fabrics = fabrics, .iterations = 5, .raw = true}));
    all.resize(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto& r = rows[i];
      if (!r.skipped.empty()) return Error(BATON_UNSUPPORTED, fmt::format("fabric '{}': {}", r.fabric, r.skipped), "devctl fabric");
      if (r.wrong) return Error(BATON_CORRUPT, fmt::format("{}: {} words arrived wrong", r.name, r.wrong), "report this");
      all[i].last = r;
      all[i].moved.push_back(r.median_ms);
      all[i].plain.push_back(r.yardstick_ms);
      all[i].one.push_back(r.streamed_ms);
      all[i].two.push_back(r.streamed2_ms);
      all[i].raw.push_back(r.raw_ms);
      all[i].notify.push_back(r.notify_ns / 1e3);
      all[i].asleep.push_back(r.notify_asleep_ns / 1e3);
      all[i].wake.push_back(r.wake_ns / 1e3);
    }
  }
  for (const auto& r : all) add(r, report);
  // What scattering costs over tcp: small blocks beside one piece, both over this fabric.
  const auto whole = std::find_if(all.begin(), all.end(), [](const Runs& r) { return r.last.fabric == "tcp"; });
  if (whole != all.end() && all.end() - whole >= 3) {
    Row row = beside(whole[2], "tcp, 1x64MiB", whole[0].moved);
    row.figure += " beside one piece";
    row.aim_on = AimOn::ratio_below, row.aim = 1.3;
    report.add(std::move(row));
  }
  return ucx_rows(fabrics, report);
}

}  // namespace baton::bench
