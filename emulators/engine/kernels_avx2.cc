// The kernels for AVX2, FMA and F16C: what kernels(Isa::scalar) is where the CPU has them. Compiled with -mavx2 -mfma -mf16c.
#include "emulators/engine/kernels_avx2.h"

#include "emulators/engine/kernels_paths.h"
#include "emulators/engine/kernels_table.h"

namespace baton::engine {

const KernelTable& kernels_avx2() {
  static constexpr KernelTable table = table_of<Avx2>(Isa::scalar);
  return table;
}

}  // namespace baton::engine
