// planner.h: how a COPY gets from one device's memory to another's, decided before submit.
//
//   direct    both sides are memory of one device: one op of its driver
//   mapped    one side has a host address: one op of the other side's driver; or memcpy, if both have one and no timed driver moves them
//   imported  as mapped, and the side with the address is handed over as descriptor and offset too, for drivers that import
//   staged    neither side has a host address: through a bounded buffer of the host, in chunks, both hops overlapped
//
// Owner    -   Threads  instance lock not needed; asks drivers for views.   Cost  nothing once views are cached.
// Errors   UNSUPPORTED naming the missing edge.
#pragma once

#include "hal/core/buffer.h"

namespace baton::core {

// Between two buffers of the link (from, to). `none`: baton_plan_copy says which edge is missing.
Path plan_link(baton_buffer* src, baton_buffer* dst);
// One side of a driver op: `b` seen from device `d`. UNSUPPORTED if it is neither of `d` nor host-visible.
int32_t resolve_side(baton_device* d, baton_buffer* b, uint64_t offset, baton_driver_side& side, baton_error*);

// The error of a pair without a path: which driver takes no ops.
int32_t no_path(const baton_device* from, const baton_device* to, baton_error*);

}  // namespace baton::core
