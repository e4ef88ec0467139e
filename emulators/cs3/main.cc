// baton-emu-cs3: an emulated CS-3 as a process. See README.md for what is modelled.
#include "emulators/cs3/daemon.h"
#include "emulators/timing/timing.hpp"

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
  std::unique_ptr<engine::CostModel> cost;
  if (options.timing != "none") {
    auto loaded = timing::load_cost_model(options.timing);
    if (!loaded) return fail(loaded.error());
    cost = std::move(*loaded);
  }
  auto daemon = Daemon::start(options, cost.get());
  if (!daemon) return fail(daemon.error());
  if (std::printf("%s\n", (*daemon)->uri().c_str()) < 0 || std::fflush(stdout) != 0) return fail(Error(BATON_IO, "stdout is closed"));
  (*daemon)->run();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"An emulated Cerebras CS-3: executes programs, keeps 44 GB of SRAM in account, speaks the wafer link."};
  app.set_version_flag("--version", std::string("baton-emu-cs3 " BATON_VERSION_STRING));
  std::string rest, listen, wafers, sram_gb, threads, isa, timing;
  bool watch_stdin = false, verbose = false;
  app.add_option("REST", rest, "what follows emu+cs3:// (0?threads=2&isa=auto): a free port of 127.0.0.1, until stdin ends");
  app.add_option("--listen", listen, "HOST:PORT; port 0: any that is free");
  app.add_option("--wafers", wafers, "wafers, each with SRAM of its own; default 1, at most 16");
  app.add_option("--sram-gb", sram_gb, "SRAM of each in gigabytes (10^9 bytes); default 44");
  app.add_option("--threads", threads, "threads that compute; default 1");
  app.add_option("--isa", isa, "auto, scalar, avx512 or amx (all give equal bits)");
  app.add_option("--timing", timing, "cs3 (default), none, or the path of a model file");
  app.add_flag("--stdin", watch_stdin, "with --listen: end when stdin ends");
  app.add_flag("--verbose", verbose, "sessions on stderr");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (rest.empty() == listen.empty())
    return fail(Error(BATON_INVALID_ARGUMENT, rest.empty() ? "neither REST nor --listen is given" : "REST and --listen exclude each other",
                      "baton-emu-cs3 --listen 127.0.0.1:9000, or open emu+cs3://0"));
  DaemonOptions options;
  Status st;
  if (!rest.empty()) st = parse_rest(rest, options);
  const std::pair<const char*, const std::string*> given[] = {{"wafers", &wafers}, {"sram_gb", &sram_gb}, {"threads", &threads}, {"isa", &isa}, {"timing", &timing}};
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
