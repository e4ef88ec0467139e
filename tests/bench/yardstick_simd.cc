#include "tests/bench/yardstick_simd.h"

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstring>

namespace baton::bench {
namespace {

// ---- read: four independent streams of accumulators so that no add chain limits the loads ----

uint64_t read_scalar(const uint8_t* p, size_t bytes) {
  uint64_t a[8] = {};
  for (size_t i = 0; i < bytes; i += 64) {
    uint64_t w[8];
    std::memcpy(w, p + i, 64);
    for (int j = 0; j < 8; ++j) a[j] ^= w[j];
  }
  return a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
}

__attribute__((target("avx2"))) uint64_t read_avx2(const uint8_t* p, size_t bytes) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (size_t i = 0; i < bytes; i += 128) {
    a = _mm256_xor_si256(a, _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i)));
    b = _mm256_xor_si256(b, _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + 32)));
    c = _mm256_xor_si256(c, _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + 64)));
    d = _mm256_xor_si256(d, _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + 96)));
  }
  a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
  return uint64_t(_mm256_extract_epi64(a, 0) ^ _mm256_extract_epi64(a, 1) ^ _mm256_extract_epi64(a, 2) ^ _mm256_extract_epi64(a, 3));
}

__attribute__((target("avx512f"))) uint64_t read_avx512(const uint8_t* p, size_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (size_t i = 0; i < bytes; i += 256) {
    a = _mm512_xor_si512(a, _mm512_load_si512(p + i));
    b = _mm512_xor_si512(b, _mm512_load_si512(p + i + 64));
    c = _mm512_xor_si512(c, _mm512_load_si512(p + i + 128));
    d = _mm512_xor_si512(d, _mm512_load_si512(p + i + 192));
  }
  alignas(64) uint64_t w[8];
  _mm512_store_si512(w, _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d)));
  return w[0] ^ w[1] ^ w[2] ^ w[3] ^ w[4] ^ w[5] ^ w[6] ^ w[7];
}

// ---- fma: 12 independent chains cover latency 4 x 2 units with room; the multiplier keeps values finite ----

constexpr int kChains = 12;

double fma_scalar(uint64_t rounds) {
  float acc[kChains];
  volatile float seed = 0.5f;
  float m = seed, c = seed;
  for (int i = 0; i < kChains; ++i) acc[i] = float(i);
  for (uint64_t r = 0; r < rounds; ++r)
    for (int i = 0; i < kChains; ++i) acc[i] = std::fma(acc[i], m, c);
  double s = 0;
  for (float x : acc) s += x;
  return s;
}

__attribute__((target("avx2,fma"))) double fma_avx2(uint64_t rounds) {
  volatile float seed = 0.5f;
  __m256 m = _mm256_set1_ps(seed), c = m, acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_ps(float(i));
  for (uint64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = _mm256_fmadd_ps(acc[i], m, c);
  }
  double s = 0;
  for (auto& x : acc) s += double(_mm256_cvtss_f32(x));
  return s;
}

__attribute__((target("avx512f"))) double fma_avx512(uint64_t rounds) {
  volatile float seed = 0.5f;
  __m512 m = _mm512_set1_ps(seed), c = m, acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(float(i));
  for (uint64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_fmadd_ps(acc[i], m, c);
  }
  double s = 0;
  for (auto& x : acc) s += double(_mm512_cvtss_f32(x));
  return s;
}

struct alignas(64) TileConfig {  // palette 1: 8 tiles of 16 rows x 64 bytes (Intel SDM vol. 1, 18.1)
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace

SimdLoops simd_loops() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return {"avx512", "AVX-512 f32 FMA", read_avx512, fma_avx512, kChains * 32.0};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {"avx2", "AVX2 f32 FMA", read_avx2, fma_avx2, kChains * 16.0};
  return {"scalar", "scalar f32 FMA", read_scalar, fma_scalar, kChains * 2.0};
}

bool amx_bf16_available() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  bool amx = (d & (1u << 22)) && (d & (1u << 24));  // AMX-BF16, AMX-TILE (Intel SDM, CPUID.(7,0).EDX)
  // ARCH_REQ_XCOMP_PERM 0x1023, XTILEDATA 18 (Linux Documentation/arch/x86/xstate.rst)
  return amx && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

__attribute__((target("amx-tile,amx-bf16"))) void amx_rounds(uint64_t rounds) {
  TileConfig config;
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (uint64_t r = 0; r < rounds; ++r) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_release();
}

}  // namespace baton::bench
