// environment.h: the variables that Baton reads, as `devctl env` and `devctl report` show them.
//
// Owner    static data.   Threads  any.   Cost  -   Errors  none.
//
//     for (auto& v : variables()) printf("%s\n", v.name);
#pragma once

#include <span>
#include <string_view>

namespace baton::devctl {

struct Variable {
  const char *name, *reader, *meaning;
};
std::span<const Variable> variables();
bool is_secret(std::string_view name);  // by its words: its value is nobody's to see

}  // namespace baton::devctl
