// stages.h: a program cut into the stages of a pipeline over wafers: one stage for each cache that it has.
//
// A program says itself where its layers are to live: layers that share a cache share a wafer. Between two stages exactly one value
// crosses (the residual stream); the cut is where that is least. What the first stage embeds and the last one samples, the token buffer
// of a loop, goes back from the last to the first.
//
// Owner    plain data.   Threads  any.   Cost  O(ops x values), at load.
// Errors   UNSUPPORTED where caches are interleaved, more than one value would cross, or a stage other than the last has what only a
//          whole program can have.
//
//     BATON_ASSIGN(auto stages, cut_stages(program));   // one: the program is left whole
#pragma once

#include "hal/program/program.hpp"

#include <string>
#include <vector>

namespace baton::cs3 {

inline constexpr char kStageIn[] = "stage in", kStageOut[] = "stage out";

struct StageProgram {
  program::Program program;
  std::vector<std::string> constants; // its own
  uint32_t marks_before = 0, marks = 0; // of an iteration
  uint32_t in_bytes = 0, out_bytes = 0; // of a row
  bool tokens = false;                // it has the loop's token buffer
};

struct Stages {
  std::vector<StageProgram> list;
  std::string tokens;                 // name of the loop's token buffer, "" if there is none
};

Result<Stages> cut_stages(const program::Program&);

}  // namespace baton::cs3
