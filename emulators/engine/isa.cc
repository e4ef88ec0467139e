// Which ISA paths this CPU and kernel allow. Feature bits and XCR0 only: a hypervisor may mask family and model.
#include "emulators/engine/kernels.hpp"
#include "emulators/engine/kernels_paths.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xmmintrin.h>
#endif

#include <string>

namespace baton::engine {
namespace {

#if defined(BATON_ENGINE_PATHS)
constexpr bool bit(uint32_t word, int i) { return (word >> i) & 1; }

// XCR0: which register state the operating system saves (Intel SDM vol. 1, 13.3).
uint64_t xcr0() {
  uint32_t eax, edx;
  __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return (uint64_t(edx) << 32) | eax;
}

// Linux asks each process to request the 8 KiB of tile state before the first tile instruction
// (Linux Documentation/arch/x86/xstate.rst: ARCH_REQ_XCOMP_PERM 0x1023, XFEATURE_XTILEDATA 18). Granted for good, to all threads.
bool request_tile_data() {
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}
#endif

CpuFeatures detect() {
  CpuFeatures f;
#if defined(BATON_ENGINE_PATHS)
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool fma = bit(c, 12), osxsave = bit(c, 27), avx = bit(c, 28), f16c = bit(c, 29);
  if (!osxsave || !avx) return f;
  const uint64_t saved = xcr0();
  const bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6, tiles = (saved & 0x60000) == 0x60000;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  f.avx2 = ymm && fma && f16c && bit(b, 5);
  // AVX512F 16, DQ 17, BW 30, VL 31 (Intel SDM, CPUID.(EAX=7,ECX=0):EBX)
  f.avx512 = f.avx2 && zmm && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);
  // AMX-BF16 22, AMX-TILE 24 (ibid., EDX)
  f.amx = f.avx512 && tiles && bit(d, 22) && bit(d, 24) && request_tile_data();
#endif
  return f;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures f = detect();
  return f;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::scalar: return "scalar";
    case Isa::avx512: return "avx512";
    case Isa::amx: return "amx";
  }
  return "unknown";
}

Isa best_isa() {
  const CpuFeatures& f = cpu_features();
  return f.amx ? Isa::amx : f.avx512 ? Isa::avx512 : Isa::scalar;
}

Result<Isa> parse_isa(std::string_view name) {
  if (name == "auto") return best_isa();
  for (Isa isa : {Isa::scalar, Isa::avx512, Isa::amx}) {
    if (name != isa_name(isa)) continue;
    if (isa <= best_isa()) return isa;
    return Error(BATON_UNSUPPORTED, "isa " + std::string(name) + " needs " + (isa == Isa::amx ? "amx-tile, amx-bf16 and avx512 f, bw, dq, vl" : "avx512 f, bw, dq, vl") + "; this CPU offers " + isa_name(best_isa()),
                 std::string("use isa=auto or isa=") + isa_name(best_isa()) + ": all paths give equal bits");
  }
  return Error(BATON_INVALID_ARGUMENT, "unknown isa '" + std::string(name) + "'", "use auto, scalar, avx512 or amx");
}

FlushDenormals::FlushDenormals() {
#if defined(__x86_64__)
  saved_ = _mm_getcsr();
  _mm_setcsr(saved_ | 0x8040);  // FTZ bit 15, DAZ bit 6 (Intel SDM vol. 1, 10.2.3)
#elif defined(__aarch64__)
  uint64_t fpcr;
  __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
  saved_ = uint32_t(fpcr);
  __asm__ volatile("msr fpcr, %0" ::"r"(fpcr | (1u << 24)));  // FZ (Arm ARM, FPCR)
#else
  saved_ = 0;
#endif
}

FlushDenormals::~FlushDenormals() {
#if defined(__x86_64__)
  _mm_setcsr(saved_);
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" ::"r"(uint64_t(saved_)));
#endif
}

}  // namespace baton::engine
