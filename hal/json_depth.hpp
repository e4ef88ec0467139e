// json_depth.hpp: how deep the brackets of a JSON text go, before it is parsed: copying, printing and comparing a value recurse, so a text of
// brackets alone would use up the stack. Whoever parses JSON from outside asks this first.
//
// Owner    a pure function.   Threads  any.   Cost  one pass, about 1 ns a byte.   Errors  none: the caller has the words.
//
//     if (json_too_deep(text)) return Error(BATON_CORRUPT, "brackets over 64 deep", "...");
#pragma once

#include <cstddef>
#include <string_view>

namespace baton {

inline constexpr int kMaxJsonDepth = 64;  // every form that Baton reads is below 16

inline bool json_too_deep(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\') ++i;
    else if (c == '"') quoted = !quoted;
    else if (!quoted && (c == '[' || c == '{') && ++depth > kMaxJsonDepth) return true;
    else if (!quoted && (c == ']' || c == '}')) --depth;
  }
  return false;
}

}  // namespace baton
