// Serialized programs as they come in a file, a NEFF or over a link: parse() refuses them or gives a program that verifies and that
// its own serializer writes so that it parses to the same.
#include "hal/program/program.hpp"
#include "tests/fuzz/fuzz.h"

using namespace baton;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto p = program::parse({data, size});
  if (!p) return fuzz::sound(p);
  FUZZ_CHECK(program::verify(*p).ok());
  const std::vector<uint8_t> again = program::serialize(*p);
  auto same = program::parse(again);
  FUZZ_CHECK(same.ok());
  FUZZ_CHECK(program::serialize(*same) == again);
  FUZZ_CHECK(program::dump(*same) == program::dump(*p));
  return 0;
}
