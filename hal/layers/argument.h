// argument.h: what follows "NAME=" in BATON_LAYERS: "MAIN?key=value&key=value", durations, and '*' patterns.
//
// Owner    value types.   Threads  any.   Cost  once a layer.
// Errors   INVALID_ARGUMENT naming the part and what is allowed.
//
//     BATON_ASSIGN(Argument a, parse_argument("2us?seed=7&COPY=1ms", {"seed", "COPY"}));
//     BATON_ASSIGN(uint64_t ns, parse_duration(a.main));   // 2000
#pragma once

#include "hal/baton.hpp"

#include <initializer_list>
#include <map>
#include <string>
#include <string_view>

namespace baton::layers {

struct Argument {
  std::string main;
  std::map<std::string, std::string> options;
  Result<uint64_t> number(const std::string& key, uint64_t otherwise) const;
};
Result<Argument> parse_argument(std::string_view text, std::initializer_list<std::string_view> allowed);

// "250ns", "2us", "1.5ms", "1s", at most an hour.
Result<uint64_t> parse_duration(std::string_view text);
Result<uint64_t> parse_number(std::string_view text);

// '*' stands for any characters, none included.
bool matches(std::string_view pattern, std::string_view text);

}  // namespace baton::layers
