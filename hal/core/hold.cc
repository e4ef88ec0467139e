#include "hal/core/hold.h"

#include "hal/core/error.h"
#include "hal/core/schedule.h"
#include "hal/core/submit.h"

namespace baton::core {

void Hold::take_all(baton_instance* in) {
  Batch** end = &in->taken;
  while (*end) end = &(*end)->next;
  *end = in->inbox.take();
  // A callback from inside may take in more: it goes on with this list, so that the order stays.
  while (Batch* b = in->taken) {
    in->taken = b->next;
    baton_error e = blank_error();
    const bool open = check_open(b->queue, &e) == BATON_OK;  // lost or closed since it was posted
    let_in(b->queue, b->ops.data(), uint32_t(b->ops.size()), open ? nullptr : &e);
    in->inbox.recycle(b);
  }
  in->took_posted = true;
}

void Hold::run_posted(baton_instance* in) {
  in->took_posted = false;
  drain(in);
  in->nap_ns.store(0, std::memory_order_relaxed);
  in->waker.kick_sleepers();
  if (!in->more.load(std::memory_order_relaxed) && !in->copying) return;
  in->more.store(true, std::memory_order_seq_cst);
  in->waker.kick();
}

}  // namespace baton::core
