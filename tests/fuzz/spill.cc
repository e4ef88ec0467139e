// The index of a folder of spilled KV blocks: as it is, or with its sums made right so that records are read. What parses has blocks within
// their slots, one a slot, and parses to the same again without its torn tail.
#include "tests/fuzz/fuzz.h"
#include "transport/spill_index.hpp"

#include <set>
#include <vector>

using namespace baton;
using namespace baton::transport;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  const uint8_t sound = in.number(); // the place of the first record whose sum is left as it is; 0: all, and the header's
  const auto rest = in.rest();
  std::vector<uint8_t> index(rest.begin(), rest.end());
  if (sound && index.size() >= kSpillUnit) {
    SpillHeader h;
    std::memcpy(&h, index.data(), sizeof h);
    seal_header(h);
    std::memcpy(index.data(), &h, sizeof h);
    for (uint64_t i = 0; (i + 2) * kSpillUnit <= index.size(); ++i) {
      SpillRecord r;
      std::memcpy(&r, index.data() + (i + 1) * kSpillUnit, sizeof r);
      if (i + 1 != sound) seal_record(r, h, i);
      std::memcpy(index.data() + (i + 1) * kSpillUnit, &r, sizeof r);
    }
  }
  auto x = parse_spill_index("index", index);
  if (!x) return fuzz::sound(x);
  std::set<uint32_t> slots;
  for (const auto& [key, e] : x->live) {
    FUZZ_CHECK(e.slot < x->header.slots && e.bytes && e.bytes <= x->header.block_bytes && e.generation < x->next_generation);
    FUZZ_CHECK(slots.insert(e.slot).second);
  }
  index.resize((x->records + 1) * kSpillUnit);
  auto again = parse_spill_index("index", index);
  FUZZ_CHECK(again.ok() && again->records == x->records && again->live.size() == x->live.size() && again->next_generation == x->next_generation);
  return 0;
}
