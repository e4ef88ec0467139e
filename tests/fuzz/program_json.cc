// A program's JSON form: what baton_program_from_json takes, parse() takes; what it refuses, it says why.
#include "hal/program/json.h"
#include "hal/program/program.hpp"
#include "tests/fuzz/fuzz.h"

using namespace baton;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  uint64_t bytes = 0;
  Error e;
  if (baton_program_from_json(text.c_str(), nullptr, 0, &bytes, &e) != BATON_OK) return fuzz::sound(e);
  std::vector<uint8_t> out(bytes);
  FUZZ_CHECK(baton_program_from_json(text.c_str(), out.data(), out.size(), &bytes, &e) == BATON_OK && bytes == out.size());
  FUZZ_CHECK(program::parse(out).ok());
  return 0;
}
