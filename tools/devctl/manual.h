// manual.h: a manual page for each verb, made of the one description of the command line that there is, CLI11's, as completion is (completion.h).
// devctl(1) itself has prose of its own (tools/man/devctl.1.in).
//
// Owner    plain functions.   Threads  any.   Cost  linear in the verbs.   Errors  IO: a file cannot be written.
//
//     BATON_TRY(write_manuals(app, "share/man/man1"));   // devctl-list.1, devctl-emu-fault.1, ...
#pragma once

#include "hal/baton.hpp"

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace baton::devctl {

// mdoc of the verb that `path` leads to: {"emu", "fault"}.
std::string manual(const CLI::App& app, const std::vector<std::string>& path);
// Every verb's, verbs of verbs too; what it wrote.
Result<std::vector<std::string>> write_manuals(const CLI::App& app, const std::string& folder);

}  // namespace baton::devctl
