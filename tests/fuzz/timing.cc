// Files of timing models: what becomes a model gives times that are numbers, for small and for large work.
#include "emulators/timing/timing.hpp"
#include "tests/fuzz/fuzz.h"

#include <cmath>

using namespace baton;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto file = timing::parse_model_file({reinterpret_cast<const char*>(data), size}, "model.json");
  if (!file) return fuzz::sound(file);
  auto model = timing::make_cost_model(*file, "model.json");
  if (!model) return fuzz::sound(model);
  const engine::CostModel& m = **model;
  FUZZ_CHECK(!m.name().empty());
  // The engine and the daemon round these to uint64_t.
  const auto time = [](double ns) { FUZZ_CHECK(std::isfinite(ns) && ns >= 0); };
  time(m.launch_ns());
  for (const uint64_t bytes : {uint64_t(0), uint64_t(4096), uint64_t(1) << 40}) time(m.copy_ns(bytes, true)), time(m.copy_ns(bytes, false));
  for (uint8_t code = 1; code <= uint8_t(program::kLastOpCode); ++code)
    for (const uint64_t n : {1, 1 << 20})
      time(m.op_ns({.code = program::OpCode(code), .tokens = uint32_t(n), .context = uint32_t(n), .n = n, .k = n, .macs = n * n, .weight_bytes = n, .kv_bytes = n, .act_bytes = n}));
  return 0;
}
