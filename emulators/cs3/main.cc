// baton-emu-cs3: an emulated CS-3 as a process. See README.md for what is modelled.
#include "emulators/cs3/calibration.h"
#include "emulators/cs3/daemon.h"
#include "emulators/timing/wafer.hpp"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <string>

namespace {

using namespace baton;
using namespace baton::cs3;

// One line what, one line next; the exit code says which kind.
int fail(const Error& e) {
  std::fprintf(stderr, "baton-emu-cs3: %s\n", e.what);
  if (e.next[0]) std::fprintf(stderr, "next: %s\n", e.next);
  return e.code == BATON_BUSY ? 5 : e.code == BATON_INVALID_ARGUMENT ? 2 : e.code == BATON_UNSUPPORTED ? 6 : 1;
}

int serve(const DaemonOptions& options) {
  std::unique_ptr<timing::WaferModel> cost;
  if (options.timing == "none" && !options.numbers) return fail(Error(BATON_INVALID_ARGUMENT, "mode=timing with timing=none leaves nothing to run", "leave one of them out"));
  if (options.timing != "none") {
    auto loaded = timing::load_wafer_model(options.timing, {.clock_hz = options.clock_ghz * 1e9});
    if (!loaded) return fail(loaded.error());
    cost = std::move(*loaded);
  }
  auto daemon = Daemon::start(options, cost.get());
  if (!daemon) return fail(daemon.error());
  if (std::printf("%s\n", (*daemon)->uri().c_str()) < 0 || std::fflush(stdout) != 0) return fail(Error(BATON_IO, "stdout is closed"));
  (*daemon)->run();
  return 0;
}

int print_calibration(const std::string& timing, const std::string& form) {
  const auto c = calibrate(timing.empty() ? "cs3" : timing);
  if (!c) return fail(c.error());
  const std::string text = form == "json" ? c->json() : c->text();
  return std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0 ? fail(Error(BATON_IO, "stdout is closed")) : 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"An emulated Cerebras CS-3: executes programs, keeps 44 GB of SRAM in account, speaks the wafer link."};
  app.set_version_flag("--version", std::string("baton-emu-cs3 " BATON_VERSION_STRING));
  std::string rest, listen, wafers, sram_gb, threads, isa, timing, fabric, clock_ghz, mode, calibration, faults;
  bool watch_stdin = false, verbose = false;
  app.add_option("REST", rest, "what follows emu+cs3:// (0?threads=2&isa=auto): a free port of 127.0.0.1, until stdin ends");
  app.add_option("--listen", listen, "HOST:PORT; port 0: any that is free");
  app.add_option("--wafers", wafers, "wafers, each with SRAM of its own; default 1, at most 16");
  app.add_option("--sram-gb", sram_gb, "SRAM of each in gigabytes (10^9 bytes); default 44");
  app.add_option("--threads", threads, "threads that compute; default 1");
  app.add_option("--isa", isa, "auto, scalar, avx512 or amx (all give equal bits)");
  app.add_option("--timing", timing, "cs3 (default), none, or the path of a model file");
  app.add_option("--faults", faults, "a fault plan: JSON, or the path of a file of it (emulators/cs3/fault.h)");
  app.add_option("--fabric", fabric, "PEs of the fabric, of which sources disagree; default 762x1172");
  app.add_option("--clock-ghz", clock_ghz, "clock of the wafer, of which sources disagree; default: as the timing model says");
  app.add_option("--mode", mode, "full (default), or timing: nothing is computed, and no weights are needed");
  app.add_flag("--stdin", watch_stdin, "with --listen: end when stdin ends");
  app.add_flag("--verbose", verbose, "sessions on stderr");
  app.add_option("--calibration", calibration, "print published figures beside the timing model's, and end: text (default) or json")->expected(0, 1)->default_str("text")->check(CLI::IsMember({"text", "json"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (!calibration.empty()) return print_calibration(timing, calibration);
  if (rest.empty() == listen.empty())
    return fail(Error(BATON_INVALID_ARGUMENT, rest.empty() ? "neither REST nor --listen is given" : "REST and --listen exclude each other",
                      "baton-emu-cs3 --listen 127.0.0.1:9000, or open emu+cs3://0"));
  DaemonOptions options;
  Status st;
  if (!rest.empty()) st = parse_rest(rest, options);
  const std::pair<const char*, const std::string*> given[] = {{"wafers", &wafers}, {"sram_gb", &sram_gb}, {"threads", &threads},     {"isa", &isa},
                                                              {"timing", &timing}, {"fabric", &fabric}, {"clock_ghz", &clock_ghz}, {"mode", &mode}, {"faults", &faults}};
  for (const auto& [key, value] : given)
    if (st.ok() && !value->empty()) st = set_option(options, key, *value);
  if (!st.ok()) return fail(st.error());
  if (!listen.empty()) {
    auto address = parse_host_port(listen);
    if (!address) return fail(address.error());
    options.listen = *address;
    options.watch_stdin = watch_stdin;
  }
  options.verbose = verbose;
  return serve(options);
}
