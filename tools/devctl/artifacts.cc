// artifacts: the programs that the runtime loads for a model, by fingerprint: what a compiler has to make, and what a folder has of it. A Neuron runtime
// that is no emulator takes compiled programs alone; the driver finds them by that name.
#include "tools/devctl/verbs.h"
#include "tools/model/programs.hpp"
#include "tools/model/synthetic.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace baton::devctl {
namespace {

constexpr uint32_t kDefaultContext = 8192;  // as baton's

struct Needed {
  std::string role, print;
  std::vector<uint32_t> ranks;  // that load it
  program::Program program;
  std::vector<uint8_t> bytes;
  uint64_t weight_bytes = 0;  // of a rank
  uint64_t kv_bytes = 0;
  int64_t artifact_bytes = -1;  // -1: not there
};

Result<model::Model> open_model(const ArtifactsCall& call) {
  const bool weights = std::filesystem::exists(call.folder + "/model.safetensors") || std::filesystem::exists(call.folder + "/model.safetensors.index.json");
  if (weights) return model::Model::load(call.folder);
  BATON_ASSIGN(model::ModelConfig config, model::load_config(call.folder));
  return model::shapes_alone(config, call.dtype);
}

Result<Needed> build(const model::Model& m, const ArtifactsCall& call, uint32_t context, uint32_t rank, bool prefill) {
  BATON_ASSIGN(model::Precision precision, model::parse_precision(call.precision));
  BATON_ASSIGN(model::Numbers numbers, model::Numbers::of(m, precision));
  BATON_ASSIGN(transport::KvOrder order, transport::parse_order(call.order));
  BATON_ASSIGN(model::Shard shard, model::Shard::make(m.config, rank, prefill ? call.tp : 1));
  const uint32_t blocks = call.blocks ? call.blocks : 4 * ((context + call.block_tokens - 1) / call.block_tokens);
  const auto layout = kv_layout(m.config, numbers, shard, order, call.block_tokens, blocks);
  BATON_TRY(layout.check());
  Needed n;
  n.role = prefill ? "prefill" : "decode";
  n.kv_bytes = layout.bytes();
  if (prefill) {
    BATON_ASSIGN(n.program, prefill_program(m, numbers, shard, {layout}, {std::clamp(call.chunk, 1u, context), context}));
  } else {
    BATON_ASSIGN(n.program, decode_program(m, numbers, shard, {layout}, {1, context}));
  }
  for (const program::Value& v : n.program.values) {
    if (v.storage != program::Storage::constant) continue;
    uint64_t bytes = dtype_bytes(v.dtype);
    for (int64_t d : v.shape) bytes *= uint64_t(d);
    n.weight_bytes += bytes;
  }
  n.bytes = program::serialize(n.program);
  n.print = program::fingerprint(n.bytes);
  return n;
}

// Ranks whose programs are the same need one.
Result<std::vector<Needed>> needed(const model::Model& m, const ArtifactsCall& call) {
  if (call.context > m.config.max_context)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("--context {} tokens; the model has {}", call.context, m.config.max_context), "lower --context");
  const uint32_t context = call.context ? call.context : std::min(m.config.max_context, kDefaultContext);
  std::vector<Needed> all;
  auto add = [&](uint32_t rank, bool prefill) -> Status {
    BATON_ASSIGN(Needed n, build(m, call, context, rank, prefill));
    auto same = std::find_if(all.begin(), all.end(), [&](const Needed& o) { return o.print == n.print; });
    if (same == all.end()) same = all.insert(all.end(), std::move(n));
    same->ranks.push_back(rank);
    return {};
  };
  for (uint32_t r = 0; r < call.tp && call.role != "decode"; ++r) BATON_TRY(add(r, true));
  if (call.role != "prefill") BATON_TRY(add(0, false));
  return all;
}

Status write_program(const Needed& n, const std::string& folder) {
  const std::string path = folder + "/" + n.print + ".program";
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(n.bytes.data()), std::streamsize(n.bytes.size()));
  file.close();
  if (file.fail()) return Error(BATON_IO, fmt::format("{}: {}", path, std::strerror(errno)), "name a folder that can be written to");
  return {};
}

std::string ranks_text(const Needed& n, uint32_t tp) {
  if (n.role == "decode") return "the one";
  return n.ranks.size() == tp ? fmt::format("all {}", tp) : fmt::format("{} of {}", n.ranks.size(), tp);
}

}  // namespace

int artifacts(const Output& out, const ArtifactsCall& call) {
  auto m = open_model(call);
  if (!m) return out.fail(m.error());
  auto list = needed(*m, call);
  if (!list) return out.fail(list.error());
  size_t missing = 0;
  for (Needed& n : *list) {
    struct stat st {};
    if (!call.artifacts.empty() && !stat((call.artifacts + "/" + n.print + ".neff").c_str(), &st)) n.artifact_bytes = int64_t(st.st_size);
    missing += !call.artifacts.empty() && n.artifact_bytes < 0;
    if (call.programs.empty()) continue;
    if (Status s = write_program(n, call.programs); !s.ok()) return out.fail(s.error());
  }
  if (out.is_json()) {
    json programs = json::array();
    for (const Needed& n : *list)
      programs.push_back({{"fingerprint", n.print}, {"role", n.role}, {"ranks", n.ranks}, {"of", n.program.ranks}, {"max_tokens", n.program.max_tokens},
                          {"max_context", n.program.max_context}, {"program_bytes", n.bytes.size()}, {"weight_bytes", n.weight_bytes}, {"kv_bytes", n.kv_bytes},
                          {"file", n.print + ".neff"}, {"found", call.artifacts.empty() ? json() : json(n.artifact_bytes >= 0)},
                          {"artifact_bytes", n.artifact_bytes < 0 ? json() : json(n.artifact_bytes)}});
    out.document("artifacts", {{"model", m->title()}, {"artifacts", call.artifacts.empty() ? json() : json(call.artifacts)}, {"missing", missing}, {"programs", programs}});
    return missing ? kFinding : kOk;
  }
  Table t({"FINGERPRINT", "ROLE", "RANKS", "TOKENS", "CONTEXT", "WEIGHTS", "KV-CACHE", "ARTIFACT"});
  for (size_t right : {3u, 4u, 5u, 6u}) t.right(right);
  for (const Needed& n : *list)
    t.row({n.print, n.role, ranks_text(n, call.tp), std::to_string(n.program.max_tokens), std::to_string(n.program.max_context), bytes_text(n.weight_bytes),
           bytes_text(n.kv_bytes), call.artifacts.empty() ? "no folder is named" : n.artifact_bytes < 0 ? "missing" : bytes_text(uint64_t(n.artifact_bytes))});
  out.print(t.text());
  return missing ? kFinding : kOk;
}

}  // namespace baton::devctl
