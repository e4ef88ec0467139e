// A known-peers file: what is accepted has plain names and each key once, and is the same when it is written and read again.
#include "tests/fuzz/fuzz.h"
#include "transport/identity.hpp"

#include <algorithm>

using namespace baton;
using namespace baton::transport;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  auto peers = parse_known_peers(in.text(), "known");
  if (!peers) return fuzz::sound(peers);
  std::string again;
  for (const KnownPeer& p : *peers) {
    FUZZ_CHECK(!p.name.empty() && p.name.size() <= 64 && p.name.find_first_of(" \t\r\n#") == std::string::npos && p.line);
    again += p.name + " " + public_key_text(p.key);
    for (size_t i = 0; i < p.roles.size(); ++i) again += (i ? "," : " roles=") + p.roles[i];
    again += "\n";
  }
  for (size_t i = 1; i < peers->size(); ++i) FUZZ_CHECK((*peers)[i - 1].key < (*peers)[i].key);
  auto same = parse_known_peers(again, "known");
  FUZZ_CHECK(same.ok() && same->size() == peers->size());
  for (size_t i = 0; i < peers->size(); ++i)
    FUZZ_CHECK((*same)[i].name == (*peers)[i].name && (*same)[i].key == (*peers)[i].key && (*same)[i].roles == (*peers)[i].roles);
  return 0;
}
