// codes.h: what each stable code means, for `devctl explain`.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace baton::devctl {

struct CodeText {
  int32_t code;              // baton_code
  std::string_view meaning;  // one sentence
  std::string_view causes;   // when it is seen
  std::string_view remedy;   // what to do
};
std::span<const CodeText> code_texts();           // every code, in order
const CodeText* find_code(std::string_view text);  // name in any case, with or without BATON_, or number; NULL: unknown

}  // namespace baton::devctl
