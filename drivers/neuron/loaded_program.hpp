// loaded_program.hpp: a portable program loaded onto one core, and the launch slots through which it is called.
//
// A slot holds what one launch passes and reports: the argument tensor, the progress page (launch_abi.hpp) and two tensor sets. A
// program has a few, so that launches queue up without waiting for the host.
//
// Owner    the core, by handle; a program that launches still use when it is unloaded lives on until they end.
// Threads  load, begin, end under the core's device lock; execute() on one queue's thread for a slot; marks() on the poller's while it runs.
// Cost     load: loaded_model.hpp; begin is a few map operations in the runtime, and of a compiled program one a weight.
// Errors   INVALID_ARGUMENT for bindings and arguments that the program does not declare; else the runtime's.
//
//     BATON_ASSIGN(auto p, LoadedProgram::load(port, models, place, bytes, constants, rank, ranks));
//     LaunchSlot* slot = p->begin(op, error);
//     p->execute(*slot, result);   // the queue's thread
//     p->end(*slot);
#pragma once

#include "drivers/neuron/launch_abi.hpp"
#include "drivers/neuron/loaded_model.hpp"

#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace baton::neuron {

struct LaunchSlot {
  bool busy = false;
  nrt::Tensor *args = nullptr, *page = nullptr;
  ProgressPage* mapped = nullptr;  // the page, in host memory that the device writes; null where the runtime cannot attach any
  std::vector<uint64_t> copied;    // the page as read after the launch, where it is in device memory
  void *in = nullptr, *out = nullptr;
  std::vector<Memory*> bound;  // each acquired
};

struct LaunchResult {
  int32_t status = 0;
  uint64_t cost_ns = 0;
};

class LoadedProgram {
 public:
  static Result<std::unique_ptr<LoadedProgram>> load(const Port&, ModelCache&, const Placement&, std::span<const uint8_t> program,
                                                     std::span<const baton_constant> constants, uint32_t rank, uint32_t ranks);
  ~LoadedProgram();
  LoadedProgram(const LoadedProgram&) = delete;

  const Placement& placement() const { return place_; }
  const std::string& name() const { return name_; }
  bool has_free_slot() const;
  // Null with `error` set if the launch is not one of this program's.
  LaunchSlot* begin(const baton_driver_op& op, Error& error);
  LaunchResult execute(LaunchSlot&);
  // `freed` gets memories whose last use this was: delete them. True if the program itself is to be deleted.
  bool end(LaunchSlot&, std::vector<Memory*>& freed);
  // Marks that the launch has reached, and the modelled offset of mark k (from 1).
  static uint64_t marks(const LaunchSlot&);
  static uint64_t mark_offset(const LaunchSlot&, uint64_t k);
  static void cancel(LaunchSlot&);

  bool orphan() { return orphan_ = true, busy_ == 0; }
  void drop();  // unloads (reset); the handle stays until the core unloads it

 private:
  struct Value {
    bool in, out, optional;
  };
  LoadedProgram(const Port& port, const Placement& place) : port_(port), place_(place) {}
  void describe(const program::Program&);
  Status make_slots();
  Status attach_page(LaunchSlot&, uint8_t* at);
  Status bind(LaunchSlot&, const baton_driver_op&);
  Status bind_one(LaunchSlot&, const baton_driver_binding&);
  Status add(void* set, const char* name, nrt::Tensor*);
  void clear(LaunchSlot&);

  static constexpr uint32_t kSlots = 4;
  const Port& port_;
  Placement place_;
  std::string name_;
  std::shared_ptr<LoadedModel> model_;
  std::unordered_map<std::string, Value> values_;
  uint32_t required_ = 0;  // values that a launch must bind
  uint32_t args_ = 0;
  uint64_t page_bytes_ = 0;
  std::unique_ptr<Memory> arena_;  // device memory: arguments, and the pages where they cannot be attached
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  std::unique_ptr<uint8_t, Free> pages_;  // host memory
  LaunchSlot slots_[kSlots];
  uint32_t busy_ = 0;
  bool orphan_ = false;
};

}  // namespace baton::neuron
