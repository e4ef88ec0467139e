// Recordings that `devctl replay` reads: what is read has each call's name and line, and the contents that issuing it needs.
#include "hal/layers/record/contents.h"
#include "tests/fuzz/folder.h"
#include "tests/fuzz/fuzz.h"
#include "tools/devctl/recording.h"

using namespace baton;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Folder folder;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto bytes = layers::from_base64(text);
  if (bytes) FUZZ_CHECK(bytes->size() <= text.size());
  auto r = devctl::read_recording(folder.write("calls.jsonl", text));
  if (!r) return fuzz::sound(r);
  for (const devctl::RecordedCall& c : r->calls) FUZZ_CHECK(c.line >= 2 && c.fields.is_object());
  for (const auto& [name, contents] : r->contents) FUZZ_CHECK(layers::hash_of(contents.data(), contents.size()) == name);
  return 0;
}
