// baton-bench: in one run, each figure beside its own yardstick, the ratio, and the aim. See README.md.
#include "tests/bench/groups.h"
#include "tools/baton/options.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <fstream>

namespace baton::bench {
namespace {

constexpr Group kGroups[] = {
    {"kv", "KV-cache between two processes, each fabric, three shapes, beside memcpy of as many bytes", kv_rows},
    {"bulk", "a prompt's KV in bulk against layer by layer, short and long, and which the link's model chooses", bulk_rows},
    {"convert", "KV-cache to FP8 and back, one thread, beside memcpy of the wide side", convert_rows},
    {"crypto", "chunks sealed and opened by one thread, each AEAD, beside memcpy", crypto_rows},
    {"recode", "KV plans that convert, one thread, with and without checksums, beside the plain copy", recode_rows},
    {"plan", "KV plans of 80 layers: compile, and instantiate into a warm move", plan_rows},
    {"submit", "an empty op, submit to completion, on each device, beside a round trip of the machine's", submit_rows},
    {"ring", "an entry of the wafer link's rings there and back between two processes, polling and asleep, beside the machine's own", ring_rows},
    {"remote", "a timeline signalled in one process and waited on in another, beside the machine's own round trips", remote_rows},
    {"layers", "64 empty ops on host:// below each layer, beside the same without layers", layer_rows},
    {"files", "KV blocks to a disk and back, durable and verified, beside pwrite and pread", files_rows},
    {"model", "prefill and decode of the tiny model and of a synthetic 1.1B, beside bandwidth and arithmetic", model_rows},
    {"devctl", "devctl list, snapshot and top on a machine of 64 chips and 16 NICs, a tree of files", devctl_rows},
    {"ttft", "time to first token, handed over against one device", ttft_rows},
};

struct Arguments {
  Settings settings;
  std::vector<std::string> only;
  std::string json_file;
  bool list = false, check = false;
};

int measure(const Arguments& a) {
  Machine machine = probe_machine();
  Report report;
  for (const Group& g : groups()) {
    if (!a.only.empty() && std::find(a.only.begin(), a.only.end(), g.name) == a.only.end()) continue;
    uint64_t start = now_ns();
    Status s = g.run(a.settings, report);
    if (!s.ok()) {
      report.fail(g.name, s.error());
      fmt::print(stderr, "bench: {}: {}\nnext: {}\n", g.name, s.error().text(), s.error().next);
    }
    progress(fmt::format("{} took {:.1f} s", g.name, double(now_ns() - start) / 1e9));
  }
  fmt::print("{}{}", machine_line(machine), report.text());
  if (!a.json_file.empty()) {
    std::ofstream f(a.json_file);
    f << report.json(machine, a.settings.quick).dump(2) << "\n";
    if (!f.flush()) {
      fmt::print(stderr, "bench: cannot write {}\nnext: name a file in a folder that you may write\n", a.json_file);
      return 1;
    }
  }
  if (!report.failures().empty()) return 10;
  bool missed = std::any_of(report.rows().begin(), report.rows().end(), [](const Row& r) { return !r.met(); });
  return a.check && missed ? 1 : 0;
}

int run(int argc, char** argv) {
  Arguments a;
  a.settings.model = runtime::default_model();
  CLI::App app("baton-bench: each figure beside its own yardstick, measured in the same run", "baton-bench");
  app.footer("Figures are medians. Exit codes: 0 measured, 1 with --check: an aim is missed, 2 usage, 10 a group could not be measured.");
  app.add_flag("--quick", a.settings.quick, "A third of the repeats, less work in each");
  std::vector<std::string> names;
  for (const Group& g : groups()) names.push_back(g.name);
  app.add_option("--only", a.only, "These groups alone")->delimiter(',')->check(CLI::IsMember(names));
  app.add_option("--fabric", a.settings.fabrics, "kv: this fabric alone")->capture_default_str();
  app.add_option("--model", a.settings.model, "Folder of the tiny model (default: BATON_MODEL, then the demo model)");
  app.add_option("--json", a.json_file, "Write the report to this file, as JSON");
  app.add_flag("--check", a.check, "Exit with 1 if an aim is missed");
  app.add_flag("--list", a.list, "Say which groups there are");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    fmt::print(stderr, "baton-bench: {}\nnext: baton-bench --help\n", e.what());
    return 2;
  }
  if (!a.list) return measure(a);
  for (const Group& g : groups()) fmt::print("{:<7} {}\n", g.name, g.what);
  return 0;
}

}  // namespace

std::span<const Group> groups() { return kGroups; }

}  // namespace baton::bench

int main(int argc, char** argv) {
  try {
    return baton::bench::run(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "baton-bench: {}\nnext: see that there is memory free; --quick needs less\n", e.what());
    return 10;
  }
}
