// The kernels for AMX: bf16 x bf16 matmul and attention on tile registers, the rest as kernels_avx512.cc.
// Compiled with the AVX-512 options and -mamx-tile -mamx-bf16.
#include "emulators/engine/kernels_avx512.h"

#include "emulators/engine/kernels_paths.h"
#include "emulators/engine/kernels_table.h"
#include "emulators/engine/kernels_tile.h"

namespace baton::engine {
namespace {

// The instructions as assembler text: the intrinsics of GCC 12 take literal tile numbers only, and tell the compiler neither that
// LDTILECFG reads 64 bytes nor that TILELOADD reads memory at all, so that stores before them could be moved or dropped.
struct AmxTile {
#define BATON_INLINE [[gnu::always_inline]] static inline
  BATON_INLINE void configure(const TileConfig& c) { __asm__ volatile("ldtilecfg %0" ::"m"(c) : "memory"); }
  BATON_INLINE void release() { __asm__ volatile("tilerelease" ::: "memory"); }
  template <int t>
  BATON_INLINE void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(t));
  }
  template <int t>
  BATON_INLINE void load(const void* p, uint64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(t) : "memory");
  }
  template <int t>
  BATON_INLINE void store(void* p, uint64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(t) : "memory");
  }
  template <int c, int a, int b>
  BATON_INLINE void multiply() {  // c += a * b; in AT&T order the destination comes last
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
  }
#undef BATON_INLINE
};
using Multiplier = TileMultiplier<Avx512, AmxTile>;

void amx_matmul(Pool& pool, const float* x, uint64_t ldx, uint32_t rows, const PackedMatrix& w, const float* bias, program::Act act,
                float* y, uint64_t ldy) {
  if (w.dtype != program::DType::bf16 || act != program::Act::bf16) return matmul<Avx512>(pool, x, ldx, rows, w, bias, act, y, ldy);
  matmul_with<Avx512, Multiplier>(pool, x, ldx, rows, w, bias, act, y, ldy);
}

void amx_attention(Pool& pool, const AttentionArgs& a) {
  // A tile multiply costs the same for one row as for sixteen, so few rows are left to the lanes.
  const bool few = uint64_t(a.rows) * (a.heads / a.kv_heads) < 8;
  if (a.kv_dtype != program::DType::bf16 || a.act != program::Act::bf16 || few) return attention<Avx512>(pool, a);
  attention_with<Avx512, Multiplier>(pool, a);
}

constexpr KernelTable amx_table() {
  KernelTable t = table_of<Avx512>(Isa::amx);
  t.matmul = amx_matmul;
  t.attention = amx_attention;
  return t;
}

}  // namespace

const KernelTable& kernels_amx() {
  static constexpr KernelTable table = amx_table();
  return table;
}

}  // namespace baton::engine
