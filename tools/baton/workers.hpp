// workers.hpp: which registered workers may serve a request.
//
// Ready ones of the role and the model (or of none, where a file does not say); who has fewer requests, as far as that is told, comes first, and
// equals in a random order, so that many clients do not all choose the same one. Layouts need not be equal: a plan converts. An entry is a hint: who a worker is, its session proves.
//
// Owner    values.   Threads  as the Instance.   Cost  read: until the source has been read once.
// Errors   DEADLINE: the source does not answer; NOT_FOUND: nobody fits, with who does not and why; what the source fails with.
//
//     BATON_ASSIGN(auto d, read_workers(in, {.source = "workers.json"}, deadline_in_ms(5000)));
//     BATON_ASSIGN(auto addresses, ready_workers(d, "decode", model, {}));
#pragma once

#include "transport/discovery/discovery.hpp"

#include <set>
#include <string>
#include <vector>

namespace baton::runtime {

Result<transport::Discovery> read_workers(const Instance&, const transport::DiscoveryOptions&, uint64_t deadline_ns);
// Their addresses, best first, but for those to avoid.
Result<std::vector<std::string>> ready_workers(const transport::Discovery&, const std::string& role, const std::string& model, const std::set<std::string>& avoid);

}  // namespace baton::runtime
