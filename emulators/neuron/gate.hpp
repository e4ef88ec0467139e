// gate.hpp: what a call meets before it does its work: a core or a chip that is lost, and what the fault plan has for it.
//
// Owner    none.   Threads  any.   Cost  two loads where nothing is wrong.
// Errors   by status: EXEC_UNIT_UNRECOVERABLE (core lost), HW_ERROR (chip lost or reset by another process), and the plan's. The text is recorded.
//
//     if (int32_t s = gate(m, "nrt_tensor_read", core)) return s;
#pragma once

#include "emulators/neuron/machine.hpp"

#include <functional>
#include <string_view>

namespace baton::neuron_emu {

// core nullptr: a call about no core. `stop` is asked, while a fault hangs the call, whether it is to end (besides timeout and close).
int32_t gate(Machine&, std::string_view call, Core* core, const std::function<bool()>& stop = {});

}  // namespace baton::neuron_emu
