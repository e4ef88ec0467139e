// strict.hpp: device memory that the CPU may not touch: the address that callers get is reserved and faults; one line then says what was touched.
//
// On hardware the address of a tensor is a mapping of a PCIe BAR: a CPU that reads through it is slow at best, and nothing orders it with the
// device. With BATON_EMU_NEURON_STRICT=1 it ends the process instead. The emulator itself works through a mapping of its own.
//
// Owner    the Hbm, one window each. The first window installs a SIGSEGV handler, the last one puts the previous one back; a fault outside
//          of every window, and the fault itself after its line, go to the previous handler.
// Threads  any.   Cost  none until a fault.   Errors  none.
//
//     StrictWindow window(hbm, base, bytes);
#pragma once

#include <cstdint>

namespace baton::neuron_emu {

class Hbm;

class StrictWindow {
 public:
  StrictWindow(const Hbm&, const void* base, uint64_t bytes);
  ~StrictWindow();
  StrictWindow(const StrictWindow&) = delete;

 private:
  const void* base_;
};

}  // namespace baton::neuron_emu
