// contents.h: how a recording names and holds contents: XXH3-128 as 32 hex digits, base64. For the record layer and for replays.
//
// Owner    -   Threads  any.   Cost  about 10 GB/s and 1 GB/s.   Errors  from_base64: CORRUPT.
#pragma once

#include "hal/baton.hpp"

#include <string>
#include <string_view>

namespace baton::layers {

std::string hash_of(const void* data, uint64_t bytes);
std::string to_base64(const void* data, uint64_t bytes);
Result<std::string> from_base64(std::string_view text);

}  // namespace baton::layers
