// devctl: looks into a machine: devices, paths, fabrics, and what they do. See verbs.h.
#include "drivers/cs3/placement/place.hpp"
#include "tools/devctl/care.h"
#include "tools/devctl/completion.h"
#include "tools/devctl/emu.h"
#include "tools/devctl/interrupt.h"
#include "tools/devctl/manual.h"
#include "tools/devctl/options.h"
#include "tools/devctl/verbs.h"
#include "tools/devctl/watch.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <csignal>
#include <functional>
#include <map>
#include <optional>

namespace baton::devctl {
namespace {

using Verb = std::function<int(const Context&)>;

constexpr char kFooter[] =
    "DEV is a name (trn0, cs0, host0, one of emu ls), a pattern (trn*), all, or an address: host://, neuron://0, cs3://HOST:PORT;\n"
    "emu+neuron://0 and emu+cs3://0 start an emulator for the call.\n"
    "Exit codes: 0 ok, 1 finding, 2 usage, 3 no such device, 4 permission, 5 busy, 6 unsupported, 7 lost, 8 timeout,\n"
    "9 version, 10 partly done, 130 interrupted.";

struct Arguments {
  std::string output = "text", from, selector, device, code, file;
  TopoCall topo;
  SnapshotCall snapshot;
  StatsCall stats;
  TopCall top;
  DiagCall diag;
  ResetCall reset;
  EmuCall emu;
  FaultCall fault;
  double clock_hz = 0;
  std::vector<std::string> command;
  CopyBench copy;
  LaunchBench launch;
  KvBench kv;
  PingCall ping;
  ServeCall serve;
  ReplayCall replay;
  CtsCall cts;
  WorkersCall workers;
  ModelCall model;
  PlaceCall place;
  ArtifactsCall artifacts;
};

void add_bench(CLI::App& app, Arguments& a, Verb& verb) {
  auto* bench = app.add_subcommand("bench", "Measure, each figure beside its own yardstick of the same run");
  bench->require_subcommand(1);
  auto* copy = bench->add_subcommand("copy", "A COPY between two devices through the HAL, beside memcpy");
  copy->add_option("from", a.copy.from, "DEV to copy from")->required();
  copy->add_option("to", a.copy.to, "DEV to copy to")->required();
  copy->add_option("--bytes", a.copy.bytes, "Bytes of one copy, as in 4096, 64KiB, 1GiB")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(uint64_t(1), uint64_t(1) << 36))
      ->capture_default_str();
  copy->add_option("--count", a.copy.count, "How many are measured")->check(CLI::Range(1, 100000))->capture_default_str();
  copy->add_flag("--check", a.copy.check, "Compare the bytes of each copy where they arrive; exit code 1 if one is wrong");
  copy->callback([&] { verb = [&](const Context& c) { return bench_copy(c, a.copy); }; });
  auto* launch = bench->add_subcommand("launch", "From submit to signal of a small program, polled, asleep and several in flight, beside a HOST op and an eventfd");
  launch->add_option("DEV", a.launch.device, "Which")->required();
  launch->add_option("--count", a.launch.count, "How many are measured")->check(CLI::Range(1, 1000000))->capture_default_str();
  launch->add_option("--depth", a.launch.depth, "How many are in flight at a time, of those that are")->check(CLI::Range(1, 256))->capture_default_str();
  launch->add_flag("--check", a.launch.check, "Compare what the program computed; exit code 1 if it is wrong");
  launch->callback([&] { verb = [&](const Context& c) { return bench_launch(c, a.launch); }; });
  auto* kv = bench->add_subcommand("kv", "KV-cache from a device of this process to one of another: every fabric, one piece and scattered, beside memcpy");
  kv->add_option("from", a.kv.from, "DEV that has it")->required();
  kv->add_option("to", a.kv.to, "DEV that the other process opens")->required();
  kv->add_option("--fabric", a.kv.fabric, "One fabric, as devctl fabric names it, or all")->capture_default_str();
  kv->add_option("--count", a.kv.count, "How many moves are measured")->check(CLI::Range(1, 10000))->capture_default_str();
  kv->add_flag("--check", a.kv.check, "Compare the bytes of every move where they arrive (without: of the first); exit code 1 if one is wrong");
  kv->callback([&] { verb = [&](const Context& c) { return bench_kv(c, a.kv); }; });
}

void add_fabric(CLI::App& app, Arguments& a, Verb& verb) {
  auto* f = app.add_subcommand("fabric", "What KV-cache can travel on here, and what each lacks; ping measures it");
  f->require_subcommand(0, 1);
  f->callback([&, f] {
    if (f->get_subcommands().empty()) verb = fabric;
  });
  auto keys = [](CLI::App* s, SessionKeys& k) {
    s->add_option("--key", k.key_file, "A key that both sides hold: baton keygen FILE");
    s->add_option("--identity", k.identity, "This side's identity: devctl key new FILE");
    s->add_option("--known-peers", k.known_peers, "Who may be at the other side, a line each");
  };
  auto* p = f->add_subcommand("ping", "A ping-pong over every fabric, 64 B to 16 MiB: latency, and bandwidth of many at once, beside memcpy");
  p->add_option("ADDRESS", a.ping.address, "HOST:PORT of a devctl fabric serve (default: another process of this host)");
  p->add_option("--fabric", a.ping.fabric, "One fabric, as devctl fabric names it, or all")->capture_default_str();
  p->add_option("--count", a.ping.count, "How many messages are timed of each size; of large ones fewer")->check(CLI::Range(2, 1000000))->capture_default_str();
  keys(p, a.ping.keys);
  p->callback([&] { verb = [&](const Context& c) { return fabric_ping(c, a.ping); }; });
  auto* s = f->add_subcommand("serve", "Answer devctl fabric ping of other hosts");
  s->add_option("ADDRESS", a.serve.address, "HOST:PORT to listen at; port 0: any")->required();
  s->add_flag("--once", a.serve.once, "End after the first peer");
  keys(s, a.serve.keys);
  s->callback([&] { verb = [&](const Context& c) { return fabric_serve(c, a.serve); }; });
}

void add_key(CLI::App& app, Arguments& a, Verb& verb) {
  auto* key = app.add_subcommand("key", "Identities of sessions, and who is known; secrets are never printed");
  key->require_subcommand(1);
  auto* made = key->add_subcommand("new", "Make a key pair: FILE holds it, mode 0600; prints the public key and its fingerprint");
  made->add_option("FILE", a.file, "The file; it must not exist")->required();
  made->callback([&] { verb = [&](const Context& c) { return key_new(c, a.file); }; });
  auto* show = key->add_subcommand("show", "The public key and the fingerprint of an identity file");
  show->add_option("FILE", a.file, "The identity file")->required();
  show->callback([&] { verb = [&](const Context& c) { return key_show(c, a.file); }; });
  auto* known = key->add_subcommand("known", "Check a known-peers file and list it");
  known->add_option("FILE", a.file, "The known-peers file")->required();
  known->callback([&] { verb = [&](const Context& c) { return key_known(c, a.file); }; });
}

void add_model(CLI::App& app, Arguments& a, Verb& verb) {
  auto* m = app.add_subcommand("model", "Modelled time of a model on a device: to the first token, and for each token after it; needs no weights");
  auto* folder = m->add_option("FOLDER", a.model.folder, "A folder with the model's config.json");
  m->add_option("--device", a.model.device, "DEV, an emulator with mode=timing")->capture_default_str();
  m->add_option("--tp", a.model.tp, "Lanes that share the model (tensor parallel)")->check(CLI::Range(1, 4096))->capture_default_str();
  m->add_option("--input", a.model.input, "Tokens of the prompt")->check(CLI::Range(1, 1 << 24))->capture_default_str();
  m->add_option("--output", a.model.output, "Tokens to generate")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  m->add_option("--chunk", a.model.chunk, "Tokens of one prefill launch")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  m->add_option("--dtype", a.model.dtype, "Of weights, activations and KV-cache")->check(CLI::IsMember({"BF16", "F16", "F32"}))->capture_default_str();
  m->add_option("--per-launch", a.model.per_launch, "Tokens of one decode launch (default: 1; all of them on a wafer, which samples by itself)")->check(CLI::Range(1, 1 << 20));
  m->add_flag("--decode", a.model.decode_alone, "Decode alone: the prompt's KV-cache comes from another device");
  m->add_option("--calibration", a.model.calibration, "Published figures beside those of an emulator's timing model, instead of a model's")->check(CLI::IsMember({"cs3"}))->excludes(folder);
  m->callback([&, folder] {
    if (folder->empty() && a.model.calibration.empty()) throw CLI::RequiredError("FOLDER");
    verb = [&](const Context& c) { return a.model.calibration.empty() ? model_time(c, a.model) : calibration(c.out, a.model.calibration); };
  });
}

void add_place(CLI::App& app, Arguments& a, Verb& verb) {
  auto* p = app.add_subcommand("place", "Where a model lies on wafers: how many it takes, what each holds, how long contexts may be; needs no device");
  p->add_option("FOLDER", a.place.folder, "A folder with the model's config.json")->required();
  p->add_option("--wafers", a.place.wafers, "How many, or auto: the fewest")->option_text("N|auto")->transform(CLI::CheckedTransformer(std::map<std::string, uint32_t>{{"auto", 0}}) | CLI::Range(1u, cs3::kMaxWafers));
  p->add_option("--sequences", a.place.sequences, "In flight")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  p->add_option("--context", a.place.context, "Tokens of each sequence that must fit (default: as many as do)")->check(CLI::Range(uint64_t(1), uint64_t(1) << 32));
  p->add_option("--kv", a.place.kv, "How tokens lie over a region's rows")->check(CLI::IsMember({"shift", "concat"}))->capture_default_str();
  p->add_option("--ends", a.place.ends, "Embedding and lm_head: pinned to the first and last wafer, as baton runs a model, or spread over all by rows")->check(CLI::IsMember({"spread", "pinned"}))->capture_default_str();
  p->add_option("--bad-rows", a.place.bad_rows, "Rows of every fabric that do not work, as in 17,100-103");
  p->add_option("--reserve", a.place.reserve, "Bytes of a PE for code, stack and buffers (default: as the wafer's data says)")->check(CLI::Range(0, 1 << 20));
  p->add_option("--wafer", a.place.wafer, "Kind of wafer: cs3 or cs2")->capture_default_str();
  p->add_option("--fabric", a.place.fabric, "Its PEs, as in 762x1176, where a machine has others (devctl info)");
  p->add_option("--dtype", a.place.dtype, "Of weights and KV-cache")->check(CLI::IsMember({"BF16", "F16", "F32"}))->capture_default_str();
  p->add_option("--svg", a.place.svg, "Draw it into this file");
  p->callback([&] { verb = [&](const Context& c) { return place_model(c.out, a.place); }; });
}

void add_artifacts(CLI::App& app, Arguments& a, Verb& verb) {
  auto* p = app.add_subcommand("artifacts", "The programs that 'baton generate' and 'baton worker' load for a model with these options, by fingerprint: what a compiler has to make "
                                            "for hardware, and whether a folder has it");
  auto& call = a.artifacts;
  p->add_option("FOLDER", call.folder, "A folder with the model's config.json; weights, if they are there, say the dtype")->required();
  p->add_option("--artifacts", call.artifacts, "A folder of compiled programs, FINGERPRINT.neff (the driver's artifacts=)")->check(CLI::ExistingDirectory);
  p->add_option("--programs", call.programs, "Write the portable programs there, FINGERPRINT.program: what a compiler reads")->check(CLI::ExistingDirectory);
  p->add_option("--role", call.role, "prefill, decode (of one device) or both")->check(CLI::IsMember({"prefill", "decode", "both"}))->capture_default_str();
  p->add_option("--tp", call.tp, "Prefill ranks")->check(CLI::Range(1, 4096))->capture_default_str();
  p->add_option("--context", call.context, "Tokens that a request may reach (default: the model's, at most 8192)");
  p->add_option("--blocks", call.blocks, "Blocks of the KV-cache (default: four contexts; baton takes less where a heap is short)");
  p->add_option("--block-tokens", call.block_tokens, "Tokens of a KV block")->check(CLI::Range(1, 4096))->capture_default_str();
  p->add_option("--kv-order", call.order, "token_major, head_major or block_major")->check(CLI::IsMember({"token_major", "head_major", "block_major"}))->capture_default_str();
  p->add_option("--prefill-chunk", call.chunk, "Tokens of one prefill launch")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  p->add_option("--precision", call.precision, "auto: as the checkpoint; f32: f32 activations and KV")->check(CLI::IsMember({"auto", "f32"}))->capture_default_str();
  p->add_option("--dtype", call.dtype, "Of weights that are not there")->check(CLI::IsMember({"BF16", "F16", "F32"}))->capture_default_str();
  p->callback([&] { verb = [&](const Context& c) { return artifacts(c.out, call); }; });
}

void add_workers(CLI::App& app, Arguments& a, Verb& verb) {
  auto* w = app.add_subcommand("workers", "Prefill and decode workers that are registered in a file or in etcd");
  auto& from = a.workers.from;
  w->add_option("SOURCE", from.source, "A JSON file of workers, or etcd: http://HOST:2379, several with commas")->required();
  w->add_flag("--watch", a.workers.watch, "Print who comes, changes and goes, until interrupted; with -o json one line each");
  w->add_option("--prefix", from.prefix, "Where their keys are in etcd")->capture_default_str();
  w->add_option("--timeout-ms", a.workers.patience_ms, "How long to wait for the first answer")->check(CLI::Range(1, 3600000))->capture_default_str();
  w->add_option("--ca", from.ca, "TLS: the authorities to believe, PEM");
  w->add_option("--cert", from.cert, "TLS: this side's certificate, PEM");
  w->add_option("--key", from.key, "TLS: its key, PEM");
  w->add_option("--user", from.user, "A user of etcd; goes with --password-file");
  w->add_option("--password-file", from.password_file, "A file with the password, mode 0600");
  w->callback([&] { verb = [&](const Context& c) { return workers(c, a.workers); }; });
}

// Verbs that look at what runs.
void add_watch(CLI::App& app, Arguments& a, Verb& verb) {
  auto* w = app.add_subcommand("who", "Which process holds what: device, memory, queues, since when; also what killed ones have left");
  w->add_option("DEV", a.selector, "Which device (default: all)");
  w->callback([&] { verb = [&](const Context& c) { return who(c, a.selector); }; });
  auto* s = app.add_subcommand("stats", "What processes count: ops, bytes, what is open, values that they name");
  s->add_flag("--delta", a.stats.delta, "What happens in a second, instead of since the start");
  s->add_option("--interval-ms", a.stats.interval_ms, "How long --delta looks")->check(CLI::Range(10, 3600000))->capture_default_str();
  s->callback([&] { verb = [&](const Context& c) { return stats(c, a.stats); }; });
  auto* t = app.add_subcommand("top", "Live, on a terminal: devices, links, requests, times; ? shows the keys");
  t->add_option("--interval-ms", a.top.interval_ms, "Between two frames")->check(CLI::Range(100, 3600000))->capture_default_str();
  t->add_option("--frames", a.top.frames, "End after so many; 0: at q")->capture_default_str();
  t->callback([&] { verb = [&](const Context& c) { return top(c, a.top); }; });
}

void add_emu(CLI::App& app, Arguments& a, Verb& verb) {
  auto* e = app.add_subcommand("emu", "Emulated systems that outlive a command");
  e->require_subcommand(1);
  auto* up = e->add_subcommand("up", "Start one, and print the address to open");
  up->add_option("ADDRESS", a.emu.address, "emu+cs3://0?threads=2, emu+neuron://0?machine=trn2.48xlarge")->required();
  up->add_option("--name", a.emu.name, "What to call it (default: its scheme and a number)");
  up->add_option("--listen", a.emu.listen, "HOST:PORT of a daemon; port 0: any")->capture_default_str();
  up->callback([&] { verb = [&](const Context& c) { return emu_up(c, a.emu); }; });
  e->add_subcommand("ls", "Those that are up, and those that ended by themselves")->callback([&] { verb = emu_ls; });
  auto* down = e->add_subcommand("down", "End one, or all");
  down->add_option("NAME", a.code, "As emu ls shows it, or all")->required();
  down->callback([&] { verb = [&](const Context& c) { return emu_down(c, a.code); }; });
  auto* fault = e->add_subcommand("fault", "What goes wrong on one that runs: shows its fault plan, or sets it at once");
  fault->add_option("NAME", a.fault.system, "As emu ls shows it, or cs3://HOST:PORT")->required();
  auto* plan = fault->add_option("PLAN", a.fault.plan, "JSON, as in '{\"slow_channels\": {\"5\": 8}}', the path of a file of it, or none (default: show it)");
  fault->add_flag("--clear", a.fault.clear, "End all faults")->excludes(plan);
  fault->add_option("--wafer", a.fault.wafer, "Of this wafer alone (default: each)")->check(CLI::Range(0, 15));
  fault->callback([&] { verb = [&](const Context& c) { return emu_fault(c, a.fault); }; });
  auto* clock = e->add_subcommand("clock", "The clock of its timing model: shows it, or changes it at once");
  clock->add_option("NAME", a.code, "As emu ls shows it, or cs3://HOST:PORT")->required();
  clock->add_option("HZ", a.clock_hz, "As in 1.1e9 (default: show it)")->check(CLI::PositiveNumber);
  clock->callback([&] { verb = [&](const Context& c) { return emu_clock(c, a.code, a.clock_hz); }; });
}

// Verbs for whoever looks after a machine.
void add_care(CLI::App& app, Arguments& a, Verb& verb) {
  app.add_subcommand("health", "What is wrong here, and what to do; touches nothing; exit code 1 if something is")->callback([&] { verb = health; });
  auto* d = app.add_subcommand("diag", "Tests: 1 software, 2 memory and queues, 3 links and the whole path, 4 soak; each level includes those below");
  d->add_option("-l,--level", a.diag.level, "How much")->check(CLI::Range(1, 4))->capture_default_str();
  d->add_option("TEST", a.diag.tests, "Only these, as --list names them");
  d->add_option("--device", a.diag.devices, "DEVs to test (default: all that are found)");
  d->add_option("--seconds", a.diag.soak_s, "Of the soak")->check(CLI::Range(1, 604800))->capture_default_str();
  d->add_flag("--list", a.diag.list, "Print the tests, what each takes and whom it disturbs");
  d->callback([&] { verb = [&](const Context& c) { return diag(c, a.diag); }; });
  auto* r = app.add_subcommand("reset", "Reset a device; refuses while somebody holds it, and says who");
  r->add_option("DEV", a.reset.device, "Which; also an emulated system by its name")->required();
  r->add_option("--level", a.reset.level, "How much of it: a Neuron device's cores, a CS-3's wafers, all of the device, an emulated CS-3's process")
      ->check(CLI::IsMember({"core", "wafer", "device", "daemon"}))
      ->capture_default_str();
  r->add_option("--wafer", a.reset.wafer, "Of level wafer: this one alone (default: each)")->check(CLI::Range(0, 15));
  r->add_flag("--dry-run", a.reset.dry_run, "Say what would end, and end nothing");
  r->callback([&] { verb = [&](const Context& c) { return reset(c, a.reset); }; });
  auto* rec = app.add_subcommand("record", "Run a program, and record its calls of libbaton for devctl replay");
  rec->add_option("FILE", a.file, "The recording; %p in it is the process's number")->required();
  rec->add_option("COMMAND", a.command, "The program and its arguments, after --")->required();
  rec->callback([&] { verb = [&](const Context& c) { return record(c, a.file, a.command); }; });
  auto* rep = app.add_subcommand("report", "All of it in one tar, without secrets, for whoever helps");
  rep->add_option("FILE", a.file, "The tar; it must not exist (default: baton-report-TIME.tar)");
  rep->callback([&] { verb = [&](const Context& c) { return report(c, a.file); }; });
  app.add_subcommand("env", "Each variable that Baton reads, its value, what it does")->callback([&] { verb = env; });
  auto* s = app.add_subcommand("snapshot", "Everything that devctl can read here, in one file for --from; disturbs nobody");
  s->add_option("FILE", a.snapshot.file, "Where to (default: stdout)");
  s->add_flag("--open", a.snapshot.open, "Open the devices too, for the paths between them");
  s->callback([&] { verb = [&](const Context& c) { return snapshot(c, a.snapshot); }; });
  auto* completion_verb = app.add_subcommand("completion", "A completion script: devctl completion bash > ~/.local/share/bash-completion/completions/devctl");
  completion_verb->add_option("SHELL", a.code, "bash, zsh or fish; man: a manual page of each verb, into FOLDER")->required()->check(CLI::IsMember({"bash", "zsh", "fish", "man"}));
  completion_verb->add_option("FOLDER", a.file, "Of manual pages (default: the working folder)");
  completion_verb->callback([&] {
    verb = [&](const Context& c) {
      if (a.code != "man") return c.out.print(completion(app, a.code)), int(kOk);
      const auto written = write_manuals(app, a.file.empty() ? "." : a.file);
      if (!written) return c.out.fail(written.error());
      for (auto& file : *written) c.out.print(file + "\n");
      return int(kOk);
    };
  });
}

void add_verbs(CLI::App& app, Arguments& a, Verb& verb) {
  auto* l = app.add_subcommand("list", "Devices of this machine, and emulators that can be started");
  l->add_option("DEV", a.selector, "Which (default: all)");
  l->callback([&] { verb = [&](const Context& c) { return list(c, a.selector); }; });
  auto* i = app.add_subcommand("info", "Everything about a device: heaps, lanes, what it can");
  i->add_option("DEV", a.device, "Which")->required();
  i->callback([&] { verb = [&](const Context& c) { return info(c, a.device); }; });
  auto* t = app.add_subcommand("topo", "The machine and the copy paths in it; of two DEVs the path from the first to the second");
  t->add_option("DEV", a.topo.selectors, "Two: the path between them, what it costs, and why none is better; more: a matrix of them")->expected(0, 64);
  t->add_option("--svg", a.topo.svg, "Draw it into this file");
  t->callback([&] { verb = [&](const Context& c) { return topo(c, a.topo); }; });
  add_bench(app, a, verb);
  auto* r = app.add_subcommand("replay", "Issue the calls of a recording (BATON_LAYERS=record=FILE) again and compare the results");
  r->add_option("FILE", a.replay.file, "The recording")->required();
  r->add_option("--device", a.replay.device, "Run on this DEV what ran on a device (default: as recorded; emulators are started anew)");
  r->callback([&] { verb = [&](const Context& c) { return replay(c, a.replay); }; });
  auto* conformance = app.add_subcommand("cts", "Conformance: does a device, or a driver, keep the promises of baton.h? Runs baton-cts");
  conformance->add_option("SUBJECT", a.cts.subjects, "DEVs, a driver's .so (alone: its first device), subject files (.json)");
  conformance->add_option("--pair", a.cts.pairs, "From one device to another: the suites of pairs, in that direction")->type_name("FROM TO");
  conformance->add_flag("--faults", a.cts.faults, "The suites of faults: each kind at each call and op, injected by the fault layer");
  conformance->add_option("--patience", a.cts.patience_ms, "Milliseconds after which what should have happened is a failure");
  conformance->add_option("--filter", a.cts.filter, "Which tests, as in memory.*");
  conformance->add_option("--seed", a.cts.seed, "Of everything random");
  conformance->add_flag("--list", a.cts.list, "Print the tests' names and end");
  conformance->callback([&] { verb = [&](const Context& c) { return cts(c, a.cts); }; });
  add_fabric(app, a, verb);
  add_model(app, a, verb);
  add_place(app, a, verb);
  add_artifacts(app, a, verb);
  add_key(app, a, verb);
  add_workers(app, a, verb);
  auto* e = app.add_subcommand("explain", "What an error code means and what to do");
  e->add_option("CODE", a.code, "As in DEVICE_LOST or 7 (default: all)");
  e->callback([&] { verb = [&](const Context& c) { return explain(c.out, a.code); }; });
  add_watch(app, a, verb);
  add_care(app, a, verb);
  add_emu(app, a, verb);
  app.add_subcommand("version", "Versions, drivers and emulators found")->callback([&] { verb = version; });
}

int run(int argc, char** argv) {
  Options options = read_options();
  Arguments a;
  Verb verb = summary;
  CLI::App app("devctl: look into a machine: devices, the paths between them, what they do", "devctl");
  app.footer(kFooter);
  app.fallthrough();
  app.set_version_flag("--version", std::string("devctl ") + BATON_VERSION_STRING);
  app.add_option("-o,--output", a.output, "text or json; of stats also prometheus")->check(CLI::IsMember({"text", "json", "prometheus"}))->capture_default_str();
  app.add_option("--from", a.from, "Read from a snapshot, not from this machine: list, info, topo, fabric, version and others that read");
  app.require_subcommand(0, 1);
  add_verbs(app, a, verb);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    std::string command = "devctl";  // and the verbs that were understood
    for (auto sub = app.get_subcommands(); !sub.empty(); sub = sub[0]->get_subcommands()) command += " " + sub[0]->get_name();
    return Output(false, false).fail(kUsage, e.what(), command + " --help");
  }
  Output out(a.output == "json", options.colour);
  a.stats.prometheus = a.output == "prometheus";
  if (const std::string name = app.get_subcommands().empty() ? "summary" : app.get_subcommands()[0]->get_name(); a.stats.prometheus && (name != "stats" || a.stats.delta))
    return out.fail(kUsage, name == "stats" ? "Prometheus makes the differences itself: -o prometheus is without --delta" : fmt::format("devctl {} has no numbers for Prometheus", name), "devctl stats -o prometheus");
  auto devices = Devices::create(std::move(options));
  if (!devices) return out.fail(devices.error());
  std::optional<Snapshot> snapshot;
  if (!a.from.empty()) {
    auto loaded = Snapshot::load(a.from);
    if (!loaded) return out.fail(loaded.error());
    snapshot.emplace(std::move(*loaded));
    if (std::string verb_name = app.get_subcommands().empty() ? "summary" : app.get_subcommands()[0]->get_name(); !reads(verb_name))
      return out.fail(kUsage, fmt::format("devctl {} does not read: --from is not for it", verb_name), "devctl --help");
  }
  int code = 0;
  try {
    code = verb({out, *devices, snapshot ? &*snapshot : nullptr});
  } catch (const json::exception& e) {
    if (!snapshot) throw;
    return out.fail(kUsage, fmt::format("{} is not as devctl writes a snapshot: {}", a.from, e.what()), "take it again with devctl snapshot");
  }
  return interrupted() ? int(kInterrupted) : code;
}

}  // namespace
}  // namespace baton::devctl

int main(int argc, char** argv) {
  baton::devctl::catch_interrupts();
  std::signal(SIGPIPE, SIG_DFL);
  try {
    return baton::devctl::run(argc, argv);
  } catch (const std::exception& e) {  // out of memory, or a bug: still one line and a code
    return baton::devctl::Output(false, false).fail(baton::devctl::kFinding, e.what(), "if this happens again, please report it");
  }
}
