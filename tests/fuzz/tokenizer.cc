// tokenizer.json of a checkpoint, then text through it. The tokenizer is what a stranger wrote: ids stay within its size, and text that is
// encoded is decoded piece by piece as it would be as a whole.
//
// An input is a JSON document, NUL, a text. A vocabulary needs an entry for each byte, which no mutation would invent: the key "bytes" in
// the place of model.vocab stands for the whole alphabet, with ids from 0.
#include "tests/fuzz/fuzz.h"
#include "tools/model/json_file.hpp"
#include "tools/model/tokenizer.hpp"
#include "tools/model/utf8.hpp"

using namespace baton;
using nlohmann::json;

namespace {

void complete(json& doc) {
  if (!doc.is_object() || !doc.contains("model") || !doc["model"].is_object() || !doc["model"].contains("bytes")) return;
  json& vocab = doc["model"]["vocab"];
  if (!vocab.is_object()) vocab = json::object();
  for (uint32_t b = 0; b < 256; ++b) {
    std::string entry;
    model::utf8_append(entry, model::byte_alphabet()[b]);
    if (!vocab.contains(entry)) vocab[entry] = b;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  auto doc = model::parse_json("tokenizer.json", in.line());
  if (!doc) return fuzz::sound(doc);
  complete(*doc);
  auto t = model::Tokenizer::parse("tokenizer.json", *doc);
  if (!t) return fuzz::sound(t);
  const std::string_view text = in.text();
  for (const bool with_template : {false, true}) {
    auto ids = t->encode(text, with_template);
    if (!ids) return fuzz::sound(ids);
    auto again = t->encode(text, with_template);  // now from the cache of words
    FUZZ_CHECK(again.ok() && *again == *ids);
    model::TextStream stream(*t);
    std::string pieces, whole;
    for (const int32_t id : *ids) {
      FUZZ_CHECK(id >= 0);
      pieces += stream.push(id);
      whole += t->bytes(id);
    }
    FUZZ_CHECK(pieces + stream.flush() == model::utf8_clean(whole));
  }
  return 0;
}
