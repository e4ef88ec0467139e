// cts: the conformance suites, run by baton-cts, which stands beside devctl. It takes this process's place: output and exit code are its own.
#include "tools/devctl/verbs.h"

#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

namespace baton::devctl {
namespace {

std::string beside(const char* name) {
  char self[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n < 0) return name;
  const std::string path(self, size_t(n));
  return path.substr(0, path.rfind('/') + 1) + name;
}

}  // namespace

int cts(const Context& c, const CtsCall& call) {
  std::vector<std::string> args = {beside("baton-cts")};
  for (const std::string& subject : call.subjects) {
    if (is_uri(subject) || subject.ends_with(".so") || subject.ends_with(".json")) {
      args.push_back(subject);
      continue;
    }
    auto found = c.devices.select(subject);
    if (!found) return c.out.fail(found.error());
    for (const DeviceInfo& d : *found) args.push_back(d.uri);
  }
  if (!call.filter.empty()) args.insert(args.end(), {"--filter", call.filter});
  if (call.seed) args.insert(args.end(), {"--seed", std::to_string(call.seed)});
  if (call.list) args.push_back("--list");
  if (c.out.is_json()) args.insert(args.end(), {"-o", "json"});
  std::vector<char*> argv;
  for (std::string& a : args) argv.push_back(a.data());
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  return c.out.fail(kUnsupported, "cannot run " + args[0] + ": " + std::strerror(errno), "install the package that holds baton-cts, or build the target baton-cts");
}

}  // namespace baton::devctl
