#include "tools/baton/commands.hpp"
#include "tools/model/fail.hpp"

namespace baton::runtime {

void EngineFlags::add(CLI::App& app) {
  app.add_option("--model", model_dir, "folder with config.json, tokenizer.json, *.safetensors (default: BATON_MODEL, then the demo model)");
  app.add_option("--precision", precision, "auto: as the checkpoint; f32: f32 activations and KV")->check(CLI::IsMember({"auto", "f32"}));
  app.add_option("--tp", tp, "prefill ranks: 1, 2 or 4")->check(CLI::IsMember({1, 2, 4}));
  app.add_option("--block-tokens", block_tokens, "tokens of a KV block")->check(CLI::Range(1, 4096));
  app.add_option("--kv-order", order, "token_major, head_major or block_major")->check(CLI::IsMember({"token_major", "head_major", "block_major"}));
  app.add_option("--context", context, "tokens that a request may reach (default: the model's, at most 8192)");
  app.add_option("--blocks", blocks, "blocks of the KV-cache (default: four contexts)");
  app.add_option("--prefill-chunk", chunk, "tokens of one prefill launch")->check(CLI::Range(1, 1 << 20));
  app.add_option("--launch-tokens", launch_tokens, "tokens of one decode launch, at most; 0: all in one");
  app.add_option("--stages", stages, "decode: wafers of the device that share the layers as a pipeline; 0: the fewest that hold the model")->check(CLI::Range(0, 16));
  app.add_option("--spill-bytes", spill_bytes, "decode: host memory, as 2GB, for KV of sequences that wait while others have the device; 0: what the device cannot keep is refused")
      ->transform(CLI::AsSizeValue(true));
}

Result<EngineOptions> EngineFlags::options() const {
  EngineOptions o;
  BATON_ASSIGN(o.precision, model::parse_precision(precision));
  BATON_ASSIGN(o.order, transport::parse_order(order));
  o.block_tokens = block_tokens;
  o.context = context;
  o.blocks = blocks;
  o.tp = tp;
  o.chunk = chunk;
  o.launch_tokens = launch_tokens;
  o.stages = stages;
  o.spill_bytes = spill_bytes;
  return o;
}

void ProofFlags::add(CLI::App& app) {
  app.add_option("--key-file", key_file, "key shared by client and workers ('baton keygen FILE')");
  app.add_option("--identity", identity, "this side's key pair ('devctl key new FILE'); goes with --known-peers");
  app.add_option("--known-peers", known_peers, "who may talk to it: lines of NAME PUBLICKEY [roles=client,prefill,decode]");
  app.add_flag("--seal", seal, "encrypt KV that leaves a host, piece by piece; one side that asks for it is enough");
  app.add_option("--rails", rails, "NICs that KV goes by at once, with commas, or all ('devctl fabric' lists them); on both sides");
}

static void add_etcd(CLI::App& app, CLI::Option* where, transport::DiscoveryOptions& to) {
  app.add_option("--etcd-ca", to.ca, "TLS: the authorities to believe, PEM")->needs(where);
  app.add_option("--etcd-cert", to.cert, "TLS: this side's certificate, PEM")->needs(where);
  app.add_option("--etcd-key", to.key, "TLS: its key, PEM")->needs(where);
  app.add_option("--etcd-user", to.user, "a user of etcd; goes with --etcd-password-file")->needs(where);
  app.add_option("--etcd-password-file", to.password_file, "a file with the password, mode 0600")->needs(where);
}

CLI::Option* WorkersFlags::add(CLI::App& app) {
  auto* where = app.add_option("--workers", from.source,
                               "choose workers that are registered there, for each side that is not given: a file, or etcd as http://HOST:2379, several with commas (devctl workers)");
  app.add_option("--workers-prefix", from.prefix, "where the workers' keys are in etcd")->needs(where)->capture_default_str();
  add_etcd(app, where, from);
  return where;
}

void RegisterFlags::add(CLI::App& app) {
  auto* where = app.add_option("--register", to.source, "register this worker: etcd as http://HOST:2379, several with commas; or check it in a file (devctl workers)");
  app.add_option("--id", id, "its name there (default: ROLE@HOST:PORT)")->needs(where);
  app.add_option("--register-prefix", to.prefix, "where the workers' keys are in etcd")->needs(where)->capture_default_str();
  app.add_option("--register-lease", lease_s, "seconds after which a dead worker is gone from etcd")->needs(where)->check(CLI::Range(2, 3600))->capture_default_str();
  add_etcd(app, where, to);
}

Result<Proof> ProofFlags::read() const {
  Proof p{{}, identity, known_peers};
  if (!any())
    return Error(BATON_INVALID_ARGUMENT, "no key: neither --key-file nor --identity with --known-peers", "baton keygen FILE makes a key to share, devctl key new FILE an identity");
  if (!key_file.empty()) { BATON_ASSIGN(p.key, transport::read_key_file(key_file)); }
  return p;
}

}  // namespace baton::runtime
