// device.hpp: one open chip: its lanes and heaps, and everything allocated, loaded and queued on it.
//
// Lanes are the chip's visible logical cores. Heap i is the memory of lane i: the HBM stack behind its core, allocated through that core,
// because a launch may only touch its own core's tensors. With LNC 2 on Trainium2 each heap is a stack; with LNC 1 two heaps share one,
// and each shows the stack's size and use.
//
// Owner    the core, by handle.   Threads  under the core's device lock.
// Cost     open: nrt_init for the first device of a process.
// Errors   NOT_FOUND (no such chip, with those there are), BUSY, UNSUPPORTED; see runtime.hpp.
#pragma once

#include "drivers/neuron/queue.hpp"
#include "drivers/neuron/runtime.hpp"

#include <memory>
#include <vector>

namespace baton::neuron {

struct Heap {
  char name[16];       // "hbm2"; "hbm2.1" where two heaps share the stack
  int32_t vnc;         // the core through which it is allocated
  uint64_t bytes;      // capacity
  uint64_t allocated;  // by this driver
};

// Chip `chip` of the machine as info shows it, without opening it. Lanes 0: no visible core.
struct ChipShape {
  std::vector<Placement> lanes;
  std::vector<Heap> heaps;
  const char* model = "";
};
ChipShape chip_shape(const Machine&, uint32_t chip);
void describe(const ChipShape&, const Machine&, uint32_t chip, baton_device_info&);

class Device {
 public:
  static Result<std::unique_ptr<Device>> open(const baton_driver_host& host, std::string_view uri);
  ~Device();
  Device(const Device&) = delete;

  void info(baton_device_info& out);
  void telemetry(baton_telemetry& out) const;
  Status reset();
  Result<Memory*> alloc(uint32_t heap, uint64_t bytes);
  void free(Memory*);
  Result<Memory*> import(int fd, uint64_t offset, uint64_t bytes);
  Result<LoadedProgram*> load(uint32_t lane, std::span<const uint8_t> program, std::span<const baton_constant> constants, uint32_t rank,
                              uint32_t ranks);
  void unload(LoadedProgram*);
  Result<Queue*> queue_open(uint32_t lane);
  void queue_close(Queue*);
  uint32_t poll(Queue*, uint32_t budget);

 private:
  Device(Lease lease, const baton_driver_host& host, std::string_view uri, const Options&, ChipShape shape);
  uint64_t heap_used(const Heap&) const;
  void report_loss();

  Lease lease_;
  Shared shared_;
  baton_driver_host host_;
  uint64_t epoch_ = 1;
  ChipShape shape_;
  ModelCache models_;
  std::vector<Memory*> memories_;
  std::vector<LoadedProgram*> programs_;
  std::vector<std::unique_ptr<Queue>> queues_;
};

}  // namespace baton::neuron
