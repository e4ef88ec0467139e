// shape.hpp: what a placement needs to know of a program: how many bytes each of its layers keeps, and which ops are whose.
//
// A layer is what lies between two passes over the KV-cache, cut where the residual stream is whole: after the last `add` before the next
// layer's kv_store. What comes before the first layer and after the last one (embedding, lm_head, sampling) are the program's `ends`.
//
// A program whose layers do not follow each other is one part.
//
// Owner    plain values.   Threads  any.   Cost  one pass over the ops.   Errors  UNSUPPORTED: more ranks than one.
//
//     BATON_ASSIGN(Shape s, shape_of(program));
//     s.layers[3].weights   // bytes
#pragma once

#include "hal/baton.hpp"
#include "hal/program/program.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace baton::cs3 {

inline constexpr uint32_t kEnds = UINT32_MAX; // in Shape::part_of_op: embedding, lm_head, sampling

// What one part of a program keeps on a wafer.
struct Part {
  uint64_t weights = 0;   // bytes of constants, each once
  uint64_t kv_token = 0;  // bytes that one token takes in the cache
  uint64_t scratch = 0;   // bytes of activations of one launch, at the bounds of the program
};

struct Shape {
  std::string name;                  // the program's
  std::vector<Part> layers;
  Part first, last;                  // the ends: before the first layer (a table that both use is here), after the last
  std::vector<uint32_t> part_of_op;  // a layer, or kEnds
  uint64_t both = 0;                 // bytes of `first` that the last part needs too: once more where they are apart

  uint64_t weights() const;          // bytes of all
  uint64_t kv_token() const;         // bytes of one token in all layers
};

// Of a program of one rank.
Result<Shape> shape_of(const program::Program&);

}  // namespace baton::cs3
