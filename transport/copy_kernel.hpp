// copy_kernel.hpp: copies segments between two mappings, with stores that do or do not go through the cache.
//
// streaming: AVX-512 or AVX2 non-temporal stores, or memcpy: whichever a probe finds the faster on cold memory, once a process (about 20 ms,
// when the first endpoint is opened; BATON_COPY names one instead). Non-temporal stores do not read the destination lines first, and
// do not push the working set out of the cache; for little that the reader wants at once they are the slower.
//
// Owner    -   Threads  any.   Cost  memory bandwidth.   Errors  none; the caller has checked the ranges.
//
//     copy_segments(dst, src, segments, pick_copy(total_bytes, segments.size()));
//     copy_fence();  // before publishing: streamed stores are not ordered by a release store
#pragma once

#include "transport/kv_layout.hpp"

#include <span>

namespace baton::transport {

enum class CopyMode : uint8_t { cached, streaming };

// Of memcpy's time, destination cold, streaming took on a Zen 4 with 32 MiB of L3 0.64 for 64 MiB in one piece, 0.75 for 4 KiB segments, and still less at
// 256 KiB in all; on a Sapphire Rapids 0.68, 0.85, and 0.66 for 512 B, 0.83 for 256 B. Below 1 MiB a layer stays in the reader's reach in the cache, which the
// copy alone does not show, so that is the threshold.
inline constexpr uint64_t kStreamingBytes = 1u << 20;
inline constexpr uint64_t kStreamingSegment = 256; // average; partial lines make non-temporal stores slow

CopyMode pick_copy(uint64_t total_bytes, uint64_t segments);
void copy_probe();      // now, rather than in the first transfer
const char* copy_isa(); // "avx512", "avx2", "memcpy": what streaming is here
void copy_bytes(void* dst, const void* src, size_t bytes, CopyMode);
// What is read next, and is brought nearer meanwhile: the segment after this one.
struct CopyNext {
  const uint8_t* src;
  size_t bytes;
};
// Out of memory that is far into memory that is near, and stays so: a stage of a few hundred KiB.
void copy_near(uint8_t* dst, const uint8_t* src, size_t bytes, CopyNext next);
void copy_segments(uint8_t* dst, const uint8_t* src, std::span<const KvSegment>, CopyMode);
void copy_fence();

}  // namespace baton::transport
