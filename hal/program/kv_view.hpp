// kv_view.hpp: arithmetic on a KvView: does it keep every element apart, and how many blocks fit into a cache of a given size.
//
// Owner  pure functions.   Threads  any.   Cost  a handful of comparisons.
// Errors check_view returns INVALID_ARGUMENT with the two strides that clash.
//
//     BATON_TRY(check_view(view, last_layer, kv_heads, head_dim));
//     uint64_t blocks = blocks_in(view, layer, kv_heads, head_dim, cache_bytes / dtype_bytes(dtype));
#pragma once

#include "hal/program/program.hpp"

namespace baton::program {

// Every (layer <= last_layer, k or v, block, token, head, d) has an element of its own, and no address overflows: each stride is
// at least the span of all that is nested inside of it.
Status check_view(const KvView&, uint32_t last_layer, uint32_t kv_heads, uint32_t head_dim);

// The element of (layer, k or v, block, token in block, head, 0).
inline uint64_t kv_element(const KvView& view, uint32_t layer, bool v, uint64_t block, uint32_t token, uint32_t head) {
  return layer * view.layer_stride + (v ? view.v_offset : 0) + block * view.block_stride + token * view.token_stride +
         head * view.head_stride;
}

// Block numbers below this are inside of a cache of `elements` for `layer`, and do not run into the next layer or into V where
// those lie further apart than blocks do. The view has passed check_view.
uint64_t blocks_in(const KvView&, uint32_t layer, uint32_t kv_heads, uint32_t head_dim, uint64_t elements);

}  // namespace baton::program
