// loaded_model.hpp: a program as the runtime has it: one nrt model on one core, shared by every load of the same program with the same weights.
//
// The runtime of the emulator takes Baton's portable container; hardware takes what a compiler made. Where a folder of artifacts is named, the
// program is looked up there: FOLDER/FINGERPRINT.neff (program::fingerprint; a bucket of shapes is a program of its own, so it has its own
// file). A program says nothing of its weights' values, so a compiled one must have each constant as an input of its name: they are
// written to the device once, stay there, and are bound at every launch.
//
// Owner    programs share the model; it is unloaded with the last of them. The cache knows them by weak reference.
// Threads  under the core's device lock.
// Cost     a load: one pass over the weights to hash them, then what the runtime needs; of what is loaded already, the pass alone.
// Errors   VERSION: the runtime takes no portable container, and there is no artifact (its name is told); MISMATCH: an artifact that is of another
//          program, what it lacks named; else the runtime's.
//
//     BATON_ASSIGN(std::shared_ptr<LoadedModel> m, cache.load({bytes, parsed, constants, rank, ranks}, place));
//     BATON_TRY(m->bind_weights(input_set));
#pragma once

#include "drivers/neuron/memory.hpp"
#include "hal/program/program.hpp"

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace baton::neuron {

// A lane: which core it is. Heap i of a device is the memory of lane i.
struct Placement {
  uint32_t lane;
  int32_t vnc;   // process-relative core
  uint32_t hbm;  // HBM stack of the chip
  uint32_t lnc;
};

struct LoadCall {
  std::span<const uint8_t> bytes;
  const program::Program& program;  // they, parsed
  std::span<const baton_constant> constants;
  uint32_t rank, ranks;
};

class LoadedModel {
 public:
  ~LoadedModel();
  LoadedModel(const LoadedModel&) = delete;
  nrt::Model* get() const { return model_; }
  Status bind_weights(void* input_set) const;  // nothing, where they are in the model

 private:
  friend class ModelCache;
  explicit LoadedModel(const Port& port) : port_(port) {}
  Status load(const LoadCall&, const Placement&, const void* neff, uint64_t bytes);
  Status load_portable(const LoadCall&, const Placement&, const std::string& artifact);
  Status load_artifact(const LoadCall&, const Placement&, const std::string& file);
  Status check_inputs(const LoadCall&, const std::string& file) const;

  const Port& port_;
  nrt::Model* model_ = nullptr;
  std::vector<std::pair<std::string, std::unique_ptr<Memory>>> weights_;
};

class ModelCache {
 public:
  ModelCache(const Port& port, std::string artifacts) : port_(port), artifacts_(std::move(artifacts)) {}
  Result<std::shared_ptr<LoadedModel>> load(const LoadCall&, const Placement&);

 private:
  const Port& port_;
  const std::string artifacts_;  // a folder, "" for none
  std::map<std::string, std::weak_ptr<LoadedModel>> loaded_;
};

}  // namespace baton::neuron
