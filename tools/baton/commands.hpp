// commands.hpp: the subcommands of `baton`. Each adds itself to the command line and runs after parsing; the value is the exit code.
#pragma once

#include "tools/baton/engine.hpp"
#include "tools/baton/service.hpp"
#include "transport/discovery/discovery.hpp"

#include <CLI/CLI.hpp>

#include <functional>
#include <string>

namespace baton::runtime {

using Run = std::function<int()>;
Run add_generate(CLI::App&);
Run add_worker(CLI::App&);
Run add_keygen(CLI::App&);
Run add_version(CLI::App&);

// What generate and worker share: model, precision, layout.
struct EngineFlags {
  std::string model_dir, precision = "auto", order = "token_major";
  uint32_t context = 0, blocks = 0, block_tokens = 16, chunk = 2048, launch_tokens = 32, tp = 1, stages = 0;
  uint64_t spill_bytes = 0;
  void add(CLI::App&);
  Result<EngineOptions> options() const;
};

// What a session is proved by: a key file, or an identity and known peers, or all three; and how its KV goes.
struct ProofFlags {
  std::string key_file, identity, known_peers, rails;
  bool seal = false;
  void add(CLI::App&);
  bool any() const { return !key_file.empty() || !identity.empty() || !known_peers.empty(); }
  Result<Proof> read() const; // INVALID_ARGUMENT if there is none
};

// Where a client looks for workers; "": nowhere.
struct WorkersFlags {
  transport::DiscoveryOptions from;
  CLI::Option* add(CLI::App&);
};

// Where workers are registered.
struct RegisterFlags {
  transport::DiscoveryOptions to;
  std::string id;
  uint64_t lease_s = 10;
  void add(CLI::App&);
};

}  // namespace baton::runtime
