// schedule.h: from submitted to complete: waits, readiness, issuing, signals.
//
// An op waits on at most two points, becomes ready, is issued to its queue's driver in submit order among the ready ones, and completes,
// which raises or poisons its signals, which makes other ops ready. drain() runs this to a standstill without recursion.
//
// Owner    -   Threads  instance lock held in every call.
// Cost     no allocation once warm; O(1) an op, plus a sorted insertion where points are reached out of order.
// Errors   a failed op poisons its signals and its progress timeline; each queue on the way is added as a hop.
#pragma once

#include "hal/core/queue.h"
#include "hal/core/timeline.h"

namespace baton::core {

// A translated op enters its queue. Its waits (op->wait[i].timeline) are not yet listed. It fails at once with `refused`, if given.
void enqueue(Op*, const baton_error* refused = nullptr);
// Wakes, issues and completes until nothing is left to do at once. Does nothing inside a driver's call: the outer drain goes on.
void drain(baton_instance*);
// Ends an op at modelled time `end_ns`, or with `error`.
void complete_at(Op*, uint64_t end_ns, const baton_error* error);
// Ends an op after `cost_ns` of its queue's time.
void complete(Op*, uint64_t cost_ns, const baton_error* error);
// Modelled start: the latest of its waits and of the queue's previous op.
uint64_t begin_ns(const Op*);
int32_t progress(Op*, uint64_t k, uint64_t offset_ns);
// Fails every op of the queue; also what the driver still runs, if `issued_too`.
void fail_all(baton_queue*, const baton_error& cause, bool issued_too);
void mark_dirty(baton_queue*);
// Calls the functions of HOST ops without the lock; `lock` is the only hold on it. Returns how many.
uint32_t run_host_ops(baton_instance*, uint32_t budget);
// The queue whose HOST op this thread is inside of; NULL if none.
const baton_queue* calling_from();

}  // namespace baton::core
