#include "tests/cts/suite.h"

namespace baton::cts {

std::span<const Suite* const> suites() {
  static const Suite* const all[] = {
      &registry_suite(), &memory_suite(),   &queue_suite(),     &timeline_suite(), &programs_suite(),
      &refusals_suite(), &progress_suite(), &telemetry_suite(), &reset_suite(),
      &fault_suite(),    &pair_copy_suite(), &pair_loss_suite(),
  };
  return all;
}

std::string missing(uint32_t needs, const DeviceInfo& i) {
  if (needs & kMappable && !i.heaps[0].mappable) return "the device has no mappable heap";
  if (needs & kExportable && !i.heaps[0].exportable) return "the device has no exportable heap";
  if (needs & kProgress && !i.progress) return "the device reports no marks as they happen";
  if (needs & kCollectives && !i.collectives) return "the device has no collectives";
  if (needs & kModelled && !i.modelled) return "the device's time is not modelled";
  if (needs & kLanes && i.lanes < 2) return "the device has one lane";
  return "";
}

}  // namespace baton::cts
