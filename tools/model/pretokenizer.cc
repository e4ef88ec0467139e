#define PCRE2_CODE_UNIT_WIDTH 8
#include "tools/model/pretokenizer.hpp"

#include "tools/model/fail.hpp"
#include "tools/model/json_file.hpp"

#include <pcre2.h>

namespace baton::model {

using nlohmann::json;

namespace {

// GPT-2's split, which ByteLevel uses with use_regex.
constexpr const char* kByteLevelRegex = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kWanted = "use a checkpoint with a byte-level BPE tokenizer.json";

struct CodeFree {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};
struct MatchFree {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};
struct ContextFree {
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
struct StackFree {
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};

}  // namespace

struct PreTokenizer::Pattern {
  std::unique_ptr<pcre2_code, CodeFree> code;
  std::unique_ptr<pcre2_match_data, MatchFree> match;
  std::unique_ptr<pcre2_match_context, ContextFree> context;
  std::unique_ptr<pcre2_jit_stack, StackFree> stack;
  bool keep_gaps = true, keep_matches = true;
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

Status PreTokenizer::add_pattern(const std::string& regex, bool keep_gaps, bool keep_matches) {
  auto p = std::make_unique<Pattern>();
  int code = 0;
  size_t at = 0;
  p->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(), PCRE2_UTF | PCRE2_UCP, &code, &at, nullptr));
  if (!p->code) {
    unsigned char text[120] = "";
    pcre2_get_error_message(code, text, sizeof text);
    return fail(BATON_CORRUPT, kWanted, "pre_tokenizer: pattern does not compile: {} at character {}", reinterpret_cast<char*>(text), at);
  }
  p->match.reset(pcre2_match_data_create_from_pattern(p->code.get(), nullptr));
  p->context.reset(pcre2_match_context_create(nullptr));
  // The JIT's default stack of 32 KiB is too small for long runs of one class.
  if (pcre2_jit_compile(p->code.get(), PCRE2_JIT_COMPLETE) == 0) {
    p->stack.reset(pcre2_jit_stack_create(64 << 10, 64 << 20, nullptr));
    pcre2_jit_stack_assign(p->context.get(), nullptr, p->stack.get());
  }
  // A fraction of a second for a hostile pattern, (a+)+$ say; a run of one class of 10 MB, which backtracks once a byte, is below.
  pcre2_set_match_limit(p->context.get(), 1u << 24);
  pcre2_set_heap_limit(p->context.get(), 1u << 20); // KiB
  p->keep_gaps = keep_gaps;
  p->keep_matches = keep_matches;
  patterns_.push_back(std::move(p));
  return {};
}

Status PreTokenizer::add_split(const json& spec) {
  Fields f("tokenizer.json: pre_tokenizer Split", spec);
  const json* pattern = f.find("pattern");
  if (!pattern || !pattern->is_object()) return fail(BATON_CORRUPT, kWanted, "pre_tokenizer: Split without a pattern");
  Fields g("tokenizer.json: pre_tokenizer Split pattern", *pattern);
  BATON_ASSIGN(std::string regex, g.string("Regex", ""));
  if (regex.empty()) {
    BATON_ASSIGN(std::string literal, g.string("String"));
    for (char c : literal) { // quoted byte by byte where PCRE2 could read it as syntax
      if (uint8_t(c) < 0x80 && !isalnum(uint8_t(c))) regex += '\\';
      regex += c;
    }
  }
  BATON_ASSIGN(std::string behavior, f.string("behavior"));
  BATON_ASSIGN(bool invert, f.boolean("invert", false));
  if (behavior == "Isolated") return add_pattern(regex, true, true);
  if (behavior == "Removed") return add_pattern(regex, !invert, invert);
  return fail(BATON_UNSUPPORTED, kWanted, "pre_tokenizer: Split behavior '{}' is not supported (Isolated and Removed are)", behavior);
}

Status PreTokenizer::add(const json& spec) {
  Fields f("tokenizer.json: pre_tokenizer", spec);
  BATON_ASSIGN(std::string type, f.string("type"));
  if (byte_level_) return fail(BATON_UNSUPPORTED, kWanted, "pre_tokenizer: {} after ByteLevel is not supported", type);
  if (type == "Split") return add_split(spec);
  if (type == "Digits") {
    BATON_ASSIGN(bool individual, f.boolean("individual_digits", false));
    return add_pattern(individual ? "\\p{N}" : "\\p{N}+", true, true);
  }
  if (type == "ByteLevel") {
    byte_level_ = true;
    BATON_ASSIGN(add_prefix_space_, f.boolean("add_prefix_space", true));
    BATON_ASSIGN(bool use_regex, f.boolean("use_regex", true));
    if (add_prefix_space_ && !patterns_.empty())
      return fail(BATON_UNSUPPORTED, kWanted, "pre_tokenizer: ByteLevel with add_prefix_space after a Split is not supported");
    return use_regex ? add_pattern(kByteLevelRegex, true, true) : Status();
  }
  if (type == "Sequence") {
    const json* list = f.find("pretokenizers");
    if (!list || !list->is_array()) return fail(BATON_CORRUPT, kWanted, "pre_tokenizer: Sequence without pretokenizers");
    for (const json& one : *list) {
      if (!one.is_object()) return fail(BATON_CORRUPT, kWanted, "pre_tokenizer: Sequence holds what is not an object");
      BATON_TRY(add(one));
    }
    return {};
  }
  return fail(BATON_UNSUPPORTED, kWanted, "pre_tokenizer: {} is not supported{}", type, type == "Metaspace" ? " (a sentencepiece tokenizer)" : "");
}

Result<PreTokenizer> PreTokenizer::parse(const json& spec) {
  PreTokenizer p;
  if (!spec.is_object()) return fail(BATON_UNSUPPORTED, kWanted, "tokenizer.json: no pre_tokenizer (a sentencepiece tokenizer?)");
  BATON_TRY(p.add(spec));
  if (!p.byte_level_) return fail(BATON_UNSUPPORTED, kWanted, "tokenizer.json: pre_tokenizer has no ByteLevel step");
  return p;
}

Status PreTokenizer::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  std::vector<std::string_view> current{text}, next;
  for (auto& p : patterns_) {
    next.clear();
    for (std::string_view piece : current) {
      auto* subject = reinterpret_cast<PCRE2_SPTR>(piece.data());
      size_t done = 0;
      while (done < piece.size()) {
        int rc = pcre2_match(p->code.get(), subject, piece.size(), done, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, p->match.get(), p->context.get());
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) {
          unsigned char why[120] = "";
          pcre2_get_error_message(rc, why, sizeof why);
          return fail(BATON_CAPACITY, "break the text with spaces or lines", "the tokenizer's pattern failed at byte {} of the text: {}", size_t(piece.data() - text.data()) + done,
                      reinterpret_cast<char*>(why));
        }
        const size_t* span = pcre2_get_ovector_pointer(p->match.get());
        if (span[1] <= done || span[0] < done) break; // a look-behind oddity (\K): take the rest as it is
        if (span[0] > done && p->keep_gaps) next.push_back(piece.substr(done, span[0] - done));
        if (p->keep_matches) next.push_back(piece.substr(span[0], span[1] - span[0]));
        done = span[1];
      }
      if (done < piece.size() && p->keep_gaps) next.push_back(piece.substr(done));
    }
    current.swap(next);
  }
  pieces.insert(pieces.end(), current.begin(), current.end());
  return {};
}

}  // namespace baton::model
