// timing.hpp: the cost model that models are loaded with: the machine's own, another, or none, and around it a count of the work, for the counters.
//
// Owner    the Machine owns the model.   Threads  const after making; the work is counted by thread: an execution has one.
// Errors   those of loading the model's data file.
#pragma once

#include "emulators/neuron/options.hpp"

#include <memory>
#include <string>

namespace baton::neuron_emu {

class Cost final : public engine::CostModel {
 public:
  explicit Cost(std::unique_ptr<engine::CostModel> model) : model_(std::move(model)) {}
  bool modelled() const { return model_ != nullptr; }
  std::string name() const override { return model_ ? model_->name() : ""; }
  double launch_ns() const override { return model_ ? model_->launch_ns() : 0; }
  double op_ns(const engine::OpWork&) const override;
  double copy_ns(uint64_t bytes, bool to_device) const override { return model_ ? model_->copy_ns(bytes, to_device) : 0; }
  double device_copy_ns(uint64_t bytes) const override { return model_ ? model_->device_copy_ns(bytes) : 0; }
  double fill_ns(uint64_t bytes) const override { return model_ ? model_->fill_ns(bytes) : 0; }
  // Multiply-accumulates of this thread since it last asked.
  static uint64_t take_macs();

 private:
  std::unique_ptr<engine::CostModel> model_;  // null for timing=none
};

Result<std::unique_ptr<Cost>> make_cost(const Options&);
// As nrt_get_version's detail carries it: "trn2 2026-11 (modelled)"; "" for none.
std::string timing_name(const Options&);

}  // namespace baton::neuron_emu
