// kv_layout_text.hpp: a KvLayout from text: the line that describe() writes, or a JSON object with the same names.
//
//   kv/1 layers=2 kv_heads=2 head_dim=64 dtype=bf16 order=head_major block_tokens=16 blocks=128 heads=[0,2)
//   {"layers": 2, "kv_heads": 2, "head_dim": 64, "order": "head_major", "blocks": 128, "heads": [0, 2]}
//
// A range is half open. What is left out is as a KvLayout has it; heads: all. A name that is unknown or given twice is refused.
//
// Owner  plain data.   Threads  any.   Cost  microseconds.
// Errors CORRUPT: neither of the two, or a field of another kind, which is named; INVALID_ARGUMENT: a layout that contradicts itself.
//
//     BATON_ASSIGN(KvLayout l, parse_layout(other.describe()));   // l == other
#pragma once

#include "transport/kv_layout.hpp"

#include <string_view>

namespace baton::transport {

Result<KvLayout> parse_layout(std::string_view text);

}  // namespace baton::transport
