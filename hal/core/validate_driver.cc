#include "hal/core/validate_driver.h"

#include "hal/core/queue.h"
#include "hal/core/services.h"
#include "hal/core/validate.h"

namespace baton::core {
namespace {

struct Cookie {
  Op* op;
  uint16_t generation;
};

// As op.h packs it; what has ended, too.
Cookie unpack(void* cookie) {
  const auto bits = reinterpret_cast<uintptr_t>(cookie);
  return {reinterpret_cast<Op*>(bits & ((uintptr_t(1) << 48) - 1)), uint16_t(bits >> 48)};
}

// Runs `ask` and then the plain service, under the instance's lock; outside of a poll it wakes who sleeps, as the plain one does.
template <class Ask, class Service>
void asked(void* cookie, Ask ask, Service service) {
  Op* op = unpack(cookie).op;
  if (!op) return service();
  baton_instance* in = op->instance;
  const bool inside = in->inside.owned();
  {
    Hold hold(in);
    ask(*in->validator, inside);
    service();
  }
  if (!inside) in->waker.kick();
}

void complete_asked(void* cookie, uint64_t cost_ns, const baton_error* error) {
  static const baton_driver_host plain = make_services();
  asked(cookie, [&](Validator& v, bool inside) { v.driver.completes(cookie, inside); }, [&] { plain.complete(cookie, cost_ns, error); });
}

int32_t progress_asked(void* cookie, uint64_t k, uint64_t offset_ns) {
  static const baton_driver_host plain = make_services();
  int32_t rc = 1;
  asked(
      cookie,
      [&](Validator& v, bool inside) {
        v.driver.progresses(cookie, k, inside);
        if (const Op* op = op_of_cookie(cookie); op && op->progress) v.points.progressed(op->progress, op->progress_base + k);
      },
      [&] { rc = plain.progress(cookie, k, offset_ns); });
  return rc;
}

}  // namespace

// A table's owner may end ops from elsewhere (a session that is cancelled); a device's driver may not.
void DriverWatch::check_call(const Op* op, const char* call, bool inside) {
  if (!inside && op->queue->device)
    findings_.report(rule::driver_outside_call, std::string(call) + " for " + describe(op) + " came from outside of submit and poll");
}

void DriverWatch::completes(void* cookie, bool inside) {
  const auto [op, generation] = unpack(cookie);
  if (op_of_cookie(cookie)) {
    completing_ = op;
    return check_call(op, "complete", inside);
  }
  if (op->generation == generation && op->state != OpState::free)
    return findings_.report(rule::driver_not_taken, describe(op) + " was completed, though submit did not take it");
  auto it = states_.find(op);
  if (it == states_.end() || it->second.generation != generation || !it->second.by_driver) return;
  findings_.report(rule::driver_double_complete, it->second.what + " was completed again");
}

void DriverWatch::progresses(void* cookie, uint64_t k, bool inside) {
  const Op* op = op_of_cookie(cookie);
  if (!op) return;
  check_call(op, "progress", inside);
  if (!k) return;  // only asks whether to go on
  State& s = states_[op];
  if (s.generation != op->generation) s = {op->generation, 0, false, {}};
  if (op->opcode != BATON_OP_LAUNCH)
    findings_.report(rule::driver_progress, describe(op) + " reports mark " + std::to_string(k) + ": marks are a LAUNCH's");
  else if (k <= s.mark)
    findings_.report(rule::driver_progress, describe(op) + " reports mark " + std::to_string(k) + " after mark " + std::to_string(s.mark));
  s.mark = std::max(s.mark, k);
}

void DriverWatch::ended(Op* op) {
  states_[op] = {op->generation, 0, completing_ == op, describe(op)};
  completing_ = nullptr;
}

void DriverWatch::not_taken(void* cookie) {
  const auto [op, generation] = unpack(cookie);
  auto it = states_.find(op);
  if (it != states_.end() && it->second.generation == generation && it->second.by_driver)
    findings_.report(rule::driver_not_taken, it->second.what + " was completed, though submit did not take it");
}

baton_driver_host make_validating_services() {
  baton_driver_host h = make_services();
  h.complete = complete_asked;
  h.progress = progress_asked;
  return h;
}

}  // namespace baton::core
