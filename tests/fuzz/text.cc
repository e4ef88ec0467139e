// Text, as a user types it or a peer sends it, through three tokenizers as they are in the field: whatever the bytes, decoding what was
// encoded gives the text back (where it was no UTF-8, with U+FFFD; for the one that normalizes, in NFC).
#include "tests/fuzz/fuzz.h"
#include "tools/model/nfc.hpp"
#include "tools/model/tokenizer.hpp"
#include "tools/model/utf8.hpp"

using namespace baton;
using nlohmann::json;

namespace {

// Llama 3's and Qwen2's patterns, as their tokenizer.json files have them.
constexpr const char* kLlama =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

model::Tokenizer make(const char* pattern, bool nfc) {
  json vocab = json::object(), merges = json::array();
  auto entry = [](std::string_view bytes) {
    std::string s;
    for (const char c : bytes) model::utf8_append(s, model::byte_alphabet()[uint8_t(c)]);
    return s;
  };
  for (int b = 0; b < 256; ++b) vocab[entry(std::string(1, char(b)))] = b;
  for (const auto& [left, right] : {std::pair{"t", "h"}, {"th", "e"}, {" ", "the"}, {" ", " "}, {"  ", "  "}, {"\xC3", "\xA9"}, {"\xE4\xBD", "\xA0"}, {"\xE4", "\xBD"}}) {
    vocab[entry(std::string(left) + right)] = vocab.size();
    merges.push_back(json::array({entry(left), entry(right)}));
  }
  json level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", pattern == nullptr}};
  json pre = level;
  if (pattern)
    pre = {{"type", "Sequence"},
           {"pretokenizers", {{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}}, level}}};
  json doc = {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}},
              {"pre_tokenizer", pre},
              {"decoder", {{"type", "ByteLevel"}}},
              {"normalizer", nfc ? json{{"type", "NFC"}} : json()}};
  auto t = model::Tokenizer::parse("built in", doc);
  FUZZ_CHECK(t.ok());
  return std::move(*t);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const model::Tokenizer gpt2 = make(nullptr, false), llama = make(kLlama, false), qwen = make(kQwen, true);
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string clean = model::utf8_clean(text), normal = model::to_nfc(clean);
  FUZZ_CHECK(model::utf8_clean(clean) == clean);
  FUZZ_CHECK(model::to_nfc(normal) == normal);
  for (const auto& [t, want] : {std::pair{&gpt2, &clean}, {&llama, &clean}, {&qwen, &normal}}) {
    auto ids = t->encode(text, true);
    FUZZ_CHECK(ids.ok());
    model::TextStream stream(*t);
    std::string back;
    for (const int32_t id : *ids) back += stream.push(id);
    FUZZ_CHECK(back + stream.flush() == *want);
  }
  return 0;
}
