// record: a command whose calls are recorded, for replay.
#include "tools/devctl/care.h"
#include "tools/devctl/options.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <unistd.h>

namespace baton::devctl {

int record(const Context& c, const std::string& file, const std::vector<std::string>& command) {
  const auto layers = variable("BATON_LAYERS");
  set_variable("BATON_LAYERS", fmt::format("{}{}record={}", layers.value_or(""), layers && !layers->empty() ? "," : "", file));
  std::vector<std::string> words = command;
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  return c.out.fail(errno == ENOENT ? kNoDevice : kPermission, fmt::format("cannot run {}: {}", clean(command[0]), std::strerror(errno)), "name a program, as in devctl record calls.jsonl -- PROGRAM");
}

}  // namespace baton::devctl
