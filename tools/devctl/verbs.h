// verbs.h: what devctl does, one function a verb; each prints and returns an exit code (output.h).
//
// Owner    Context borrows what main() owns.   Threads  one.
// Errors   printed by the verb: one line and a next: line on stderr, nothing on stdout but what was done before.
//
//     Context c{out, devices};
//     return list(c, "trn*");
#pragma once

#include "tools/devctl/devices.h"
#include "tools/devctl/output.h"
#include "tools/devctl/reading.h"
#include "transport/discovery/discovery.hpp"

#include <string>
#include <vector>

namespace baton::devctl {

struct Context {
  const Output& out;
  const Devices& devices;
  const Snapshot* from = nullptr;  // --from: what reads, reads this
};

struct TopoCall {
  std::vector<std::string> selectors;
  std::string svg;  // a file to draw into
};

struct CopyBench {
  std::string from, to;  // selectors of one device each
  uint64_t bytes = 64 << 20;
  uint32_t count = 10;
  bool check = false;  // compare the bytes where they arrive
};

struct LaunchBench {
  std::string device;
  uint32_t count = 200, depth = 16;
  bool check = false;  // compare what the program computed
};

struct KvBench {
  std::string from, to;  // selectors of one device each
  std::string fabric = "all";
  uint32_t count = 10;
  bool check = false;  // compare every move's bytes where they arrive, not the first one's alone
};

struct SessionKeys {                 // of a session's two sides: a key that both hold, identities, or both
  std::string key_file, identity, known_peers;
};

struct PingCall {
  std::string address, fabric = "all";  // address "": another process of this host
  SessionKeys keys;
  uint32_t count = 200;
};

struct ServeCall {
  std::string address;
  SessionKeys keys;
  bool once = false;
};

struct ReplayCall {
  std::string file, device;  // device "": as recorded, emulators started anew
};

struct CtsCall {
  std::vector<std::string> subjects;  // selectors, URIs, subject files, drivers (.so)
  std::vector<std::pair<std::string, std::string>> pairs;  // from, to: as subjects, one device each
  bool faults = false;
  uint64_t patience_ms = 0;  // 0: baton-cts's own
  std::string filter;
  uint64_t seed = 0;  // 0: the default
  bool list = false;
};

struct WorkersCall {
  transport::DiscoveryOptions from;
  bool watch = false;
  uint32_t patience_ms = 5000;
};

struct ModelCall {
  std::string folder;  // of a config.json; weights are not read
  std::string device = "emu+neuron://0?machine=trn2.48xlarge&mode=timing", dtype = "BF16";
  uint32_t tp = 1, input = 1024, output = 128, chunk = 2048;
  uint32_t per_launch = 0;  // tokens of one decode launch; 0: as a device of that kind is used
  bool decode_alone = false;
  std::string calibration;  // not "": that emulator's figures beside published ones, and nothing else
};

struct PlaceCall {
  std::string folder;                  // of a config.json; weights are not read
  std::string wafer = "cs3", dtype = "BF16", kv = "shift", ends = "pinned", bad_rows, svg, fabric;
  uint32_t wafers = 0, sequences = 1;  // wafers 0: the fewest
  uint64_t context = 0;                // 0: as long as fits
  int64_t reserve = -1;                // bytes of a PE; -1: as the wafer's data says
};

struct SnapshotCall {
  std::string file;   // "": stdout
  bool open = false;  // open the devices, for the paths between them
};

struct ArtifactsCall {
  std::string folder;                // of a model
  std::string artifacts, programs;   // folders: of compiled programs, to be looked at; for what a compiler reads, to be written. "": not
  std::string role = "both", order = "token_major", precision = "auto", dtype = "BF16";
  uint32_t tp = 1, context = 0, blocks = 0, block_tokens = 16, chunk = 2048;
};

int summary(const Context&);
int list(const Context&, const std::string& selector);
int info(const Context&, const std::string& selector);
// None: the machine and the paths between its devices. Two: the path from the first to the second. More: a matrix of them.
int topo(const Context&, const TopoCall&);
int bench_copy(const Context&, const CopyBench&);
int bench_launch(const Context&, const LaunchBench&);
int bench_kv(const Context&, const KvBench&);
int replay(const Context&, const ReplayCall&);
int cts(const Context&, const CtsCall&);  // does not return if baton-cts is there
int model_time(const Context&, const ModelCall&);  // what a device's timing model says of a model
int place_model(const Output&, const PlaceCall&);  // where a model lies on wafers; needs no device
int calibration(const Output&, const std::string& scheme);  // does not return if the emulator is there
int artifacts(const Output&, const ArtifactsCall&);  // the programs that a model needs; 1: some of them are not there
int fabric(const Context&);
int fabric_ping(const Context&, const PingCall&);    // 10: some fabrics do not go between the two sides
int fabric_serve(const Context&, const ServeCall&);  // until ctrl-C
int key_new(const Context&, const std::string& file);    // an identity of sessions
int key_show(const Context&, const std::string& file);   // its public half
int key_known(const Context&, const std::string& file);  // the peers of a known-peers file
int workers(const Context&, const WorkersCall&);         // who is registered; 1: some entries were wrong
int explain(const Output&, const std::string& code);  // "": all of them
int version(const Context&);
int snapshot(const Context&, const SnapshotCall&);  // every reading in one document, for --from

// SIGINT has come: end the measurement and return kInterrupted.
bool interrupted();

}  // namespace baton::devctl
