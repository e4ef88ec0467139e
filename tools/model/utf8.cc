#include "tools/model/utf8.hpp"

#include <algorithm>

namespace baton::model {

namespace {

// Length by the first byte (Unicode 15, table 3-7), 0: not a first byte.
size_t length_of(uint8_t b) {
  if (b < 0x80) return 1;
  if (b >= 0xC2 && b <= 0xDF) return 2;
  if (b >= 0xE0 && b <= 0xEF) return 3;
  if (b >= 0xF0 && b <= 0xF4) return 4;
  return 0;
}

// Whether `b` may follow at position `at` of a sequence that starts with `first`.
bool continues(uint8_t first, size_t at, uint8_t b) {
  uint8_t low = 0x80, high = 0xBF;
  if (at == 1) {
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  }
  return b >= low && b <= high;
}

// Bytes from `i` that are a valid beginning of one character; `whole` if they are all of it.
size_t valid_prefix(std::string_view s, size_t i, bool& whole) {
  size_t n = length_of(uint8_t(s[i])), k = n ? 1 : 0;
  while (k && k < n && i + k < s.size() && continues(uint8_t(s[i]), k, uint8_t(s[i + k]))) ++k;
  whole = n && k == n;
  return k;
}

}  // namespace

bool utf8_next(std::string_view s, size_t& i, uint32_t& code) {
  bool whole;
  size_t n = valid_prefix(s, i, whole);
  if (!whole) return false;
  code = n == 1 ? uint8_t(s[i]) : uint8_t(s[i]) & (0x7F >> n);
  for (size_t k = 1; k < n; ++k) code = code << 6 | (uint8_t(s[i + k]) & 0x3F);
  i += n;
  return true;
}

void utf8_append(std::string& s, uint32_t c) {
  if (c < 0x80) {
    s += char(c);
  } else if (c < 0x800) {
    s += char(0xC0 | c >> 6);
    s += char(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    s += char(0xE0 | c >> 12);
    s += char(0x80 | (c >> 6 & 0x3F));
    s += char(0x80 | (c & 0x3F));
  } else {
    s += char(0xF0 | c >> 18);
    s += char(0x80 | (c >> 12 & 0x3F));
    s += char(0x80 | (c >> 6 & 0x3F));
    s += char(0x80 | (c & 0x3F));
  }
}

std::string utf8_clean(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (size_t i = 0; i < s.size();) {
    bool whole;
    size_t n = valid_prefix(s, i, whole);
    if (whole) out.append(s.substr(i, n));
    else out += "\xEF\xBF\xBD";
    i += std::max<size_t>(n, 1);
  }
  return out;
}

size_t utf8_incomplete_tail(std::string_view s) {
  for (size_t back = 1; back <= std::min<size_t>(3, s.size()); ++back) {
    size_t i = s.size() - back;
    if ((uint8_t(s[i]) & 0xC0) == 0x80) continue;
    bool whole;
    size_t n = valid_prefix(s, i, whole);
    return !whole && n == back ? back : 0;
  }
  return 0;
}

}  // namespace baton::model
