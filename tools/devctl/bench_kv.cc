// bench kv: 64 MiB of KV-cache from a device of this process to one of another, by fabric (mapped also with a sleeping receiver, and lent between hosts) and
// shape, beside one thread's memcpy of the same segments.
#include "tools/devctl/bench.h"
#include "tools/devctl/progress.h"
#include "transport/bench/kv_move.hpp"
#include "transport/fabrics.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

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

Result<std::vector<transport::KvMoveRow>> measure(const Context& c, const KvBench& b) {
  BATON_ASSIGN(std::vector<std::string> fabrics, chosen(b.fabric));
  BATON_ASSIGN(std::string from, c.devices.address(b.from));
  BATON_ASSIGN(std::string to, c.devices.address(b.to));
  std::optional<Progress> bar;
  auto step = [&](const std::string& row, size_t transfers) {
    if (!bar) bar.emplace(transfers);
    bar->step(row);
    return !interrupted();
  };
  return transport::kv_move({.fabrics = std::move(fabrics), .iterations = b.count, .from = std::move(from), .to = std::move(to), .verify_all = b.check, .step = step});
}

json row_json(const transport::KvMoveRow& r) {
  if (!r.skipped.empty()) return {{"fabric", r.fabric}, {"skipped", r.skipped}};
  return {{"fabric", r.fabric},
          {"shape", r.shape},
          {"bytes", r.bytes},
          {"segments", r.segments},
          {"count", r.count},
          {"median_ns", r.median_ms * 1e6},
          {"p99_ns", r.p99_ms * 1e6},
          {"bytes_per_s", double(r.bytes) / r.median_ms * 1e3},
          {"memcpy_median_ns", r.yardstick_ms * 1e6},
          {"wall_over_memcpy", r.median_ms / r.yardstick_ms},
          {"open_ns", r.open_ms * 1e6},
          {"modelled_ns", r.modelled_ms > 0 ? json(r.modelled_ms * 1e6) : json(nullptr)},
          {"moves_compared", r.verified},
          {"words_wrong", r.wrong}};
}

std::string text(const Context& c, const json& doc) {
  Table t({"FABRIC", "SHAPE", "SEGMENTS", "MEDIAN", "P99", "RATE", "MEMCPY", "OVER MEMCPY", "MODELLED"});
  for (size_t i = 2; i < 9; ++i) t.right(i);
  uint64_t compared = 0, wrong = 0;
  for (auto& r : doc.at("rows")) {
    if (r.contains("skipped")) {
      t.row({r.at("fabric"), r.at("skipped")});
      continue;
    }
    compared += r.at("moves_compared").get<uint64_t>(), wrong += r.at("words_wrong").get<uint64_t>();
    t.row({r.at("fabric"), r.at("shape"), std::to_string(r.at("segments").get<uint64_t>()), ns_text(r.at("median_ns")), ns_text(r.at("p99_ns")), rate_text(r.at("bytes_per_s")), ns_text(r.at("memcpy_median_ns")),
           fmt::format("{:.2f}", r.at("wall_over_memcpy").get<double>()), r.at("modelled_ns").is_null() ? "-" : ns_text(r.at("modelled_ns"))});
  }
  return fmt::format("{} -> {}, a process each{}\n", clean(doc.at("from").get<std::string>()), clean(doc.at("to").get<std::string>()), doc.at("complete") ? "" : "; interrupted, this is what was done") + t.text() +
         fmt::format("check: {} moves compared at the destination, {}\n", compared, wrong ? fmt::format("{} words of 8 bytes arrived wrong", wrong) : "every byte arrived") +
         c.out.dim("wall time, two processes on this host; memcpy: one thread, the same segments, in turn with each move; modelled: the link by efa-trn2, the devices by theirs\n");
}

}  // namespace

int bench_kv(const Context& c, const KvBench& b) {
  auto rows = measure(c, b);
  if (!rows && !interrupted()) return c.out.fail(rows.error());
  if (!rows || rows->empty()) return kInterrupted;
  json list = json::array();
  bool skipped = false;
  std::string wrong;
  for (auto& r : *rows) {
    list.push_back(row_json(r));
    skipped |= !r.skipped.empty();
    if (r.wrong) wrong = fmt::format("{}, {}: {} words of 8 bytes arrived wrong in {} moves", r.fabric, r.shape, r.wrong, r.verified);
  }
  const json doc = {{"from", b.from}, {"to", b.to}, {"planned", b.count}, {"complete", !interrupted()}, {"rows", list}};
  c.out.show("bench.kv", doc, [&](const json& d) { return text(c, d); });
  const int code = ended(c, wrong);
  return code == kOk && skipped ? int(kPartly) : code;
}

}  // namespace baton::devctl
