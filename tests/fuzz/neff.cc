// NEFF containers as a process hands them to nrt_load: the reader gives a view that lies in the container, or says what is wrong.
//
// The container's sums stand in the way of mutations: the first byte says whether data_size and the archive's checksums are made right.
#include "drivers/neuron/neff.hpp"
#include "emulators/neuron/neff_reader.hpp"
#include "tests/fuzz/fuzz.h"

#include <algorithm>
#include <vector>

using namespace baton;
using neuron::NeffHeader;
using neuron::TarHeader;

namespace {

// Headers stand where the sizes that they say lead to.
void repair(std::vector<uint8_t>& bytes) {
  if (bytes.size() < sizeof(NeffHeader)) return;
  NeffHeader h;
  std::memcpy(&h, bytes.data(), sizeof h);
  h.data_size = bytes.size() - sizeof h;
  std::memcpy(bytes.data(), &h, sizeof h);
  for (size_t at = sizeof h; bytes.size() - at >= sizeof(TarHeader);) {
    TarHeader t;
    std::memcpy(&t, bytes.data() + at, sizeof t);
    if (!t.name[0]) return;
    std::snprintf(t.checksum, sizeof t.checksum, "%06o", neuron::tar_checksum(t));
    t.checksum[7] = ' ';
    std::memcpy(bytes.data() + at, &t, sizeof t);
    const uint64_t size = std::strtoull(std::string(t.size, sizeof t.size).c_str(), nullptr, 8);
    at += sizeof t;
    if (size > bytes.size() - at || (size + 511) / 512 * 512 > bytes.size() - at) return;
    at += (size + 511) / 512 * 512;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  const bool fix = in.number() % 2;
  const auto rest = in.rest();
  std::vector<uint8_t> bytes(rest.begin(), rest.end());
  if (fix) repair(bytes);
  auto view = neuron_emu::read_neff(bytes);
  if (!view) return fuzz::sound(view);
  const auto inside = [&](std::span<const uint8_t> part) {
    return part.empty() || (part.data() >= bytes.data() && part.data() + part.size() <= bytes.data() + bytes.size());
  };
  FUZZ_CHECK(inside(view->program) && view->names.size() == view->constants.size());
  for (const auto& c : view->constants) FUZZ_CHECK(inside(c.data));
  fuzz::sound(program::parse(view->program));
  return 0;
}
