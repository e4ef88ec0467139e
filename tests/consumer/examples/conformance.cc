// conformance.cc: does your driver keep the promises of baton.h? Baton's own suites as a test of your project.
//
// What your device cannot do is said here, with the reason, and not in the suites. The program baton-cts does the same from files.
//
//     ./conformance mydev:// ['memory.*']
#include "tests/cts/run.h"

#include <cstdio>

int main(int argc, char** argv) {
  baton::cts::Subject subject;
  subject.name = "mine";
  subject.uri = argc > 1 ? argv[1] : "host://";
  // subject.unsupported.push_back({"memory.Import*", "this device shares no memory"});
  baton::cts::RunOptions options;
  if (argc > 2) options.filter = argv[2];
  options.on_end = [](const baton::cts::Finding& f) {
    std::printf("%s %s\n", outcome_name(f.outcome), f.test.c_str());
    for (const std::string& why : f.failures) std::printf("  %s\n", why.c_str());
  };
  const baton::cts::Report report = baton::cts::run({&subject, 1}, options);
  std::printf("%zu passed, %zu failed\n", report.count(baton::cts::Outcome::passed), report.count(baton::cts::Outcome::failed));
  return report.failed() || report.findings.empty() ? 1 : 0;
}
