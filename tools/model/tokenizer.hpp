// tokenizer.hpp: tokenizer.json (byte-level BPE) of a Hugging Face checkpoint.
//
// Owner    move-only.   Threads  one at a time (patterns keep match data).
// Cost     encode: linear in the text but for a logarithm within one pre-token; words are cached. Decoding a token: one look-up.
// Errors   UNSUPPORTED: a tokenizer that is not byte-level BPE, or an option that would change ids, named; CORRUPT: unreadable.
//
//     BATON_ASSIGN(Tokenizer t, Tokenizer::load("models/baton-tiny/tokenizer.json"));
//     BATON_ASSIGN(auto ids, t.encode("It is a truth", true));
//     TextStream out(t);   for (int32_t id : ids) fputs(out.push(id).c_str(), stdout);   fputs(out.flush().c_str(), stdout);
#pragma once

#include "tools/model/bpe.hpp"
#include "tools/model/pretokenizer.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace baton::model {

class Tokenizer {
 public:
  static Result<Tokenizer> load(const std::string& path);
  static Result<Tokenizer> parse(const std::string& where, const nlohmann::json& doc);
  // `template_tokens`: add what the post-processor adds (a BOS, say).
  Result<std::vector<int32_t>> encode(std::string_view text, bool template_tokens) const;
  // The bytes of one token; empty for special tokens and unknown ids.
  std::string_view bytes(int32_t id) const;
  bool special(int32_t id) const;
  uint32_t size() const { return uint32_t(tokens_.size()); } // highest id + 1

 private:
  struct Added {
    std::string content;
    int32_t id;
    bool special, lstrip, rstrip;
  };
  struct Token {
    std::string bytes;
    bool special = false;
  };
  Tokenizer(Bpe bpe, PreTokenizer pre) : bpe_(std::move(bpe)), pre_(std::move(pre)) {}
  static Result<Bpe> parse_model(const std::string& where, const nlohmann::json& model);
  Status parse_added(const nlohmann::json& list);
  Status parse_post(const nlohmann::json& post);
  Status encode_plain(std::string_view text, std::vector<int32_t>& out) const;
  const Added* added_at(std::string_view text, size_t at) const;

  Bpe bpe_;
  PreTokenizer pre_;
  bool nfc_ = false;
  std::vector<Added> added_;           // longest content first
  std::array<bool, 256> added_first_{}; // bytes that some added token begins with
  std::vector<int32_t> prefix_, suffix_;
  std::vector<Token> tokens_;
  mutable std::unordered_map<std::string, std::vector<int32_t>> words_; // pre-token -> ids, bounded
};

// Turns tokens into text as they come: bytes of a character that is not complete are held back.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& t) : tokenizer_(&t) {}
  std::string push(int32_t id);
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  std::string held_;
};

}  // namespace baton::model
