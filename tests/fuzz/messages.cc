// The messages between `baton`'s client, prefill service and decode service: an authenticated peer's, of which every field is checked. What is read is
// written so that it reads the same.
//
// An input is a byte (which message), its JSON body, NUL, its bytes.
#include "tests/fuzz/fuzz.h"
#include "tools/baton/wire.hpp"

using namespace baton;
using namespace baton::runtime;
using nlohmann::json;
using transport::Message;

namespace {

template <class T>
int round_trip(const Message& m) {
  auto a = T::from(m);
  if (!a) return fuzz::sound(a);
  const Message once = a->message();
  auto b = T::from(once);
  FUZZ_CHECK(b.ok());
  const Message twice = b->message();
  FUZZ_CHECK(once.body == twice.body && once.bytes == twice.bytes);
  return 0;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  const uint8_t which = in.number();
  const std::string_view text = in.line();
  Message m{"message", json::parse(text.begin(), text.end(), nullptr, false), {}};
  if (m.body.is_discarded()) return 0;
  const auto bytes = in.rest();
  m.bytes.assign(bytes.begin(), bytes.end());
  const Error e = error_from_json(m.body);
  FUZZ_CHECK(e.code != BATON_OK);
  (void)with_hop(e, "decode cs3://b:2");
  const Transfer t = transfer_from_json(m.body);
  FUZZ_CHECK(to_json(transfer_from_json(to_json(t))) == to_json(t));
  fuzz::sound(list_field(m, "tokens"));
  fuzz::sound(floats_of(m));
  switch (which % 4) {
    case 0: return round_trip<Hello>(m);
    case 1: return round_trip<Reserve>(m);
    case 2: return round_trip<Prefill>(m);
    default: return round_trip<Handover>(m);
  }
}
