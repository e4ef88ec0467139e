#include "hal/core/services.h"

#include "hal/core/device.h"
#include "hal/core/schedule.h"

namespace baton::core {
namespace {

// The op's memory stays with its instance, so its instance can be read before anything is known about the op.
baton_instance* instance_of(void* cookie) {
  auto* op = reinterpret_cast<Op*>(reinterpret_cast<uintptr_t>(cookie) & ((uintptr_t(1) << 48) - 1));
  return op ? op->instance : nullptr;
}

template <class F>
int32_t with_op(void* cookie, F f) {
  baton_instance* in = instance_of(cookie);
  if (!in) return 1;
  if (in->inside.owned()) {  // from within submit or poll, as it should be
    Op* op = op_of_cookie(cookie);
    return op ? f(op) : 1;
  }
  int32_t rc = 1;
  {
    Hold hold(in);
    if (Op* op = op_of_cookie(cookie)) rc = f(op);
  }
  in->waker.kick();
  return rc;
}

void on_complete(void* cookie, uint64_t cost_ns, const baton_error* error) {
  with_op(cookie, [&](Op* op) {
    complete(op, cost_ns, error);
    return 0;
  });
}

int32_t on_progress(void* cookie, uint64_t k, uint64_t offset_ns) {
  return with_op(cookie, [&](Op* op) { return progress(op, k, offset_ns); });
}

void on_lost(void* core_device, const baton_error* error) {
  auto* d = static_cast<baton_device*>(core_device);
  if (!d) return;
  baton_error cause = error ? *error : make_error(BATON_DEVICE_LOST, d->uri.c_str(), "", "%s is gone", d->shown.c_str());
  if (d->instance->inside.owned()) return lose_device(d, cause);
  std::lock_guard call(d->call);
  d->pending_loss = cause;
  d->has_pending_loss = true;
  d->instance->lost_pending = true;
  d->instance->waker.kick();
}

}  // namespace

baton_driver_host make_services() {
  return {sizeof(baton_driver_host), BATON_ABI_VERSION, on_complete, on_progress, on_lost, nullptr};
}

}  // namespace baton::core
