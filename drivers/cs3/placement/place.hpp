// place.hpp: where a model lies on wafers: whole layers on wafers in order, each layer on a rectangle of PEs (a region) with its weights and its
// KV-cache, which do not move. What does not fit is answered with the numbers and with what would.
//
// Wafers    a pipeline, cut between layers so that the most tokens fit, and of such cuts the most even one in bytes. The vocabulary's matrices
//           (embedding, lm_head) lie in a strip of full width: on the first and last wafer, which then have fewer layers (as `baton` runs a
//           model), or spread by rows over all wafers, so that no wafer has less room for KV than the others.
// Regions   columns of equal regions, in a snake, so that neighbours in the model are neighbours on the wafer; of all such grids the one with
//           the most room, and of those within 1% of it the one whose regions are nearest to squares (an allreduce crosses both sides).
// KV        each row of a region keeps whole tokens; `shift` keeps rows balanced (WaferLLM: each row passes its oldest up), `concat` leaves all
//           that is decoded on one row.
// Bad rows  are not used: what lies below moves down, and a region that spans one is that much higher.
//
// Owner    plain values, pure functions.   Threads  any.   Cost  about 0.1 ms for 80 layers.
// Errors   CAPACITY: what is over, by how much, and what would fit; INVALID_ARGUMENT: a request that makes no sense.
//
//     BATON_ASSIGN(Placement p, place(*wafer_data("cs3"), shape, {.wafers = 4}));
//     p.kv_tokens   // over all sequences
#pragma once

#include "drivers/cs3/placement/shape.hpp"
#include "drivers/cs3/placement/wafer_data.hpp"

#include <string>
#include <vector>

namespace baton::cs3 {

inline constexpr uint32_t kMaxWafers = 256;

enum class Kv : uint8_t { shift = 1, concat }; // how tokens lie over the rows of a region
enum class Ends : uint8_t { spread = 1, pinned }; // the vocabulary's matrices: over all wafers by rows (no program here does), or on the first and last

struct Request {
  uint32_t wafers = 0;             // 0: the fewest that hold it
  uint32_t sequences = 1;          // in flight
  uint64_t context = 0;            // tokens of each that must fit; 0: as many as do, at least one
  Kv kv = Kv::shift;
  Ends ends = Ends::pinned;
  std::vector<uint32_t> bad_rows = {}; // of each wafer's fabric, counted from the north
};

// PEs of the fabric.
struct Rect {
  uint32_t x = 0, y = 0, w = 0, h = 0;
  bool operator==(const Rect&) const = default;
};

struct Region {
  uint32_t wafer = 0;
  uint32_t layer = 0;         // or kEnds
  Rect at;                    // bad rows included
  uint32_t rows = 0;          // of at.h those that work
  uint64_t capacity = 0;      // bytes, of its PEs less what is reserved of each
  uint64_t weights = 0, scratch = 0; // bytes, scratch of all sequences in flight
  uint64_t kv_token = 0;      // bytes
  uint64_t kv_tokens = 0;     // that fit, as the request spreads them; 0 for ends
  uint64_t pes() const { return uint64_t(at.w) * rows; }
};

struct WaferUse {
  uint32_t first_layer = 0, layers = 0;
  double ends_first = 0, ends_last = 0; // share of Shape::first and Shape::last that is here, 0 to 1
  uint64_t capacity = 0, weights = 0, scratch = 0; // bytes
  uint64_t kv_token = 0;                           // bytes, of its layers
  uint64_t kv_tokens = 0;                          // that fit here
};

struct Placement {
  WaferData wafer;
  Request request;                // wafers: as chosen
  std::vector<WaferUse> wafers;
  std::vector<Region> regions;    // in the order of the model; each wafer's ends behind its layers
  uint64_t kv_tokens = 0;         // over all sequences
  uint64_t context() const { return kv_tokens / request.sequences; } // of each sequence

  // The wafer of a layer.
  uint32_t wafer_of(uint32_t layer) const;
  // The region of a layer, or the first one of the ends; nullptr: there is none.
  const Region* region_of(uint32_t layer) const;
};

Result<Placement> place(const WaferData&, const Shape&, const Request&);

// Tokens that `bytes` of a region of so many rows keep, and those of them that can be decoded.
uint64_t kv_tokens(uint64_t bytes, uint32_t rows, uint64_t kv_token, Kv);

}  // namespace baton::cs3
