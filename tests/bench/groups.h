// groups.h: the groups of figures that baton-bench measures. Each adds its rows to the report, or returns why it could not.
//
// Owner  -   Threads  one.   Cost  seconds to a minute each; --quick takes fewer repeats and smaller work.
// Errors as the libraries below; what was measured before the error stays in the report.
#pragma once

#include "tests/bench/table.h"

#include <functional>
#include <span>
#include <string>

namespace baton::bench {

struct Settings {
  bool quick = false;
  std::string model;    // folder of the tiny model
  std::string fabrics = "all";
  uint32_t repeats(uint32_t full) const { return quick ? (full + 2) / 3 : full; }
};

Status kv_rows(const Settings&, Report&);      // KV-cache between two processes, each fabric, beside memcpy
Status bulk_rows(const Settings&, Report&);    // a prompt's KV in bulk against layer by layer, and the model's choice
Status convert_rows(const Settings&, Report&);  // KV-cache to FP8 and back, one thread, beside memcpy
Status crypto_rows(const Settings&, Report&);   // chunks sealed and opened, one thread, beside memcpy
Status recode_rows(const Settings&, Report&);   // what a plan does on the way: reorder, FP8 with scales, checksums; beside the plain copy
Status plan_rows(const Settings&, Report&);     // compiling and instantiating KV plans
Status submit_rows(const Settings&, Report&);  // submit to completion of an empty op, each device, beside a round trip
Status ring_rows(const Settings&, Report&);    // an entry of the wafer link's rings there and back, two processes
Status remote_rows(const Settings&, Report&);  // a timeline signalled in one process and waited on in another
Status hot_path_rows(const Settings&, Report&);  // of group submit: what the contract itself costs
Status layer_rows(const Settings&, Report&);   // the same on the host with each layer, beside no layer
Status files_rows(const Settings&, Report&);   // KV blocks to a disk and back, beside pwrite and pread, and memcpy
Status model_rows(const Settings&, Report&);   // prefill and decode tokens/s, beside the machine's bandwidth and arithmetic
Status devctl_rows(const Settings&, Report&); // devctl list, snapshot and top on a machine of 64 chips, beside the start of a process
Status ttft_rows(const Settings&, Report&);    // time to first token, handed over against one device

struct Group {
  const char* name;
  const char* what;
  Status (*run)(const Settings&, Report&);
};
std::span<const Group> groups();

}  // namespace baton::bench
