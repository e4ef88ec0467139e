#include "hal/core/layers.h"

#include "hal/core/address.h"
#include "hal/core/error.h"
#include "hal/core/registry.h"

namespace baton::core {
namespace {

// A function for a table's slot that calls the same slot of the table below.
template <auto Slot>
struct PassOn;
template <class R, class... A, R (*baton_driver::*Slot)(void*, A...)>
struct PassOn<Slot> {
  static R call(void* device, A... a) {
    auto* l = static_cast<baton_layered*>(device);
    return (l->next->*Slot)(l->device, a...);
  }
};

template <auto Slot>
void fill_slot(baton_driver& table, const baton_driver& layer, const baton_driver& next) {
  table.*Slot = !(next.*Slot) ? nullptr : layer.*Slot ? layer.*Slot : PassOn<Slot>::call;
}

// The table of a layer over `next`.
baton_driver over(const baton_driver& layer, const baton_driver& next) {
  using D = baton_driver;
  D t = next;  // scheme, description
  t.struct_size = sizeof t;
  t.enumerate = nullptr;
  t.open = nullptr;
  fill_slot<&D::info>(t, layer, next);
  fill_slot<&D::telemetry>(t, layer, next);
  fill_slot<&D::reset>(t, layer, next);
  fill_slot<&D::alloc>(t, layer, next);
  fill_slot<&D::free>(t, layer, next);
  fill_slot<&D::map>(t, layer, next);
  fill_slot<&D::export_buffer>(t, layer, next);
  fill_slot<&D::import_buffer>(t, layer, next);
  fill_slot<&D::load>(t, layer, next);
  fill_slot<&D::unload>(t, layer, next);
  fill_slot<&D::queue_open>(t, layer, next);
  fill_slot<&D::queue_close>(t, layer, next);
  fill_slot<&D::submit>(t, layer, next);
  fill_slot<&D::poll>(t, layer, next);
  fill_slot<&D::fence>(t, layer, next);
  // A layer's own queue is to be closed and polled, whether what is below needs it or not.
  if (layer.queue_open && next.queue_open) {
    t.queue_close = layer.queue_close;
    t.poll = layer.poll;
  }
  return t;
}

}  // namespace

Layers::~Layers() {
  while (!layers_.empty()) {
    layers_.back().layer->destroy(layers_.back().self);
    layers_.pop_back();
  }
}

Status Layers::create(Registry& registry, std::string_view list) {
  BATON_ASSIGN(auto choices, parse_layers(list));
  for (const LayerChoice& c : choices) {
    BATON_ASSIGN(const baton_layer* layer, registry.layer(c.name));
    Layer l{layer, nullptr};
    baton_error e = blank_error();
    if (int32_t code = layer->create(c.argument.c_str(), &l.self, &e)) {
      complete_error(e, code, "", 0, ("layer " + c.name).c_str());
      return Error(e);
    }
    layers_.push_back(l);
  }
  return {};
}

int32_t Layers::open(const baton_driver* driver, const baton_driver_host* services, const char* uri, LayerStack& stack,
                     baton_error* e) const {
  const size_t n = layers_.size();
  stack.levels_ = std::make_unique<LayerStack::Level[]>(n);
  int32_t code = BATON_OK;
  size_t made = 0;
  for (; made < n; ++made) {  // services go down from the core ...
    LayerStack::Level& level = stack.levels_[made];
    level.layer = layers_[made].layer;
    if ((code = level.layer->attach(layers_[made].self, services, uri, &level.layered, e))) break;
    level.layered->core = &level;
    level.layered->next = nullptr;
    level.layered->device = nullptr;
    services = level.layered->host;
  }
  void* device = nullptr;
  if (code == BATON_OK) code = driver->open(services, uri, &device, e);
  if (code != BATON_OK) {
    while (made) LayerStack::detach(stack.levels_[--made]);
    return code;
  }
  const baton_driver* next = driver;
  for (size_t i = n; i--;) {  // ... and tables up from the driver
    LayerStack::Level& level = stack.levels_[i];
    level.layered->next = next;
    level.layered->device = device;
    level.table = over(*level.layer->slots, *next);
    level.table.close = LayerStack::close;
    next = &level.table;
    device = level.layered;
  }
  return BATON_OK;
}

void LayerStack::close(void* device) {
  auto* l = static_cast<baton_layered*>(device);
  if (l->next->close) l->next->close(l->device);
  detach(*static_cast<Level*>(l->core));
}

void LayerStack::detach(Level& level) { level.layer->detach(level.layered); }

}  // namespace baton::core
