// checksum.hpp (internal): the checksum of KV bytes: XXH3, 64 bits, by the widest vectors that this CPU has (45 GB/s with AVX-512, 20 with SSE2).
//
// Owner    -   Threads  any.   Cost  the cache's bandwidth.   Errors  none. It finds what was torn, lost or mixed up, not what was forged.
#pragma once

#define XXH_STATIC_LINKING_ONLY // the state as a value
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include <cstddef>
#include <cstdint>

namespace baton::transport {

inline uint64_t checksum(const void* bytes, size_t n) { return XXH3_64bits(bytes, n); }

// The same of bytes that come in parts.
class Checksum {
 public:
  Checksum() { XXH3_64bits_reset(&s_); }
  void add(const void* bytes, size_t n) { XXH3_64bits_update(&s_, bytes, n); }
  uint64_t value() const { return XXH3_64bits_digest(&s_); }

 private:
  XXH3_state_t s_;
};

}  // namespace baton::transport
