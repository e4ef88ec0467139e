// layer.cc: fault=PLAN.json[?seed=NUMBER]: what plan.h says, done to calls and ops. The layer's table.
#include "hal/layers/argument.h"
#include "hal/layers/fault/device.h"

#include <fstream>
#include <iterator>

namespace baton::layers {
namespace {

int32_t answer(baton_error* e, const Error& error) {
  *e = error;
  return e->code;
}

Result<Plan> read_plan(const std::string& text) {
  BATON_ASSIGN(Argument a, parse_argument(text, {"seed"}));
  std::ifstream file(a.main, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (!file) return Error(BATON_NOT_FOUND, "cannot read the fault plan '" + a.main + "'", "name a file: BATON_LAYERS=fault=/path/plan.json");
  auto plan = parse_plan(bytes);
  if (!plan) return Error(plan.error().code, a.main + ": " + plan.error().what, plan.error().next);
  BATON_ASSIGN(plan->seed, a.number("seed", plan->seed));
  return plan;
}

int32_t create(const char* argument, void** layer, baton_error* e) {
  auto plan = read_plan(argument);
  if (!plan) return answer(e, plan.error());
  *layer = new Trigger(std::move(*plan));
  return BATON_OK;
}

int32_t attach(void* layer, const baton_driver_host* host, const char* uri, baton_layered** out, baton_error* e) {
  auto d = std::make_unique<FaultDevice>(*static_cast<Trigger*>(layer), host, uri);
  if (int32_t code = d->gate(kOpen, e)) return code;
  *out = d.release();
  return BATON_OK;
}

FaultDevice* self(void* device) { return static_cast<FaultDevice*>(static_cast<baton_layered*>(device)); }

// A call that the plan may stop or hold up, and that is otherwise passed on. The error is a slot's last argument.
template <auto Slot, uint32_t At>
struct Gated;
template <class... A, int32_t (*baton_driver::*Slot)(void*, A...), uint32_t At>
struct Gated<Slot, At> {
  static int32_t call(void* device, A... a) {
    FaultDevice* d = self(device);
    baton_error* e = nullptr;
    ((void)(e = last(a)), ...);
    if (int32_t code = d->gate(At, e)) return code;
    return (d->next->*Slot)(d->device, a...);
  }
  static baton_error* last(baton_error* e) { return e; }
  template <class T>
  static baton_error* last(T) {
    return nullptr;
  }
};

// A dropped one is what a fabric without a fence does.
int32_t fence(void* device, void* mem, uint64_t offset, uint64_t bytes, baton_error* e) {
  FaultDevice* d = self(device);
  bool drop = false;
  if (int32_t code = d->gate(kFence, e, &drop)) return code;
  return drop ? BATON_OK : d->next->fence(d->device, mem, offset, bytes, e);
}

const baton_driver kSlots = {
    .struct_size = sizeof(baton_driver),
    .abi_version = BATON_ABI_VERSION,
    .telemetry = Gated<&baton_driver::telemetry, kTelemetry>::call,
    .reset = [](void* d, baton_error* e) { return self(d)->reset(e); },
    .alloc = Gated<&baton_driver::alloc, kAlloc>::call,
    .map = Gated<&baton_driver::map, kMap>::call,
    .export_buffer = Gated<&baton_driver::export_buffer, kExport>::call,
    .import_buffer = Gated<&baton_driver::import_buffer, kImport>::call,
    .load = Gated<&baton_driver::load, kLoad>::call,
    .queue_open = [](void* d, uint32_t lane, void** q, int* fd, baton_error* e) { return self(d)->open_queue(lane, q, fd, e); },
    .queue_close = [](void* d, void* q) { self(d)->close_queue(static_cast<FaultQueue*>(q)); },
    .submit = [](void*, void* q, const baton_driver_op* ops, uint32_t n, uint32_t* taken,
                 baton_error* e) { return static_cast<FaultQueue*>(q)->submit(ops, n, taken, e); },
    .poll = [](void*, void* q, uint32_t budget) { return static_cast<FaultQueue*>(q)->poll(budget); },
    .fence = fence,
};

}  // namespace
}  // namespace baton::layers

extern "C" __attribute__((visibility("default"))) const baton_layer* baton_layer_v1() {
  namespace layers = baton::layers;
  static const baton_layer layer = {
      .struct_size = sizeof(baton_layer),
      .abi_version = BATON_ABI_VERSION,
      .name = "fault",
      .description = "fails, delays, drops, duplicates, corrupts, loses and kills by a plan",
      .create = layers::create,
      .destroy = [](void* l) { delete static_cast<layers::Trigger*>(l); },
      .attach = layers::attach,
      .detach = [](baton_layered* d) { delete static_cast<layers::FaultDevice*>(d); },
      .slots = &layers::kSlots,
  };
  return &layer;
}
