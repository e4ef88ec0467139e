// forms.h: the forms that a model file may have; each is a CostModel over the constants that it lists.
//
// Owner  load_cost_model.   Threads  const use from any.   Errors  CORRUPT for a constant that is missing, unknown or has another unit.
#pragma once

#include "emulators/timing/timing.hpp"

#include <span>

namespace baton::timing {

// A constant that a form needs, and where its value goes.
struct Field {
  const char* name;
  const char* unit;
  double* value;
};

Status take_constants(const ModelFile&, std::string_view where, std::span<const Field>);

// "neuron-core": a roofline of the engines, HBM, DMA and NeuronLink.
Result<std::unique_ptr<engine::CostModel>> make_neuron_core(const ModelFile&, std::string_view where, uint32_t lane_cores);
// "wafer": dominated by collectives over the mesh (wafer.hpp).
Result<std::unique_ptr<engine::CostModel>> make_wafer(const ModelFile&, std::string_view where);

}  // namespace baton::timing
