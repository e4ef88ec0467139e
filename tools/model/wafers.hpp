// wafers.hpp: how many wafers of a device hold a model, and which layers each of them has: drivers/cs3/placement, asked about the decode
// program on what the device says of itself. `devctl place`, `devctl model` and the decode engine cut by it, so that all cut alike.
//
// Owner    plain values.   Threads  any.   Cost  about 1 ms for 80 layers.
// Errors   CAPACITY with the numbers and what would fit; INVALID_ARGUMENT: more wafers than the device or the model's layers allow.
//
//     BATON_ASSIGN(cs3::Shape shape, decode_shape(model, numbers, whole));
//     BATON_ASSIGN(cs3::Placement p, place_on(info, shape, {.context = 8192}));
//     for (const transport::KvLayout& l : cut_layers(layout, p)) ...
#pragma once

#include "drivers/cs3/placement/place.hpp"
#include "tools/model/programs.hpp"

namespace baton::model {

// Whether programs are laid out on its heaps by layers.
bool has_wafers(const DeviceInfo&);
// What the decode program keeps, layer by layer.
Result<cs3::Shape> decode_shape(const Model&, const Numbers&, const Shard&);
// On the wafers that the device has, as large as it says they are (the fabric is in its model's text). Request::wafers 0: the fewest of them.
Result<cs3::Placement> place_on(const DeviceInfo&, const cs3::Shape&, cs3::Request);
// The layers of each wafer.
Layouts cut_layers(const transport::KvLayout& whole, const cs3::Placement&);

}  // namespace baton::model
