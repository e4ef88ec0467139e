#include "emulators/neuron/timing.hpp"

#include "emulators/timing/timing.hpp"

namespace baton::neuron_emu {

Result<std::unique_ptr<engine::CostModel>> make_cost_model(const Options& o) {
  if (o.timing == "none") return std::unique_ptr<engine::CostModel>();
  return timing::load_cost_model(o.timing);
}

std::string timing_name(const Options& o) {
  auto model = make_cost_model(o);
  return model.ok() && *model ? (*model)->name() : "";
}

}  // namespace baton::neuron_emu
