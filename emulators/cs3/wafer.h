// wafer.h: what is on the wafer: SRAM as a linear space with an allocation map, what weights take, the epoch, counters.
//
// SRAM is one reserved mapping of the whole capacity, so that only touched pages cost memory; freed pages go back and read zero.
// Weights are packed by the engine outside of it and charged here: capacity is one sum.
//
// Owner    The daemon; blocks name the session that owns them.   Threads  the event loop's.
// Cost     alloc: first fit over the holes; free: a madvise.
// Errors   CAPACITY with the sum ("35.1 GB of weights + ..."); INVALID_ARGUMENT for ranges outside of a block; BUSY for a block in use.
//
//     BATON_ASSIGN(auto w, Wafer::create(44'000'000'000, cost));
//     BATON_ASSIGN(const Block* b, w.alloc(session, bytes));
//     BATON_ASSIGN(uint8_t* p, w.range(session, b->handle, b->address + 64, 4096));
#pragma once

#include "drivers/cs3/link/wire.h"
#include "drivers/cs3/placement/wafer_data.hpp"
#include "emulators/timing/wafer.hpp"
#include "hal/baton.hpp"

#include <map>
#include <memory>
#include <string>
#include <unordered_map>

namespace baton::cs3 {

inline constexpr uint64_t kGranule = 4096;  // of SRAM blocks: a page of the emulating host (guess: nothing is published)

struct Block {
  uint32_t handle;
  uint64_t session;
  uint64_t address, bytes;  // bytes as asked for
  uint32_t in_use = 0;      // launches running on it
};

class Wafer {
 public:
  static Result<Wafer> create(uint64_t capacity, timing::WaferModel* cost, uint32_t fabric_width = 0, uint32_t fabric_height = 0);
  Wafer(Wafer&&) noexcept;
  ~Wafer();

  Result<const Block*> alloc(uint64_t session, uint64_t bytes);
  Status free(uint64_t session, uint32_t handle);
  // The host address of [address, address + bytes), which must lie in the session's block `handle`.
  Result<uint8_t*> range(uint64_t session, uint32_t handle, uint64_t address, uint64_t bytes);
  void use(uint32_t handle, int by);
  // Weights and scratch of a program, named in the error.
  Status charge(uint64_t bytes, const std::string& program);
  void uncharge(uint64_t bytes) { weights_ -= bytes; }
  void free_session(uint64_t session);
  void next_epoch() { ++epoch_; }

  uint64_t epoch() const { return epoch_; }
  uint64_t capacity() const { return capacity_; }
  uint64_t used() const { return weights_ + buffers_; }
  timing::WaferModel* cost() const { return cost_; }
  // Its PEs, on which programs are laid out. With less or more SRAM than a CS-3 has, each PE has so much less or more.
  const WaferData& data() const { return data_; }
  TelemetryReply counters{sizeof(TelemetryReply)};

 private:
  Wafer() = default;
  void release(const Block&);
  Error full(const std::string& what, uint64_t bytes) const;

  uint64_t capacity_ = 0, span_ = 0;
  uint8_t* base_ = nullptr;
  uint64_t weights_ = 0, buffers_ = 0, epoch_ = 1;
  uint32_t next_handle_ = 1;
  std::unordered_map<uint32_t, Block> blocks_;
  std::map<uint64_t, uint64_t> holes_;  // address -> bytes
  timing::WaferModel* cost_ = nullptr;
  WaferData data_;
};

std::string gigabytes(uint64_t bytes);  // "35.1 GB"; small amounts in MB or bytes

}  // namespace baton::cs3
