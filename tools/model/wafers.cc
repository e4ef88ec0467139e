#include "tools/model/wafers.hpp"

#include "tools/model/fail.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace baton::model {

namespace {

constexpr uint32_t kBlockTokens = 16, kBlocks = 2; // what is placed does not go by them

// "CS-3 (WSE-3), 755 x 1170 PEs": what programs may use of the fabric, which the reserved edges come to.
Result<cs3::WaferData> with_fabric_of(cs3::WaferData w, const DeviceInfo& info) {
  const char* at = std::strrchr(info.model, ',');
  unsigned width = 0, height = 0;
  int end = 0;
  if (!at || std::sscanf(at, ", %u x %u PEs%n", &width, &height, &end) != 2 || end == 0 || std::max(width, height) > 65535) return w;
  return cs3::resized(w, width + w.reserved_west + w.reserved_east, height + w.reserved_north + w.reserved_south);
}

Result<cs3::WaferData> wafer_of(const DeviceInfo& info) {
  BATON_ASSIGN(cs3::WaferData w, cs3::wafer_data("cs3"));
  BATON_ASSIGN(w, with_fabric_of(w, info));
  uint64_t bytes = info.heaps[0].bytes_total; // the least of them: a layer may come to any
  for (uint32_t i = 1; i < info.heap_count; ++i) bytes = std::min(bytes, info.heaps[i].bytes_total);
  if (bytes) { BATON_ASSIGN(w, cs3::with_sram(w, bytes)); }
  return w;
}

}  // namespace

bool has_wafers(const DeviceInfo& info) { return std::string_view(info.driver) == "cs3" && info.heap_count > 0; }

Result<cs3::Shape> decode_shape(const Model& m, const Numbers& numbers, const Shard& shard) {
  const transport::KvLayout layout = kv_layout(m.config, numbers, shard, transport::KvOrder::token_major, kBlockTokens, kBlocks);
  BATON_ASSIGN(const program::Program decode, decode_program(m, numbers, shard, {layout}, {1, kBlockTokens * kBlocks}));
  return cs3::shape_of(decode);
}

Result<cs3::Placement> place_on(const DeviceInfo& info, const cs3::Shape& s, cs3::Request r) {
  if (r.wafers > info.heap_count)
    return fail(BATON_INVALID_ARGUMENT, "lower --stages, or open more systems as one device", "{} stages; {} has {} wafer{}", r.wafers, info.uri, info.heap_count, info.heap_count == 1 ? "" : "s");
  BATON_ASSIGN(const cs3::WaferData wafer, wafer_of(info));
  const bool chosen = r.wafers > 0;
  auto p = cs3::place(wafer, s, r);
  if (chosen || (p.ok() && p->wafers.size() <= info.heap_count)) return p;
  // More than there are: refused with the numbers of those that there are.
  r.wafers = std::min<uint32_t>(info.heap_count, std::max<uint32_t>(1, uint32_t(s.layers.size())));
  return cs3::place(wafer, s, r);
}

Layouts cut_layers(const transport::KvLayout& whole, const cs3::Placement& p) {
  if (p.wafers.size() == 1) return {whole};
  Layouts all;
  for (const cs3::WaferUse& w : p.wafers) {
    transport::KvLayout l = whole;
    l.layer_begin = w.first_layer;
    l.layer_count = w.layers;
    all.push_back(l);
  }
  return all;
}

}  // namespace baton::model
