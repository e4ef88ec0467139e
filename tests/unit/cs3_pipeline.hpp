// cs3_pipeline.hpp: a small decode program whose layers have caches of their own by stage, as a runtime builds it for a device of several wafers,
// and what its launch binds. For tests and fuzz targets of the stages.
#pragma once

#include "drivers/cs3/stages.h"
#include "emulators/engine/engine.hpp"
#include "tests/unit/engine_model.h"

#include <bit>
#include <string>
#include <vector>

namespace baton::cs3::test {

namespace whole = baton::test;

inline whole::Model small_model(uint32_t layers) {
  whole::Model m;
  m.vocabulary = 31, m.hidden = 16, m.heads = 2, m.kv_heads = 1, m.head_dim = 8, m.ffn = 16, m.layers = layers;
  m.segments = 1, m.block_tokens = 4, m.max_tokens = 12, m.max_context = 16;
  return m;
}

// `layers`: of each stage; their sum is the model's.
inline program::Builder build_pipeline(const whole::Model& m, const whole::Weights& w, const std::vector<uint32_t>& layers) {
  whole::BuildState s{program::Builder("decode"), w, {}};
  program::Program& p = s.b.program();
  p.loop = true;
  p.max_tokens = 1;
  p.max_steps = m.max_tokens;
  p.max_context = m.max_context;
  p.args = {program::Arg::steps, program::Arg::position, program::Arg::temperature, program::Arg::top_p, program::Arg::seed, program::Arg::stop};
  const uint32_t ids = s.b.value("ids", program::DType::i32, program::Storage::inout, {program::kSteps});
  const uint32_t logits = s.b.value("logits", program::DType::f32, program::Storage::output, {program::kSteps, m.vocabulary}, true);
  uint32_t x = s.b.embed(ids, s.constant("embed"), m.stops), layer = 0;
  for (size_t stage = 0; stage < layers.size(); ++stage) {
    const uint32_t table = s.b.value("table" + std::to_string(stage), program::DType::i32, program::Storage::input, {int64_t(m.blocks())});
    const uint32_t cache = s.b.value("kv" + std::to_string(stage), m.kv_dtype, program::Storage::cache, {int64_t(m.cache_elements())});
    for (uint32_t l = 0; l < layers[stage]; ++l) x = whole::build_layer(s, m, 1, layer++, x, table, cache);
  }
  s.b.matmul(s.b.rms_norm(x, s.constant("norm"), 1e-5f), s.constant(m.tied ? "embed" : "lm_head"), m.act, 1, -1, logits);
  s.b.sample(logits, ids, m.stops);
  s.b.mark();
  return std::move(s.b);
}

inline std::vector<int64_t> decode_args(uint32_t steps, bool stop = false) {
  return {steps, 0, std::bit_cast<int64_t>(0.0), std::bit_cast<int64_t>(1.0), 0, stop};
}

// A program of one stage, loaded, with memory for what it binds but stage in and out.
struct LoadedStageProgram {
  std::vector<std::vector<uint8_t>> weights;
  std::optional<engine::Executable> exe;
  std::vector<std::vector<uint8_t>> memory;
  std::vector<std::string> names;          // of the bindings, which outlive the program that they were loaded from
  std::vector<engine::Binding> bindings;
  std::vector<uint8_t>* tokens = nullptr;

  static Result<LoadedStageProgram> load(const program::Program& p, const whole::Weights& w, const engine::CostModel* cost = nullptr) {
    LoadedStageProgram s;
    std::vector<engine::Constant> constants;
    s.weights.reserve(p.values.size());
    s.memory.reserve(p.values.size());
    s.names.reserve(p.values.size());
    for (const program::Value& v : p.values) {
      uint64_t bytes = program::dtype_bytes(v.dtype);
      for (const int64_t d : v.shape) bytes *= d == program::kSteps ? p.max_steps + (v.dtype == program::DType::i32) : d < 0 ? 1 : uint64_t(d);
      if (v.storage == program::Storage::constant) {
        s.weights.push_back(whole::to_bytes(w.at(v.name).data, w.at(v.name).dtype));
        constants.push_back({v.name, s.weights.back()});
      } else if (v.storage != program::Storage::scratch && !v.optional && v.name != kStageIn && v.name != kStageOut) {
        s.memory.emplace_back(bytes);
        if (v.name == "ids") s.tokens = &s.memory.back();
        if (v.name.rfind("table", 0) == 0)
          for (uint64_t i = 0; i < bytes / 4; ++i) s.memory.back()[i * 4] = uint8_t(i);  // blocks in order
        s.names.push_back(v.name);
        s.bindings.push_back({s.names.back(), s.memory.back()});
      }
    }
    BATON_ASSIGN(s.exe, engine::Executable::load(program::serialize(p), constants, {.isa = engine::Isa::scalar, .cost = cost}));
    return s;
  }
};

}  // namespace baton::cs3::test
