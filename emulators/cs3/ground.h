// ground.h: a placement as the timing model reads it: the rectangle on which each op of a program runs, and the hops between wafers.
//
// Owner    plain values.   Threads  any.   Cost  one pass over the ops.   Errors  none.
//
//     BATON_ASSIGN(auto cost, model.placed(program, grounds_of(shape, placement)));
#pragma once

#include "drivers/cs3/placement/place.hpp"
#include "emulators/timing/wafer.hpp"

#include <vector>

namespace baton::cs3 {

// One entry an op. The ends run in the strips of all wafers that have a part of them, beside each other: a token goes out to them, and the
// best of each comes back.
std::vector<timing::Ground> grounds_of(const Shape&, const Placement&);

}  // namespace baton::cs3
