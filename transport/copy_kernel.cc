#include "transport/copy_kernel.hpp"

#include "transport/options.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace baton::transport {
namespace {

using CopyFn = void (*)(uint8_t*, const uint8_t*, size_t, CopyNext);

void plain(uint8_t* dst, const uint8_t* src, size_t n, CopyNext) { std::memcpy(dst, src, n); }

// How far ahead the source is prefetched, over the end of a segment into the next one and no further. Into the second-level cache: the first one holds too
// few lines under way. Measured on a Sapphire Rapids, 64 MiB, cold, beside a kernel that prefetched 1 KiB ahead into the first, whatever came there:
// 16 KiB segments took 0.88 of its time, 4 KiB segments 0.66; 4 KiB ahead gains no more.
constexpr size_t kAhead = 2048;

// Copies up to the first boundary of `line` bytes of dst; returns how much.
size_t head(uint8_t* dst, const uint8_t* src, size_t n, size_t line) {
  const size_t h = std::min(n, (line - reinterpret_cast<uintptr_t>(dst) % line) % line);
  if (h) std::memcpy(dst, src, h);
  return h;
}

// `bytes` of the source, from kAhead behind `i`.
template <size_t bytes>
inline void prefetch(const uint8_t* src, size_t i, size_t n, CopyNext next) {
  const size_t at = i + kAhead;
  const bool over = at >= n;
  if (over && at - n >= next.bytes) return;
  const uint8_t* p = over ? next.src + (at - n) : src + at;
  for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(p + line, 0, 2);
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void stream512(uint8_t* dst, const uint8_t* src, size_t n, CopyNext next) {
  size_t i = head(dst, src, n, 64);
  for (; i + 256 <= n; i += 256) {
    prefetch<256>(src, i, n, next);
    const __m512i a = _mm512_loadu_si512(src + i), b = _mm512_loadu_si512(src + i + 64);
    const __m512i c = _mm512_loadu_si512(src + i + 128), d = _mm512_loadu_si512(src + i + 192);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(dst + i), a);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(dst + i + 64), b);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(dst + i + 128), c);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(dst + i + 192), d);
  }
  for (; i + 64 <= n; i += 64) _mm512_stream_si512(reinterpret_cast<__m512i*>(dst + i), _mm512_loadu_si512(src + i));
  if (i < n) std::memcpy(dst + i, src + i, n - i);
}

__attribute__((target("avx2"))) void stream256(uint8_t* dst, const uint8_t* src, size_t n, CopyNext next) {
  size_t i = head(dst, src, n, 32);
  for (; i + 128 <= n; i += 128) {
    prefetch<128>(src, i, n, next);
    const auto* s = reinterpret_cast<const __m256i*>(src + i);
    auto* d = reinterpret_cast<__m256i*>(dst + i);
    const __m256i a = _mm256_loadu_si256(s), b = _mm256_loadu_si256(s + 1), c = _mm256_loadu_si256(s + 2), e = _mm256_loadu_si256(s + 3);
    _mm256_stream_si256(d, a);
    _mm256_stream_si256(d + 1, b);
    _mm256_stream_si256(d + 2, c);
    _mm256_stream_si256(d + 3, e);
  }
  if (i < n) std::memcpy(dst + i, src + i, n - i);
}
#endif

struct Kernel {
  CopyFn fn;
  const char* isa;
};

constexpr size_t kKernels = 3;

// What this CPU has, memcpy first, the widest last.
size_t kernels_of_this_cpu(Kernel (&k)[kKernels]) {
  size_t n = 0;
  k[n++] = {plain, "memcpy"};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) k[n++] = {stream256, "avx2"};
  if (__builtin_cpu_supports("avx512f")) k[n++] = {stream512, "avx512"};
#endif
  return n;
}

// 16 KiB blocks in an order that no prefetcher knows, out of memory that was last touched long ago. Interleaved, the best of each: what disturbs
// a round only makes it slower.
Kernel probe() {
  constexpr size_t kBytes = 16u << 20, kBlock = 16u << 10, kBlocks = kBytes / kBlock, kRounds = 2;
  Kernel k[kKernels];
  const size_t n = kernels_of_this_cpu(k);
  if (n == 1) return k[0];
  const size_t candidates[] = {0, n - 1};
  void* p = mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (p == MAP_FAILED) return k[n - 1];
  auto* src = static_cast<uint8_t*>(p);
  uint64_t best[kKernels];
  std::fill(std::begin(best), std::end(best), UINT64_MAX);
  for (size_t round = 0; round < kRounds; ++round)
    for (const size_t i : candidates) {
      const uint64_t start = now_ns();
      const auto from = [&](size_t b) { return src + b * 389 % kBlocks * kBlock; }; // odd strides: each block once
      for (size_t b = 0; b < kBlocks; ++b) k[i].fn(src + kBytes + b * 617 % kBlocks * kBlock, from(b), kBlock, {from(b + 1), kBlock});
      copy_fence();
      best[i] = std::min(best[i], now_ns() - start);
    }
  munmap(p, 2 * kBytes);
  return k[std::min_element(best, best + n) - best];
}

const Kernel& streaming_kernel() {
  static const Kernel k = [] {
    Kernel all[kKernels];
    const size_t n = kernels_of_this_cpu(all);
    const std::string forced = forced_copy();
    for (size_t i = 0; i < n; ++i)
      if (forced == all[i].isa) return all[i];
    return probe();
  }();
  return k;
}

}  // namespace

CopyMode pick_copy(uint64_t total_bytes, uint64_t segments) {
  return total_bytes >= kStreamingBytes && total_bytes / std::max<uint64_t>(segments, 1) >= kStreamingSegment ? CopyMode::streaming : CopyMode::cached;
}
void copy_probe() { (void)streaming_kernel(); }
const char* copy_isa() { return streaming_kernel().isa; }

void copy_bytes(void* dst, const void* src, size_t bytes, CopyMode mode) {
  const CopyFn fn = mode == CopyMode::streaming ? streaming_kernel().fn : plain;
  fn(static_cast<uint8_t*>(dst), static_cast<const uint8_t*>(src), bytes, {});
}

void copy_near(uint8_t* dst, const uint8_t* src, size_t bytes, CopyNext next) {
  constexpr size_t kStep = 256;
  size_t i = 0;
  for (; i + kStep <= bytes; i += kStep) {
    prefetch<kStep>(src, i, bytes, next);
    std::memcpy(dst + i, src + i, kStep);
  }
  if (i < bytes) std::memcpy(dst + i, src + i, bytes - i);
}

void copy_segments(uint8_t* dst, const uint8_t* src, std::span<const KvSegment> segments, CopyMode mode) {
  const CopyFn fn = mode == CopyMode::streaming ? streaming_kernel().fn : plain;
  for (size_t i = 0; i < segments.size(); ++i) {
    CopyNext next{};
    if (i + 1 < segments.size()) { // its first lines: the hardware prefetcher cannot guess where it is
      next = {src + segments[i + 1].src, size_t(segments[i + 1].bytes)};
      if (fn == plain)
        for (size_t line = 0; line < 512 && line < next.bytes; line += 64) __builtin_prefetch(next.src + line, 0, 3);
    }
    if (i + 2 < segments.size()) __builtin_prefetch(src + segments[i + 2].src, 0, 2); // finds its page: that takes as long as a kilobyte
    fn(dst + segments[i].dst, src + segments[i].src, segments[i].bytes, next);
  }
}

void copy_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#else
  __atomic_thread_fence(__ATOMIC_RELEASE);
#endif
}

}  // namespace baton::transport
