// SUBJECT.json of the conformance suites: what is accepted names an address and gives a reason for each exception.
#include "tests/cts/subject_file.h"
#include "tests/fuzz/folder.h"
#include "tests/fuzz/fuzz.h"

using namespace baton;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Folder folder;
  auto s = cts::subject_of(folder.write("subject.json", {reinterpret_cast<const char*>(data), size}));
  if (!s) return fuzz::sound(s);
  FUZZ_CHECK(!s->uri.empty());
  for (const auto* list : {&s->unsupported, &s->expected_failures})
    for (const cts::Entry& e : *list) FUZZ_CHECK(!e.reason.empty());
  return 0;
}
