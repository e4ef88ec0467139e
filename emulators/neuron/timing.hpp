// timing.hpp: the timing model that an emulated Trainium2 reports with: emulators/timing's trn2, or none.
//
// Owner    the Machine owns the model.   Threads  const after making.   Errors  those of loading the model's data file.
#pragma once

#include "emulators/neuron/options.hpp"

#include <memory>
#include <string>

namespace baton::neuron_emu {

// Null for timing=none.
Result<std::unique_ptr<engine::CostModel>> make_cost_model(const Options&);
// As nrt_get_version's detail carries it: "trn2 2026-11 (modelled)"; "" for none.
std::string timing_name(const Options&);

}  // namespace baton::neuron_emu
