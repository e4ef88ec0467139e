// A KV layout as a line or as JSON, as baton_kv_layout_parse takes it: what parses is a sound layout, says itself again, and reads back as the same.
#include "tests/fuzz/fuzz.h"
#include "transport/kv_layout_text.hpp"

using namespace baton;
using namespace baton::transport;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto l = parse_layout(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!l) {
    (void)fuzz::sound(l);
    return 0;
  }
  FUZZ_CHECK(l->check().ok());
  auto again = parse_layout(l->describe());
  FUZZ_CHECK(again.ok() && again->describe() == l->describe() && again->bytes() == l->bytes());
  return 0;
}
