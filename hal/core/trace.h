// trace.h: one span for each completed op and each mark, while a callback is set.
//
// Owner    -   Threads  instance lock held; the callback runs under it, perhaps inside a driver's call: it
//          may submit, signal, poison and query.
// Cost     a test of a pointer when off.   Errors  none.
#pragma once

#include "hal/core/schedule.h"

namespace baton::core {

const char* opcode_name(uint8_t opcode);
void trace_op(Op*, uint64_t end_ns, const baton_error* error);  // before the op is detached
void trace_mark(Op*, uint64_t at_ns);

}  // namespace baton::core
