// care.h: the verbs of whoever looks after a machine: health, diag, report, env, reset, record.
//
// Owner    as verbs.h.   Threads  one.   Errors  as verbs.h.
//
//     return health(c);   // 1: something is wrong, and what to do is printed
#pragma once

#include "tools/devctl/verbs.h"

namespace baton::devctl {

struct DiagCall {
  uint32_t level = 1;
  std::vector<std::string> tests;    // "": all of the level
  std::vector<std::string> devices;  // selectors; none: all that are found
  uint32_t soak_s = 60;
  bool list = false;
};

struct ResetCall {
  std::string device;            // a selector, an address, or the name of an emulated system
  std::string level = "device";  // core, wafer, device, daemon
  int wafer = -1;                // of level wafer; -1: each
  bool dry_run = false;
};

int health(const Context&);
int diag(const Context&, const DiagCall&);
int report(const Context&, const std::string& file);
int env(const Context&);
int reset(const Context&, const ResetCall&);
int record(const Context&, const std::string& file, const std::vector<std::string>& command);  // does not return if the command is there

}  // namespace baton::devctl
