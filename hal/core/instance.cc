#include "hal/core/hold.h"

#include "hal/core/buffer.h"
#include "hal/core/poller.h"
#include "hal/core/program.h"
#include "hal/core/queue.h"
#include "hal/core/services.h"
#include "hal/core/timeline.h"
#include "hal/core/validate.h"

#include <algorithm>

using namespace baton::core;

baton_instance::baton_instance(Options options) : registry(options), stats(options.run_folder), services(make_services()), batch(64) {}
baton_instance::~baton_instance() = default;

int32_t baton_instance_create(const baton_instance_options* options, baton_instance** out, baton_error* error) {
  if (!out) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_instance_create: out is NULL"));
  Options read = read_options(options);
  const std::optional<std::string> validate = take_layer(read.layers, "validate");
  const std::string layers = std::move(read.layers);
  const bool print = read.layers_of_operator;
  auto in = std::make_unique<baton_instance>(std::move(read));
  if (validate) {
    auto how = parse_validate(*validate);
    if (!how) return fail(error, how.error());
    how->print = print;
    in->validator = std::make_unique<Validator>(in.get(), *how);
    in->services = make_validating_services();
    in->watched = true;
  }
  if (baton::Status s = in->layers.create(in->registry, layers); !s) return fail(error, s.error());
  if (baton::Status s = in->waker.create(); !s) return fail(error, s.error());
  *out = in.release();
  return ok(error);
}

void baton_instance_destroy(baton_instance* in) {
  if (!in) return;
  const baton_error cause = make_error(BATON_CANCELLED, "", "", "the instance is being destroyed");
  in->span = nullptr;
  if (in->validator) in->validator->report_leaks();
  // An inner queue is closed by the link that owns it. Closing polls, which moves the queues: look anew each time.
  auto open = [](const baton_queue* q) { return q && !q->owner; };
  for (auto it = in->queues.begin(); (it = std::find_if(in->queues.begin(), in->queues.end(), open)) != in->queues.end();)
    close_queue(*it, cause);
  for (baton_device *d = in->devices.head(), *next; d; d = next) {
    next = d->next;
    ++d->children;  // keeps it while its children go
    while (baton_program* p = d->programs.head()) baton_unload(p);
    while (baton_buffer* b = d->buffers.head()) baton_free(b);
    Hold hold(in);
    d->closed = true;
    drop_child(d);
  }
  free_dead_queues(in);
  in->registry.end_emulators();
  delete in;
}

uint32_t baton_poll(baton_instance* in, uint32_t budget) { return in ? poll(in, budget) : 0; }
int baton_instance_fd(baton_instance* in) { return in ? in->waker.fd() : -1; }
uint32_t baton_poll_wait(baton_instance* in, uint64_t deadline_ns) { return in ? poll_wait(in, deadline_ns) : 0; }
