#include "emulators/engine/kernels.hpp"

#include "emulators/engine/kernels_paths.h"

namespace baton::engine {

const KernelTable& kernels(Isa isa) {
#if defined(BATON_ENGINE_PATHS)
  const CpuFeatures& cpu = cpu_features();
  if (isa == Isa::amx && cpu.amx) return kernels_amx();
  if (isa >= Isa::avx512 && cpu.avx512) return kernels_avx512();
  if (cpu.avx2) return kernels_avx2();
#else
  (void)isa;
#endif
  return kernels_portable();
}

}  // namespace baton::engine
