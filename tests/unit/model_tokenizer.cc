#include "tools/model/tokenizer.hpp"

#include "tests/unit/model_fixture.hpp"
#include "tools/model/nfc.hpp"
#include "tools/model/utf8.hpp"

#include <chrono>
#include <functional>

namespace baton::model {
namespace {

using nlohmann::json;

Tokenizer demo() {
  auto t = Tokenizer::load(demo_dir() + "/tokenizer.json");
  EXPECT_TRUE(t.ok()) << t.error().text();
  return std::move(*t);
}

std::string text_of(const Tokenizer& t, const std::vector<int32_t>& ids) {
  TextStream s(t);
  std::string out;
  for (int32_t id : ids) out += s.push(id);
  return out + s.flush();
}

TEST(Tokenizer, Golden) {
  Tokenizer t = demo();
  json golden = json::parse(*read_text(demo_dir() + "/golden/tokenizer.json"));
  ASSERT_GT(golden.size(), 10u);
  for (const json& g : golden) {
    std::string text = g["text"];
    auto ids = t.encode(text, false);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*ids, g["ids"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(text_of(t, *ids), text);
  }
}

TEST(Tokenizer, GoldenPromptsWithTemplate) {
  Tokenizer t = demo();
  json golden = json::parse(*read_text(demo_dir() + "/golden/golden.json"));
  for (const json& g : golden["prompts"]) {
    auto ids = t.encode(g["prompt"].get<std::string>(), true);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*ids, g["ids"].get<std::vector<int32_t>>());
    EXPECT_EQ(text_of(t, g["greedy"].get<std::vector<int32_t>>()), g["greedy_text"].get<std::string>());
  }
}

TEST(Tokenizer, SpecialTokensInText) {
  Tokenizer t = demo();
  auto ids = t.encode("a<|end_of_text|>a", false);
  EXPECT_EQ(*ids, (std::vector<int32_t>{64, 2047, 64}));
  EXPECT_EQ(text_of(t, *ids), "aa");
}

TEST(Tokenizer, LongTextIsNotQuadratic) {
  Tokenizer t = demo();
  // One pre-token of 1 MiB, and as much white space: the classic traps.
  for (std::string text : {std::string(1 << 20, 'a'), std::string(1 << 20, ' '), std::string(1 << 20, '\xFF')}) {
    auto begin = std::chrono::steady_clock::now();
    auto ids = t.encode(text, false);
    ASSERT_TRUE(ids.ok()) << ids.error().text();
    EXPECT_GT(ids->size(), 1000u);
    auto took = std::chrono::steady_clock::now() - begin;
    EXPECT_LT(std::chrono::duration<double>(took).count(), 20.0);
  }
}

TEST(Tokenizer, StreamHoldsBackHalfCharacters) {
  Tokenizer t = demo();
  auto ids = t.encode("\xF0\x9F\x98\x80!", false); // four bytes of one emoji, one token each
  ASSERT_EQ(ids->size(), 5u);
  TextStream s(t);
  EXPECT_EQ(s.push((*ids)[0]), "");
  EXPECT_EQ(s.push((*ids)[1]), "");
  EXPECT_EQ(s.push((*ids)[2]), "");
  EXPECT_EQ(s.push((*ids)[3]), "\xF0\x9F\x98\x80");
  EXPECT_EQ(s.push((*ids)[4]), "!");
  EXPECT_EQ(s.push((*ids)[0]), "");
  EXPECT_EQ(s.push((*ids)[4]), "\xEF\xBF\xBD!"); // it never came to an end
  EXPECT_EQ(s.push((*ids)[0]), "");
  EXPECT_EQ(s.flush(), "\xEF\xBF\xBD");
}

// A byte-level vocabulary of single bytes and a few merges, to vary the document around it.
json small(json merges = json::array({"a b", "ab c"})) {
  json vocab;
  for (uint32_t b = 0; b < 256; ++b) {
    std::string s;
    utf8_append(s, byte_alphabet()[b]);
    vocab[s] = b;
  }
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  vocab["bc"] = 258;
  vocab["abcab"] = 259;
  return {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"added_tokens", json::array()},
          {"post_processor", nullptr},
          {"normalizer", nullptr}};
}
std::vector<int32_t> encode(const json& doc, std::string_view text, bool with = true) {
  auto t = Tokenizer::parse("tokenizer.json", doc);
  EXPECT_TRUE(t.ok()) << t.error().text();
  if (!t.ok()) return {};
  auto ids = t->encode(text, with);
  return ids.ok() ? *ids : std::vector<int32_t>{-1};
}
using Ids = std::vector<int32_t>;

TEST(Tokenizer, MergesByRank) {
  EXPECT_EQ(encode(small(), "abc"), (Ids{257}));
  EXPECT_EQ(encode(small({"b c", "a b"}), "abc"), (Ids{'a', 258}));
  EXPECT_EQ(encode(small(json::array({{"a", "b"}, {"ab", "c"}})), "abcab"), (Ids{257, 256}));
  json ignore = small();
  ignore["model"]["ignore_merges"] = true;
  EXPECT_EQ(encode(ignore, "abcab"), (Ids{259}));
}

TEST(Tokenizer, PreTokenizers) {
  json gpt2 = small({"' s"});
  gpt2["model"]["vocab"]["'s"] = 300;
  EXPECT_EQ(encode(gpt2, "a's"), (Ids{'a', 300}));

  json prefix = small();
  prefix["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_EQ(encode(prefix, "x"), (Ids{' ', 'x'}));

  json digits = small({"1 2"});
  digits["model"]["vocab"]["12"] = 300;
  EXPECT_EQ(encode(digits, "12"), (Ids{300}));
  digits["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, {{"type", "ByteLevel"}, {"add_prefix_space", false}}}}};
  EXPECT_EQ(encode(digits, "12"), (Ids{'1', '2'}));

  json removed = small();
  removed["pre_tokenizer"] = {{"type", "Sequence"},
                              {"pretokenizers", {{{"type", "Split"}, {"pattern", {{"String", "."}}}, {"behavior", "Removed"}, {"invert", false}},
                                                 {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  EXPECT_EQ(encode(removed, "a.b.c"), (Ids{'a', 'b', 'c'}));
}

TEST(Tokenizer, TemplateAndAddedTokens) {
  json t = small();
  t["added_tokens"] = {{{"id", 400}, {"content", "<s>"}, {"special", true}},
                       {{"id", 401}, {"content", "<s>x"}, {"special", false}},
                       {{"id", 402}, {"content", "<m>"}, {"special", true}, {"lstrip", true}, {"rstrip", true}}};
  t["post_processor"] = {{"type", "TemplateProcessing"},
                         {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}, {{"SpecialToken", {{"id", "<s>"}}}}}},
                         {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {400}}}}}}};
  EXPECT_EQ(encode(t, "a"), (Ids{400, 'a', 400}));
  EXPECT_EQ(encode(t, "a", false), (Ids{'a'}));
  EXPECT_EQ(encode(t, "<s>xa", false), (Ids{401, 'a'})); // the longest wins
  EXPECT_EQ(encode(t, "a <m> a", false), (Ids{'a', 402, 'a'}));
}

struct Refusal {
  const char* what;
  std::function<void(json&)> edit;
  const char* says;
};

TEST(Tokenizer, Refusals) {
  const Refusal all[] = {
      {"unigram", [](json& j) { j["model"]["type"] = "Unigram"; }, "Unigram"},
      {"metaspace", [](json& j) { j["pre_tokenizer"] = {{"type", "Metaspace"}}; }, "sentencepiece"},
      {"none", [](json& j) { j["pre_tokenizer"] = nullptr; }, "sentencepiece"},
      {"byte_fallback", [](json& j) { j["model"]["byte_fallback"] = true; }, "byte_fallback"},
      {"sentencepiece vocabulary", [](json& j) { j["model"]["vocab"]["\xE2\x96\x81the"] = 300; }, "sentencepiece"},
      {"no byte", [](json& j) { j["model"]["vocab"].erase("a"); }, "byte 0x61"},
      {"merge of strangers", [](json& j) { j["model"]["merges"] = {"x y"}; }, "merge 0"},
      {"merge of three", [](json& j) { j["model"]["merges"] = {"a b c"}; }, "merge 0"},
      {"merge number", [](json& j) { j["model"]["merges"] = {7}; }, "merge 0"},
      {"merges text", [](json& j) { j["model"]["merges"] = "a b"; }, "merges"},
      {"vocabulary list", [](json& j) { j["model"]["vocab"] = json::array(); }, "vocab"},
      {"id text", [](json& j) { j["model"]["vocab"]["a"] = "x"; }, "'a'"},
      {"no model", [](json& j) { j.erase("model"); }, "model"},
      {"normalizer", [](json& j) { j["normalizer"] = {{"type", "Lowercase"}}; }, "Lowercase"},
      {"decoder", [](json& j) { j["decoder"] = {{"type", "WordPiece"}}; }, "WordPiece"},
      {"no decoder", [](json& j) { j["decoder"] = nullptr; }, "decoder"},
      {"post", [](json& j) { j["post_processor"] = {{"type", "BertProcessing"}}; }, "BertProcessing"},
      {"template", [](json& j) { j["post_processor"] = {{"type", "TemplateProcessing"}, {"single", {{{"SpecialToken", {{"id", "<x>"}}}}}}}; }, "<x>"},
      {"pattern", [](json& j) { j["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}}; }, "pattern"},
      {"behavior", [](json& j) { j["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "MergedWithNext"}}; }, "MergedWithNext"},
      {"single word", [](json& j) { j["added_tokens"] = {{{"id", 300}, {"content", "x"}, {"single_word", true}}}; }, "single_word"},
      {"added id", [](json& j) { j["added_tokens"] = {{{"id", 1ull << 40}, {"content", "x"}}}; }, "'x'"},
      {"types", [](json& j) { j["decoder"]["type"] = 5; }, "tokenizer.json"},
  };
  for (const Refusal& r : all) {
    json j = small();
    r.edit(j);
    auto t = Tokenizer::parse("tokenizer.json", j);
    ASSERT_FALSE(t.ok()) << r.what;
    EXPECT_NE(std::string(t.error().what).find(r.says), std::string::npos) << r.what << ": " << t.error().what;
    EXPECT_NE(std::string(t.error().next), "") << r.what;
  }
}

TEST(Nfc, KnownForms) {
  EXPECT_EQ(to_nfc("plain"), "plain");
  EXPECT_EQ(to_nfc("e\xCC\x81"), "\xC3\xA9");                           // e + acute
  EXPECT_EQ(to_nfc("\xE2\x84\xAB"), "\xC3\x85");                        // angstrom sign -> A with ring
  EXPECT_EQ(to_nfc("q\xCC\x87\xCC\xA3"), "q\xCC\xA3\xCC\x87");          // marks are sorted by class
  EXPECT_EQ(to_nfc("\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB"), "\xED\x95\x9C"); // Hangul: H + A + N
  EXPECT_EQ(to_nfc("\xE0\xA5\x98"), "\xE0\xA4\x95\xE0\xA4\xBC");        // composition exclusion stays apart
  EXPECT_EQ(to_nfc("\xF0\x9F\x98\x80"), "\xF0\x9F\x98\x80");
}

TEST(Utf8, CleanAndTail) {
  EXPECT_EQ(utf8_clean("a\xFF" "b"), "a\xEF\xBF\xBD" "b");
  EXPECT_EQ(utf8_clean("\xE6\x97"), "\xEF\xBF\xBD");
  EXPECT_EQ(utf8_clean("\xED\xA0\x80").size(), 9u); // a surrogate: three wrong bytes
  EXPECT_EQ(utf8_incomplete_tail("abc"), 0u);
  EXPECT_EQ(utf8_incomplete_tail("a\xE6\x97"), 2u);
  EXPECT_EQ(utf8_incomplete_tail("a\xE6\x97\xA5"), 0u);
  EXPECT_EQ(utf8_incomplete_tail("\x80\x80\x80\x80"), 0u);
  EXPECT_EQ(utf8_incomplete_tail("\xF0"), 1u);
}

}  // namespace
}  // namespace baton::model
