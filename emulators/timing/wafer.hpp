// wafer.hpp: form "wafer": modelled time of a program that lies on a wafer. Cycles of an op on its rectangle of PEs; what costs is bringing
// partial sums together.
//
// Whoever has laid a program out (drivers/cs3/placement) says on which rectangle each op runs; placed() is then the program's cost model.
// An op of no placed program runs on all usable PEs of a CS-3.
//
// Owner    placed() borrows nothing.   Threads  const use from any.   Cost  op_ns is a few multiplications.
// Errors   as timing.hpp; INVALID_ARGUMENT for rectangles that are not one an op.
//
//     BATON_ASSIGN(auto model, timing::load_wafer_model("cs3", {.clock_hz = 1.1e9}));
//     BATON_ASSIGN(auto cost, model->placed(program, grounds));
//     BATON_ASSIGN(auto exe, engine::Executable::load(bytes, {}, {.cost = cost.get(), .numbers = false}));
#pragma once

#include "emulators/engine/engine.hpp"

#include <memory>
#include <string_view>
#include <vector>

namespace baton::timing {

// Where an op runs.
struct Ground {
  uint32_t width = 755, height = 1170; // PEs, bad rows that are crossed included; all usable ones of a CS-3
  uint32_t hops = 0;                   // from wafer to wafer, before the op
};

// What may differ from the model's file: the machine, not what is fitted. 0: as the file says.
struct WaferSettings {
  double clock_hz = 0;
  double mac_rate = 0; // MACs a cycle of a PE
  bool fused = true;   // products of one row with one input are one product, so their partial sums are brought together once
};

class WaferModel : public engine::CostModel {
 public:
  // Of this model and of all that are placed from it; as it is changed, ops that follow cost by the new one.
  virtual double clock_hz() const = 0;
  virtual void set_clock_hz(double) = 0;
  // The cost model of one program; `grounds` has one entry an op.
  virtual Result<std::unique_ptr<engine::CostModel>> placed(const program::Program&, std::vector<Ground> grounds) const = 0;
};

// A model file of form "wafer", by name or path.
Result<std::unique_ptr<WaferModel>> load_wafer_model(std::string_view name_or_path, const WaferSettings& = {});

}  // namespace baton::timing
