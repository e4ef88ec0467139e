// transport_kv_data.hpp: KV buffers with known contents. The value of each element says where it belongs in the model, so that equality is a
// check of every move.
#pragma once

#include "transport/kv_layout.hpp"

#include <vector>

namespace baton::transport {

void fill_kv(const Buffer&, const KvLayout&, const std::vector<int32_t>& blocks, uint64_t tokens, uint32_t salt);
// Elements that differ.
uint64_t wrong_kv(const Buffer&, const KvLayout&, const std::vector<int32_t>& blocks, uint64_t tokens, uint32_t salt);

}  // namespace baton::transport
