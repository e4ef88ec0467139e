// subject.h: what is tested: a device address, and what its driver is excused from, each with a reason. Data, not code.
//
// Owner    value type.   Threads  any.   Cost  -
// Errors   check(): an entry that matches no test is a finding, so that the lists cannot go stale.
//
//     Subject s{.name = "host", .uri = "host://"};
//     s.unsupported.push_back({"memory.Import*", "this device shares no memory"});
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace baton::cts {

struct Entry {
  std::string tests;   // "suite.Test", '*' is any run of characters
  std::string reason;
};

struct Subject {
  std::string name;           // shown: "neuron"
  std::string uri;            // "emu+neuron://0"
  std::string peer;           // the other end of a pair: the suites of pairs are run, from `uri` to `peer`; "": a device alone
  std::vector<Entry> unsupported;         // not run: the device will never do it
  std::vector<Entry> expected_failures;   // run, and must fail: a failure that has gone is an error until its entry goes too
};

bool matches(std::string_view pattern, std::string_view name);
const Entry* find(const std::vector<Entry>&, std::string_view test);

}  // namespace baton::cts
