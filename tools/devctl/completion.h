// completion.h: completion scripts for bash, zsh and fish, made of the one description of the command line that there is: CLI11's.
//
// Owner    plain function.   Threads  any.   Cost  linear in the verbs.   Errors  none.
//
//     c.out.print(completion(app, "bash"));
#pragma once

#include <CLI/CLI.hpp>

#include <string>

namespace baton::devctl {

std::string completion(const CLI::App& app, const std::string& shell);

}  // namespace baton::devctl
