// Plain C++ at the baseline instruction set.
#include "emulators/engine/kernels_paths.h"
#include "emulators/engine/kernels_table.h"

namespace baton::engine {

const KernelTable& kernels_portable() {
  static constexpr KernelTable table = table_of<Portable>(Isa::scalar);
  return table;
}

}  // namespace baton::engine
