// utf8.hpp: the few UTF-8 steps that a tokenizer needs.
//
//     size_t i = 0; uint32_t c; while (i < s.size() && utf8_next(s, i, c)) ...
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace baton::model {

// Decodes the code point at `i` and steps past it. False at malformed bytes (i stays).
bool utf8_next(std::string_view s, size_t& i, uint32_t& code);
void utf8_append(std::string& s, uint32_t code);
// Malformed bytes become U+FFFD, one for each maximal wrong part.
std::string utf8_clean(std::string_view s);
// How many bytes at the end are the beginning of a character that is not complete: 0..3.
size_t utf8_incomplete_tail(std::string_view s);

}  // namespace baton::model
