// executable.h: what a loaded program is made of. Internal to the engine (executable.cc makes it, bind.cc, run.cc and ops.cc use it).
//
// Owner    Executable owns an Impl; a run borrows a LaunchState from it for as long as it lives.   Threads  one drives all runs of a program.
// Cost     constants are packed once, as they arrive; one LaunchState for each run that was ever on at the same time.
// Errors   as engine.hpp.
#pragma once

#include "emulators/engine/engine.hpp"
#include "emulators/engine/kernels.hpp"
#include "emulators/engine/memory.h"
#include "emulators/engine/scratch.h"

#include <string_view>
#include <unordered_map>
#include <vector>

namespace baton::engine {

// A constant as the ops that use it need it. One that both embeds and multiplies (tied) is kept once, packed.
struct Weight {
  bool as_matrix = false; // matmul weight
  bool as_rows = false;   // embedding table
  bool as_vector = false; // norm weight, bias, inv_freq
  uint32_t segments = 1;
  bool loaded = false;
  PackedMatrix packed;        // as_matrix
  Region packed_memory;
  Region rows;                // as_rows and not as_matrix: dense, in the declared dtype
  Region vector;              // as_vector: f32
};

// A rope of the program: one for all ops with this inv_freq and scale.
struct Rope {
  uint32_t inv_freq = 0; // value
  float scale = 1;
  uint32_t half = 0;     // head_dim / 2
};

// A block table that the program follows.
struct BlockTable {
  uint32_t value = 0;
  uint32_t block_tokens = 0;
};

// What one launch needs beside the constants: several launches of a program may be on at once, each with its own.
struct LaunchState {
  Region arena;                // scratch values
  std::vector<Region> cos, sin; // by rope: f32 [max_tokens, half], of the rows of one launch (one iteration in a loop)
  std::vector<Region> tables;  // by block table: i32, room for max_context; copied and checked before a launch runs, so that it cannot change under it
  Region probabilities, order; // sampling: f32 and u32 [max_vocabulary]
  std::vector<uint8_t*> base;  // by value: where it lies; nullptr: not bound
  std::vector<uint64_t> bound; // by value: bytes bound
  std::vector<uint8_t> live;   // by op: 0 if nothing that is bound depends on it
  std::vector<uint8_t> wanted; // by value, while `live` is found
  int32_t* entries(uint32_t table) const { return reinterpret_cast<int32_t*>(tables[table].data()); }
};

struct Executable::Impl {
  program::Program program;
  Options options;
  const KernelTable* kernels = nullptr;
  std::unique_ptr<Pool> pool;
  std::vector<Weight> weights;                            // by value
  std::unordered_map<std::string_view, uint32_t> by_name; // values; keys point into program
  ScratchPlan plan;
  std::vector<Rope> ropes;
  std::vector<uint32_t> rope_of;  // by op: index into ropes
  std::vector<BlockTable> tables;
  std::vector<uint32_t> table_of; // by op: index into tables (kv_store, attention)
  uint32_t max_vocabulary = 0;    // of the sample ops
  bool collective = false; // ranks meet in it
  bool bf16 = false;       // its matmuls round their operands to bf16
  std::vector<std::unique_ptr<LaunchState>> idle; // of runs that are over

  Result<std::unique_ptr<LaunchState>> take_state();
};

// Row `row` of a matrix in its packed form, widened to f32.
void gather_packed_row(const PackedMatrix& m, uint32_t row, const KernelTable& k, float* out);

}  // namespace baton::engine
