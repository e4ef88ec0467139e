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

// A subject as baton-cts takes it: what is selected by name becomes addresses.
Result<std::vector<std::string>> addresses(const Context& c, const std::string& subject) {
  const std::string meant = c.devices.meant(subject);
  if (is_uri(meant) || subject.ends_with(".so") || subject.ends_with(".json")) return std::vector<std::string>{meant};
  BATON_ASSIGN(auto found, c.devices.select(subject));
  std::vector<std::string> uris;
  for (const DeviceInfo& d : found) uris.push_back(d.uri);
  return uris;
}

}  // namespace

int cts(const Context& c, const CtsCall& call) {
  std::vector<std::string> args = {beside("baton-cts")};
  for (const std::string& subject : call.subjects) {
    auto uris = addresses(c, subject);
    if (!uris) return c.out.fail(uris.error());
    args.insert(args.end(), uris->begin(), uris->end());
  }
  for (const auto& [from, to] : call.pairs) {
    args.push_back("--pair");
    for (const std::string& end : {from, to}) {
      auto uris = addresses(c, end);
      if (!uris) return c.out.fail(uris.error());
      if (uris->size() != 1) return c.out.fail(kUsage, "'" + end + "' is " + std::to_string(uris->size()) + " devices", "name one device at each end of a pair");
      args.push_back(uris->front());
    }
  }
  if (call.faults) args.push_back("--faults");
  if (call.patience_ms) args.insert(args.end(), {"--patience", std::to_string(call.patience_ms)});
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
