#include "emulators/neuron/timing.hpp"

#include "emulators/timing/timing.hpp"

#include <utility>

namespace baton::neuron_emu {
namespace {

thread_local uint64_t t_macs;

}  // namespace

double Cost::op_ns(const engine::OpWork& w) const {
  t_macs += w.macs;
  return model_ ? model_->op_ns(w) : 0;
}

uint64_t Cost::take_macs() { return std::exchange(t_macs, 0); }

Result<std::unique_ptr<Cost>> make_cost(const Options& o) {
  std::unique_ptr<engine::CostModel> model;
  if (o.timing != "none") {
    BATON_ASSIGN(model, timing::load_cost_model(o.timing.empty() ? o.machine.file : o.timing, o.lnc));
  }
  return std::make_unique<Cost>(std::move(model));
}

std::string timing_name(const Options& o) {
  auto cost = make_cost(o);
  return cost.ok() ? (*cost)->name() : "";
}

}  // namespace baton::neuron_emu
