// config.json, and generation_config.json behind a NUL: what is accepted has dimensions that can be reckoned with and finite frequencies.
#include "tests/fuzz/fuzz.h"
#include "tools/model/config.hpp"
#include "tools/model/json_file.hpp"

#include <cmath>

using namespace baton;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  auto config = model::parse_json("config.json", in.line());
  if (!config) return fuzz::sound(config);
  const bool two = !in.empty();
  auto generation = model::parse_json("generation_config.json", two ? in.text() : "{}");
  if (!generation) return fuzz::sound(generation);
  auto c = model::parse_config("config.json", *config, two ? &*generation : nullptr);
  if (!c) return fuzz::sound(c);
  FUZZ_CHECK(c->layers && c->window.size() == c->layers && c->heads && c->kv_heads && c->heads % c->kv_heads == 0);
  FUZZ_CHECK(!c->describe().empty());
  (void)c->parameters();
  for (const float f : c->inv_freq()) FUZZ_CHECK(std::isfinite(f));
  return 0;
}
