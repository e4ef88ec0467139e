#include "hal/program/kv_view.hpp"
#include "hal/program/limits.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace baton::program {
namespace {

struct Axis {
  const char* name;
  uint64_t stride, extent;
};

constexpr size_t kBlockAxis = 3;

// d is the innermost axis (stride 1). The extent of blocks is not known here: 1.
std::array<Axis, 6> axes_of(const KvView& v, uint32_t last_layer, uint32_t kv_heads, uint32_t head_dim) {
  return {{{"d", 1, head_dim},
           {"head_stride", v.head_stride, kv_heads},
           {"token_stride", v.token_stride, v.block_tokens},
           {"block_stride", v.block_stride, 1},
           {"v_offset", v.v_offset, 2},
           {"layer_stride", v.layer_stride, uint64_t(last_layer) + 1}}};
}

// Elements from the first to the last of the axes whose stride is below `stride`. Bounded by kMaxStride and the extents' limits: no overflow.
uint64_t span_below(const std::array<Axis, 6>& axes, uint64_t stride) {
  uint64_t span = 1;
  for (const Axis& a : axes)
    if (a.stride < stride) span += (a.extent - 1) * a.stride;
  return span;
}

}  // namespace

Status check_view(const KvView& view, uint32_t last_layer, uint32_t kv_heads, uint32_t head_dim) {
  auto bad = [](std::string what) {
    return Error(BATON_INVALID_ARGUMENT, what, "lay the cache out so that each stride holds all that is nested inside of it");
  };
  if (view.block_tokens == 0 || view.block_tokens > kMaxBlockTokens)
    return bad(fmt::format("view: block_tokens is {}, must be 1..{}", view.block_tokens, kMaxBlockTokens));
  auto axes = axes_of(view, last_layer, kv_heads, head_dim);
  for (const Axis& a : axes)
    if (a.stride > kMaxStride || a.extent > kMaxStride / std::max<uint64_t>(1, a.stride))
      return bad(fmt::format("view: {} {} times {} is beyond 2^48 elements", a.name, a.stride, a.extent));
  for (size_t i = 1; i < axes.size(); ++i) {
    const Axis& a = axes[i];
    if (a.extent == 1 && i != kBlockAxis) continue;
    for (size_t j = 0; j < axes.size(); ++j)
      if (j != i && axes[j].stride == a.stride && axes[j].extent > 1)
        return bad(fmt::format("view: {} and {} are both {}: elements overlap", a.name, axes[j].name, a.stride));
    uint64_t span = span_below(axes, a.stride);
    if (a.stride < span || a.stride == 0)
      return bad(fmt::format("view: {} {} is less than the {} elements nested inside of it", a.name, a.stride, span));
  }
  return {};
}

uint64_t blocks_in(const KvView& view, uint32_t layer, uint32_t kv_heads, uint32_t head_dim, uint64_t elements) {
  auto axes = axes_of(view, 0, kv_heads, head_dim);
  uint64_t span = span_below(axes, UINT64_MAX); // of one block of one layer, K and V
  uint64_t base = layer * view.layer_stride;
  if (elements < base + span) return 0;
  uint64_t blocks = (elements - base - span) / view.block_stride + 1;
  for (uint64_t outer : {view.v_offset, view.layer_stride}) {
    if (outer <= view.block_stride) continue;
    uint64_t inner = span_below(axes, outer);
    blocks = std::min(blocks, outer < inner ? 0 : (outer - inner) / view.block_stride + 1);
  }
  return blocks;
}

}  // namespace baton::program
