// model.hpp: a loaded NEFF: the engine's executable on one core, and its execution over two tensor sets.
//
// Owner    the Machine's model handles. The packed weights are charged against the core's HBM stack until the model goes.
// Threads  execute blocks and holds its core; models on other cores run at once.
// Cost     load packs every weight once; execute is the program's time.
// Errors   by status: BAD_INPUT (tensors missing, too small, in another core's memory; arguments), RESOURCE (HBM full), INVALID
//          (malformed), UNSUPPORTED_NEFF_VERSION, COMPLETED_WITH_ERR (asked to stop), HW_ERR_COLLECTIVES (a rank failed), TIMEOUT.
#pragma once

#include "emulators/neuron/machine.hpp"
#include "emulators/neuron/neff_reader.hpp"

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace baton::neuron_emu {

// Memory of a core that is no tensor: charged against its stack, and counted in its row, while alive.
class HbmCharge {
 public:
  HbmCharge() = default;
  HbmCharge(const HbmCharge&) = delete;
  ~HbmCharge();
  bool take(Core& core, DeviceMemory row, uint64_t bytes);  // once; false: it does not fit

 private:
  Core* core_ = nullptr;
  DeviceMemory row_{};
  uint64_t bytes_ = 0;
};

struct LoadRequest {
  std::span<const uint8_t> neff;
  Core* core = nullptr;
  uint32_t rank = 0, ranks = 1;
};
// Status and handle; the failure's text is recorded (process.hpp).
int32_t load_model(Machine&, const LoadRequest&, std::shared_ptr<nrt::Model>& out);
int32_t execute_model(Machine&, nrt::Model&, TensorSet& in, TensorSet& out);
// The model's tensors as nrt_get_model_tensor_info lists them. One allocation; nrt_free_model_tensor_info frees it.
int32_t describe_model(nrt::Model&, nrt::TensorInfoArray** out);

}  // namespace baton::neuron_emu

namespace baton::nrt {

struct Model {
  explicit Model(engine::Executable e) : executable(std::move(e)) {}
  ~Model();
  // What runs: of a model whose weights are inputs, it is packed from the tensors that a launch binds, again whenever they hold others.
  engine::Executable& runnable() { return packed ? *packed : executable; }
  std::string name;
  neuron_emu::Core* core = nullptr;
  engine::Executable executable;
  std::vector<std::string> weight_inputs;  // constants by name; {}: they are in the NEFF
  std::vector<uint8_t> program_bytes;      // of such a model
  engine::Options options;
  std::optional<engine::Executable> packed;
  uint64_t packed_of = 0;                  // hash of the weights
  neuron_emu::HbmCharge constants, scratch;
  uint32_t rank = 0;
  std::shared_ptr<neuron_emu::Meeting> group;  // null: one rank
};

}  // namespace baton::nrt
