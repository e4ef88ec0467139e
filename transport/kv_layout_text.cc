#include "transport/kv_layout_text.hpp"

#include "hal/json_depth.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <utility>

namespace baton::transport {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>; // as in the line: "heads", "[0,2)"

constexpr const char* kNext = "kv/1 layers=2 kv_heads=2 head_dim=64 dtype=bf16 order=token_major block_tokens=16 blocks=128, or JSON with these names";

Error corrupt(const std::string& why) { return Error(BATON_CORRUPT, fmt::format("KV layout: {}", why), kNext); }

Result<Fields> from_line(std::string_view s) {
  Fields out;
  bool first = true;
  for (size_t at = 0; at < s.size();) {
    const size_t end = std::min(s.find_first_of(" \t\r\n", at), s.size());
    const std::string_view word = s.substr(at, end - at);
    at = end + 1;
    if (word.empty()) continue;
    if (std::exchange(first, false)) {
      if (word != "kv/1") return corrupt(fmt::format("it begins with '{}', not with 'kv/1' or a brace", word.substr(0, 40)));
      continue;
    }
    const size_t eq = word.find('=');
    if (eq == 0 || eq == std::string_view::npos) return corrupt(fmt::format("'{}' is no name=value", word.substr(0, 40)));
    out.emplace_back(word.substr(0, eq), word.substr(eq + 1));
  }
  if (first) return corrupt("it is empty");
  return out;
}

Result<Fields> from_json(std::string_view s) {
  if (json_too_deep(s)) return corrupt("brackets over 64 deep");
  const auto j = nlohmann::json::parse(s, nullptr, false);
  if (!j.is_object()) return corrupt("it is not a JSON object");
  Fields out;
  for (const auto& [key, v] : j.items()) {
    std::string text;
    if (v.is_string()) text = v.get<std::string>();
    else if (v.is_number_unsigned()) text = std::to_string(v.get<uint64_t>());
    else if (v.is_array() && v.size() == 2 && v[0].is_number_unsigned() && v[1].is_number_unsigned())
      text = fmt::format("[{},{})", v[0].get<uint64_t>(), v[1].get<uint64_t>());
    else return corrupt(fmt::format("'{}' is neither a number, a name nor a range", key.substr(0, 40)));
    out.emplace_back(key, std::move(text));
  }
  return out;
}

bool number(std::string_view s, uint32_t& to) {
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), to);
  return error == std::errc() && end == s.data() + s.size();
}

bool range(std::string_view s, uint32_t& begin, uint32_t& count) {
  const size_t comma = s.find(',');
  uint32_t end = 0;
  if (s.size() < 5 || s.front() != '[' || s.back() != ')' || comma == std::string_view::npos) return false;
  if (!number(s.substr(1, comma - 1), begin) || !number(s.substr(comma + 1, s.size() - comma - 2), end) || end <= begin) return false;
  count = end - begin;
  return true;
}

bool dtype(std::string_view s, program::DType& to) {
  for (auto t : {program::DType::f32, program::DType::bf16, program::DType::f16, program::DType::i32, program::DType::f8e4m3, program::DType::f8e5m2})
    if (s == program::dtype_name(t)) {
      to = t;
      return true;
    }
  return false;
}

template <class T>
bool named(Result<T> r, T& to) {
  if (r.ok()) to = *r;
  return r.ok();
}

bool assign(KvLayout& l, const std::string& key, const std::string& v) {
  for (auto [name, to] : {std::pair{"layers", &l.layers}, {"kv_heads", &l.kv_heads}, {"head_dim", &l.head_dim}, {"block_tokens", &l.block_tokens}, {"blocks", &l.blocks}, {"rope_dim", &l.rope_dim}})
    if (key == name) return number(v, *to);
  if (key == "dtype") return dtype(v, l.dtype);
  if (key == "order") return named(parse_order(v), l.order);
  if (key == "pairing") return named(parse_pairing(v), l.pairing);
  if (key == "scales") return named(parse_scales(v), l.scales);
  if (key == "heads") return range(v, l.head_begin, l.head_count);
  return key == "held_layers" && range(v, l.layer_begin, l.layer_count);
}

}  // namespace

Result<KvLayout> parse_layout(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(" \t\r\n"), text.size());
  BATON_ASSIGN(const Fields fields, text.substr(begin, 1) == "{" ? from_json(text.substr(begin)) : from_line(text));
  KvLayout l;
  for (size_t i = 0; i < fields.size(); ++i) {
    const auto& [key, value] = fields[i];
    for (size_t k = 0; k < i; ++k)
      if (fields[k].first == key) return corrupt(fmt::format("'{}' is given twice", key.substr(0, 40)));
    if (!assign(l, key, value)) return corrupt(fmt::format("'{}' cannot be '{}'", key.substr(0, 40), value.substr(0, 40)));
  }
  if (!l.head_count && l.head_begin == 0) l.head_count = l.kv_heads;
  BATON_TRY(l.check());
  return l;
}

}  // namespace baton::transport
