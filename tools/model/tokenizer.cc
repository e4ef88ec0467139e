#include "tools/model/tokenizer.hpp"

#include "tools/model/fail.hpp"
#include "tools/model/json_file.hpp"
#include "tools/model/nfc.hpp"
#include "tools/model/utf8.hpp"

#include <algorithm>

namespace baton::model {

using nlohmann::json;

namespace {

constexpr const char* kWanted = "use a checkpoint with a byte-level BPE tokenizer.json";
constexpr const char* kAgain = "fetch the file again";
constexpr size_t kCachedWords = 1 << 16, kCachedBytes = 64;
constexpr int32_t kMaxId = 1 << 24;

Result<std::vector<std::pair<std::string, std::string>>> parse_merges(const std::string& where, const json& list) {
  std::vector<std::pair<std::string, std::string>> merges;
  if (!list.is_array()) return fail(BATON_CORRUPT, kAgain, "{}: model.merges is not a list", where);
  merges.reserve(list.size());
  for (const json& m : list) {
    std::string left, right;
    if (m.is_string()) { // "Ġ t"
      const std::string& s = m.get_ref<const std::string&>();
      size_t space = s.find(' ');
      if (space == std::string::npos || s.find(' ', space + 1) != std::string::npos)
        return fail(BATON_CORRUPT, kAgain, "{}: merge {} is '{}', not two entries", where, merges.size(), s.substr(0, 40));
      left = s.substr(0, space);
      right = s.substr(space + 1);
    } else if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) { // ["Ġ", "t"]
      left = m[0].get<std::string>();
      right = m[1].get<std::string>();
    } else {
      return fail(BATON_CORRUPT, kAgain, "{}: merge {} is neither a string nor a pair", where, merges.size());
    }
    BATON_ASSIGN(std::string l, from_alphabet(left));
    BATON_ASSIGN(std::string r, from_alphabet(right));
    merges.emplace_back(std::move(l), std::move(r));
  }
  return merges;
}

bool set(const json& model, const char* key) { // present, not null, not false, not ""
  auto it = model.find(key);
  return it != model.end() && !it->is_null() && *it != false && *it != "";
}

bool is_space(uint32_t c) { // Unicode White_Space
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}
size_t skip_space(std::string_view s, size_t i) {
  for (size_t j = i; j < s.size();) {
    uint32_t c;
    if (!utf8_next(s, j, c) || !is_space(c)) break;
    i = j;
  }
  return i;
}
size_t trim_space_end(std::string_view s) {
  size_t end = 0;
  for (size_t i = 0; i < s.size();) {
    uint32_t c = 0;
    if (!utf8_next(s, i, c)) break;
    if (!is_space(c)) end = i;
  }
  return end;
}

}  // namespace

Result<Bpe> Tokenizer::parse_model(const std::string& where, const json& model) {
  Fields f(where + ": model", model);
  BATON_ASSIGN(std::string type, f.string("type", "BPE"));
  if (type != "BPE") return fail(BATON_UNSUPPORTED, kWanted, "{}: model type {} is not supported", where, type);
  if (set(model, "byte_fallback")) return fail(BATON_UNSUPPORTED, kWanted, "{}: byte_fallback (a sentencepiece vocabulary) is not supported", where);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix", "dropout"})
    if (set(model, key)) return fail(BATON_UNSUPPORTED, kWanted, "{}: model.{} is not supported", where, key);
  const json *vocab = f.find("vocab"), *merges = f.find("merges");
  if (!vocab || !vocab->is_object() || !merges) return fail(BATON_CORRUPT, kAgain, "{}: model has no vocab or no merges", where);
  std::unordered_map<std::string, int32_t> entries;
  entries.reserve(vocab->size());
  for (auto& [entry, id] : vocab->items()) {
    if (!is_u64(id) || id.get<uint64_t>() >= uint64_t(kMaxId))
      return fail(BATON_CORRUPT, kAgain, "{}: vocabulary entry '{}' has id {}", where, entry.substr(0, 40), id.dump().substr(0, 20));
    auto bytes = from_alphabet(entry);
    // Added tokens are listed in some vocabularies as they are; BPE never reaches them. Sentencepiece is told by its space.
    if (!bytes && entry.find("\xE2\x96\x81") == std::string::npos) continue;
    if (!bytes) return fail(BATON_UNSUPPORTED, bytes.error().next, "{}: {}", where, bytes.error().what);
    entries.emplace(std::move(*bytes), id.get<int32_t>());
  }
  BATON_ASSIGN(auto pairs, parse_merges(where, *merges));
  BATON_ASSIGN(bool ignore_merges, f.boolean("ignore_merges", false));
  auto bpe = Bpe::build(std::move(entries), pairs, ignore_merges);
  if (!bpe) return fail(bpe.error().code, bpe.error().next, "{}: {}", where, bpe.error().what);
  return bpe;
}

Status Tokenizer::parse_added(const json& list) {
  if (!list.is_array()) return fail(BATON_CORRUPT, kAgain, "tokenizer.json: added_tokens is not a list");
  for (const json& t : list) {
    if (!t.is_object()) return fail(BATON_CORRUPT, kAgain, "tokenizer.json: added_tokens holds what is not an object");
    Fields f("tokenizer.json: added_tokens", t);
    Added a{};
    BATON_ASSIGN(a.content, f.string("content"));
    BATON_ASSIGN(uint64_t id, f.u64("id"));
    BATON_ASSIGN(a.special, f.boolean("special", false));
    BATON_ASSIGN(a.lstrip, f.boolean("lstrip", false));
    BATON_ASSIGN(a.rstrip, f.boolean("rstrip", false));
    BATON_ASSIGN(bool single_word, f.boolean("single_word", false));
    if (single_word) return fail(BATON_UNSUPPORTED, kWanted, "tokenizer.json: added token '{}' is single_word, which is not supported", a.content.substr(0, 40));
    if (a.content.empty() || id >= uint64_t(kMaxId)) return fail(BATON_CORRUPT, kAgain, "tokenizer.json: added token '{}' has id {}", a.content.substr(0, 40), id);
    a.id = int32_t(id);
    if (tokens_.size() <= id) tokens_.resize(id + 1);
    tokens_[id] = {a.content, a.special};
    added_first_[uint8_t(a.content[0])] = true;
    added_.push_back(std::move(a));
  }
  std::stable_sort(added_.begin(), added_.end(), [](const Added& a, const Added& b) { return a.content.size() > b.content.size(); });
  return {};
}

Status Tokenizer::parse_post(const json& post) {
  if (post.is_null()) return {};
  if (!post.is_object()) return fail(BATON_CORRUPT, kAgain, "tokenizer.json: post_processor is not an object");
  Fields f("tokenizer.json: post_processor", post);
  BATON_ASSIGN(std::string type, f.string("type"));
  if (type == "ByteLevel") return {}; // offsets only
  if (type == "Sequence") {
    const json* list = f.find("processors");
    if (!list || !list->is_array()) return fail(BATON_CORRUPT, kAgain, "tokenizer.json: post_processor Sequence without processors");
    for (const json& one : *list) BATON_TRY(parse_post(one));
    return {};
  }
  if (type != "TemplateProcessing") return fail(BATON_UNSUPPORTED, kWanted, "tokenizer.json: post_processor {} is not supported", type);
  const json *single = f.find("single"), *named = f.find("special_tokens");
  if (!single || !single->is_array()) return fail(BATON_CORRUPT, kAgain, "tokenizer.json: TemplateProcessing without a list 'single'");
  bool seen = false;
  for (const json& part : *single) {
    if (part.is_object() && part.contains("Sequence")) {
      seen = true;
      continue;
    }
    const json* token = part.is_object() && part.contains("SpecialToken") && part["SpecialToken"].is_object() ? &part["SpecialToken"] : nullptr;
    std::string name = token ? token->value("id", "") : "";
    if (name.empty() || !named || !named->is_object() || !named->contains(name) || !(*named)[name].is_object() || !(*named)[name].contains("ids") ||
        !(*named)[name]["ids"].is_array())
      return fail(BATON_CORRUPT, kAgain, "tokenizer.json: TemplateProcessing names the special token '{}', which has no ids", name.substr(0, 40));
    for (const json& id : (*named)[name]["ids"]) {
      if (!is_u64(id) || id.get<uint64_t>() >= uint64_t(kMaxId)) return fail(BATON_CORRUPT, kAgain, "tokenizer.json: special token '{}' has id {}", name.substr(0, 40), id.dump());
      (seen ? suffix_ : prefix_).push_back(id.get<int32_t>());
    }
  }
  return {};
}

Result<Tokenizer> Tokenizer::parse(const std::string& where, const json& doc) {
  // Field types are checked above; what slips through (a number where an id string should be) ends here rather than in the caller.
  try {
    if (!doc.contains("model") || !doc["model"].is_object()) return fail(BATON_CORRUPT, kAgain, "{}: no object 'model'", where);
    json pre_spec = doc.value("pre_tokenizer", json());
    json normalizer = doc.value("normalizer", json());
    bool nfc = false;
    if (!normalizer.is_null()) {
      std::string type = normalizer.is_object() ? normalizer.value("type", "") : "";
      nfc = type == "NFC";
      bool empty = type == "Sequence" && normalizer.value("normalizers", json()).empty();
      if (!nfc && !empty) return fail(BATON_UNSUPPORTED, kWanted, "{}: normalizer {} is not supported (NFC is)", where, type.empty() ? normalizer.dump().substr(0, 40) : type);
    }
    BATON_ASSIGN(PreTokenizer pre, PreTokenizer::parse(pre_spec));
    BATON_ASSIGN(Bpe bpe, parse_model(where, doc["model"]));
    Tokenizer t(std::move(bpe), std::move(pre));
    t.nfc_ = nfc;
    for (auto& [bytes, id] : t.bpe_.vocab()) {
      if (t.tokens_.size() <= size_t(id)) t.tokens_.resize(size_t(id) + 1);
      t.tokens_[size_t(id)].bytes = bytes;
    }
    json decoder = doc.value("decoder", json());
    if (!decoder.is_object() || decoder.value("type", "") != "ByteLevel")
      return fail(BATON_UNSUPPORTED, kWanted, "{}: decoder {} is not supported (ByteLevel is)", where, decoder.is_object() ? decoder.value("type", "?") : "null");
    BATON_TRY(t.parse_added(doc.value("added_tokens", json::array())));
    BATON_TRY(t.parse_post(doc.value("post_processor", json())));
    return t;
  } catch (const json::exception& e) {
    return fail(BATON_CORRUPT, kAgain, "{}: {}", where, e.what());
  }
}

Result<Tokenizer> Tokenizer::load(const std::string& path) {
  if (!file_exists(path))
    return fail(BATON_INVALID_ARGUMENT, "Baton reads tokenizer.json (byte-level BPE); tokenizer.model alone is not enough", "{}: no such file", path);
  BATON_ASSIGN(json doc, read_json(path));
  return parse(path, doc);
}

const Tokenizer::Added* Tokenizer::added_at(std::string_view text, size_t at) const {
  if (!added_first_[uint8_t(text[at])]) return nullptr;
  for (const Added& a : added_)
    if (text.substr(at).starts_with(a.content)) return &a;
  return nullptr;
}

// Text without added tokens.
Status Tokenizer::encode_plain(std::string_view text, std::vector<int32_t>& out) const {
  if (text.empty()) return {};
  std::string changed;
  if (nfc_) text = changed = to_nfc(text);
  std::string spaced;
  if (pre_.add_prefix_space() && text[0] != ' ') text = spaced = std::string(1, ' ').append(text);
  std::vector<std::string_view> pieces;
  BATON_TRY(pre_.split(text, pieces));
  for (std::string_view piece : pieces) {
    if (piece.size() > kCachedBytes) {
      bpe_.encode(piece, out);
      continue;
    }
    auto [it, fresh] = words_.try_emplace(std::string(piece));
    if (fresh) bpe_.encode(piece, it->second);
    out.insert(out.end(), it->second.begin(), it->second.end());
    if (words_.size() > kCachedWords) words_.clear();
  }
  return {};
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text, bool template_tokens) const {
  std::string clean = utf8_clean(text); // patterns need valid UTF-8
  text = clean;
  std::vector<int32_t> ids;
  if (template_tokens) ids = prefix_;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const Added* a = added_at(text, i);
    if (!a) {
      ++i;
      continue;
    }
    std::string_view before = text.substr(begin, i - begin);
    if (a->lstrip) before = before.substr(0, trim_space_end(before));
    BATON_TRY(encode_plain(before, ids));
    ids.push_back(a->id);
    i += a->content.size();
    if (a->rstrip) i = skip_space(text, i);
    begin = i;
  }
  BATON_TRY(encode_plain(text.substr(begin), ids));
  if (template_tokens) ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

std::string_view Tokenizer::bytes(int32_t id) const {
  if (id < 0 || size_t(id) >= tokens_.size() || tokens_[size_t(id)].special) return {};
  return tokens_[size_t(id)].bytes;
}
bool Tokenizer::special(int32_t id) const { return id >= 0 && size_t(id) < tokens_.size() && tokens_[size_t(id)].special; }

std::string TextStream::push(int32_t id) {
  held_ += tokenizer_->bytes(id);
  size_t tail = utf8_incomplete_tail(held_);
  std::string out = utf8_clean(std::string_view(held_).substr(0, held_.size() - tail));
  held_.erase(0, held_.size() - tail);
  return out;
}
std::string TextStream::flush() { return utf8_clean(std::exchange(held_, {})); }

}  // namespace baton::model
