// pretokenizer.hpp: cuts text into pre-tokens: regular expressions (PCRE2, Unicode properties) run one after the other.
//
// Owner    move-only; owns the compiled patterns.   Threads  one at a time (match data is reused).
// Cost     linear in the text, JIT-compiled where PCRE2 has a JIT for the machine.
// Errors   UNSUPPORTED: a type or option that is not implemented, named; CORRUPT: a pattern that does not compile, with the position.
//
//     BATON_ASSIGN(PreTokenizer p, PreTokenizer::parse(doc["pre_tokenizer"]));
//     BATON_TRY(p.split("It is a truth", pieces));
#pragma once

#include "hal/baton.hpp"

#include <nlohmann/json.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace baton::model {

class PreTokenizer {
 public:
  // Takes null, ByteLevel, Split, Digits, and Sequences of these; ByteLevel must be there (once, last).
  static Result<PreTokenizer> parse(const nlohmann::json& spec);
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();
  // Views into `text`, in order. `text` is valid UTF-8.
  Status split(std::string_view text, std::vector<std::string_view>& pieces) const;
  bool add_prefix_space() const { return add_prefix_space_; }

 private:
  struct Pattern;
  PreTokenizer();
  Status add(const nlohmann::json& spec);
  Status add_split(const nlohmann::json& spec);
  Status add_pattern(const std::string& regex, bool keep_gaps, bool keep_matches);
  std::vector<std::unique_ptr<Pattern>> patterns_;
  bool add_prefix_space_ = false, byte_level_ = false;
};

}  // namespace baton::model
