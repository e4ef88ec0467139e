#include "hal/core/validate.h"

#include <algorithm>
#include <charconv>

namespace baton::core {
namespace {

constexpr size_t kKept = 16'384;  // destroyed handles whose memory is kept: less than 1 KB each

bool destroyed(const baton_buffer* b) { return b->freed; }
bool destroyed(const baton_program* p) { return p->unloaded; }
bool destroyed(const baton_timeline* t) { return t->state != TimelineState::live; }
bool destroyed(const baton_queue* q) { return q->closing(); }
bool destroyed(const baton_device* d) { return d->closed; }

std::string where(const baton_op& op, const baton_queue* q) {
  return "baton_submit (tag " + std::to_string(op.tag) + ", queue '" + q->name + "')";
}

}  // namespace

Result<ValidateOptions> parse_validate(std::string_view argument) {
  ValidateOptions o;
  constexpr std::string_view kPatience = "patience=";
  constexpr uint64_t kMostPatience = 1'000'000;  // ms
  while (!argument.empty()) {
    const std::string_view word = argument.substr(0, argument.find(':'));
    argument.remove_prefix(std::min(argument.size(), word.size() + 1));
    uint64_t ms = 0;
    const char* end = word.data() + word.size();
    if (word == "abort") o.abort_at_error = true;
    else if (word.starts_with(kPatience) &&
             std::from_chars(word.data() + kPatience.size(), end, ms) == std::from_chars_result{end, {}} && ms < kMostPatience)
      o.patience_ns = ms * 1'000'000;
    else
      return Error(BATON_INVALID_ARGUMENT, "layer validate: '" + std::string(word.substr(0, 100)) + "'",
                   "write validate, or validate=WORD[:WORD] of: abort, patience=MILLISECONDS");
  }
  return o;
}

std::string describe(const baton_buffer* b) { return "buffer of " + std::to_string(b->bytes) + " bytes on " + b->device->shown; }
std::string describe(const baton_program* p) { return "program on " + p->device->shown + " lane " + std::to_string(p->lane); }
std::string describe(const baton_timeline* t) { return std::string("timeline '") + t->name + "'"; }
std::string describe(const baton_queue* q) { return "queue '" + q->name + "'"; }
std::string describe(const baton_device* d) { return "device " + d->shown; }

Validator::~Validator() {
  for (const Dead& d : dead_) d.free(d.memory);
}

void Validator::keep_memory(void* memory, void (*free)(void*)) {
  dead_.push_back({memory, free});
  if (dead_.size() <= kKept) return;
  dead_.front().free(dead_.front().memory);
  dead_.pop_front();
}

void Validator::keep(baton_timeline* t) {
  Hold hold(in_);
  keep_memory(t, [](void* p) {
    auto* dead = static_cast<baton_timeline*>(p);
    dead->instance->timelines.give(dead);
  });
}

// ---- handles ----

template <class H>
int32_t Validator::refuse(const H* h, const std::string& by, baton_error* error) {
  const std::string what = by + " names a " + describe(h) + " that was destroyed";
  findings.report(rule::use_after_free, what);
  return fail(error, make_error(BATON_INVALID_ARGUMENT, "", rule::use_after_free.next, "%s", what.c_str()));
}

template <class H>
int32_t Validator::alive(const H* h, const char* call, baton_error* error) {
  Hold hold(in_);
  return destroyed(h) ? refuse(h, call, error) : BATON_OK;
}
template int32_t Validator::alive(const baton_buffer*, const char*, baton_error*);
template int32_t Validator::alive(const baton_program*, const char*, baton_error*);
template int32_t Validator::alive(const baton_timeline*, const char*, baton_error*);
template int32_t Validator::alive(const baton_queue*, const char*, baton_error*);
template int32_t Validator::alive(const baton_device*, const char*, baton_error*);

// An op for which `uses` is true, in words.
template <class Uses>
std::string Validator::user_of(Uses uses) const {
  std::string who = "an op";  // a link's copy may be over, and its last part not
  points.each([&](const Op* op) {
    if (!uses(op)) return false;
    who = describe(op);
    return true;
  });
  return who;
}

void Validator::about_to_free(const baton_buffer* b) {
  Hold hold(in_);
  if (!b->references) return;
  auto uses = [&](const Op* op) {
    return op->buffer[0] == b || op->buffer[1] == b || std::find(op->bound.begin(), op->bound.end(), b) != op->bound.end();
  };
  findings.report(rule::free_in_flight, describe(b) + " is freed while " + user_of(uses) + " uses it: the memory stays until the op is complete");
}

void Validator::about_to_unload(const baton_program* p) {
  Hold hold(in_);
  if (!p->references) return;
  const std::string who = user_of([&](const Op* op) { return op->program == p; });
  findings.report(rule::free_in_flight, describe(p) + " is unloaded while " + who + " uses it: it stays until the op is complete");
}

void Validator::about_to_destroy(const baton_timeline* t) {
  Hold hold(in_);
  points.forget(t);
  if (!t->references) return;
  auto uses = [&](const Op* op) {
    const bool waits = op->wait[0].timeline == t || op->wait[1].timeline == t;
    return waits || op->signal[0] == t || op->signal[1] == t || op->progress == t;
  };
  findings.report(rule::free_in_flight, describe(t) + " is destroyed while " + user_of(uses) + " names it: ops that wait for it fail");
}

void Validator::about_to_close(const baton_queue* q) {
  Hold hold(in_);
  for (const Op* op = q->head; op; op = op->next)
    if (op->state == OpState::waiting && points.explain(op, ", and is cancelled by closing its queue")) return;  // one is enough
}

void Validator::report_leaks() {
  Hold hold(in_);
  auto report = [&](uint64_t count, const char* kind, const std::string& first) {
    if (count)
      findings.report(rule::leak, std::to_string(count) + " " + kind + (count == 1 ? " is" : "s are") + " still open when the instance is destroyed: " +
                                      first + (count == 1 ? "" : ", ..."));
  };
  uint64_t queues = 0, buffers = 0, programs = 0, devices = 0;
  const baton_queue* queue = nullptr;
  const baton_buffer* buffer = nullptr;
  const baton_program* program = nullptr;
  const baton_device* device = nullptr;
  for (const baton_queue* q : in_->queues)
    if (q && !q->owner && ++queues) queue = q;
  for (const baton_device* d = in_->devices.head(); d; d = d->next) {
    if (!d->closed && ++devices) device = d;
    if ((buffers += d->buffers.size()) && d->buffers.head()) buffer = d->buffers.head();
    if ((programs += d->programs.size()) && d->programs.head()) program = d->programs.head();
  }
  uint64_t timelines = 0;
  const baton_timeline* timeline = nullptr;
  in_->timelines.each([&](const baton_timeline* t) {
    if (t->state == TimelineState::live && ++timelines) timeline = t;
  });
  report(queues, "queue", queue ? describe(queue) : "");
  report(programs, "program", program ? describe(program) : "");
  report(buffers, "buffer", buffer ? describe(buffer) : "");
  report(devices, "device", device ? describe(device) : "");
  report(timelines, "timeline", timeline ? describe(timeline) : "");
}

// ---- ops ----

int32_t Validator::check_handles(const baton_queue* q, const baton_op* ops, uint32_t count, baton_error* error) {
  Hold hold(in_);
  if (q->dead) return refuse(q, "baton_submit", error);
  for (uint32_t i = 0; i < count; ++i) {
    const baton_op& op = ops[i];
    int32_t code = BATON_OK;
    auto check = [&](const auto* h) {
      if (h && code == BATON_OK && destroyed(h)) code = refuse(h, where(op, q), error);
    };
    for (const baton_point* p : {&op.wait[0], &op.wait[1], &op.signal[0], &op.signal[1]}) check(p->timeline);
    switch (op.opcode) {
      case BATON_OP_COPY:
        if (op.plan_op) break;
        check(op.u.copy.src);
        check(op.u.copy.dst);
        break;
      case BATON_OP_FILL: check(op.u.fill.dst); break;
      case BATON_OP_LAUNCH:
        check(op.u.launch.program);
        check(op.u.launch.progress);
        for (uint16_t b = 0; op.u.launch.bindings && b < op.binding_count; ++b) check(op.u.launch.bindings[b].buffer);
        break;
      default: break;
    }
    if (code != BATON_OK) return code;
  }
  return BATON_OK;
}

void Validator::submitted(const Op* op) { points.submitted(op); }

void Validator::issued(const Op* op) {
  if (!op->hop) memory.issued(op);
}

void Validator::ended(Op* op, const baton_error* error) {
  if (!op->hop) memory.ended(op);
  points.ended(op, error != nullptr);
  driver.ended(op);
}

}  // namespace baton::core

int32_t baton_set_finding_callback(baton_instance* in, baton_finding_fn fn, void* user, baton_error* error) {
  using namespace baton::core;
  if (!in) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_set_finding_callback: instance is NULL"));
  if (!in->validator)
    return fail(error, make_error(BATON_UNSUPPORTED, "", "name it: BATON_LAYERS=validate, or \"validate\" in the instance's options",
                                  "the instance was made without the layer validate"));
  Hold hold(in);
  in->validator->findings.set(fn, user);
  return ok(error);
}
