// bench.h: what the benchmarks share: times and their quantiles, two devices, a wait that ctrl-C ends, and bytes that are compared where they arrive.
//
// Owner    the verb; a Check owns its host memory and its links, and borrows the two devices.   Threads  one.
// Cost     a Check: three times the bytes in host memory, and three passes over them a round, none of them while a clock runs.
// Errors   CANCELLED once ctrl-C has come, DEADLINE, what the devices say. Bytes that differ are no error: they are counted.
//
//     BATON_ASSIGN(Ends ends, Ends::open(c.devices, "host0", "emu+cs3://0"));
//     BATON_ASSIGN(Check check, Check::create(c.devices.instance(), ends, src, dst));
//     BATON_TRY(check.arm(src, dst)); ... copy ...; BATON_TRY(check.look(dst));
#pragma once

#include "tools/devctl/verbs.h"

#include <string>
#include <vector>

namespace baton::devctl {

inline constexpr uint64_t kBenchPatienceMs = 60'000;  // for one thing that is measured
inline constexpr uint32_t kBenchTag = 1;              // of ops that are measured: for fault plans and traces

struct Times {
  std::vector<double> ns;
  bool empty() const { return ns.empty(); }
  double at(double quantile) const;  // nearest rank; 0 if there is none
  double median() const;
};
json times_json(const Times&, uint64_t bytes);  // bytes 0: no rate

// Until the value is there; CANCELLED once ctrl-C has come.
Status await(const Timeline&, uint64_t value);

// The devices that two selectors mean; one, if they are the same.
struct Ends {
  Device from, other;
  DeviceInfo a{}, b{};
  bool same = false;
  const Device& to() const { return same ? from : other; }
  Result<Queue> queue(const Instance&) const;  // for copies from the first to the second
  static Result<Ends> open(const Devices&, const std::string& from, const std::string& to);
};
std::string shown(const DeviceInfo&);  // "trn0 (emulated)"

// A pattern that no shift or repetition keeps, another each round, put into the source, and looked for at the destination, which held something else before.
class Check {
 public:
  static Result<Check> create(const Instance&, const Ends&, uint64_t bytes);
  Status arm(const Buffer& src, const Buffer& dst);
  Status look(const Buffer& dst);
  uint64_t wrong() const { return wrong_; }  // bytes, of all rounds
  json document() const;
  std::string text() const;  // "3 rounds of 4 MiB compared, every byte arrived"

 private:
  Status move(const Queue&, const Buffer& from, const Buffer& to);
  Buffer sent_, seen_;
  uint8_t *sent_at_ = nullptr, *seen_at_ = nullptr;
  Queue in_, blank_, out_;
  Timeline done_;
  uint64_t value_ = 0, bytes_ = 0, rounds_ = 0, wrong_ = 0;
  std::string first_;
};
// The exit code of a benchmark that has printed what it has: 1 if bytes were wrong, which goes to stderr; 130 if it was interrupted.
int ended(const Context&, const std::string& wrong);

}  // namespace baton::devctl
