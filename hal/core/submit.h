// submit.h: from the caller's ops to the core's: checked without a lock, all or none, then translated and let in.
//
// Owner    -   Threads  let_in: inside the instance.   Cost  O(ops), no allocation once warm.   Errors  see baton_submit.
#pragma once

#include "hal/core/queue.h"

namespace baton::core {

// Translates ops that were checked and puts them into their queue; drain() runs them. They fail with `refused`, if given.
void let_in(baton_queue*, const baton_op* ops, uint32_t count, const baton_error* refused);
// Whether the queue still takes ops: CANCELLED while it is closed, DEVICE_LOST.
int32_t check_open(const baton_queue*, baton_error*);

}  // namespace baton::core
