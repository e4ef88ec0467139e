// Writes the NEFF that client.c runs: y = x + x over 16 floats, with its hash in the header. Argument: the file.
#include "drivers/neuron/neff.hpp"
#include "emulators/neuron/neff_reader.hpp"
#include "hal/program/program.hpp"

#include <cstdio>
#include <cstring>

using namespace baton;

int main(int argc, char** argv) {
  program::Builder b("double");
  uint32_t x = b.value("x", program::DType::f32, program::Storage::input, {1, 16});
  uint32_t y = b.value("y", program::DType::f32, program::Storage::output, {1, 16});
  b.program().ops.push_back({.code = program::OpCode::add, .in = {x, x}, .out = {y}});
  auto p = std::move(b).finish();
  if (!p.ok()) return 1;
  auto neff = neuron::Neff::build("double", 2, program::serialize(*p), {});
  std::FILE* file = argc > 1 ? std::fopen(argv[1], "wb") : nullptr;
  if (!neff.ok() || !file) return 1;
  const auto hash = neuron_emu::neff_hash({neff->data() + sizeof(neuron::NeffHeader), neff->bytes() - sizeof(neuron::NeffHeader)}, neuron::kNeffPackage);
  std::memcpy(neff->data() + offsetof(neuron::NeffHeader, hash), hash.data(), hash.size());
  const bool whole = std::fwrite(neff->data(), 1, neff->bytes(), file) == neff->bytes();
  return std::fclose(file) || !whole;
}
