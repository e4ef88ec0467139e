#include "hal/layers/argument.h"

#include <algorithm>
#include <charconv>

namespace baton::layers {
namespace {

constexpr uint64_t kHour = 3'600'000'000'000;

std::string quoted(std::string_view s) { return "'" + std::string(s.substr(0, 80)) + "'"; }

template <class Names>
std::string list_of(const Names& names) {
  std::string s;
  for (const auto& n : names) s += (s.empty() ? "" : ", ") + std::string(n);
  return s;
}

}  // namespace

Result<uint64_t> parse_number(std::string_view text) {
  uint64_t n = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (text.empty() || ec != std::errc() || end != text.data() + text.size())
    return Error(BATON_INVALID_ARGUMENT, quoted(text) + " is no number", "write a whole number, 0 or more");
  return n;
}

Result<uint64_t> Argument::number(const std::string& key, uint64_t otherwise) const {
  auto it = options.find(key);
  if (it == options.end()) return otherwise;
  auto n = parse_number(it->second);
  if (!n) return Error(BATON_INVALID_ARGUMENT, key + "=" + it->second.substr(0, 80) + ": " + n.error().what, n.error().next);
  return n;
}

Result<Argument> parse_argument(std::string_view text, std::initializer_list<std::string_view> allowed) {
  Argument a;
  const size_t question = text.find('?');
  a.main = text.substr(0, question);
  std::string_view rest = question == std::string_view::npos ? "" : text.substr(question + 1);
  while (!rest.empty()) {
    std::string_view part = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    std::string_view key = part.substr(0, part.find('='));
    if (std::find(allowed.begin(), allowed.end(), key) == allowed.end() || key.size() + 1 > part.size())
      return Error(BATON_INVALID_ARGUMENT, quoted(part) + " is no option here", "allowed: key=value of " + list_of(allowed));
    a.options[std::string(key)] = part.substr(key.size() + 1);
  }
  return a;
}

Result<uint64_t> parse_duration(std::string_view text) {
  static constexpr struct {
    std::string_view unit;
    double ns;
  } kUnits[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
  double value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec == std::errc() && value >= 0) {
    std::string_view unit(end, size_t(text.data() + text.size() - end));
    if (unit.empty() && value == 0) return uint64_t(0);
    for (auto& u : kUnits)
      if (unit == u.unit && value * u.ns <= double(kHour)) return uint64_t(value * u.ns);
  }
  return Error(BATON_INVALID_ARGUMENT, quoted(text) + " is no duration", "write 250ns, 2us, 1.5ms or 1s; at most an hour");
}

bool matches(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, retry = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p, ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace baton::layers
