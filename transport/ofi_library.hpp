// ofi_library.hpp (internal): libfabric, loaded when a fabric or an endpoint first wants it, not when the process starts.
//
// libfabric brings libraries whose constructors a program that moves nothing should not pay for: with libpsm_infinipath (Debian 12) some 0.2 s of
// calibration, asleep, and handlers for SIGINT, SIGTERM and four more, which end the process. What a process had for those signals, it has afterwards.
// All else of libfabric's API is inline, through the objects that these functions give.
//
// Owner    the process: it is never unloaded.   Threads  any.   Cost  the first call: as above; then nothing.
// Errors   UNSUPPORTED with the loader's words, each time.
//
//     BATON_ASSIGN(const OfiLibrary* ofi, ofi_library());
//     fi_info* hints = ofi->dupinfo(nullptr);
#pragma once

#include "hal/baton.hpp"

#include <rdma/fabric.h>

namespace baton::transport {

struct OfiLibrary {
  decltype(&fi_getinfo) getinfo = nullptr;
  decltype(&fi_freeinfo) freeinfo = nullptr;
  decltype(&fi_dupinfo) dupinfo = nullptr; // of nullptr: a new one
  decltype(&fi_fabric) fabric = nullptr;
  decltype(&fi_strerror) strerror = nullptr;
};
Result<const OfiLibrary*> ofi_library();

}  // namespace baton::transport
