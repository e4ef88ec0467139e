// Checkpoints: a safetensors file, its header alone (the length in front is made right), or an index that names files.
// What opens has tensors that lie in the file, each with the bytes of its shape.
#include "tests/fuzz/folder.h"
#include "tests/fuzz/fuzz.h"
#include "tools/model/weights.hpp"

using namespace baton;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Folder folder;
  fuzz::Input in(data, size);
  const uint8_t what = in.number() % 3;  // a file | header NUL data | index NUL header NUL data
  const bool index = what == 2;
  folder.remove("model.safetensors.index.json");
  if (index) folder.write("model.safetensors.index.json", in.line());
  std::string file;
  if (what) {
    const std::string_view header = in.line();
    const uint64_t length = header.size();
    file.append(reinterpret_cast<const char*>(&length), 8).append(header);
  }
  file += in.text();
  folder.write(index ? "a" : "model.safetensors", file);
  auto w = model::Weights::open(folder.path());
  if (!w) return fuzz::sound(w);
  uint64_t bytes = 0;
  for (const auto& [name, t] : w->all()) {
    auto tensor = w->tensor(name, t.shape);
    if (!tensor) fuzz::sound(tensor);
    bytes += t.data.size();
  }
  FUZZ_CHECK(bytes == w->bytes() && bytes <= file.size());
  (void)w->hash();  // reads all
  return 0;
}
