// suite.h: a suite is a table of cases; a case is a function that is compiled once and run against any device.
//
// Owner    static tables, one a suite file.   Threads  a case may start its own.   Cost  -
// Errors   a case reports with GoogleTest's EXPECT_ and ASSERT_, or by must() and skip() of fixture.h.
//
//     void stays_in_order(Fixture& f) { Queue q = f.queue(); ... }
//     constexpr Case kCases[] = {{"StaysInOrder", kNone, stays_in_order}};
//     const Suite& queue_suite() { static constexpr Suite s{"queue", kCases}; return s; }     // listed in suites.cc
#pragma once

#include "hal/baton.hpp"

#include <span>
#include <string>

namespace baton::cts {

class Fixture;

// What a case needs, by what the device says of itself (baton_device_info). A device that lacks it is skipped with the reason.
enum Need : uint32_t {
  kNone = 0,
  kMappable = 1 << 0,     // heap 0
  kExportable = 1 << 1,   // heap 0
  kProgress = 1 << 2,     // marks as they happen
  kCollectives = 1 << 3,
  kModelled = 1 << 4,
  kLanes = 1 << 5,        // more than one
};
std::string missing(uint32_t needs, const DeviceInfo&);  // "": nothing

struct Case {
  const char* name;
  uint32_t needs;
  void (*run)(Fixture&);
};

// What a suite is about: a device, a device below the fault layer, or an ordered pair (the fixture's device and peer).
enum class About { device, faults, pair };

struct Suite {
  const char* name;
  std::span<const Case> cases;
  About about = About::device;
};

std::span<const Suite* const> suites();

const Suite& registry_suite();
const Suite& memory_suite();
const Suite& queue_suite();
const Suite& timeline_suite();
const Suite& programs_suite();
const Suite& refusals_suite();
const Suite& progress_suite();
const Suite& telemetry_suite();
const Suite& reset_suite();
const Suite& fault_suite();
const Suite& pair_copy_suite();
const Suite& pair_loss_suite();

}  // namespace baton::cts
