// The kernels for AVX-512 F, BW, DQ, VL. Compiled with those.
#include "emulators/engine/kernels_avx512.h"

#include "emulators/engine/kernels_paths.h"
#include "emulators/engine/kernels_table.h"

namespace baton::engine {

const KernelTable& kernels_avx512() {
  static constexpr KernelTable table = table_of<Avx512>(Isa::avx512);
  return table;
}

}  // namespace baton::engine
