// layers.h: the layers that an instance puts over its drivers' tables, and a device with its stack of them.
//
// Each layer's table is the driver's with the layer's slots in it: a slot that the layer leaves empty passes on, one that is missing
// below stays missing. The core calls the outermost table as it would call the driver's, so that without layers nothing is different.
//
// Owner    the instance owns Layers (made with it, gone after its devices); each layered device its LayerStack.
// Threads  create once; open from any thread; tables as a driver's.
// Cost     none when no layer is named. A passed-on call costs one indirection a layer.
// Errors   INVALID_ARGUMENT (a malformed list), what the registry says of a layer's file, what the layer says of its argument.
//
//     BATON_TRY(layers.create(registry, "trace=/tmp/t.json,delay=2us"));
//     int32_t code = layers.open(driver, &services, uri, stack, &e);   // stack.table(), stack.device()
#pragma once

#include "hal/baton.hpp"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace baton::core {

class Registry;

class LayerStack {
 public:
  const baton_driver* table() const { return &levels_[0].table; }
  void* device() const { return levels_[0].layered; }

 private:
  friend class Layers;
  struct Level {
    const baton_layer* layer = nullptr;
    baton_driver table{};
    baton_layered* layered = nullptr;
  };
  static void close(void* device);
  static void detach(Level&);
  std::unique_ptr<Level[]> levels_;  // outermost first; their addresses are in baton_layered::core
};

class Layers {
 public:
  Layers() = default;
  Layers(const Layers&) = delete;
  ~Layers();
  Status create(Registry&, std::string_view list);
  bool empty() const { return layers_.empty(); }
  // Opens the driver's device below every layer. Closed by table()->close; `stack` must live until then.
  int32_t open(const baton_driver*, const baton_driver_host* services, const char* uri, LayerStack& stack, baton_error*) const;

 private:
  struct Layer {
    const baton_layer* layer;
    void* self;
  };
  std::vector<Layer> layers_;  // outermost first
};

}  // namespace baton::core
