// validate.h: the layer "validate": what the core asks while an instance validates, and the memory of what was destroyed.
//
// It sits beside the API, not over the driver table, because waits, signals and the lives of handles never reach a driver. An instance
// without it has no Validator and no path that asks for one: submit asks the queue's door, which also says "closing", an op's issue and
// end ask the flag that a span callback sets, queries and waits look only at a timeline that is poisoned (a destroyed one is). With it a
// submit goes inside (hold.h) instead of leaving its ops for whoever is, so that everything below is done by one thread at a time.
//
// A destroyed handle's memory is kept (the last 16,384), so that its next use is recognized without touching what was freed.
//
// Owner    the instance.   Threads  everything under the instance's lock, taken here where the caller may not hold it.
// Cost     an op: some hash table entries.   Errors  findings; a call on a destroyed handle is refused with INVALID_ARGUMENT.
//
//     if (int32_t code = check_alive(buffer, "baton_map", error)) return code;
//     dispose(instance, buffer);   // instead of delete
#pragma once

#include "hal/core/buffer.h"
#include "hal/core/finding.h"
#include "hal/core/program.h"
#include "hal/core/queue.h"
#include "hal/core/timeline.h"
#include "hal/core/validate_driver.h"
#include "hal/core/validate_memory.h"
#include "hal/core/validate_points.h"

#include <deque>
#include <string_view>

namespace baton::core {

// What stands after "validate=": words separated by ':'.
struct ValidateOptions {
  bool print = false;                    // on stderr
  bool abort_at_error = false;           // "abort"
  uint64_t patience_ns = 5'000'000'000;  // "patience=MS": a wait this long is looked into though its deadline is far
};
Result<ValidateOptions> parse_validate(std::string_view argument);

std::string describe(const baton_buffer*);
std::string describe(const baton_program*);
std::string describe(const baton_timeline*);
std::string describe(const baton_queue*);
std::string describe(const baton_device*);

class Validator {
 public:
  Validator(baton_instance* in, const ValidateOptions& o)
      : options(o), findings(in, o.print, o.abort_at_error), points(findings), driver(findings), memory(findings), in_(in) {}
  ~Validator();

  // Handles. The template's H is baton_buffer, baton_program, baton_timeline, baton_queue or baton_device.
  template <class H>
  int32_t alive(const H*, const char* call, baton_error*);
  void about_to_free(const baton_buffer*);
  void about_to_unload(const baton_program*);
  void about_to_destroy(const baton_timeline*);
  void about_to_close(const baton_queue*);
  void report_leaks();
  template <class T>
  void keep(T* dead) {
    Hold hold(in_);
    memory.forget(dead);
    keep_memory(dead, [](void* p) { delete static_cast<T*>(p); });
  }
  void keep(baton_timeline*);

  // Ops.
  int32_t check_handles(const baton_queue*, const baton_op* ops, uint32_t count, baton_error*);
  void submitted(const Op*);
  void issued(const Op*);  // again, if the driver did not take it
  void ended(Op*, const baton_error*);

  const ValidateOptions options;
  Findings findings;
  Points points;
  DriverWatch driver;
  MemoryWatch memory;

 private:
  void keep_memory(void*, void (*free)(void*));
  template <class H>
  int32_t refuse(const H*, const std::string& by, baton_error*);
  template <class Uses>
  std::string user_of(Uses uses) const;

  struct Dead {
    void* memory;
    void (*free)(void*);
  };
  baton_instance* const in_;
  std::deque<Dead> dead_;
};

inline baton_instance* instance_of(const baton_buffer* b) { return b->device->instance; }
inline baton_instance* instance_of(const baton_program* p) { return p->device->instance; }
inline baton_instance* instance_of(const baton_timeline* t) { return t->instance; }
inline baton_instance* instance_of(const baton_queue* q) { return q->instance; }
inline baton_instance* instance_of(const baton_device* d) { return d->instance; }

// At the door of a call: INVALID_ARGUMENT, and a finding, if the instance validates and the handle was destroyed.
template <class H>
int32_t check_alive(const H* h, const char* call, baton_error* error) {
  Validator* v = instance_of(h)->validator.get();
  return v ? v->alive(h, call, error) : BATON_OK;
}

// `delete`, or kept if the instance validates.
template <class T>
void dispose(baton_instance* in, T* dead) {
  if (in->validator) in->validator->keep(dead);
  else delete dead;
}

}  // namespace baton::core
